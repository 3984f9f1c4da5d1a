"""What the Autoregression page computes, each once for a model, its texts and its options."""

from typing import TYPE_CHECKING, Any

from dashboard.models import compute_once

if TYPE_CHECKING:
    from dashboard.pages.autoregression.choices import Question, Side
    from probe.autoregression.lags import EffectiveOrder, LagProfile
    from probe.model.lm import LM


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


def _resample_lags(lm: "LM", texts: tuple[str, ...], **options: Any) -> "LagProfile":
    from probe.autoregression.lags import lag_profile

    return lag_profile(lm, texts, **options)


def _jacobian(lm: "LM", texts: tuple[str, ...], **options: Any) -> "LagProfile":
    from probe.autoregression.lags import jacobian_profile

    return jacobian_profile(lm, texts, **options)


def _order(lm: "LM", texts: tuple[str, ...], **options: Any) -> "EffectiveOrder":
    from probe.autoregression.lags import effective_order

    return effective_order(lm, texts, **options)
