"""The choices of the Interventions page: the model, the kind of site and how it is changed, the texts, the site."""

from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from dashboard import models
from dashboard.components.focus import take_focus
from dashboard.components.number import number_input
from dashboard.markdown import note
from dashboard.pages.interventions import compute as source
from dashboard.pages.interventions.compute import Question, Way
from dashboard.sides import Role, choose_chat, note_form
from dashboard.state import SharedChoices, has_changed, keep, tell_again

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.interventions.sites import Kind, Site
    from probe.model.lm import LM

KIND, LAYER, HEAD, TOKEN, AT = "int_kind", "int_layer", "int_head", "int_token", "int_at"
"""Keys of the kind of site, of the site, and of the token at which heads are changed: clicks choose them too."""
ANSWER, AGAINST = "int_answer", "int_against"
"""Keys of the answer and of the one against it, also of texts that are steered."""
KINDS = {"heads": "head", "resid": "resid", "MLP": "mlp", "attn": "attn"}
HOWS = {"patch": ("denoise", "noise"), "ablate": ("mean", "zero", "resample")}


def choose_model(shared: SharedChoices) -> Role:
    """Let the reader choose the model to look into."""
    key = keep("int_model", ("aligned", "base"), "aligned" if shared.aligned else "base")
    role = st.segmented_control("Model", ("base", "aligned"), key=key, bind="query-params", required=True)
    return "aligned" if role == "aligned" else "base"


def choose_way(do: str, column: "DeltaGenerator", below: "DeltaGenerator") -> Way:
    """Let the reader choose what is changed and how."""
    with column:
        key = keep(KIND, KINDS, "heads")
        hint = "Heads, the residual stream after a block, or the output of MLP or attention."
        kind = st.segmented_control("Site", list(KINDS), key=key, bind="query-params", required=True, help=hint)
    hint = {
        "patch": "denoise: the clean activation into the corrupted run (is it enough?); noise: the reverse (needed?).",
        "ablate": "What comes in its place: the mean over reference texts, zero, or what other texts have there.",
    }[do]
    with below:
        key = keep("int_how", HOWS[do], HOWS[do][0])
        how = st.segmented_control("How", HOWS[do], key=key, bind="query-params", required=True, help=hint)
    return Way(do, cast("Kind", KINDS[str(kind)]), str(how))


def ask(lm: "LM", do: str, prompt: str, columns: "list[DeltaGenerator]", last: "DeltaGenerator") -> Question:
    """Ask for the texts and the answers; what is not typed is suggested.

    Raises:
        DataError: see `compute.resolve`.
    """
    counterpart = models.compute_once(source.suggest, lm, say="Looking for a counterpart", prompt=prompt)
    settings: dict[str, Any] = {"prompt": prompt, "corrupted": "", "answer": "", "against": "", "chat": False}
    if do == "patch":
        with columns[0]:
            settings["corrupted"] = text_line(
                "Corrupted prompt: as many tokens, another answer",
                "int_corrupted",
                counterpart.corrupted or "type one: exchange the word that decides the answer",
            )
    if lm.readout == "tokens":
        second = counterpart.against if do == "patch" else counterpart.rival or counterpart.against
        with columns[-2]:
            settings["answer"] = text_line("Answer", ANSWER, (counterpart.answer or "").strip() or "likeliest")
        with columns[-1]:
            settings["against"] = text_line("against", AGAINST, (second or "").strip() or "likeliest")
    if not source.worldly(lm):
        with last:
            settings["chat"] = choose_chat("interventions", [lm], prompt)
            note_form([lm], settings["chat"])
    return models.compute_once(source.resolve, lm, say="Reading the answers", do=do, **settings)


def text_line(title: str, key: str, hint: str) -> str:
    """Return a line of text that the reader types; the hint says what an empty line stands for."""
    return st.text_input(title, key=key, bind="query-params", placeholder=hint) or ""


def choose_reference(do: str, how: str, column: "DeltaGenerator") -> tuple[str, ...]:
    """Texts from which means and resampled activations come; none takes the default ones."""
    if do != "ablate" or how == "zero":
        return ()
    with column, st.popover("Reference texts", icon=":material/library_books:"):
        hint = "One a line. Empty: questions of the model's world, or plain sentences where it has none."
        key = tell_again("int_reference")
        text = st.text_area("Reference texts", key=key, bind="query-params", help=hint, height=160)
        note(hint)
        take_focus("reference")
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


def choose_site(view: source.GridView, columns: "list[DeltaGenerator]", signature: tuple) -> "Site":
    """Let the reader choose the site of the right figures; at first it is the one that `best` returns."""
    from probe.interventions.sites import Site

    key = HEAD if view.way.kind == "head" else TOKEN
    default = source.best(view)
    last = len(view.columns) - 1
    fresh = has_changed("_int_grid", signature)
    for name, first, options in (
        (LAYER, default[0], range(view.grid.layers[0], view.grid.layers[-1] + 1)),
        (key, default[1], range(last + 1)),
    ):
        if fresh:
            st.session_state[name] = first
        keep(name, options, first)
    # Without a value of their own, so that the URL names every choice.
    with columns[0]:
        low, high = view.grid.layers[0], view.grid.layers[-1]
        layer = number_input("Block", low, high, None, key=LAYER)
    with columns[1]:
        title = "Head" if view.way.kind == "head" else "Token"
        column = number_input(title, 0, last, None, key=key)
    at = default[0] if layer is None else int(layer), default[1] if column is None else int(column)
    if view.way.kind == "head":
        return Site("head", *at, view.way.at)
    return Site(view.way.kind, at[0], None, at[1])


def choose_token(way: Way, column: "DeltaGenerator", length: int) -> Way:
    """At which token heads are changed."""
    if way.kind != "head":
        return way
    with column:
        hint = "The token at which heads are changed; -1 is every token."
        at = number_input("At", -1, length - 1, key=keep(AT, range(-1, length), -1), help=hint)
    return Way(way.do, way.kind, way.how, None if int(at) < 0 else int(at))
