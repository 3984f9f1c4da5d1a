"""One prompt, on Side by side: where the next-token distributions of two models diverge, at which token and layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import models, sentences
from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.focus import take_focus
from dashboard.components.number import number_input
from dashboard.components.tokens import Chip, TokenRow, token_rows
from dashboard.markdown import note
from dashboard.pages.compare.choices import AUTHOR, COMPARED, LENGTH, POSITION, SEED, TEMPERATURE, Pair
from dashboard.pages.compare.scalar_models import compare_rewards, take_token
from dashboard.sides import ask_for_model, choose_chat, note_form, words_known
from dashboard.state import has_changed, preset, tell_again
from probe.compare.figures import kl_bars, next_tokens
from probe.logits.figures import lens_pair
from probe.numbers import chance

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.compare.side_by_side import Comparison, Continuation
    from probe.model.lm import LM

# KL at which a chip has its full colour.
STRONG_NATS = 2.0
# Columns of the lens around the chosen token.
WINDOW = 16
# Pixels of the two figures of a token: the first screen has them whole.
HEIGHT = 226

DEFINITION = """
Temperature and seed concern the continuations only; probabilities and KL are those at temperature 1. Entry *j* of KL
compares the two distributions *before* token *j*. The lens column of token *t* tells what follows it; colours are the
log-probability of the token that does follow in the text, on one scale for both models, and their difference centred on
zero.
"""


def options(aligned: "LM", prompt: str) -> dict:
    """Widgets that decide what is computed, folded away."""
    with st.popover("Sampling", width="stretch"):
        temperature = st.slider(
            "Temperature (0 = greedy)", 0.0, 2.0, 0.0, 0.1, key=tell_again(TEMPERATURE), bind="query-params"
        )
        length = st.slider("New tokens", 1, 64, 12, key=tell_again(LENGTH), bind="query-params")
        seed = number_input("Seed", 0, 2**31 - 1, 0, key=tell_again(SEED), disabled=temperature == 0)
        chat = choose_chat("compare", [aligned], prompt)
        take_focus("sampling")
    return {"temperature": float(temperature), "length": int(length), "seed": int(seed), "chat": chat}


def choose_position(comparison: "Comparison", row: "Sequence[DeltaGenerator]") -> "tuple[Continuation, int]":
    """Let the reader choose the text and the token of the figures.

    At first the token is the one where the continuations diverge, unless the URL names another.
    """
    if has_changed(COMPARED, (comparison.prompt, tuple(comparison.base.ids), tuple(comparison.aligned.ids))):
        st.session_state[POSITION] = sentences.divergence_position(comparison)
    key = preset(POSITION, sentences.divergence_position(comparison))
    left, middle, right = row
    with left:
        author = st.segmented_control(
            "Continuation shown",
            ["aligned", "base"],
            default="aligned",
            key=AUTHOR,
            bind="query-params",
            required=True,
        )
    text = comparison.base if author == "base" else comparison.aligned
    last = len(text.ids) - 1
    if st.session_state.get(key, 1) > last:
        st.session_state[key] = last
    with right:
        note(
            "Chip colour: KL of the two models before the token. Hover for probabilities; click for the figures below."
        )
    with middle:
        position = number_input("Token", 1, last, key=key)
    return text, int(position)


def chips(text: "Continuation", start: int, stop: int, prompt: bool) -> list[Chip]:
    """Chips of the tokens start to stop of a text."""
    row = []
    for j in range(start, stop):
        kl = float(text.kl[j])
        lines = [f"token {j}: {text.tokens[j]}"]
        if j:
            lines.append(f"KL {kl:.3f} nats")
            for name, side in (("base", text.base), ("aligned", text.aligned)):
                lines.append(f"p({name}) = {chance(float(np.exp(side.logprobs[j])))}")
                lines += [
                    f"   {token}  {chance(float(np.exp(value)))}"
                    for token, value in zip(side.top_tokens[j][:3], side.top_logprobs[j][:3], strict=True)
                ]
        strength = min(1.0, kl / STRONG_NATS) ** 0.5 if j else 0.0
        row.append(Chip(text=text.tokens[j], tip="\n".join(lines), strength=0.75 * strength, prompt=prompt))
    return row


def texts(
    comparison: "Comparison", names: tuple[str, str], colours: tuple[str, str], text: "Continuation", position: int
) -> None:
    """Draw the prompt and both continuations as chips."""
    cut = text.prompt_length
    rows = [
        TokenRow(label="prompt", colour="transparent", tokens=chips(comparison.aligned, 0, cut, prompt=True)),
        TokenRow(
            label=names[0],
            colour=colours[0],
            tokens=chips(comparison.base, cut, len(comparison.base.ids), prompt=False),
        ),
        TokenRow(
            label=names[1],
            colour=colours[1],
            tokens=chips(comparison.aligned, cut, len(comparison.aligned.ids), prompt=False),
        ),
    ]
    row = 0 if position < cut else 1 + (text.author == "aligned")

    def pick(row: int, index: int) -> None:
        st.session_state[POSITION] = max(1, index + (cut if row else 0))
        if row:
            st.session_state[AUTHOR] = ("base", "aligned")[row - 1]

    token_rows(rows, chosen=(row, position - (cut if row else 0)), key="texts", on_pick=pick)


def figures(
    text: "Continuation", position: int, names: tuple[str, str], colours: tuple[str, str], source: dict
) -> None:
    """KL along the text, the next-token probabilities of both at the chosen token, and the lenses."""
    left, right = st.columns([5, 4], gap="medium")
    with left:
        chart = kl_bars(text.kl, text.tokens, start=text.prompt_length, chosen=position, colour=colours[1])
        title = f"Where they differ on the text of {names[text.author == 'aligned']}"
        figure(chart, text.table(), "kl", title=title, height=HEIGHT, source=source, on_select=take_token)
    with right:
        sides = [
            (list(side.top_tokens[position]), np.exp(side.top_logprobs[position])) for side in (text.base, text.aligned)
        ]
        chart = next_tokens((sides[0], sides[1]), names=names, colours=colours)
        table = text.top_table()
        title = f"Next-token probabilities at token {position}"
        figure(chart, table[table["position"] == position], "next", title=title, height=HEIGHT, source=source)
    first = max(0, min(position - WINDOW // 2, len(text.ids) - 1 - WINDOW))
    window = slice(first, min(first + WINDOW, len(text.ids) - 1))
    lenses = [
        (side.lens.top_tokens[:, window].tolist(), side.lens.top_logprobs[:, window])
        for side in (text.base, text.aligned)
    ]
    logprobs = [side.lens.next_logprobs[:, window] for side in (text.base, text.aligned)]
    chart = lens_pair(
        (lenses[0], lenses[1]), (logprobs[0], logprobs[1]), text.tokens[window], names=names, answer="next token"
    )
    figure(chart, lens_data(text), "lenses", title="Logit lens of both, and their difference", source=source)


def lens_data(text: "Continuation") -> pd.DataFrame:
    """Return the table behind the lenses, also where the models differ in depth."""
    if text.lens_kl is not None:
        return text.lens_table()
    sides = (("base", text.base), ("aligned", text.aligned))
    return pd.concat([side.lens.table().assign(model=name) for name, side in sides], ignore_index=True)


def draw(pair: Pair) -> None:
    """Draw the tab from its sentence to its folded section."""
    choices, (base, aligned), names = pair.shared, pair.lms, pair.names
    if not choices.prompt.strip():
        ask_for_model(pair.answer, "Choose a prompt above to compare two models.")
        return
    if not words_known(choices, zip(names, pair.lms, strict=True), pair.answer):
        return
    if base.readout != "tokens":
        compare_rewards(choices, pair.lms, pair.refs, pair.answer)
        return
    chip_rows = st.container()
    left, middle, folded, right = st.columns([3, 2, 2, 5], vertical_alignment="bottom", gap="medium")
    with folded:
        settings = options(aligned, choices.prompt)
    comparison = models.comparison(base, aligned, choices.prompt, **settings)
    text, position = choose_position(comparison, (left, middle, right))
    pair.tell(sentences.compare(comparison, names, text))
    with chip_rows:
        note_form([aligned], settings["chat"])
        texts(comparison, names, pair.colours, text, position)
    figures(text, position, names, pair.colours, {**pair.source, "prompt": comparison.prompt, **settings})
    trust_badge((names[0], base), (names[1], aligned), text=text.ids)
    explain(comparison, pair, settings)


def explain(comparison: "Comparison", pair: Pair, settings: dict) -> None:
    """Draw the folded section."""
    code = [
        "import probe",
        "from probe.compare.side_by_side import compare",
        "",
        pair.loads,
        f"found = compare(base, aligned, {comparison.prompt!r},",
        f"                max_new_tokens={settings['length']}, temperature={settings['temperature']}, "
        f"seed={settings['seed']})",
        "found.table(), found.top_table(), found.lens_table()",
    ]
    equations = [
        r"\mathrm{KL}_j = \sum_v \pi_a(v \mid x_{<j}) \log \frac{\pi_a(v \mid x_{<j})}{\pi_b(v \mid x_{<j})},"
        r"\quad a = \mathrm{aligned},\ b = \mathrm{base}",
        r"\mathrm{lens}_\ell(t) = \mathrm{softmax}\big(W_{out}\, \mathrm{norm}(h_t^\ell)\big)",
    ]
    details(
        equations,
        DEFINITION,
        "\n".join(code),
        {"tokens": comparison.table(), "expected-tokens": comparison.top_table()},
    )
