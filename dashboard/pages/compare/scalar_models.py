"""The Compare page of two models that read one number: rewards or values of one text, token by token."""

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard import models, sentences
from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.markdown import finding, note
from dashboard.pages.compare.choices import COMPLETION, POSITION
from dashboard.sides import words_known
from dashboard.state import SharedChoices, has_changed, preset
from probe.compare.figures import scalar_readings
from probe.logits.figures import LensPanel, lens_map
from probe.plotting.theme import METHODS, OTHER, aligned_colour

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.compare.scalars import ScalarComparison
    from probe.model.lm import LM

# Columns of the lens around the chosen token.
WINDOW = 16

DEFINITION = """
A reward model is trained on whole completions, a value head on every prefix. What either reads in the middle of a text
is its head on the state there. Each model has its own zero, so the lower bars compare what a token *changes*: the
reading after it minus the reading before it, of the aligned model minus the base model. The lens is the head on the
normed residual stream after each layer; its highest row is the reading itself.
"""
EQUATIONS = [
    r"\Delta_t = \big(R_a(x_{\le t}) - R_a(x_{<t})\big) - \big(R_b(x_{\le t}) - R_b(x_{<t})\big),"
    r"\quad a = \mathrm{aligned},\ b = \mathrm{base}",
    r"\mathrm{lens}_\ell(t) = \langle w, \mathrm{norm}(h_t^\ell)\rangle",
]


def compare_rewards(
    shared: SharedChoices, lms: "tuple[LM, LM]", refs: tuple[str, str], answer: "DeltaGenerator"
) -> None:
    """Draw the page from its sentence to its folded section.

    Args:
        shared: the shared choices.
        lms: base and aligned, both of one number, with one tokenizer.
        refs: what loads them.
        answer: where the sentence goes.
    """
    names, own = shared.names(), aligned_colour(shared.method(shared.aligned))
    colours = METHODS["pretrain"], own if own != METHODS["pretrain"] else OTHER
    completion = choose_completion(lms[0], shared.prompt)
    text = shared.prompt + completion
    if not words_known(shared, zip(names, lms, strict=True), answer, text):
        return
    comparison = models.compute_once(_compare, *lms, say="Both models read the text", text=text)
    with answer:
        finding(sentences.compare_scalars(comparison, names))
    start = len(models.compute_once(_ids, lms[0], say="Splitting the prompt", text=shared.prompt))
    token = choose_token(comparison)
    kinds = list(dict.fromkeys(comparison.readouts))
    unit = " or ".join(kinds)
    source: dict[str, object] = {"base": refs[0], "aligned": refs[1], "text": text}
    chart = scalar_readings(
        (comparison.base, comparison.aligned),
        comparison.difference,
        comparison.tokens,
        names=names,
        colours=colours,
        unit=unit,
        start=start,
        chosen=token,
    )
    title = f"The {unit} after each token, and what each token changes"
    figure(chart, comparison.table(), "rewards", title=title, height=380, source=source, on_select=take_token)
    lenses(comparison, token, names, unit, source)
    note("A click on a bar chooses its token. Units are those of each model's head; none of the numbers is a chance.")
    trust_badge((names[0], lms[0]), (names[1], lms[1]), text=comparison.ids)
    code = [
        "from probe.compare.scalars import compare_scalars",
        "from probe.model.rewards import analysable",
        "",
        f"base, aligned = analysable({refs[0]!r}), analysable({refs[1]!r})",
        f"compare_scalars(base, aligned, {text!r}).table()",
    ]
    details(EQUATIONS, DEFINITION, "\n".join(code), {"rewards": comparison.table()})


def choose_completion(lm: "LM", prompt: str) -> str:
    """Let the reader type what follows the prompt; for a world's question it is its true answer at first."""
    suggestion = models.compute_once(_truth, lm, say="Looking for an answer", prompt=prompt)
    if has_changed("_completed", prompt):
        st.session_state[COMPLETION] = suggestion
    key = preset(COMPLETION, suggestion)
    hint = "Follows the prompt; rewards are trained on completions. Empty: the prompt alone."
    text = st.text_input("Completion", key=key, bind="query-params", help=hint) or ""
    return f" {text.strip()}" if text.strip() else ""


def choose_token(comparison: "ScalarComparison") -> int:
    """Let the reader choose the token to emphasise; at first it is the one where the changes differ most."""
    last = len(comparison.tokens) - 1
    if has_changed("_rewarded", tuple(comparison.ids)) or st.session_state.get(POSITION, 0) > last:
        st.session_state[POSITION] = comparison.most
    key = preset(POSITION, comparison.most)
    return int(st.number_input("Token", min(1, last), last, key=key, bind="query-params"))


def lenses(comparison: "ScalarComparison", chosen: int, names: tuple[str, str], unit: str, source: dict) -> None:
    """Draw the reading after each layer around the chosen token, for both models."""
    first = max(0, min(chosen - WINDOW // 2, len(comparison.tokens) - WINDOW))
    window = slice(first, first + WINDOW)
    panels = [LensPanel(name, values[:, window]) for name, values in zip(names, comparison.layers, strict=True)]
    chart = lens_map(
        panels, comparison.tokens[window], start=first, chosen=chosen, label=unit, unit=unit, width=900, height=420
    )
    table = pd.concat(
        [
            pd.DataFrame(values, columns=range(len(comparison.tokens)))
            .rename_axis("layer")
            .reset_index()
            .melt("layer", var_name="position", value_name=kind)
            .assign(model=name)
            for name, kind, values in zip(names, comparison.readouts, comparison.layers, strict=True)
        ],
        ignore_index=True,
    )
    title = f"The {unit} read after each layer"
    figure(chart, table, "lenses", title=title, source=source, on_select=_take_column)


def _compare(base: "LM", aligned: "LM", text: str) -> "ScalarComparison":
    from probe.compare.scalars import compare_scalars

    return compare_scalars(base, aligned, text)


def _ids(lm: "LM", text: str) -> list[int]:
    from probe.model.text import encode

    return encode(lm.tokenizer, text)


def _truth(lm: "LM", prompt: str) -> str:
    from probe.rewards.token_effects import truth_and_claim
    from probe.world import of

    world = of(lm)
    pair = truth_and_claim(world, prompt) if world else None
    return pair[0].strip() if pair else ""


def take_token(points: list[dict]) -> None:
    """Choose the token of the bar that was clicked."""
    if isinstance(points[0].get("x"), int | float):
        st.session_state[POSITION] = max(1, int(points[0]["x"]))


def _take_column(points: list[dict]) -> None:
    custom = points[0].get("customdata")
    if custom:
        st.session_state[POSITION] = max(1, int(custom[0]))
