"""The choices of the Interventions page: the model, the kind of site and how it is changed, the texts, the site."""

from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from dashboard import models
from dashboard.components.number import number_input
from dashboard.markdown import note
from dashboard.pages.interventions import compute as source
from dashboard.pages.interventions import figures as views
from dashboard.pages.interventions.compute import Question, Way
from dashboard.sides import Role
from dashboard.state import Shared, keep, tell_again

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.interventions.sites import Kind, Site
    from probe.model.lm import LM

KINDS = {"heads": "head", "resid": "resid", "MLP": "mlp", "attn": "attn"}
HOWS = {"patch": ("denoise", "noise"), "ablate": ("mean", "zero", "resample")}


def choose_model(shared: Shared) -> Role:
    """The model to look into."""
    keep("int_model", ("aligned", "base"), "aligned" if shared.aligned else "base")
    role = st.segmented_control("Model", ("base", "aligned"), key="int_model", bind="query-params", required=True)
    return "aligned" if role == "aligned" else "base"


def choose_way(do: str, column: "DeltaGenerator", below: "DeltaGenerator") -> Way:
    """What is changed and how."""
    keep("int_kind", KINDS, "heads")
    with column:
        hint = "Heads, the residual stream after a block, or the output of MLP or attention."
        kind = st.segmented_control("Site", list(KINDS), key="int_kind", bind="query-params", required=True, help=hint)
    keep("int_how", HOWS[do], HOWS[do][0])
    hint = {
        "patch": "denoise: the clean activation into the corrupted run (is it enough?); noise: the reverse (needed?).",
        "ablate": "What comes in its place: the mean over reference texts, zero, or what other texts have there.",
    }[do]
    with below:
        how = st.segmented_control("How", HOWS[do], key="int_how", bind="query-params", required=True, help=hint)
    return Way(do, cast("Kind", KINDS[str(kind)]), str(how))


def ask(lm: "LM", do: str, prompt: str, columns: "list[DeltaGenerator]", last: "DeltaGenerator") -> Question:
    """The texts and the answers: typed, or suggested.

    Raises:
        DataError: see `compute.resolve`.
    """
    made = models.computed(source.suggest, lm, say="Looking for a counterpart", prompt=prompt)
    asked: dict[str, Any] = {"prompt": prompt, "corrupted": "", "answer": "", "against": "", "chat": False}
    if do == "patch":
        with columns[0]:
            asked["corrupted"] = typed(
                "Corrupted prompt: as many tokens, another answer",
                "int_corrupted",
                made.corrupted or "type one: exchange the word that decides the answer",
            )
    if lm.readout == "tokens":
        second = made.against if do == "patch" else made.rival or made.against
        with columns[-2]:
            asked["answer"] = typed("Answer", "int_answer", (made.answer or "").strip() or "likeliest")
        with columns[-1]:
            asked["against"] = typed("against", "int_against", (second or "").strip() or "likeliest")
    if lm.tokenizer.chat_template is not None and not source.worldly(lm):
        with last:
            hint = "Send the prompts as a user's message in the model's format."
            asked["chat"] = bool(st.toggle("Chat template", key="int_chat", bind="query-params", help=hint))
    return models.computed(source.resolve, lm, say="Reading the answers", do=do, **asked)


def typed(title: str, key: str, hint: str) -> str:
    """A line of text; empty takes what the hint says."""
    return st.text_input(title, key=key, bind="query-params", placeholder=hint) or ""


def choose_reference(do: str, how: str, column: "DeltaGenerator") -> tuple[str, ...]:
    """Texts from which means and resampled activations come; none takes the default ones."""
    if do != "ablate" or how == "zero":
        return ()
    with column, st.popover("Reference texts", icon=":material/library_books:"):
        tell_again("int_reference")
        hint = "One a line. Empty: questions of the model's world, or plain sentences where it has none."
        text = st.text_area("Reference texts", key="int_reference", bind="query-params", help=hint, height=160)
        note(hint)
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


def choose_site(seen: views.Shown, columns: "list[DeltaGenerator]", signature: tuple) -> "Site":
    """The site that the right figures are about; the most telling one until the reader chooses."""
    from probe.interventions.sites import Site

    key = "int_head" if seen.way.kind == "head" else "int_token"
    default = views.best(seen)
    last = len(seen.columns) - 1
    fresh = st.session_state.get("_int_grid") not in (None, signature)
    st.session_state["_int_grid"] = signature
    for name, first, options in (
        ("int_layer", default[0], range(seen.grid.layers[0], seen.grid.layers[-1] + 1)),
        (key, default[1], range(last + 1)),
    ):
        if fresh:
            st.session_state[name] = first
        keep(name, options, first)
    # Without a value of their own, so that the URL names every choice.
    with columns[0]:
        low, high = seen.grid.layers[0], seen.grid.layers[-1]
        layer = number_input("Block", low, high, None, key="int_layer")
    with columns[1]:
        title = "Head" if seen.way.kind == "head" else "Token"
        column = number_input(title, 0, last, None, key=key)
    at = default[0] if layer is None else int(layer), default[1] if column is None else int(column)
    if seen.way.kind == "head":
        return Site("head", *at, seen.way.at)
    return Site(seen.way.kind, at[0], None, at[1])


def choose_token(way: Way, column: "DeltaGenerator", length: int) -> Way:
    """At which token heads are changed."""
    if way.kind != "head":
        return way
    keep("int_at", range(-1, length), -1)
    with column:
        hint = "The token at which heads are changed; -1 is every token."
        at = number_input("At", -1, length - 1, key="int_at", help=hint)
    return Way(way.do, way.kind, way.how, None if int(at) < 0 else int(at))
