"""The models of the Rewards page: base, aligned and reward model, as the shared choices and the page's own say."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard import models, sentences
from dashboard.components.badge import trust_badge
from dashboard.markdown import note
from dashboard.named import name_choice
from dashboard.pages.rewards import compute as fields
from dashboard.sides import Side
from dashboard.state import SharedChoices, has_changed, keep
from probe.errors import DataError
from probe.plotting.curves import Style
from probe.plotting.theme import METHODS, aligned_colour
from probe.rewards.ground import Ground
from probe.texts import visible

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.runs.reader import Run

MODEL, BY = "rew_model", "rew_by"
"""Keys of the reward model, and of the reward whose frontier is shown."""
RUNS, FORM = "rew_runs", "rew_form"
"""Keys of the training trajectories, and of what they are fitted with."""
NONE = "none"


@dataclass(frozen=True)
class Scene:
    """What the page looks into."""

    shared: SharedChoices
    base: "LM"
    """The reference."""
    aligned: "LM | None"
    """None where no second policy is chosen."""
    reward: "LM | None"
    """A scalar LM."""
    reward_name: str | None
    """The choice behind it."""
    names: tuple[str, str]
    colours: tuple[str, str]
    source: dict[str, Any]
    """References of the models, for files and code."""

    @property
    def proxy(self) -> str | None:
        """How the reward model is called."""
        return self.reward_name.rstrip("/").rpartition("/")[2] if self.reward_name and self.reward else None

    def side(self, role: str) -> Side | None:
        """Return a model as analyses take it; None where it is not chosen."""
        models = {"base": self.base, "aligned": self.aligned, "reward": self.reward}
        names = {"base": self.names[0], "aligned": self.names[1], "reward": self.proxy or "The reward model"}
        colours = {"base": self.colours[0], "aligned": self.colours[1], "reward": METHODS["reward-model"]}
        lm = models[role]
        return None if lm is None else Side(role, names[role], colours[role], self.source[role], lm)

    @property
    def reward_path(self) -> Path | None:
        """What loads the reward model, if there is one."""
        return Path(self.source["reward"]) if self.reward else None

    @property
    def run(self) -> "Run | None":
        """The run of the aligned model."""
        label = self.shared.label(self.shared.aligned)
        return self.shared.store.runs[label] if label else None


@dataclass(frozen=True)
class Detail:
    """What a tab of the page shows, for the section at its end."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """To download."""


@dataclass(frozen=True)
class Placement:
    """All policies on the world's questions."""

    ground: Ground
    by: str
    """The reward whose frontier is shown: proxy or gold."""
    styles: dict[str, Style]
    tables: dict[str, pd.DataFrame]
    """To download."""
    complete: bool
    """Whether no policy waits for the next run of the page."""


def choose_reward(shared: SharedChoices) -> str | None:
    """Let the reader choose the reward model: a run, or any reference typed in.

    When the aligned model changes, its default reward model is selected.
    """
    options = fields.reward_runs(shared.store, fields.world_hash(shared.store, shared.label(shared.base)))
    default = fields.default_reward(shared, options) or NONE
    key = keep(MODEL, {*options, NONE, st.session_state.get(MODEL)}, default)
    if has_changed("_rew_for", shared.aligned):
        st.session_state[key] = default
        st.session_state[BY] = "gold" if fields.wants_truth(shared) else "proxy"
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
    """All models of the page; None while one waits for the reader's word.

    Raises:
        ModelError: a model cannot be loaded.
        DataError: the base model writes nothing, the reward model reads no reward, or the tokenizers differ.
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
            f"{names[0]} gives one number, a {kind}, and writes nothing: choose a language model as the base, and "
            "a reward model as the proxy above."
        )
    if reward is not None and reward.readout == "tokens":
        raise DataError(f"{reward_name} writes tokens and reads no reward: choose a reward model.")
    if aligned is not None and aligned.readout != "tokens":
        if aligned.readout == "value" or refs["aligned"] != refs["reward"]:
            note(f"{names[1]} gives one number, a {aligned.readout}, and writes nothing, so it is not placed here.")
        aligned = None
        refs["aligned"] = None
    if aligned is not None:
        problem = sentences.incomparable(base, aligned, names)
        if problem:
            raise DataError(problem)
    colours = METHODS["pretrain"], aligned_colour(shared.method(shared.aligned))
    source = {name: ref for name, ref in refs.items() if ref}
    return Scene(shared, base, aligned, reward, reward_name, names, colours, source)


def readers(scene: Scene) -> "list[tuple[str, LM]]":
    """Name and model of all that read the prompt."""
    sides = [(scene.names[0], scene.base)]
    sides += [(scene.names[1], scene.aligned)] if scene.aligned else []
    return sides + ([(scene.proxy or "reward model", scene.reward)] if scene.reward else [])


def badges(scene: Scene) -> None:
    """Show the trust badge of every model of the page."""
    trust_badge(*readers(scene), text=scene.shared.prompt)
