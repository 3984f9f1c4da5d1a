"""Which policies can be laid side by side, and where each of them stands: computed once for each checkpoint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.data import Stamp, Store, metrics, stamp
from dashboard.named import may_look_up
from dashboard.sentences import duration
from dashboard.state import SharedChoices, split_choice
from probe.errors import DataError, ProbeError
from probe.model.references import model_files
from probe.numbers import rate
from probe.plotting.curves import Style
from probe.plotting.panels import IDEAL
from probe.plotting.theme import METHODS, method_colour
from probe.rewards.frontiers import read_evaluations

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.rewards.answers import AnswerLogprobs
    from probe.rewards.frontiers import Best, Field, Memory

PER_PASS_S = 4e-10
"""Seconds for each parameter and short text, measured on one core."""
QUESTIONS = 64
OPEN = ("sum_steps", "function", "function_new", "repeat", "map", "sum_quick")
"""Kinds of questions whose answers are not a short list of whole answers."""
SURE = 0.9
"""Probability of giving a listed answer below which a policy's place is doubtful."""
SMALL = 4e6
"""Bytes of weights for each million parameters in single precision."""
LIGHT = 16 * 2**20
"""Bytes of weights up to which a policy stays in memory."""


@dataclass(frozen=True)
class Policy:
    """A model that is placed on the frontier."""

    label: str
    """A run, or a shared choice."""
    directory: str
    """Its checkpoint."""
    changed: Stamp
    """When the weights were written, and their size."""
    style: Style


@dataclass(frozen=True)
class Ground:
    """The questions, and what does not depend on any policy but the reference."""

    field: "Field"
    curves: dict[str, pd.DataFrame]
    """Frontier of each reward."""
    best: dict[str, pd.DataFrame]
    """Best of N by each reward."""
    memory: "Memory"
    """Texts that the reward model has read."""


@dataclass(frozen=True)
class WorldGround:
    """The questions as the world judges them: what depends on the reference and on no reward model."""

    field: "Field"
    """With the true reward alone."""
    curve: pd.DataFrame
    """Its frontier."""
    draws: "list[Best]"
    """Best of N by it."""


def cost_s(passes: int, *lms: "LM") -> float:
    """Roughly what `passes` short texts through each model take."""
    return PER_PASS_S * passes * sum(lm.n_parameters for lm in lms)


def may_compute(what: str, seconds: float, key: str) -> bool:
    """Whether something may be computed: it is cheap, or the reader pressed the button that says what it costs."""
    if models.is_quick(seconds):
        return True
    place = st.empty()
    pressed = place.button(f"{what} (about {duration(seconds)})", key=key, icon=":material/play_arrow:")
    if pressed:
        place.empty()
    return pressed


def world_hash(store: Store, label: str | None) -> str | None:
    """Return the hash of a run's world; None where no world is known."""
    world = store.runs[label].world if label in store.runs else None
    return str(world.get("hash")) if world else None


def reward_runs(store: Store, world: str | None) -> list[str]:
    """List the runs that trained a reward model in the same world, or outside any world where the base has none."""
    names = [name for name, run in store.runs.items() if run.method == "reward-model" and run.checkpoints()]
    return [name for name in names if world_hash(store, name) == world]


def default_reward(shared: SharedChoices, options: Sequence[str]) -> str | None:
    """Return the aligned run's own reward model, else one that learned from the same annotator, else the first."""
    label = shared.label(shared.aligned)
    if label is None or not options:
        return options[0] if options else None
    run = shared.store.runs[label]
    if run.method == "reward-model" and label in options:
        return label
    own = shared.store.label(run.reward_model, run)
    if own in options:
        return own
    annotator = run.config.get("annotator")
    alike = [name for name in options if annotator and shared.store.runs[name].config.get("annotator") == annotator]
    return alike[0] if alike else options[0]


def wants_truth(shared: SharedChoices) -> bool:
    """Whether the aligned run was trained by the world's truth (SFT, RLVR) and by no one's preferences."""
    run = shared.store.runs.get(shared.label(shared.aligned) or "")
    return run is not None and run.method in ("sft", "rlvr") and not run.reward_model


def policies(shared: SharedChoices) -> list[Policy]:
    """List the runs that came from the base or refer to it, and the aligned model, in order of appearance."""
    store, base = shared.store, shared.label(shared.base)
    looks, entries = store.style(), []
    world = world_hash(store, base)
    for name, run in store.runs.items():
        origins = {store.label(run.reference, run), store.label(run.parent, run)}
        if name == base or run.method == "reward-model" or base not in origins or world_hash(store, name) != world:
            continue
        checkpoints = run.checkpoints()
        if checkpoints:
            entries.append(_policy(name, checkpoints[-1].path, looks[name]))
    choice = shared.aligned
    if choice and choice not in {policy.label for policy in entries} and choice != shared.base:
        label, step = split_choice(store, choice)
        if label is not None and store.runs[label].method != "reward-model" and "#" not in choice:
            checkpoints = [each for each in store.runs[label].checkpoints() if step is None or each.step == step]
            entries += [_policy(choice, checkpoints[-1].path, Style(looks[label].colour, "dot"))] if checkpoints else []
        elif label is None and may_look_up(choice) and os.path.isdir(place := os.path.expanduser(choice)):
            entries.append(_policy(choice, Path(place), Style(method_colour("other"))))
    return entries


def _policy(label: str, directory: Path, style: Style) -> Policy:
    return Policy(label, str(directory), _write_time(directory), style)


def _write_time(directory: Path) -> Stamp:
    """When the files of a checkpoint were written, and their size."""
    stamps = [stamp(file) for file in model_files(directory)]
    return max((when for when, _ in stamps), default=0), sum(size for _, size in stamps)


def ground(base: "LM", reward: "LM | None", kinds: tuple[str, ...]) -> Ground | None:
    """Return the questions with answers, rewards and frontiers; None while the page waits for the reader's consent."""
    lms = [base, *([reward] if reward else [])]
    if models.ready(judge_answers, *lms, kinds=kinds) is None and not may_compute(
        "Enumerate the answers", cost_s(800, *lms), "rew-field"
    ):
        return None
    return models.compute_once(judge_answers, *lms, say="Enumerating the answers to the world's questions", kinds=kinds)


def judge_answers(base: "LM", *reward: "LM", kinds: tuple[str, ...]) -> Ground:
    """Compute what `ground` returns, for `compute_once` and `ready`."""
    from probe.rewards.frontiers import model_reward

    truth = models.compute_part(_world_ground, base, kinds=kinds)
    memory: Memory = {}
    field = truth.field.with_reward("proxy", model_reward(reward[0], memory)) if reward else truth.field
    draws = {"gold": truth.draws}
    curves = {name: truth.curve if name == "gold" else field.frontier(name) for name in field.rewards}
    best = {name: field.best_of_n(name, draws=draws.get(name)) for name in field.rewards}
    return Ground(field, curves, best, memory)


def _world_ground(base: "LM", *, kinds: tuple[str, ...]) -> WorldGround:
    from probe.rewards.answers import verifier_reward
    from probe.rewards.frontiers import ask, field_of
    from probe.world import of

    world = of(base)
    if world is None:
        raise DataError("The base model knows no world, so its answers cannot be listed: choose a run of a world.")
    field = field_of(base, world, ask(world, kinds, QUESTIONS), {"gold": verifier_reward(world)})
    return WorldGround(field, field.frontier("gold"), field.draws("gold"))


def standings(
    base: "LM", reward: "LM | None", kinds: tuple[str, ...], by: str, chosen: Sequence[Policy], name: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """One row a policy (`Place.row`), the reference first, and why others are missing."""
    lms, say = [base, *([reward] if reward else [])], "Every method answers the same questions"
    place: dict[str, Any] = {"kinds": kinds, "by": by}
    rows: list[dict[str, Any]] = [{"run": name, **models.compute_once(_row, *lms, say=say, directory=None, **place)}]
    problems: dict[str, str] = {}
    costs = {
        policy.label: cost_s(800, base) * policy.changed[1] / (SMALL * base.n_parameters / 1e6) for policy in chosen
    }
    for policy in chosen:
        if not has_answers(base, policy, kinds) and not may_compute(
            f"Place {policy.label}", costs[policy.label], f"rew-place-{policy.label}"
        ):
            problems[policy.label] = "waits to be placed"
            continue
        try:
            row = models.compute_once(_row, *lms, say=say, by=by, **_policy_options(policy, kinds))
        except ProbeError as error:
            problems[policy.label] = str(error)
            continue
        rows.append({"run": policy.label, **row})
    return pd.DataFrame(rows), problems


def has_answers(base: "LM", policy: Policy, kinds: tuple[str, ...]) -> bool:
    """Whether a policy has given its answers already, so that its place is known at once."""
    return models.ready(_scores, base, **_policy_options(policy, kinds)) is not None


def _policy_options(policy: Policy, kinds: tuple[str, ...]) -> dict[str, Any]:
    return {"directory": policy.directory, "changed": policy.changed, "kinds": kinds}


def way(shared: SharedChoices, kinds: tuple[str, ...], by: str, reward: str | None) -> dict[str, pd.DataFrame]:
    """Return the aligned run's training trajectory, if it logged itself on these questions with this reward."""
    label = shared.label(shared.aligned)
    if label is None or by != "proxy":
        return {}
    run = shared.store.runs[label]
    own_kinds = (run.meta.get("data") or {}).get("kinds")
    if tuple(own_kinds or ()) != kinds or reward is None or shared.store.label(run.reward_model, run) != reward:
        return {}
    table = read_evaluations(metrics(run))
    return {label: table} if len(table) > 1 else {}


def unsure(table: pd.DataFrame) -> list[str]:
    """Sentences on policies that seldom give one of the listed answers."""
    rows = table[table["mass"] < SURE]
    return [
        f"{name} gives a listed answer only {rate(mass)} of the time: its place says nothing of the rest."
        for name, mass in zip(rows["run"], rows["mass"], strict=True)
    ]


def _row(
    base: "LM",
    *reward: "LM",
    directory: str | None,
    kinds: tuple[str, ...],
    by: str,
    changed: Stamp | None = None,
) -> dict[str, float]:
    """Where the model of a checkpoint stands, or the reference: `Place.row`."""
    from probe.rewards.frontiers import place

    field = models.compute_part(judge_answers, base, *reward, kinds=kinds).field
    if directory is None:
        return place(field.answers.logprobs, field, by).row()
    return place(models.compute_part(_scores, base, directory=directory, changed=changed, kinds=kinds), field, by).row()


def _scores(base: "LM", *, directory: str, changed: Stamp, kinds: tuple[str, ...]) -> np.ndarray:
    """[P A] log-probabilities of the answers under the model of a checkpoint, which is let go again if it is large."""
    from probe.logits.lens import require_same_tokens

    lm = _load_small(directory, changed) if changed[1] <= LIGHT else _load(directory)
    require_same_tokens(base, lm)
    return models.compute_part(_world_ground, base, kinds=kinds).field.answers.score(lm)


def known_scores(base: "LM", lm: "LM", kinds: tuple[str, ...]) -> "AnswerLogprobs":
    """Return the answers' log-probabilities under the base or a model placed on the frontier; nothing for others."""
    truth = models.ready(_world_ground, base, kinds=kinds)
    if truth is None:
        return {}
    answers = truth.field.answers
    if lm is base:
        return answers.logprobs_by_text(answers.logprobs)
    place = {"directory": str(lm.directory), "changed": _write_time(lm.directory or Path()), "kinds": kinds}
    scores = models.ready(_scores, base, **place)
    return {} if scores is None else answers.logprobs_by_text(scores)


def _load(directory: str) -> "LM":
    from probe.model.lm import LM

    return LM.load(directory)


@lru_cache(maxsize=16)
def _load_small(directory: str, version: Stamp) -> "LM":
    """Load a small model and keep it for further questions; load it again after it was written again."""
    return _load(directory)


def styles(shared: SharedChoices, chosen: Sequence[Policy], name: str) -> dict[str, Style]:
    """How every policy is drawn; the reference in grey."""
    look = shared.store.style() | {policy.label: policy.style for policy in chosen}
    return look | {name: Style(METHODS["pretrain"]), "best of N": Style(str(IDEAL["color"]), "longdash")}
