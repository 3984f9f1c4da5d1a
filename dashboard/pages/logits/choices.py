"""What the Logits page asks: which models, after which token, which answer against which."""

from typing import TYPE_CHECKING

import streamlit as st

from dashboard.components.number import number_input
from dashboard.markdown import note
from dashboard.pages.logits import compute as results
from dashboard.pages.logits.compute import Question
from dashboard.sides import Side, asked_text, choose_chat, load_sides, note_form, words_known
from dashboard.state import SharedChoices, has_changed, keep, preset
from probe.texts import visible

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator


POSITION, PART = "log_position", "log_part"
"""Keys of what clicks choose too: the token after which logits are read, and the part that is enlarged."""
WRITTEN = "log_new"
"""The key of how many tokens are written."""
RUN, CAPTURED, MEASURE, TRAINED_PART = "log_run", "log_captured", "log_measure", "log_trained_part"
"""Keys of the run whose captures are shown, their prompt, the measure by layer, and the part whose tokens are named."""
NOTHING = "(nothing)"
"""Instead of the other answer: the logit of the answer alone."""


def choose(shared: SharedChoices, answer: "DeltaGenerator") -> Question | None:
    """Widgets and models; None while there is nothing to ask, or the page waits for the reader's word.

    Args:
        shared: the shared choices.
        answer: where it is said what a model does not know.
    """
    sides = load_sides(shared)
    if sides is None:
        return None
    columns = st.columns([5, 2, 3, 3], vertical_alignment="bottom", gap="small")
    with columns[0], st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        place = st.container(width="content")
        chat = choose_chat("logits", [side.lm for side in sides], shared.prompt, "Chat")
    texts = {side.role: asked_text(side.lm, shared.prompt, chat) for side in sides}
    alike = len(sides) == 2 and comparable(sides) and texts["base"] == texts["aligned"]
    views = [*(["both"] if alike else []), *(side.role for side in reversed(sides))]
    with place:
        key = keep("log_view", views, views[0])
        view = st.segmented_control("Model", views, key=key, bind="query-params", required=True)
    view = view if view in views else views[0]  # a link may say anything
    visible = sides if view == "both" else tuple(side for side in sides if side.role == view)
    if not words_known(shared, ((side.name, side.lm) for side in visible), answer):
        return None
    ids = texts[visible[-1].role]
    with columns[1]:
        position = _position(shared.prompt, chat, ids)
    if len(sides) == 2 and not alike:
        note("The two models read out different things or split the prompt differently, so each is shown alone.")
    note_form([side.lm for side in sides], chat)
    other = [side for side in sides if side not in visible] if alike else []
    return _question(visible, other, ids, position, columns[2:])


def comparable(sides: tuple[Side, ...]) -> bool:
    """Whether two models answer the same question: one readout, one vocabulary."""
    first, second = (side.lm for side in sides)
    return first.readout == second.readout and first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def _position(prompt: str, chat: bool, ids: tuple[int, ...]) -> int:
    """Let the reader choose the token after which the logits are read; at first the last one of a new prompt."""
    last = len(ids) - 1
    if has_changed("_log_asked", (prompt, chat)) or st.session_state.get(POSITION, 0) > last:
        st.session_state[POSITION] = last
    hint = "The logits after this token, from 0; a click on a lens chooses it too."
    return int(number_input("After token", 0, last, key=preset(POSITION, last), help=hint))


def _question(
    visible: tuple[Side, ...], other: list[Side], ids: tuple[int, ...], position: int, places: list
) -> Question:
    """Answer and counter-answer: the reader's, else what the models hold likeliest.

    Raises:
        DataError: an answer without tokens, or two that no token tells apart.
    """
    from probe.logits.answer_tokens import answer_tokens
    from probe.logits.lens import Target, target_of
    from probe.model.text import pieces

    lm = visible[-1].lm
    tokens = pieces(lm.tokenizer, ids)
    if lm.readout != "tokens":
        return Question(visible, ids, tokens, Target(position, 0, None, lm.readout), ())
    order = [visible[-1], *visible[:-1], *other]
    likely = [[int(token) for token in results.favourites(side.lm, ids)[position]] for side in order]
    default = likely[0][0]
    rival = next((row[0] for row in likely[1:] if row[0] != default), likely[0][1] if len(likely[0]) > 1 else default)
    candidates = dict.fromkeys(token for row in zip(*likely, strict=False) for token in row)
    names = dict(zip(pieces(lm.tokenizer, list(candidates)), candidates, strict=True))
    words = {token: name for name, token in names.items()}
    hint = (
        "Its first token counts that differs from the other answer; what both begin with joins the prompt. Write "
        "\u00b7 for a blank before it. Empty: what the model holds likeliest."
    )
    with places[0]:
        word = _answer("Answer", "log_answer", list(names), f"likeliest: {words.get(default, '?')}", hint)
    hint = "Subtracted from the answer's logit. Empty: what the other model holds likeliest, else the second likeliest."
    with places[1]:
        against = _answer("Against", "log_against", [*names, NOTHING], f"rival: {words.get(rival, '?')}", hint)
    answer = _token(word, names) if word else default
    if against == NOTHING:
        second: str | int | None = None
    elif against:
        second = _token(against, names)
    else:
        first = answer_tokens(lm, [answer]).tokens[0]
        second = next((token for token in (rival, default) if token != first), None)
    target = target_of(lm, ids, answer, second, position)
    ids = tuple(target.text(ids))
    answers = tuple(token for token in (target.answer, target.against) if token is not None)
    whole = answer_tokens(lm, [each for each in (answer, second) if each is not None]) if target.note else None
    return Question(visible, ids, pieces(lm.tokenizer, ids), target, answers, whole)


def _answer(label: str, key: str, options: list[str], empty: str, hint: str) -> str | None:
    return st.selectbox(
        label,
        options,
        index=None,
        key=key,
        accept_new_options=True,
        bind="query-params",
        placeholder=empty,
        help=hint,
        format_func=visible,
    )


def _token(word: str, names: dict[str, int]) -> str | int:
    """Return the id of an offered token, else the text that was typed."""
    return names.get(word, word.replace("\u00b7", " ").replace("\u21b5", "\n"))


def missing_input(shared: SharedChoices) -> str | None:
    """Say what the page still needs; None if nothing is missing."""
    if not shared.base and not shared.aligned:
        return "Choose a model above to see how its logits come about."
    return None if shared.prompt.strip() else "Write a prompt above to see which logits follow it."
