"""The models of the Rewards page: base, aligned and reward model, from the shared choices and the page's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from dashboard import models, sentences
from dashboard.components.badge import trust_badge
from dashboard.consent import name_choice
from dashboard.data import Store
from dashboard.markdown import note
from dashboard.sides import Side
from dashboard.state import SharedChoices, has_changed, keep
from dashboard.without_base import unloaded_side
from probe.errors import DataError
from probe.numbers import duration
from probe.plotting.theme import METHODS, aligned_colour
from probe.rewards.places import placing_seconds, policies_of
from probe.texts import visible

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.runs.reader import Run

MODEL = "rew_model"
"""Key of the reward model."""
NONE = "none"


@dataclass(frozen=True)
class Scene:
    """The choices and models of the page."""

    shared: SharedChoices
    sides: dict[str, Side]
    """Chosen models by role: base, aligned, reward."""
    reward_name: str | None
    """Choice of the reward model."""

    @property
    def base(self) -> "LM":
        """The reference model."""
        return self.sides["base"].lm

    @property
    def reward(self) -> Path | None:
        """The reference that loads the reward model."""
        return Path(self.sides["reward"].ref) if "reward" in self.sides else None

    @property
    def chosen(self) -> Path | None:
        """The reference that loads the aligned model, if it is not the base."""
        refs = {role: side.ref for role, side in self.sides.items()}
        return Path(refs["aligned"]) if refs.get("aligned", refs["base"]) != refs["base"] else None

    def run(self, role: str) -> "Run | None":
        """Return the run of the aligned or reward model."""
        choice = self.reward_name if role == "reward" else self.shared.aligned
        label = self.shared.label(choice) if role in self.sides else None
        return self.shared.store.runs[label] if label else None


def world_hash(store: Store, label: str | None) -> str | None:
    """Return the hash of a run's world; None without a known world."""
    world = store.runs[label].world if label in store.runs else None
    return str(world.get("hash")) if world else None


def reward_runs(store: Store, world: str | None) -> list[str]:
    """List the runs of reward models of the base's world, or without a world if the base has none."""
    names = [name for name, run in store.runs.items() if run.method == "reward-model" and run.checkpoints()]
    return [name for name in names if world_hash(store, name) == world]


def default_reward(shared: SharedChoices, options: Sequence[str]) -> str | None:
    """Return the aligned run's reward model, else one trained on the same annotator, else the first."""
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


def choose_reward(shared: SharedChoices) -> str | None:
    """Let the reader choose the reward model: a run, or a typed reference.

    When the aligned model changes, its default reward model is selected.
    """
    options = reward_runs(shared.store, world_hash(shared.store, shared.label(shared.base)))
    default = default_reward(shared, options) or NONE
    key = keep(MODEL, {*options, NONE, st.session_state.get(MODEL)}, default)
    if has_changed("_rew_for", shared.aligned):
        st.session_state[key] = default
    choice = st.selectbox(
        "Reward model (the proxy)",
        [*options, NONE],
        key=key,
        bind="query-params",
        accept_new_options=True,
        on_change=name_choice,
        args=(key,),
        help="A run that trained a reward model, or type the folder of a model with one scalar label.",
        format_func=visible,
    )
    return None if choice in (None, NONE) else str(choice)


def load_scene(shared: SharedChoices, reward_name: str | None) -> Scene | None:
    """Load all models of the page; None while one waits for the reader's consent.

    Raises:
        ModelError: a model cannot be loaded.
        DataError: the base model generates no text, the reward model has no reward output, or the tokenizers differ.
    """
    refs = {"base": shared.reference(shared.base), "aligned": shared.reference(shared.aligned)}
    refs["reward"] = shared.reference(reward_name)
    lms = {name: models.load(ref) if ref else None for name, ref in refs.items()}
    if any(ref and lms[name] is None for name, ref in refs.items()):
        return None
    base, aligned, reward = lms["base"], lms["aligned"], lms["reward"]
    names = shared.names()
    if base is None or base.readout != "tokens":
        kind = "reward" if base is None else base.readout
        raise DataError(
            f"{names[0]} outputs one number, a {kind}, and writes nothing: choose a language model as the base, and "
            "a reward model as the proxy above."
        )
    if reward is not None and reward.readout == "tokens":
        raise DataError(f"{reward_name} writes tokens and outputs no reward: choose a reward model.")
    if aligned is not None and aligned.readout != "tokens":
        if aligned.readout == "value" or refs["aligned"] != refs["reward"]:
            note(f"{names[1]} outputs one number, a {aligned.readout}, and writes nothing, so it is not placed here.")
        aligned = None
    if aligned is not None:
        problem = sentences.incomparable(base, aligned, names)
        if problem:
            raise DataError(problem)
    colours = METHODS["pretrain"], aligned_colour(shared.method(shared.aligned)), METHODS["reward-model"]
    called = *names, Path(reward_name or "reward model").name
    found = zip(refs, called, colours, (base, aligned, reward), strict=True)
    sides = {role: Side(role, name, colour, str(refs[role]), lm) for role, name, colour, lm in found if lm is not None}
    return Scene(shared, sides, reward_name)


def unloaded_reward(shared: SharedChoices, reward_name: str | None) -> list[Side]:
    """Return the reward model of which only its stored results can be shown, if one is chosen."""
    ref = shared.reference(reward_name)
    side = unloaded_side("reward", ref, Path(str(reward_name)).name, METHODS["reward-model"]) if ref else None
    return [] if side is None else [side]


def choose_policies(scene: Scene, kinds: tuple[str, ...]) -> tuple[tuple[Path, ...], int]:
    """Return the policies to place now, and the number that follows automatically.

    New questions are first answered by the aligned model and by policies with stored answers; long computations wait
    for the reader's consent.
    """
    every = [*policies_of(scene.base, scene.shared.store.runs.values())]
    chosen = scene.chosen
    if chosen is not None and chosen not in every:
        every.append(chosen)
    memory, questions = "_rew_asked", (scene.sides["base"].ref, kinds)
    costs = {path: placing_seconds(scene.base, kinds, path) for path in every}
    quick = [path for path, cost in costs.items() if path == chosen or models.is_quick(cost) or _agree(path, cost)]
    if chosen is None or st.session_state.get(memory) == questions:
        return tuple(quick), 0
    st.session_state[memory] = questions
    first = [path for path in quick if path == chosen or not costs[path]]
    return tuple(first), len(quick) - len(first)


def _agree(path: Path, seconds: float) -> bool:
    """Return whether the reader has agreed to the long computation for a policy."""
    key = f"rew-place-{path.name}"
    agreed = st.session_state.setdefault("_rew_agreed", set())
    cost = f"about {duration(seconds)}"
    if str(path) not in agreed and st.button(f"Place {path.name} ({cost})", key=key, icon=":material/play_arrow:"):
        agreed.add(str(path))
    return str(path) in agreed


def badges(scene: Scene) -> None:
    """Show the trust badge of every model of the page."""
    trust_badge(*((side.name, side.lm) for side in scene.sides.values()), text=scene.shared.prompt)
