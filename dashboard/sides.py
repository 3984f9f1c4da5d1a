"""The models of the sidebar as a page looks into them, and how they read its prompt."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dashboard import models
from dashboard.state import Shared
from probe.plots.theme import METHODS, method_colour

if TYPE_CHECKING:
    from probe.lm import LM

Role = Literal["base", "aligned"]


@dataclass(frozen=True)
class Side:
    """A model that is looked into."""

    role: Role
    """Which choice of the sidebar it is."""
    name: str
    """How the page calls it."""
    colour: str
    """Grey for the base, else that of its method."""
    ref: str
    """What loads it."""
    lm: "LM"


def chosen_ref(shared: Shared, role: Role) -> str | None:
    """What loads a choice of the sidebar; None where nothing is chosen."""
    return shared.reference(shared.base if role == "base" else shared.aligned)


def load_side(shared: Shared, role: Role) -> Side | None:
    """One model of the sidebar; None while the page waits for consent, or where nothing is chosen."""
    ref = chosen_ref(shared, role)
    lm = models.load(ref) if ref else None
    if ref is None or lm is None:
        return None
    colour = METHODS["pretrain"] if role == "base" else method_colour(shared.method(shared.aligned))
    return Side(role, shared.names()[role == "aligned"], colour, ref, lm)


def asked_text(lm: "LM", prompt: str, chat: bool) -> tuple[int, ...]:
    """Ids of the prompt, as it is or as a user's message in the model's format."""
    from probe.tokens import encode

    text = lm.prompt_text([{"role": "user", "content": prompt}]) if chat else prompt
    return tuple(encode(lm.tokenizer, text))
