"""What the Autoregression page computes, each once for a model, its texts and its options."""

import json
from typing import TYPE_CHECKING, Any

from dashboard.models import compute_once
from probe.untrusted import parse_json

if TYPE_CHECKING:
    from dashboard.pages.autoregression.choices import Question, Side
    from probe.autoregression.lags import EffectiveOrder, LagProfile
    from probe.autoregression.snowballs import Snowball
    from probe.model.lm import LM
    from probe.world import World


def profile(side: "Side", question: "Question") -> "LagProfile":
    """Compute the lag profile of one model."""
    jacobian = question.measure == "Jacobian" or question.scalar
    say = f"Lag profile of {side.name}"
    return compute_once(
        _jacobian if jacobian else _resample_lags,
        side.lm,
        say=say,
        steps=True,
        texts=question.texts,
        **question.profile_options(),
    )


def order(side: "Side", question: "Question") -> "EffectiveOrder":
    """Compute the effective order of one model."""
    say = f"Cutting the context of {side.name}"
    result = compute_once(_order, side.lm, say=say, steps=True, texts=question.texts, **question.order_options())
    return result.at(question.epsilon)


def snowball_of(side: "Side", prompts: tuple[str, ...], world: "World | None", steps: int) -> "Snowball":
    """Compute the snowball of one model, with the true answers of a world if there is one."""
    say, world_json = f"One wrong token in {side.name}", json.dumps(world.to_dict()) if world else ""
    return compute_once(_snowball, side.lm, say=say, steps=True, prompts=prompts, world_json=world_json, length=steps)


def _resample_lags(lm: "LM", texts: tuple[str, ...], **options: Any) -> "LagProfile":
    from probe.autoregression.lags import lag_profile

    return lag_profile(lm, texts, **options)


def _jacobian(lm: "LM", texts: tuple[str, ...], **options: Any) -> "LagProfile":
    from probe.autoregression.lags import jacobian_profile

    return jacobian_profile(lm, texts, **options)


def _order(lm: "LM", texts: tuple[str, ...], **options: Any) -> "EffectiveOrder":
    from probe.autoregression.lags import effective_order

    return effective_order(lm, texts, **options)


def _snowball(lm: "LM", prompts: tuple[str, ...], world_json: str, length: int, **options: Any) -> "Snowball":
    from probe.autoregression.snowballs import snowball
    from probe.world import World

    world = World.from_dict(parse_json(world_json)) if world_json else None
    return snowball(lm, prompts, world=world, steps=length, **options)
