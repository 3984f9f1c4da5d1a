"""Questions that the analyses of rewards share, with their answers under a base model and the rewards of these.

Results that depend only on the base (answers, true rewards), also on a reward model, or also on a policy are computed
once and kept while the base is in memory. Axes: P prompts, A answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pandas as pd

import probe.world
from probe.analyses.analysis_record import Input
from probe.errors import DataError, RunError
from probe.logits.lens import require_same_tokens
from probe.model.in_memory import keep, kept, load_named, stamp_of
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.references import resolve
from probe.rewards.answers import Array, verifier_reward
from probe.rewards.frontiers import KINDS, QUESTIONS, Best, Field, Memory, ask, field_of, model_reward
from probe.runs.directories import find
from probe.runs.reader import Run, list_runs

if TYPE_CHECKING:
    from probe.rewards.answers import AnswerLogprobs

OPEN = ("sum_steps", "function", "function_new", "repeat", "map", "sum_quick")
"""Kinds of questions without a short list of whole answers."""
LISTED = 800
"""Approximate number of texts that a model reads to score all answers to the questions."""
TOKENS = 8
"""Approximate number of new tokens to read in such a text."""


def kinds_of(*lms: LM) -> list[str]:
    """Return the kinds of questions of the base's world with listable answers; empty without a world."""
    world = probe.world.of(lms[0])
    return [] if world is None else [kind for kind in world.question_kinds if kind not in OPEN]


def usual_kinds(*lms: LM) -> tuple[str, ...]:
    """Return the default kinds of questions."""
    known = kinds_of(*lms)
    return tuple(kind for kind in KINDS if kind in known)


def usual_reward(*lms: LM, reward: str | Path | None = None, policy: Path | None = None) -> str:
    """Return the default reward.

    It is the proxy if there is a reward model, except for a policy that was trained on the world's truth.
    """
    return "proxy" if reward and not _wants_truth(policy) else "gold"


def run_named(ref: str | Path) -> Run | None:
    """Return the run that a reference names; None for a checkpoint, or a model without a run."""
    try:
        return Run(find(ref))
    except RunError:
        return None


def _wants_truth(policy: Path | None) -> bool:
    """Return whether a run was trained on the truth (SFT, RLVR) and not on preferences."""
    run = None if policy is None else run_named(policy)
    return run is not None and run.method in ("sft", "rlvr") and not run.reward_model


def every_run(*lms: LM) -> tuple[Path, ...]:
    """Return the paths of the runs in the folders of runs."""
    return tuple(run.path for run in list_runs())


Among = Annotated[tuple[Path, ...] | None, Input("Runs", first=every_run, advanced=True)]
"""Folders of all known runs; by default those in the folders of runs."""
Kinds = Annotated[tuple[str, ...] | None, Input("Questions", key="rew_kinds", choices=kinds_of, first=usual_kinds)]
"""Kinds of the world's questions."""
Judge = Annotated[str | Path | None, Input("Reward model", key="rew_model", type=Path | None)]
"""Reward model, the proxy."""
By = Annotated[Literal["proxy", "gold"] | None, Input("Frontier of", key="rew_by", first=usual_reward)]
"""Name of the reward: proxy (the reward model) or gold (the true reward: the world's verifier)."""


@dataclass(frozen=True)
class Ground:
    """Questions with all answers, rewards and frontiers."""

    field: Field
    curves: Mapping[str, pd.DataFrame]
    """Frontier of each reward."""
    best: Mapping[str, pd.DataFrame]
    """Best of N by each reward."""
    memory: Memory
    """Rewards of texts that the reward model has read."""


@dataclass(frozen=True)
class _Truth:
    """Values that depend on the base and not on a reward model."""

    field: Field
    curve: pd.DataFrame
    draws: list[Best]


def list_answers(base: LM, kinds: tuple[str, ...], reward: str | Path | None = None) -> Ground:
    """Return the questions with answers, rewards and frontiers.

    Raises:
        DataError: the base has no world or cannot generate text, no kind was chosen, or the reward model gives no
            reward.
    """
    _check(base, kinds)
    if reward is None:
        return keep(base, ("ground", kinds), partial(_true_ground, base, kinds))
    judge, key = load_judge(base, reward), ("ground", kinds, *place_of(reward))
    return keep(base, key, partial(_judged_ground, base, judge, kinds))


def is_listed(base: LM, kinds: tuple[str, ...], reward: str | Path | None = None) -> bool:
    """Return whether the result of `list_answers` is in memory."""
    return kept(base, ("ground", kinds, *(() if reward is None else place_of(reward)))) is not None


def load_judge(base: LM, reward: str | Path) -> LM:
    """Load a reward model with the same tokens as the base.

    Raises:
        DataError: it generates tokens, or its tokens differ from the base's.
    """
    judge = load_named(reward)
    if judge.readout == "tokens":
        raise DataError(f"{Path(reward).name} writes tokens and outputs no reward: choose a reward model.")
    return judge


def answers_of(base: LM, kinds: tuple[str, ...], policy: str | Path) -> Array:
    """Return the log-probabilities [P A] of the answers under the model of a run or a checkpoint, nats.

    Raises:
        DataError: it splits text into other tokens, or its output is a scalar.
    """

    def score() -> Array:
        lm = load_named(policy)
        require_writer(lm)
        require_same_tokens(base, lm)
        return _truth(base, kinds).field.answers.score(lm)

    return keep(base, ("answers", kinds, *place_of(policy)), score)


def has_answers(base: LM, kinds: tuple[str, ...], policy: str | Path) -> bool:
    """Return whether the result of `answers_of` is in memory."""
    return kept(base, ("answers", kinds, *place_of(policy))) is not None


def known_answers(base: LM, lm: LM, kinds: tuple[str, ...]) -> "AnswerLogprobs":
    """Return the answers' log-probabilities under the base or a placed model; None for others."""
    truth = kept(base, ("truth", kinds))
    if truth is None:
        return {}
    answers = truth.field.answers
    if lm is base:
        return answers.logprobs_by_text(answers.logprobs)
    scores = None if lm.directory is None else kept(base, ("answers", kinds, *place_of(lm.directory)))
    return {} if scores is None else answers.logprobs_by_text(scores)


def listing_seconds(base: LM, kinds: tuple[str, ...], reward: str | Path | None = None) -> float:
    """Estimate the seconds that `list_answers` takes; 0 if it is done."""
    _check(base, kinds)
    if is_listed(base, kinds, reward):
        return 0.0
    return reading_seconds(LISTED, base, *([] if reward is None else [load_judge(base, reward)]))


def reading_seconds(texts: int, *lms: LM) -> float:
    """Estimate the seconds that models take to read so many short texts."""
    return texts * TOKENS * sum(map(seconds_a_token, lms))


def require_writer(lm: LM) -> None:
    """Raise a DataError for a model with a scalar output."""
    if lm.readout != "tokens":
        name = lm.run_dir.name if lm.run_dir else Path(lm.ref or "The model").name
        raise DataError(f"{name} outputs one number, a {lm.readout}, and writes nothing: choose a language model.")


def _check(base: LM, kinds: tuple[str, ...]) -> None:
    require_writer(base)
    if probe.world.of(base) is None:
        raise DataError("The base model belongs to no world, so its answers cannot be listed: choose a run of a world.")
    if not kinds:
        raise DataError("Choose at least one kind of question: without any there is nothing to ask.")


def place_of(ref: str | Path) -> tuple[Any, ...]:
    """Return the key of a model's results: its folder, and the time of its last change."""
    directory = resolve(ref).directory
    return str(directory), stamp_of(directory)


def _truth(base: LM, kinds: tuple[str, ...]) -> _Truth:
    def make() -> _Truth:
        world = probe.world.of(base)
        assert world is not None  # checked before
        own = field_of(base, world, ask(world, kinds, QUESTIONS), {"gold": verifier_reward(world)})
        return _Truth(own, own.frontier("gold"), own.draws("gold"))

    return keep(base, ("truth", kinds), make)


def _true_ground(base: LM, kinds: tuple[str, ...]) -> Ground:
    truth = _truth(base, kinds)
    return Ground(truth.field, {"gold": truth.curve}, {"gold": truth.field.best_of_n("gold", draws=truth.draws)}, {})


def _judged_ground(base: LM, judge: LM, kinds: tuple[str, ...]) -> Ground:
    truth, memory = _truth(base, kinds), Memory()
    own = truth.field.with_reward("proxy", model_reward(judge, memory))
    curves = {"proxy": own.frontier("proxy"), "gold": truth.curve}
    best = {"proxy": own.best_of_n("proxy"), "gold": own.best_of_n("gold", draws=truth.draws)}
    return Ground(own, curves, best, memory)
