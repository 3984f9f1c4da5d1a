"""The edges of an answer: what passes directly from one part to another, estimated and exact, in one model or two.

The numbers are defined in `probe.circuits.edge_effects`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from probe.analyses.analysis_record import Prompt
from probe.analyses.catalogue import analysis
from probe.circuits.edge_effects import estimate_edges, run_edges, without_each
from probe.errors import DataError
from probe.interventions.requested_change import (
    LEAST_GAP,
    Against,
    Answer,
    Change,
    Corrupted,
    InChat,
    same_question,
)
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.numbers import share_text, signed
from probe.plotting.notebook import Beside, Drawable, Look, alone, titled
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

EDGE = (
    r"\mathrm{loss}(u \to v) = m(x) - m\big(x \mid v \text{ reads } a'_u\big) \approx "
    r"\big\langle \nabla_{\mathrm{in}(v)} m(x),\; a_u - a'_u \big\rangle"
)
RUN = 512
"""Largest number of edges that are run alone: those with the largest estimates."""
KEPT = (10, 20, 40, 80)
"""Numbers of edges that are kept while all others are ablated."""
DRAWS = 20
"""Number of random sets of edges of each size."""
SHOWN = 20
"""Number of edges that are drawn and listed."""
STRONGEST = 10
"""Number of edges that are compared between two models."""
HEIGHT = 520


@dataclass(frozen=True)
class Edges(Drawable):
    """Edges of one model for one answer."""

    edges: pd.DataFrame
    """Rows of edge, the largest estimate first: `edge`, `estimate` and `exact` (loss without the edge in nats; NaN if
    it was not run)."""
    kept: pd.DataFrame
    """Rows of `size`: `strongest` and `random`, the shares of the gap that so many edges keep alone (by estimate; the
    largest of `DRAWS` random sets)."""
    gap: float
    """Target on the text minus that on the other one, in nats."""
    words: str
    """Target as a part of a sentence."""
    other: str
    """The other prompt."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    @property
    def ran(self) -> pd.DataFrame:
        """Edges that were run, the largest loss or gain first."""
        rows = self.edges.dropna(subset="exact")
        return rows.iloc[np.argsort(-np.abs(rows["exact"].to_numpy()), kind="stable")]

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences on what is ablated."""
        return (
            f"Without an edge its reader alone gets what the writer writes in the prompt \u201c{self.other}\u201d, at"
            " every token; all else follows. Losses do not add up, because later parts respond.",
        )

    def sentence(self) -> str:
        """Say which edge matters most, what few edges keep, and how far estimates are right."""
        first, agree = self.ran.iloc[0], _rank_correlation(self.ran["estimate"], self.ran["exact"])
        least = self.kept.iloc[0]
        return (
            f"{self.looks[0].name}: without the edge {first['edge']} alone {self.words} changes by"
            f" {signed(-float(first['exact']))} of {signed(self.gap)} nats, the most of {len(self.ran)} edges. The"
            f" {int(least['size'])} of {len(self.edges)} edges with the largest estimates keep"
            f" {share_text(float(least['strongest']))} of it while all others are ablated, the best of {DRAWS} random"
            f" sets of as many {share_text(float(least['random']))}. Estimates and exact losses have a rank"
            f" correlation of {signed(agree)}."
        )

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the exact loss and the estimate of the strongest edges."""
        return EdgesBeside((self,), self.looks).figures()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all edges, and what few of them keep."""
        return {"edges": self.edges, "kept": self.kept}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the strongest edges, and what few of them keep."""
        return {"Strongest edges": self.ran.head(SHOWN).reset_index(drop=True), "Edges kept alone": self.kept}


def _rank_correlation(first: pd.Series, second: pd.Series) -> float:
    ours, theirs = first.to_numpy(dtype=float), second.to_numpy(dtype=float)
    return float(stats.spearmanr(ours, theirs)[0]) if np.ptp(ours) > 0 and np.ptp(theirs) > 0 else float("nan")


class EdgesBeside(Beside[Edges]):
    """Edges of one model or several for one answer."""

    def sentence(self) -> str:
        """Describe the edges of every model, and say how the last differs from the first."""
        said = [replace(each, looks=(look,)).sentence() for look, each in zip(self.looks, self.results, strict=True)]
        if len(self.results) > 1:
            table = self.changes()
            first, last = self.looks[0].name, self.looks[-1].name
            top = [set(each.ran["edge"].head(STRONGEST)) for each in (self.results[0], self.results[-1])]
            row = table.iloc[0]
            agree = signed(_rank_correlation(table[first], table[last]))
            said.append(
                f"{len(top[0] & top[1])} of the {STRONGEST} strongest edges are the same in {first} and {last}"
                f" (rank correlation over {len(table)} edges {agree}); {row['edge']} changes most, from"
                f" {share_text(row[first])} to {share_text(row[last])} of the gap."
            )
        return " ".join(said)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes of all results, each once."""
        return tuple(dict.fromkeys(note for each in self.results for note in each.notes))

    def changes(self) -> pd.DataFrame:
        """Return the loss without each edge in the first and the last model, as shares of their gaps.

        Rows are the edges that were run in both, the largest change first: `edge`, the names of the models, `change`.
        """
        shares = [each.ran.set_index("edge")["exact"] / each.gap for each in (self.results[0], self.results[-1])]
        names = [self.looks[0].name, self.looks[-1].name]
        table = pd.DataFrame(dict(zip(names, shares, strict=True))).dropna().rename_axis("edge").reset_index()
        table["change"] = table[names[1]] - table[names[0]]
        order = np.argsort(-np.abs(table["change"].to_numpy()), kind="stable")
        return table.iloc[order].reset_index(drop=True)

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the strongest edges of all models: the exact loss as a filled mark, the estimate as a ring."""
        from probe.circuits.figures import edge_marks

        pairs = [(look, each.ran) for look, each in zip(self.looks, self.results, strict=True)]
        gaps = [each.gap for each in self.results]
        return {"edges": titled(edge_marks(pairs, gaps, SHOWN), "Strongest edges", HEIGHT)}

    def lists(self) -> Mapping[str, pd.DataFrame]:
        """Return the strongest edges of every model, what few of them keep, and the edges that differ most."""
        joined: dict[str, list[pd.DataFrame]] = {}
        for look, each in zip(self.looks, self.results, strict=True):
            for title, table in each.lists().items():
                joined.setdefault(title, []).append(table.assign(model=look.name)[["model", *table]])
        lists = {title: pd.concat(tables, ignore_index=True) for title, tables in joined.items()}
        if len(self.results) > 1:
            lists = {"Edges that differ most, shares of the gap": self.changes().head(SHOWN), **lists}
        return lists


def same_edges(lms: Sequence[LM], **inputs: Any) -> dict[str, Any]:
    """Return the last model's answers, about which all models are asked if none are given (`same_question`)."""
    return same_question(lms, how="noise", **inputs)


def edge_seconds(lm: LM, prompt: str, chat: bool, **rest: Any) -> float:
    """Estimate the seconds that all runs take."""
    length = len(Change(prompt=prompt, how="zero", chat=chat).texts(lm)[0])
    return seconds_to_read(lm, length * 2 * (RUN + len(KEPT) * (1 + DRAWS)))


@analysis(
    "interventions",
    title="Edges",
    equations=(EDGE,),
    seconds=edge_seconds,
    key="int_edges",
    beside=EdgesBeside,
    settle=same_edges,
)
def edges(
    lm: LM,
    prompt: Prompt,
    *,
    chat: InChat = False,
    corrupted: Corrupted = "",
    answer: Answer = "",
    against: Against = "",
    tick: Tick = ignore,
) -> Edges:
    """Find what passes directly from one part to another on the way to an answer, and check the estimates exactly.

    An edge goes from the embedding, a head or an MLP to the query, key or value of a later head, to an MLP or to the
    logits. All edges are estimated from one backward pass; those with the largest estimates (at most 512, which are all
    of a small model) are run alone: their reader gets what their writer writes in the other prompt. Then the strongest
    are kept while all others are ablated, beside random sets of as many.

    Args:
        lm: the model.
        prompt: the text.
        chat: send the prompt as a user's message in the model's chat template.
        corrupted: the other prompt, which asks for another answer; for a world's prompt it is derived.
        answer: answer to the prompt; by default that of its world, else the most probable token.
        against: answer to compare it with; by default the answer to the other prompt.
        tick: called with the completed share.

    Raises:
        DataError: the texts or answers cannot be used (see `patch_every_site`), or the target is the same on both.
        ModelError: the model's heads share keys and values, or norms follow them.
    """
    change = Change(prompt=prompt, how="noise", corrupted=corrupted, answer=answer, against=against, chat=chat)
    question = change.question(lm)
    ids, other, target = list(question.clean), list(question.corrupted or ()), question.target
    estimates = estimate_edges(lm, ids, other, target)
    order = sorted(estimates, key=lambda edge: -abs(estimates[edge]))
    count, alone_count = len(order), min(RUN, len(order))
    sizes = [size for size in KEPT if size < count]
    rng = np.random.default_rng(0)
    orders = [np.arange(count), *(rng.permutation(count) for _ in range(DRAWS))]
    sets = [np.isin(np.arange(count), each[:size]) for size in sizes for each in orders]
    ends = np.array([np.ones(count, dtype=bool), np.zeros(count, dtype=bool)])
    kept = np.vstack([ends, without_each(alone_count, count), *sets])
    whole, none, *values = run_edges(lm, ids, other, order, kept, target, between(tick, 0.1, 1)).tolist()
    gap = whole - none
    if abs(gap) < LEAST_GAP:
        raise DataError(
            f"{question.words} differs by {gap:.3f} nats between both prompts only, so there are no edges to find:"
            " give another prompt or other answers."
        )
    table = pd.DataFrame(
        {
            "edge": [f"{edge.writer.name} \u2192 {edge.reader.name}" for edge in order],
            "estimate": [estimates[edge] for edge in order],
            "exact": [*(whole - each for each in values[:alone_count]), *[np.nan] * (count - alone_count)],
        }
    )
    shares = ((np.array(values[alone_count:]) - none) / gap).reshape(len(sizes), 1 + DRAWS)
    few = pd.DataFrame({"size": sizes, "strongest": shares[:, 0], "random": shares[:, 1:].max(1)})
    return Edges(
        edges=table,
        kept=few,
        gap=gap,
        words="the lead of " * (target.against is not None) + question.words,
        other=corrupted.strip() or change.counterpart(lm).corrupted or "",
    )
