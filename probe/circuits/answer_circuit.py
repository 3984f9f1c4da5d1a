"""The circuit of an answer: few heads and MLPs that give it without the others, and how well methods find them.

Axes: P parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.circuits.part_scores import KINDS, METHODS, START, part_scores
from probe.circuits.subsets import CircuitCheck, Subsets, check, exhaustive, greedy, mask_of, members, parts_of
from probe.errors import ConfigError, DataError
from probe.interventions.patching import Filling, sources
from probe.interventions.requested_change import (
    LEAST_GAP,
    Against,
    Answer,
    Change,
    Corrupted,
    InChat,
    Reference,
    same_question,
)
from probe.interventions.sites import Activations, hooks_of, observe
from probe.logits.attribution import part_name
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.numbers import share_text
from probe.plotting.notebook import Beside, Drawable, Look, alone, titled
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

FEW = 20
"""Number of parts up to which all subsets of at most `LARGEST` parts are run."""
LARGEST = 4
"""Largest size of which every subset is run."""
CHECKED = 6
"""Largest size at which the circuits of all methods are checked for completeness and minimality."""
ENOUGH = 0.1
"""Largest distance of faithfulness from 1 at which a circuit counts as faithful."""
ORDERS = 20
"""Number of random orders of the parts."""
OWN_SUBSETS = 1024
"""Number of subsets of the chosen circuit that are taken out of it."""
HEIGHT = 360
SETS = 6500
"""Number of subsets that are run for a model of `FEW` parts, to estimate the time."""
FAITHFUL = r"\mathrm{faithfulness}(C) = \frac{m(C) - m(\emptyset)}{m(M) - m(\emptyset)}"
COMPLETE = (
    r"\mathrm{incompleteness}(C) = \max_{K \subseteq C} \frac{|m(C \setminus K) - m(M \setminus K)|}"
    r"{|m(M) - m(\emptyset)|}"
)
MINIMAL = (
    r"\mathrm{minimality}(C) = \min_{v \in C} \max_{K \subseteq C \setminus v} \frac{|m(C \setminus (K \cup v)) - "
    r"m(C \setminus K)|}{|m(M) - m(\emptyset)|}"
)
Source = Literal["other prompt", "mean"]
TITLES = {
    "exhaustive": "exhaustive search",
    "greedy": "greedy search",
    "removed": "patching (removed alone)",
    "restored": "patching (restored alone)",
    "attribution": "attribution patching",
    "integrated": "integrated gradients",
    "direct": "direct attribution",
    "random": "random order",
    "named": "named",
}
"""Names of the methods in sentences and figures."""


class Random(NamedTuple):
    """Faithfulness of subsets of one size that were chosen without looking."""

    number: int
    """Number of subsets: all of the size, or those of random orders."""
    every: bool
    """Whether these are all subsets of the size."""
    median: float
    high: float
    """95th percentile."""


@dataclass(frozen=True)
class Circuit(Drawable):
    """A circuit, its tests, and the circuits of every method at each size."""

    parts: tuple[str, ...]
    """[P] names of all parts."""
    mask: int
    """Parts of the circuit, as bits."""
    method: str
    """Method that found it; `named` if it was given."""
    tested: CircuitCheck
    """Its faithfulness, completeness and minimality."""
    random: Random
    """Subsets of the same size that were chosen without looking."""
    curves: pd.DataFrame
    """Rows of method and size: `method`, `size`, `mask`, `faithfulness`, `low`, `high` (5 and 95 % of random orders),
    and `incompleteness` and `minimality` where they were measured."""
    scores: pd.DataFrame
    """Rows of part: `part` and a column for each method with its score in nats."""
    full: float
    """Target with all parts, in nats."""
    empty: float
    """Target without any part, in nats."""
    source: Source
    """Source of the activations of ablated parts."""
    words: str
    """Target as a part of a sentence."""
    other: str
    """The other prompt; empty for means."""
    known: tuple[tuple[int, float], ...] = ()
    """Faithfulness of all subsets that were run, by mask; empty for a model of many parts."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    @property
    def chosen(self) -> list[str]:
        """Names of the parts of the circuit."""
        return [self.parts[at] for at in members(self.mask)]

    @property
    def enough(self) -> dict[str, int]:
        """Smallest size at which the circuit of each method is faithful."""
        fits = self.curves[np.abs(1 - self.curves["faithfulness"]) <= ENOUGH]
        return {str(name): int(size) for name, size in fits.groupby("method", sort=False)["size"].min().items()}

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences on what is ablated, and on what the measures say."""
        source = f"those of the prompt \u201c{self.other}\u201d" if self.other else "their means over reference texts"
        sampled = " (of a random sample)" * self.tested.sampled
        return (
            f"Parts outside a circuit get {source}, at every token. With all parts the target is {self.full:+.2f}"
            f" nats, without any {self.empty:+.2f}; faithfulness is 1 and 0 there. Incompleteness and minimality go"
            f" over {self.tested.subsets} subsets K of the circuit{sampled}.".replace("-", "\u2212"),
        )

    def sentence(self) -> str:
        """Say what the circuit keeps of the answer, what other subsets of its size keep, and which methods find one."""
        names, size, found = ", ".join(self.chosen), len(self.chosen), self.tested
        counted = f"{self.random.number} random sets of {size}"
        if self.random.every:
            counted = f"all {self.random.number:,} sets of {size}"
        text = (
            f"{self.looks[0].name}: {size} of {len(self.parts)} parts ({names or 'none'}; {self._found_by}) keep"
            f" {share_text(found.faithfulness)} of {self.words}; of {counted} half keep at most"
            f" {share_text(self.random.median)}, and 95 % at most {share_text(self.random.high)}."
        )
        exact = self.curves[self.curves["method"] == "exhaustive"]
        if len(exact) and size > exact["size"].max():
            best = exact.iloc[-1]
            text += f" The best of all sets of {best['size']} keeps {share_text(float(best['faithfulness']))}."
        if size:
            text += (
                f" Without some of its parts it differs from the model by up to {share_text(found.incompleteness)}"
                f" (incompleteness), and its least needed part changes {share_text(found.minimality)}."
            )
        needs = {name: size for name, size in self.enough.items() if name in METHODS}
        if needs:
            least, most = min(needs, key=needs.__getitem__), max(needs, key=needs.__getitem__)
            text += f" Of methods that score one part at a time, {TITLES[least]} needs {needs[least]} parts for 90 %"
            text += f" and {TITLES[most]} {needs[most]}" * (needs[most] > needs[least])
            text += f"; random orders need {self.enough['random']}." if "random" in self.enough else "."
        return text

    @property
    def _found_by(self) -> str:
        if self.method == "named":
            return "named"
        same = self.curves[(self.curves["mask"] == self.mask) & (self.curves["method"] != "random")]
        *others, last = dict.fromkeys(TITLES[name] for name in same["method"])
        return f"found by {', '.join(others)} and {last}" if others else f"found by {last}"

    def figures(self) -> "dict[str, go.Figure]":
        """Draw faithfulness by size for every method, and the score of every part by every method."""
        return Circuits((self,), self.looks).figures()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the circuits of every method by size, and the scores of every part."""
        named = [", ".join(self.parts[at] for at in members(int(mask))) for mask in self.curves["mask"]]
        return {"sizes": self.curves.drop(columns="mask").assign(parts=named), "parts": self.scores}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the circuit of each method at its smallest faithful size, and the methods' agreement with patching."""
        rows = []
        for name, size in self.enough.items():
            row = self.curves[(self.curves["method"] == name) & (self.curves["size"] == size)].iloc[0]
            parts = "" if name == "random" else ", ".join(self.parts[at] for at in members(int(row["mask"])))
            rows.append({"method": TITLES[name], "parts for 90 %": size, "circuit": parts, **_checks(row)})
        columns = [name for name in METHODS if name in self.scores]
        agree = [
            {"method": TITLES[name], "rank correlation with removed alone": _spearman(self.scores, name)}
            for name in columns
            if name != "removed"
        ]
        return {"Smallest faithful circuits": pd.DataFrame(rows), "Scores of parts": pd.DataFrame(agree)}


def _spearman(scores: pd.DataFrame, name: str) -> float:
    ours, theirs = scores["removed"].to_numpy(), scores[name].to_numpy()
    return float(stats.spearmanr(ours, theirs)[0]) if np.ptp(ours) > 0 and np.ptp(theirs) > 0 else float("nan")


def _checks(row: Any) -> dict[str, float]:
    return {name: float(row[name]) for name in ("faithfulness", "incompleteness", "minimality")}


class Circuits(Beside[Circuit]):
    """Circuits of one model or several for one answer."""

    def sentence(self) -> str:
        """Describe every circuit, and say what the first model's circuit keeps in the last."""
        pairs = list(zip(self.looks, self.results, strict=True))
        said = [replace(each, looks=(look,)).sentence() for look, each in pairs]
        if len(pairs) > 1 and pairs[0][1].parts == pairs[-1][1].parts:
            first, last = pairs[0], pairs[-1]
            inside = dict(last[1].known).get(first[1].mask)
            if inside is not None:
                own = "the same circuit" if first[1].mask == last[1].mask else f"the circuit of {first[0].name}"
                said.append(f"In {last[0].name} {own} keeps {share_text(inside)}.")
        return " ".join(said)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes of all results, each once."""
        return tuple(dict.fromkeys(note for each in self.results for note in each.notes))

    def figures(self) -> "dict[str, go.Figure]":
        """Draw faithfulness by size for every method, and the score of every part by every method, for each model."""
        from probe.circuits.figures import faithfulness_curves, score_map

        charts = {}
        for index, (look, each) in enumerate(zip(self.looks, self.results, strict=True)):
            end, whose = f"-{index}" * bool(index), f": {look.name}" * (len(self.results) > 1)
            size = len(members(each.mask)), each.tested.faithfulness
            charts[f"sizes{end}"] = titled(
                faithfulness_curves(each.curves, TITLES, size), f"Faithfulness by size of the circuit{whose}", HEIGHT
            )
            chart = score_map(each.scores, TITLES, set(each.chosen), each.full - each.empty)
            charts[f"parts{end}"] = titled(chart, f"Score of every part{whose}", HEIGHT)
        return charts

    def lists(self) -> Mapping[str, pd.DataFrame]:
        """Return the smallest faithful circuits of all models, and the agreement of the methods."""
        joined: dict[str, list[pd.DataFrame]] = {}
        for look, each in zip(self.looks, self.results, strict=True):
            for title, table in each.lists().items():
                table.insert(0, "model", look.name)
                joined.setdefault(title, []).append(table)
        return {title: pd.concat(tables, ignore_index=True) for title, tables in joined.items()}


def parse_parts(lm: LM, names: str) -> int | None:
    """Return the mask of parts named as in `L1H2, L2 MLP`; None if none is named.

    Raises:
        ConfigError: a name is not that of a head or an MLP of the model.
    """
    known = [part_name((site.layer, site.head)) for site in parts_of(lm)]
    found = [name.strip().upper() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in known:
            raise ConfigError(
                f"The part `{name}` was named; expected names from {known[0]} to {known[-1]}, with commas."
            )
    return mask_of(known.index(name) for name in found) if found else None


def _how(source: Source) -> Literal["noise", "mean"]:
    return "noise" if source == "other prompt" else "mean"


def same_answers(lms: Sequence[LM], *, source: Source, **inputs: Any) -> dict[str, Any]:
    """Return the last model's answers, about which all models are asked if none are given (`same_question`)."""
    return same_question(lms, how=_how(source), **inputs)


def circuit_seconds(lm: LM, prompt: str, chat: bool, **rest: Any) -> float:
    """Estimate the seconds that all subsets take."""
    length = len(Change(prompt=prompt, how="zero", chat=chat).texts(lm)[0])
    count = len(parts_of(lm))
    return seconds_to_read(lm, length * (SETS if count <= FEW else (2 + CHECKED) * count + ORDERS * len(sizes(count))))


def sizes(count: int) -> list[int]:
    """Return the sizes at which circuits are run: all of a small model, else ever larger steps."""
    steps = range(count + 1) if count <= FEW else accumulate(range(count), lambda at, _: at + max(1, at // 3))
    return sorted({*(size for size in steps if size <= count), count})


@analysis(
    "interventions",
    title="Circuit",
    equations=(FAITHFUL, COMPLETE, MINIMAL),
    seconds=circuit_seconds,
    key="int_circuit",
    beside=Circuits,
    settle=same_answers,
    widths=((1, 1),),
)
def circuit(
    lm: LM,
    prompt: Prompt,
    *,
    source: Annotated[Source, Input("Ablate by", key="int_source")] = "other prompt",
    parts: Annotated[str, Input("Circuit to test", key="int_parts", placeholder="the smallest found")] = "",
    chat: InChat = False,
    corrupted: Corrupted = "",
    reference: Reference = "",
    answer: Answer = "",
    against: Against = "",
    tick: Tick = ignore,
) -> Circuit:
    """Find few heads and MLPs that give an answer while all others are ablated, and test them.

    The parts are all heads and MLPs, at every token. Those outside the circuit get the activations of another prompt or
    their means. *Faithfulness* is what is left of logit(answer) - logit(other answer), from 0 (all parts ablated) to 1
    (none). *Incompleteness* is the largest difference between circuit and model when the same parts K of the circuit
    are taken out of both; *minimality* the largest change by the least needed part (Wang et al. 2022). Of models with
    at most 20 parts all subsets of at most 4 parts are run, and a greedy search. Beside them stand the first parts in
    the order of five methods that score one part at a time (activation patching both ways, attribution patching,
    integrated gradients, direct attribution), and 20 random orders.

    Args:
        lm: the model.
        prompt: the text.
        source: activations that ablated parts get: those of another prompt with as many tokens, or means over texts.
        parts: circuit to test, such as `L0 MLP, L1H2`; by default the smallest found that is faithful within 10 %.
        chat: send the prompt as a user's message in the model's chat template.
        corrupted: the other prompt, which asks for another answer; for a world's prompt it is derived.
        reference: texts for means, one per line; by default questions of the model's world, or plain sentences.
        answer: answer to the prompt; by default that of its world, else the most probable token.
        against: answer to compare it with; by default the answer to the other prompt.
        tick: called with the completed share.

    Raises:
        DataError: the texts or answers cannot be used (see `patch_every_site`), or ablation of all parts does not
            change the answer.
        ConfigError: an unknown part is named.
    """
    named = parse_parts(lm, parts)
    patches = source == "other prompt"
    change = Change(
        prompt=prompt,
        how=_how(source),
        corrupted=corrupted,
        reference=reference,
        answer=answer,
        against=against,
        chat=chat,
    )
    question = change.question(lm)
    ids, names = list(question.clean), [*hooks_of(lm, KINDS), START]
    if patches and question.corrupted is not None:
        fill: Activations = observe(lm, question.corrupted, names)[1]
    else:
        (fill,) = sources(lm, ids, names, Filling("mean", change.reference_texts(lm)))
    subsets = Subsets(lm, ids, fill, question.target)
    gap, count = subsets.gap, len(subsets.parts)
    if abs(gap) < LEAST_GAP:
        raise DataError(
            f"With all heads and MLPs ablated {question.words} changes by {gap:.3f} nats only, so there is no circuit"
            " to find: give another prompt or other answers."
        )
    every = sizes(count)
    scores = part_scores(subsets, {START: fill[START]}, between(tick, 0, 0.1))
    rows: list[dict[str, Any]] = []
    sets: dict[int, np.ndarray] = {}
    if count <= FEW:
        for size in range(min(LARGEST, count) + 1):
            best = exhaustive(subsets, size, between(tick, 0.1, 0.5) if size == LARGEST else ignore)
            sets[size] = best.every
            rows.append({"method": "exhaustive", "size": size, "mask": best.mask})
        order = greedy(subsets, between(tick, 0.5, 0.6))
        rows += [{"method": "greedy", "size": size, "mask": mask_of(order[:size])} for size in every]
    for name, values in scores.items():
        order = np.argsort(-values * np.sign(gap), kind="stable").tolist()
        rows += [{"method": name, "size": size, "mask": mask_of(order[:size])} for size in every]
    shares = subsets.shares([row["mask"] for row in rows], between(tick, 0.6, 0.7))
    for row, share in zip(rows, shares, strict=True):
        row["faithfulness"] = float(share)
        if row["size"] <= CHECKED and count <= FEW:
            row |= _checks(vars(check(subsets, row["mask"])))
    random = _random_orders(subsets, every, between(tick, 0.7, 0.9))
    rows += [
        {"method": "random", "size": size, "mask": 0, "faithfulness": float(values.mean()), **_ends(values)}
        for size, values in random.items()
    ]
    chosen, method = (named, "named") if named is not None else _smallest(rows)
    size = len(members(chosen))
    blind = sets.get(size, random[min(random, key=lambda at: abs(at - size))])
    ends = float(np.median(blind)), float(np.quantile(blind, 0.95))
    table = pd.DataFrame({"part": [part_name((site.layer, site.head)) for site in subsets.parts], **scores})
    columns = ["method", "size", "mask", "faithfulness", "low", "high", "incompleteness", "minimality"]
    tested = check(subsets, chosen, OWN_SUBSETS if count <= FEW else 16, tick=between(tick, 0.9, 1))
    known = tuple((mask, (value - subsets.known[0]) / gap) for mask, value in subsets.known.items())
    return Circuit(
        parts=tuple(table["part"]),
        mask=chosen,
        method=method,
        tested=tested,
        random=Random(len(blind), size in sets, *ends),
        curves=pd.DataFrame(rows).reindex(columns=columns),
        scores=table,
        full=subsets.known[subsets.every],
        empty=subsets.known[0],
        source=source,
        words="the lead of " * (question.target.against is not None) + question.words,
        other=(corrupted.strip() or change.counterpart(lm).corrupted or "") if patches else "",
        known=known if count <= FEW else (),
    )


def _random_orders(subsets: Subsets, every: Sequence[int], tick: Tick) -> dict[int, np.ndarray]:
    """Return the faithfulness of the first parts of random orders, by size."""
    rng, count = np.random.default_rng(0), len(subsets.parts)
    orders = [rng.permutation(count).tolist() for _ in range(ORDERS)]
    masks = [mask_of(order[:size]) for size in every for order in orders]
    return dict(zip(every, subsets.shares(masks, tick).reshape(len(every), ORDERS), strict=True))


def _ends(values: np.ndarray) -> dict[str, float]:
    return {"low": float(np.quantile(values, 0.05)), "high": float(np.quantile(values, 0.95))}


def _smallest(rows: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """Return the smallest faithful circuit and its method; of equally small ones, the most faithful."""
    fits = [row for row in rows if row["method"] != "random" and abs(1 - row["faithfulness"]) <= ENOUGH]
    best = min(fits, key=lambda row: (row["size"], abs(1 - row["faithfulness"])))
    return int(best["mask"]), str(best["method"])
