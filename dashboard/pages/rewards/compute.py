"""Which policies can be laid side by side, and where each of them stands: computed once for each checkpoint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.data import Stamp, Store, metrics
from dashboard.named import may_look_up
from dashboard.sentences import duration
from dashboard.state import SharedChoices, split_choice
from probe.errors import ProbeError
from probe.model.in_memory import stamp_of
from probe.numbers import rate
from probe.plotting.curves import Style
from probe.plotting.panels import IDEAL
from probe.plotting.theme import METHODS, method_colour
from probe.rewards.frontiers import place, read_evaluations
from probe.rewards.ground import (
    LISTED,
    Ground,
    answers_of,
    has_answers,
    is_listed,
    list_answers,
    listing_seconds,
    reading_seconds,
)

if TYPE_CHECKING:
    from probe.model.lm import LM

SURE = 0.9
"""Probability of giving a listed answer below which a policy's place is doubtful."""
SMALL = 4e6
"""Bytes of weights for each million parameters in single precision."""


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
    return Policy(label, str(directory), stamp_of(directory), style)


def ground(base: "LM", reward: Path | None, kinds: tuple[str, ...]) -> Ground | None:
    """Return the questions with answers, rewards and frontiers; None while the page waits for the reader's consent."""
    if not is_listed(base, kinds, reward) and not may_compute(
        "Enumerate the answers", listing_seconds(base, kinds, reward), "rew-field"
    ):
        return None
    say = "Enumerating the answers to the world's questions"
    return models.compute_once(_ground, base, say=say, kinds=kinds, reward=reward)


def _ground(base: "LM", *, kinds: tuple[str, ...], reward: Path | None) -> Ground:
    return list_answers(base, kinds, reward)


def standings(
    base: "LM", reward: Path | None, kinds: tuple[str, ...], by: str, chosen: Sequence[Policy], name: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """One row a policy (`Place.row`), the reference first, and why others are missing."""
    say = "Every method answers the same questions"
    asked: dict[str, Any] = {"kinds": kinds, "by": by, "reward": reward}
    rows: list[dict[str, Any]] = [{"run": name, **models.compute_once(_row, base, say=say, directory=None, **asked)}]
    problems: dict[str, str] = {}
    costs = {
        policy.label: reading_seconds(LISTED, base) * policy.changed[1] / (SMALL * base.n_parameters / 1e6)
        for policy in chosen
    }
    for policy in chosen:
        if not has_answers(base, kinds, policy.directory) and not may_compute(
            f"Place {policy.label}", costs[policy.label], f"rew-place-{policy.label}"
        ):
            problems[policy.label] = "waits to be placed"
            continue
        try:
            options: dict[str, Any] = {"directory": policy.directory, "changed": policy.changed}
            row = models.compute_once(_row, base, say=say, **asked, **options)
        except ProbeError as error:
            problems[policy.label] = str(error)
            continue
        rows.append({"run": policy.label, **row})
    return pd.DataFrame(rows), problems


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
    *,
    directory: str | None,
    kinds: tuple[str, ...],
    reward: Path | None,
    by: str,
    changed: Stamp | None = None,
) -> dict[str, float]:
    """Where the model of a checkpoint stands, or the reference: `Place.row`."""
    own = list_answers(base, kinds, reward).field
    return place(own.answers.logprobs if directory is None else answers_of(base, kinds, directory), own, by).row()


def styles(shared: SharedChoices, chosen: Sequence[Policy], name: str) -> dict[str, Style]:
    """How every policy is drawn; the reference in grey."""
    look = shared.store.style() | {policy.label: policy.style for policy in chosen}
    return look | {name: Style(METHODS["pretrain"]), "best of N": Style(str(IDEAL["color"]), "longdash")}
