"""A form for the options of a training method, from `probe train --describe`; it keeps all values that were entered.

Names and explanations of options come from the trainers, not from data, and are shown as Markdown.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.consent import name_choice
from dashboard.state import begin, tell_again
from probe.texts import visible

Field = dict[str, Any]
NONE = "none"
STEP = 0.1
"""Step of a slider."""
BY_DEFAULT = "default"
"""Placeholder in a number field that may stay empty."""


def input_text(value: Any) -> str:
    """Format a default as the text of an input."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(shlex.quote(str(each)) for each in value)
    if isinstance(value, dict):
        return " ".join(f"{shlex.quote(str(key))} {each}" for key, each in value.items())
    return str(value)


def input_words(text: str) -> list[str]:
    """Split an input into words; closed quotes work as in a shell."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def memory() -> dict[str, Any]:
    """Return the last values of widgets by key, including widgets that are not shown now."""
    return st.session_state.setdefault("_form", {})


def lasting_key(key: str, first: Any) -> str:
    """Return the key of a widget whose value is kept while other pages are shown or the widget is folded away."""
    return tell_again(begin(key, memory().get(key, first)))


def set_input(key: str, value: Any) -> None:
    """Set the value of a widget as if the reader had chosen it; for callbacks, or before the widget is drawn."""
    st.session_state[key] = memory()[key] = value


def linked_key(method: str, field: Field) -> str:
    """Return the key of an option that the URL keeps."""
    return field.get("key") or f"{method}.{field['name']}"


def draw_option(method: str, field: Field, link: bool = False) -> Any:
    """Draw one option; return the words after its flag, or None for the default.

    Args:
        method: method of the option.
        field: the option.
        link: keep it in the URL, as `METHOD.OPTION`.
    """
    key = linked_key(method, field) if link else f"option-{method}-{field['name']}"
    label = field.get("label") or field["flag"][2:]
    help, default = field["help"], field["default"]
    bind: Any = "query-params" if link else None
    if field["type"] == "flag":
        value: Any = st.toggle(label, bool(default), key=lasting_key(key, default), help=help, bind=bind)
    elif field["type"] == "list" and field["choices"]:
        hint = {"placeholder": field.get("placeholder") or "choose some", "help": help, "bind": bind}
        labels = field.get("labels", str)
        if lasting_key(key, list(default or ())) in st.session_state:  # else the URL sets some
            st.session_state[key] = [each for each in st.session_state[key] if each in field["choices"]]
        value = st.multiselect(label, field["choices"], key=key, format_func=labels, **hint)
    elif field["choices"]:
        choices = ([NONE] if field["optional"] else []) + field["choices"]
        first = begins(field)
        at = None if first is None else choices.index(first)
        labels, nothing = field.get("labels", str), field.get("nothing") or NONE

        def name(each: Any) -> str:
            return nothing if each == NONE else labels(each)

        value = st.selectbox(label, choices, at, key=lasting_key(key, first), help=help, format_func=name, bind=bind)
    elif field["type"] == "float" and field.get("within"):
        low, high = field["within"]
        value = st.slider(label, low, high, step=STEP, key=lasting_key(key, default), help=help, bind=bind)
    elif field["type"] == "int":
        empty: Any = None if field["optional"] else default  # None can be typed only where it is the widget's own value
        empty_text = field.get("placeholder") or BY_DEFAULT
        hint = {"step": 1, "help": help, "placeholder": empty_text, "bind": bind}
        if field.get("within"):
            low, high = field["within"]
            hint |= {"min_value": low, "max_value": high}
            if isinstance(now := st.session_state.get(key), int) and not low <= now <= high:
                st.session_state[key] = min(max(now, low), high)
        value = number_input(label, value=empty, key=lasting_key(key, default), **hint)
    elif field.get("lines"):
        value = st.text_area(
            label,
            key=lasting_key(key, input_text(default)),
            height=100,
            help=help,
            placeholder=field["placeholder"],
            bind=bind,
        )
    elif field["suggestions"]:
        value = _suggest(label, field, lasting_key(key, default), help, bind)
    else:
        empty = NONE if field["optional"] else ""
        first, empty = input_text(default), field.get("placeholder") or empty
        value = st.text_input(
            label,
            first,
            key=lasting_key(key, first),
            help=help,
            placeholder=empty,
            bind=bind,
            on_change=name_choice,
            args=(key,),
        )
    memory()[key] = value
    return option_value(field, value)


def _suggest(label: str, field: Field, key: str, help: str, bind: Any) -> Any:
    """Let the reader choose a suggestion, type another value, or choose None."""
    now, first = st.session_state.get(key), field["default"]
    names = [*field["suggestions"], *([now] if now not in (None, *field["suggestions"]) else [])]
    return st.selectbox(
        label,
        names,
        names.index(first) if first in names else None,
        key=key,
        help=help,
        placeholder=field.get("placeholder") or NONE,
        bind=bind,
        accept_new_options=True,
        on_change=name_choice,
        args=(key,),
        format_func=visible,
    )


def begins(field: Field) -> Any:
    """Return the initial choice of a field, or None if the reader has to choose."""
    return NONE if field["optional"] and field["default"] is None else field["default"]


def option_value(field: Field, value: Any) -> Any:
    """Return the words after a flag for a widget's value, or None for the default."""
    default = field["default"]
    if field["type"] == "flag":
        return None if value == default else bool(value)
    if field["type"] == "list" and field["choices"]:
        return None if list(value) == list(default or ()) else [str(each) for each in value]
    if field["choices"]:
        return None if value in (None, begins(field)) else str(value).replace(NONE, "None")
    if field["type"] == "int":
        return None if value is None or value == default else str(int(value))
    if isinstance(value, float):
        return None if value == default else str(value)
    text = str(value or "")
    text = text if field["suggestions"] else text.strip()  # a chosen word may contain a blank
    if text == input_text(default):
        return None
    if field["type"] in ("list", "map"):
        return input_words(text)
    return text or None


def options(method: str, fields: Sequence[Field], columns: int = 2, link: bool = False) -> dict[str, Any]:
    """Draw options side by side; return the flags that differ from their defaults."""
    flags = {}
    for start in range(0, len(fields), columns):
        for column, field in zip(st.columns(columns), fields[start : start + columns], strict=False):
            with column:
                value = draw_option(method, field, link)
            if value is not None:
                flags[field["flag"]] = value
    return flags


def choose(method: str, fields: Sequence[Field], values: Mapping[str, Any]) -> None:
    """Set the linked widgets of a form to these values by name, and the others to their defaults."""
    for field in fields:
        value = values.get(field["name"], begins(field) if field["choices"] else field["default"])
        typed = field["type"] in ("flag", "int") or field["choices"] or field["suggestions"]
        key = linked_key(method, field)
        set_input(key, value if typed else input_text(value))


def number_input(*given: Any, key: str, bind: Any = "query-params", **named: Any) -> Any:
    """Draw `st.number_input` for an integer; an infinite one in a link is dropped from the URL.

    Streamlit converts the text to an int before it checks the bounds, which fails for infinity.
    """
    if bind and _is_infinite(st.query_params.get(key)):
        del st.query_params[key]
        st.rerun()  # the widget uses the URL as of the start of the run
    return st.number_input(*given, key=key, bind=bind, **named)


def _is_infinite(text: str | None) -> bool:
    try:
        return math.isinf(float(text or 0))
    except ValueError:
        return False
