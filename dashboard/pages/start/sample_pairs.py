"""The pairs of models that the Start page offers: of a synthetic world, of real models, and the reader's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import pandas as pd
import streamlit as st

from dashboard import data, models
from dashboard.consent import name_choice
from dashboard.data import Store
from dashboard.pages.start.example import AnswerChange, find_example
from dashboard.state import begin, choose_models, current, keep
from probe.analyses.catalogue import find_analysis
from probe.analyses.stored_results import FOLDER, SUFFIX, nearest_unloaded
from probe.errors import DataError, ProbeError
from probe.experiments.result import Result
from probe.experiments.store import results
from probe.model.references import REAL_MODEL, find_model
from probe.numbers import in_unit, rate
from probe.plotting.notebook import Look
from probe.plotting.theme import METHODS, aligned_colour
from probe.runs.directories import run_homes
from probe.runs.schema import RESULTS
from probe.terms import term

if TYPE_CHECKING:
    from probe.compare.carriers import Carriers
    from probe.model.lm import LM

WORLD, REAL, OWN = "Synthetic world", "Real model", "Your own"
"""Labels of the choices, which are also their values in the URL."""
KEY, APPLIED = "pair", "_pair"
"""Keys of the choice, and of the models that were last made those of all pages."""
CARRIERS = "find_carriers"
EXPERIMENT, METRIC = "sycophancy", "agreement"
"""Experiment and metric whose stored values introduce a real pair."""


class Pair(NamedTuple):
    """Labels of two runs, and the example of their captures, if they have one."""

    base: str
    aligned: str
    change: AnswerChange | None


@dataclass(frozen=True)
class Recorded:
    """A prompt whose comparison is stored with a pair, so that it is shown without any weights."""

    prompt: str
    found: "Carriers"


def find_pairs(store: Store) -> dict[str, Pair]:
    """Return the pair of each kind by its label: with an example in its captures, else with a stored comparison."""
    found: dict[str, Pair] = {}
    for label, in_world in ((WORLD, True), (REAL, False)):
        pairs = [each for each in data.parents(store) if (store.runs[each[1]].world is not None) == in_world]
        change = find_example(store, pairs)
        if change is not None:
            found[label] = Pair(change.base, change.aligned, change)
            continue
        stored = next((each for each in pairs if _has_comparison(store.runs[each[1]].path)), None)
        if stored is not None:
            found[label] = Pair(*stored, None)
    return found


def _has_comparison(run: Path) -> bool:
    return any(any((home / FOLDER).glob(f"{CARRIERS}-*{SUFFIX}")) for home in run_homes(run))


def choose_pair(pairs: Mapping[str, Pair]) -> str:
    """Let the reader choose a pair, and make its models those of all pages; return its label, or `OWN`."""
    labels, now = [*pairs, OWN], current()
    first = next((label for label, pair in pairs.items() if pair[:2] == (now.base, now.aligned)), labels[0])
    key = keep(KEY, labels, first)
    chosen = st.segmented_control("Models of all pages", labels, key=key, bind="query-params", required=True)
    label = str(chosen or first)
    if label in pairs:
        apply_pair(pairs[label], labels[0] == label)
    return label


def apply_pair(pair: Pair, is_first: bool) -> None:
    """Make a pair's models those of all pages, once for each choice of it; the first pair is so from the start."""
    if st.session_state.setdefault(APPLIED, pair[:2] if is_first else None) != pair[:2]:
        st.session_state[APPLIED] = pair[:2]
        choose_models(pair.base, pair.aligned, first_prompt(current().store, pair))


def type_pair() -> tuple[str, str] | None:
    """Let the reader type one model or two, and make them those of all pages; None while nothing is typed."""
    now, typed = current(), list[str]()
    for key, label, value in (("own_base", "Base model", now.base), ("own_tuned", "Tuned model", now.aligned)):
        begin(key, "" if value is None or now.label(value) else value)
        st.text_input(label, key=key, placeholder="folder, run or hub name", on_change=name_choice, args=(key,))
        typed += [st.session_state[key].strip()] if st.session_state[key].strip() else []
    if not typed:
        return None
    found = typed[0], typed[-1]
    if st.session_state.get(APPLIED) != found:
        st.session_state[APPLIED] = found
        choose_models(*found, None)
    return found


def first_prompt(store: Store, pair: Pair) -> str | None:
    """Return the prompt of a pair's example, or else the first that its run captured."""
    if pair.change is not None:
        return pair.change.prompt.text
    return next((prompt.text for prompt in data.captures(store.runs[pair.aligned]).prompts), None)


def is_missing(store: Store, pair: Pair) -> bool:
    """Return whether the weights of the pair's real base model are not on this machine."""
    return pair.base == REAL_MODEL and store.runs[pair.base].name == REAL_MODEL and not find_model(REAL_MODEL)


def recorded(store: Store, pair: Pair) -> Recorded | None:
    """Return the stored comparison of a pair, that of its first captured prompt if there is one; no model is loaded."""
    refs = [str(store.runs[label].path) for label in (pair.base, pair.aligned)]
    try:
        facts = [models.model_facts(ref) for ref in refs]
    except ProbeError as error:
        data.tell(error)
        return None
    values = {"prompt": first_prompt(store, pair) or "", "chat": True, "corrupted": ""}
    known = [cast("LM", each) for each in facts if each is not None]
    stored = nearest_unloaded(find_analysis(CARRIERS), values, *known) if len(known) == 2 else None
    if stored is None or not isinstance(stored.inputs.get("prompt"), str):
        return None
    return Recorded(stored.inputs["prompt"], named(store, pair, cast("Carriers", stored.result)))


def recorded_sentence(example: Recorded | None) -> str:
    """Describe the effect of training on the stored prompt; empty without one."""
    if example is None:
        return ""
    found = example.found
    base, aligned = (each.name for each in found.looks)
    (first, second), (before, after) = found.answers, found.chances
    moves = [f"from {rate(start)} to {rate(end)}" for start, end in zip(before, after, strict=True)]
    return (
        f"From {base} to {aligned}, the probability that the answer begins with \u201c{first}\u201d goes {moves[0]},"
        f" that of \u201c{second}\u201d {moves[1]}."
    )


def named(store: Store, pair: Pair, found: "Carriers") -> "Carriers":
    """Return a comparison with the names and colours of the pair's models."""
    colours = METHODS["pretrain"], aligned_colour(store.runs[pair.aligned].method)
    looks = [Look(name, colour) for name, colour in zip(pair[:2], colours, strict=True)]
    (result,) = find_analysis(CARRIERS).together([found], looks)
    return cast("Carriers", result)


def agreement(store: Store, pair: Pair) -> str:
    """State the stored agreement of both models with their users, measured alike; empty if it is not stored."""
    rows = [_summaries(str(store.runs[label].path / RESULTS)) for label in pair[:2]]
    for facts, first in rows[0].items():
        second = rows[1].get(facts)
        if second is not None:
            about = term(METRIC, EXPERIMENT)
            ends = [in_unit(about.unit, *each[["value", "ci_low", "ci_high"]]) for each in (first, second)]
            unit = f" {about.unit}" if about.unit == "nats" else ""
            n = int(first["n"])
            return (
                f"{about.title.capitalize()} with a user, {n} questions: {ends[0]}{unit} before, {ends[1]}{unit} after."
            )
    return ""


@st.cache_data(show_spinner=False, max_entries=16, ttl=60)
def _summaries(folder: str) -> dict[str, pd.Series]:
    """Return the row of `METRIC` of each stored experiment of a run, by what was asked."""
    found: dict[str, pd.Series] = {}
    for place, index in results(Path(folder)):
        if not place.name.startswith(f"{EXPERIMENT}-"):
            continue
        try:
            rows = Result.load(place).summary
        except DataError:
            continue
        row = rows[rows["metric"] == METRIC]
        if len(row):
            meta = index["meta"]
            asked = sorted((name, str(value)) for name, value in (meta.get("options") or {}).items())
            found.setdefault(str((meta.get("n"), asked)), row.iloc[0])
    return found
