"""The trust badge: on every view of a model's internals, how far its hooked logits differ from the plain ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from dashboard.markdown import escape_markdown
from dashboard.models import compute_once

if TYPE_CHECKING:
    from probe.model.hooked_gap import Trust
    from probe.model.lm import LM


def trust_badge(*models: "tuple[str, LM]", text: str | Sequence[int]) -> None:
    """Draw a line for each model: the gap between its hooked and its plain logits on `text`, and its device.

    Args:
        models: (name, model) of each.
        text: text of the view, as a string or as ids.
    """
    content = text if isinstance(text, str) else tuple(int(token) for token in text)
    with st.container(key="trust", horizontal=True, gap="small"):
        for name, lm in models:
            trust = compute_once(_trust, lm, say="Comparing hooked and plain logits", text=content)
            label, icon = (
                escape_markdown(f"{name}: {words(trust)}"),
                ":material/verified:" if trust.sound else ":material/warning:",
            )
            st.badge(label, icon=icon, color="green" if trust.sound else "red", help=explanation(trust))


def words(trust: "Trust") -> str:
    """Return the text of the badge."""
    verdict = "hooks verified" if trust.sound else "hooks not verified"
    parts = f"{verdict}: logits differ by {trust.gap:.0e}", trust.dtype, trust.hooked_kernel, trust.device
    return " \u00b7 ".join(parts)


def explanation(trust: "Trust") -> str:
    """Explain in sentences what the badge means."""
    verdict = (
        "This is rounding: hooks see what the model computes."
        if trust.sound
        else "This is more than rounding: do not rely on results of hooks here."
    )
    alone = f" Not used here, since it would change log-probabilities: {', '.join(trust.left_out)}."
    same = "the same" if trust.agree else "not always the same"
    return (
        f"Largest difference between the logits of the hooked and of the plain model on these {trust.tokens}"
        f" tokens: {trust.gap:.2g} nats, where the logits spread by {trust.scale:.2g}. {verdict} The likeliest"
        f" token is {same} at every position. Numbers are {trust.dtype} on {trust.device}, attention runs on the"
        f" {trust.hooked_kernel} kernel when hooked and on {trust.kernel} when plain, in {trust.mode} mode."
        + (alone if trust.left_out else "")
    )


def _trust(lm: "LM", text: str | tuple[int, ...]) -> "Trust":
    from probe.model.hooked_gap import trust

    return trust(lm, text)
