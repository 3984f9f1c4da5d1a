"""The chosen models of a page, and the form in which they read its prompt."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import streamlit as st

from dashboard import models
from dashboard.markdown import escape_markdown, finding, note, prose
from dashboard.state import CHAT, SharedChoices, choose_example, current, examples, has_changed, keep, tell_again
from probe.model.messages import parse_conversation
from probe.model.references import REAL_MODEL, find_model
from probe.plotting.theme import METHODS, aligned_colour
from probe.texts import visible

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM

OFFERED = 6
"""Number of words of each kind that are suggested instead of unknown ones."""

Role = Literal["base", "aligned"]


@dataclass(frozen=True)
class Side:
    """A model on a page."""

    role: str
    """Role among the choices, and variable name in the Python lines."""
    name: str
    """Name of the model on the page."""
    colour: str
    """Colour: grey for the base, else that of its method."""
    ref: str
    """Reference that loads the model."""
    lm: "LM"


def ask_for_model(answer: "DeltaGenerator", sentence: str) -> None:
    """Ask the reader to choose a model, and explain what can be chosen."""
    with answer:
        finding(sentence)
        note("A model is a run, one of its checkpoints (RUN@STEP), or the folder of any Hugging Face model.")


def note_real_model(shared: SharedChoices) -> None:
    """Show a note about the weights that a chosen run's real base model needs, and how to get them."""
    labels = [label for label in (shared.label(shared.base), shared.label(shared.aligned)) if label]
    runs = [shared.store.runs[label] for label in labels]
    if not any(REAL_MODEL in (run.name, run.parent) for run in runs):
        return
    missing = (
        " Its weights are not on this machine: `make real-model` in a checkout of Probe fetches them. Stored"
        " results are shown without them."
    )
    about = f"{REAL_MODEL} is shown here in a 4-bit rounding of the released weights."
    note(about + ("" if find_model(REAL_MODEL) else missing))


def warn_of_worlds(shared: SharedChoices) -> None:
    """Warn if the chosen runs belong to two worlds."""
    from probe.compare.worlds import worlds_apart

    labels = [label for label in map(shared.label, (shared.base, shared.aligned)) if label]
    runs = [shared.store.runs[label] for label in labels]
    if len(runs) == 2 and runs[0].world != runs[1].world:
        apart = worlds_apart(runs[0], runs[1], shared.names())
        if apart:
            st.warning(prose(apart))


def chosen_ref(shared: SharedChoices, role: Role) -> str | None:
    """Return the reference that loads a shared choice, or None if nothing is chosen."""
    return shared.reference(shared.base if role == "base" else shared.aligned)


def choose_role(shared: SharedChoices, key: str, preferred: Role) -> Role:
    """Let the reader choose one of the two models above a page of one model; the preferred one first, if it is chosen.

    Args:
        shared: the shared choices.
        key: key of the choice in the page's address.
        preferred: model that the page shows at first.
    """
    roles: tuple[Role, ...] = get_args(Role)
    other = next(each for each in roles if each != preferred)
    first = preferred if getattr(shared, preferred) else other
    role = st.segmented_control("Model", roles, key=keep(key, roles, first), bind="query-params", required=True)
    return "aligned" if role == "aligned" else "base"


def load_side(shared: SharedChoices, role: Role) -> Side | None:
    """Load one of the chosen models; None while the page waits for consent, or if nothing is chosen."""
    ref = chosen_ref(shared, role)
    lm = models.load(ref) if ref else None
    if ref is None or lm is None:
        return None
    return Side(role, shared.names()[role == "aligned"], colour_of(shared, role), ref, lm)


def colour_of(shared: SharedChoices, role: Role) -> str:
    """Return the colour of one of the chosen models: grey for the base, else that of its method."""
    return METHODS["pretrain"] if role == "base" else aligned_colour(shared.method(shared.aligned))


def load_sides(shared: SharedChoices) -> tuple[Side, ...] | None:
    """Load the chosen models, only one if both are the same; None while the page waits for consent."""
    sides: list[Side] = []
    for role in get_args(Role):
        ref = chosen_ref(shared, role)
        if not ref or (sides and ref == sides[0].ref):
            continue
        side = load_side(shared, role)
        if side is None:
            return None
        sides.append(side)
    return tuple(sides)


def choose_sides(sides: "Sequence[Side]", key: str) -> "tuple[list[Side], list[Side]]":
    """Let the reader choose which of two models are shown: both, if they are comparable, or one.

    Returns:
        The models that are shown, and the models that share the inputs.
    """
    alike = len(sides) == 2 and comparable(*sides)
    views = ["both"] * alike + [side.role for side in reversed(sides)]
    at = keep(key, views, views[0])
    view = st.segmented_control("Model", views, key=at, bind="query-params", required=True)
    view = view if view in views else views[0]  # a link may contain anything
    shown = [side for side in sides if view in ("both", side.role)]
    if len(sides) == 2 and not alike:
        note("The two models have different outputs or different tokens, so each is shown alone.")
    return shown, list(sides) if alike else shown


def comparable(first: Side, second: Side) -> bool:
    """Return whether two models are comparable: with the same readout, vocabulary and chat template."""
    ours, theirs = first.lm, second.lm
    return (
        ours.readout == theirs.readout
        and ours.tokenizer.chat_template == theirs.tokenizer.chat_template
        and ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    )


def chats(lms: "Iterable[LM]") -> bool:
    """Return whether the chat template is used by default: all models have one, and none has a world.

    The prompts of a world already contain its markers.
    """
    from probe.world import of

    return all(lm.tokenizer.chat_template is not None and of(lm) is None for lm in lms)


def choose_chat(page: str, lms: "Sequence[LM]", prompt: str) -> bool:
    """Let the reader choose whether the prompt is sent as a user's message, if every model has a chat template.

    The default is yes for real models (`chats`), unless the prompt already contains their special tokens.
    """
    if any(lm.tokenizer.chat_template is None for lm in lms) or parse_conversation(current().prompt):
        return False
    key = tell_again(CHAT[page])
    marked = any(token and token in prompt for lm in lms for token in lm.tokenizer.all_special_tokens)
    default = chats(lms) and not marked
    if has_changed(f"_{key}_first", default):
        st.session_state[key] = default
    hint = "Send the prompt as a user's message in the model's format."
    return st.toggle("Chat template", value=default, key=key, bind="query-params", help=hint)


PLAIN = "as plain text, without the chat template"


def note_form(lms: "Sequence[LM]", chat: bool) -> None:
    """Show a note about the form in which a real model reads the prompt; `written` tells that of a conversation."""
    if chats(lms) and not parse_conversation(current().prompt):
        form = f"in the chat template, as a user's message{_system(lms)}" if chat else PLAIN
        note(f"The prompt was sent {form}.")


def _system(lms: "Iterable[LM]") -> str:
    """Return a clause about the system message that the models' templates add before a user's message, if any do."""
    from probe.model.messages import split_messages

    sent = (lm.prompt_text([{"role": "user", "content": "x"}]) for lm in lms)
    adds = any(message.role == "system" for text in sent for message in split_messages(text))
    return " after the system message that the template adds" if adds else ""


def as_text(prompt: str, lms: "Sequence[LM]") -> str:
    """Return a prompt as the text that models read: a conversation in the last model's chat template.

    Raises:
        DataError: the last model has no chat template, or its template refuses the conversation.
    """
    if not parse_conversation(prompt):
        return prompt
    from probe.model.asked import written_out

    return written_out(prompt, *lms)


def written(shared: SharedChoices, lms: "Sequence[LM]") -> SharedChoices:
    """Return the choices with a conversation as text (`as_text`), and show that text; a prompt as text is unchanged.

    Raises:
        DataError: see `as_text`.
    """
    messages = parse_conversation(shared.prompt)
    if not messages or not lms:
        return shared
    text = as_text(shared.prompt, lms)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        count = "one message" if len(messages) == 1 else f"{len(messages)} messages"
        note(f"The prompt was sent as a conversation of {count} in the chat template, up to the answer.")
        with st.popover("Text that is read", icon=":material/subject:"):
            st.text(visible(text, lines=True))
    return replace(shared, prompt=text)


def asked_text(lm: "LM", prompt: str, chat: bool) -> tuple[int, ...]:
    """Return the ids of the prompt, unchanged or as a user's message in the model's format.

    `words_known` checks its words.
    """
    from probe.model.text import encode_all

    text = lm.prompt_text([{"role": "user", "content": prompt}]) if chat else prompt
    return tuple(encode_all(lm.tokenizer, [text])[0])


def words_known(shared: SharedChoices, lms: "Iterable[tuple[str, LM]]", answer: "DeltaGenerator") -> bool:
    """Return whether models know every word of the prompt; if not, name the unknown words and suggest known ones.

    Args:
        shared: the shared choices.
        lms: name and model of each reader of the prompt.
        answer: container of the sentence.
    """
    from probe.model.text import near_clause, quote_words, unknown_words
    from probe.world import of
    from probe.world.vocabulary import words_by_kind

    for name, lm in lms:
        words = unknown_words(lm.tokenizer, shared.prompt)
        if not words:
            continue
        with answer:
            finding(f"{name} does not know {quote_words(words)}, so it cannot be asked about this text.")
            near = near_clause(lm.tokenizer, words).rstrip("; ")
            if near:
                note(near[:1].upper() + near[1:] + ".")
            if of(lm) is not None:
                kinds = [f"{kind}: {', '.join(some[:OFFERED])} ..." for kind, some in words_by_kind().items()]
                note(f"It knows the words of its world, in small letters, with blanks around them. {'; '.join(kinds)}.")
            offers = examples(shared.store, (shared.base, shared.aligned))
            known = next((text for text in offers if not unknown_words(lm.tokenizer, text)), None)
            if known is not None:
                st.button(
                    f"Ask \u201c{escape_markdown(known)}\u201d",
                    key="known-example",
                    icon=":material/chat:",
                    on_click=choose_example,
                    args=(known,),
                )
        return False
    return True
