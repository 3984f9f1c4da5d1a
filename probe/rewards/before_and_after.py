"""Analysis of answers before and after alignment: both models' samples scored by three rewards.

Axes: P prompts, n samples of each.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd

import probe.world
from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.logits.lens import require_same_tokens
from probe.model.in_memory import keep
from probe.model.lm import LM
from probe.model.text import require_known
from probe.numbers import in_unit
from probe.plotting.notebook import Drawable, Look, pair, titled
from probe.rewards.figures import records, reward_distributions
from probe.rewards.frontiers import QUESTIONS, ask, model_reward
from probe.rewards.ground import (
    Judge,
    Kinds,
    known_answers,
    list_answers,
    load_judge,
    place_of,
    reading_seconds,
    require_writer,
    usual_kinds,
)
from probe.rewards.moves import describe_move, direction, join_moves
from probe.rewards.shift import Drawing, ModelSamples, compare_samples, draw, proxy_rewards, summary
from probe.runs.reader import Run
from probe.terms import DIFFERENCE, PROBABILITY, RATES, after_numbers, term
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMPLICIT = r"r(x, y) = \beta \log \frac{\pi(y \mid x)}{\pi_{ref}(y \mid x)} \quad \text{(implicit)}"
MEASURES = ("proxy", "gold", "implicit")
"""Rewards whose distributions are drawn."""
ALL = "all"
HEIGHT = 300
"""Height of the figure in pixels."""


def kinds_in(found: "AnsweredBoth") -> list[str]:
    """Return the kinds of prompts of a result, and all of them together."""
    known = [kind for kind in dict.fromkeys(found.samples["kind"]) if kind]
    return [ALL, *known] if len(known) > 1 else [ALL]


def every_kind(found: "AnsweredBoth") -> str:
    """Return the kind to show first: the prompts of all kinds."""
    return ALL


def usual_beta(base: LM, aligned: LM) -> float:
    """Return the beta with which the aligned run was trained, else 1."""
    beta = Run(aligned.run_dir).config.get("beta") if aligned.run_dir else None
    return float(beta) if isinstance(beta, int | float) and not isinstance(beta, bool) else 1.0


Kind = Annotated[str | None, Input("Kind", key="rew_kind", choices=kinds_in, first=every_kind)]
"""Kind of prompts."""


@dataclass(frozen=True)
class AnsweredBoth(Drawable):
    """Samples of both models with their rewards."""

    samples: pd.DataFrame
    """One row per sample (`probe.rewards.shift.samples`)."""
    beta: float
    """Factor of the implicit reward."""
    judge: str
    """Name of the reward model; empty without one."""
    names: tuple[str, str] = ("base", "aligned")
    looks: tuple[Look, ...] = field(default_factory=pair)
    """Names and colours of the models."""

    @property
    def _world(self) -> bool:
        return bool(self.samples["kind"].ne("").any())

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences that explain how the models were asked, and what the implicit reward is."""
        what = f"the same {self.samples['prompt'].nunique()} questions" if self._world else "the prompt"
        return (
            f"Both models answer {what} at temperature 1 with the same random numbers. The implicit reward is beta"
            f" log(aligned / base) with beta = {self.beta:g}.",
        )

    def _of(self, kind: str | None) -> pd.DataFrame:
        if kind not in (None, *kinds_in(self)):
            raise DataError(f"No prompt is of the kind {kind!r}: choose one of {', '.join(kinds_in(self))}.")
        return self.samples if kind in (None, ALL) else self.samples[self.samples["kind"] == kind]

    def sentence(self, kind: Kind = None) -> str:
        """Say how the rewards of the answers changed.

        Args:
            kind: kind of the prompts; by default all.
        """
        table, (base, aligned) = self._of(kind), self.names
        own = table[table["model"] == "aligned"]
        earned = round(float(own["implicit"].mean()), 2) + 0.0  # no minus before 0.00
        implicit = f"its own answers have {earned:.2f} nats of implicit reward"
        if not self._world:
            if not self.judge:
                return f"On this prompt {aligned} differs from {base}: {implicit}."
            change = float(own["proxy"].mean() - table.loc[table["model"] == "base", "proxy"].mean())
            return f"On this prompt {aligned} {direction(change)} {self.judge} by {abs(change):.2f} nats; {implicit}."
        rows = {str(row["measure"]): row for row in records(summary(table))}
        called = {"proxy": (f"the proxy ({self.judge})", "nats"), "gold": ("the true reward", "score")}
        moves = [describe_move(rows[name], "difference", *called[name]) for name in called if name in rows]
        return f"In sampled answers {aligned} {join_moves(moves)}; {implicit}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return one row per sample."""
        return {"samples": self.samples}

    def lists(self, kind: str | None = None) -> dict[str, pd.DataFrame]:
        """Return one row per measure: both models, their difference, and the measure's definition."""
        rows = summary_table(self._of(kind))
        first, second = self.names
        called = {"base": first, "aligned": second if second != first else f"{second} (aligned)"}
        return {"Before and after": rows.rename(columns=called)}

    def figures(self, kind: str | None = None) -> "dict[str, go.Figure]":
        """Draw the distribution of each reward."""
        table = self._of(kind)
        measures = [measure for measure in MEASURES if measure in table and table[measure].notna().any()]
        base, aligned = self.looks[0], self.looks[-1]
        chart = reward_distributions(table, self.names, (base.colour, aligned.colour), measures)
        title = f"Rewards of {len(table):,} answers to {table['prompt'].nunique()} prompts"
        return {"distributions": titled(chart, title, HEIGHT)}


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Format `probe.rewards.shift.summary` for reading: one row per measure, numbers with intervals."""
    rows = []
    for row in summary(table).to_dict("records"):
        about = term(row["measure"], "rewards")
        unit = DIFFERENCE if about.unit in RATES else about.unit

        def number(name: str, unit: str, sign: bool = False, row: Any = row) -> str:
            return in_unit(unit, *(row[name + end] for end in ("", "_low", "_high")), sign=sign)

        rows.append(
            {
                "metric": about.label,
                "base": number("base", about.unit),
                "aligned": number("aligned", about.unit),
                "aligned \u2212 base": number("difference", unit, sign=True),
                "aligned higher": number("win", PROBABILITY),
                **after_numbers(row["measure"], about),
            }
        )
    return pd.DataFrame(rows)


def answers_seconds(
    base: LM, aligned: LM, *, kinds: tuple[str, ...], reward: str | Path | None, each: int, n: int, **rest: Any
) -> float:
    """Estimate the seconds that sampling and judging takes."""
    lms = [base, aligned, *([] if reward is None else [load_judge(base, reward)])]
    return reading_seconds(each * QUESTIONS if kinds else n, *lms)


@analysis("rewards", title="Before and after", equations=(IMPLICIT,), seconds=answers_seconds, key="rew")
def compare_rewards(
    base: LM,
    aligned: LM,
    prompt: Prompt = "",
    *,
    kinds: Kinds = None,
    reward: Judge = None,
    each: Annotated[int, Input("Samples each", key="rew_each", within=(2, 16))] = 2,
    n: Annotated[int, Input("Samples of the prompt", key="rew_n", within=(2, 64))] = 32,
    beta: Annotated[float | None, Input("Beta", key="rew_beta", first=usual_beta, advanced=True)] = None,
    tick: Tick = ignore,
) -> AnsweredBoth:
    """Measure what sampled answers of two models earn, and in which measure they differ.

    Both models answer the same questions of a world, or the prompt if there is no world, with the same random numbers.
    The proxy is the reward model's scalar at the end of the text, in nats of Bradley-Terry log-odds: only differences
    between completions of one prompt mean something. The true reward (gold) is the world's verifier: +1 true, 0
    abstains, -1 otherwise. The implicit reward is beta log(aligned / base) (E13). Samples of one prompt resemble each
    other, so intervals draw prompts.

    Args:
        base: the reference.
        aligned: the other model; its tokenizer must be the same.
        prompt: prompt to answer without a world, or if no kind is chosen.
        kinds: kinds of questions of the world; by default known facts, true and false claims, and unseen entities.
        reward: a reward model, the proxy.
        each: number of samples per question.
        n: number of samples of the prompt.
        beta: factor of the implicit reward; by default that of the aligned run, else 1.
        tick: called with the progress.

    Raises:
        DataError: the tokenizers differ, a model cannot generate text, or there is neither a world nor a prompt.
    """
    require_writer(base)
    require_writer(aligned)
    require_same_tokens(base, aligned)
    kinds = usual_kinds(base, aligned) if kinds is None else tuple(kinds)
    world = probe.world.of(base)
    items = ask(world, kinds) if world and kinds else []
    prompts = tuple(item.prompt for item in items) or (prompt,)
    if not prompts[0].strip():
        raise DataError("The models belong to no world that asks questions: give a prompt.")
    require_known(base.tokenizer, prompts if not items else ())
    sampled: tuple[Hashable, ...] = prompts, each if items else n, None if world is None else world.hash
    judge = None if reward is None else load_judge(base, reward)
    memory = list_answers(base, kinds, reward).memory if items and reward is not None else None
    draws, rewards, known = [], [], []
    for at, lm in enumerate((base, aligned)):
        own = known_answers(base, lm, kinds) if items else {}
        make = partial(draw, lm, prompts, Drawing(world, each if items else n), known=own)
        draws.append(keep(lm, ("draws", *sampled), make))
        tick(0.25 + 0.5 * at)
        if judge is not None:
            rewards.append(
                keep(lm, ("proxies", *sampled, *place_of(str(reward))), partial(_score, draws[-1], judge, memory))
            )
        known.append(known_answers(base, lm, kinds) if items else {})
        tick(0.5 + 0.4 * at)
    factor = usual_beta(base, aligned) if beta is None else beta
    own_rewards = (rewards[0], rewards[1]) if rewards else None
    kinds_of_items = [item.kind for item in items]
    table = compare_samples(
        base, aligned, draws[0], draws[1], own_rewards, factor, kinds_of_items, (known[0], known[1])
    )
    return AnsweredBoth(table, factor, "" if reward is None else Path(reward).name)


def _score(draws: ModelSamples, judge: LM, memory: Any) -> np.ndarray:
    """Return the rewards [P n] that a reward model gives the samples of one model."""
    return proxy_rewards(draws, model_reward(judge, memory))
