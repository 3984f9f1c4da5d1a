"""Transplants, on Side by side: what one block, head or MLP of the aligned model does in the base."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import streamlit as st

from dashboard.analysis import compute_when_asked
from dashboard.components.details import csv_button, details
from dashboard.components.figure import figure
from dashboard.components.number import number_input
from dashboard.components.table import show_table
from dashboard.data import Stamp, stamp
from dashboard.markdown import note, prose
from dashboard.models import compute_once
from dashboard.named import may_open, name_choice
from dashboard.pages.compare.choices import PAIR_FILE, PAIR_N, PART_KINDS, RANDOM, Pair
from dashboard.pages.compare.over_corpus import share_questions
from dashboard.state import begin, tell_again
from probe.compare.transplant import LEVEL
from probe.errors import ProbeError
from probe.numbers import in_percent, rate
from probe.texts import visible
from probe.world import of

if TYPE_CHECKING:
    from probe.compare.behaviour import Behaviour
    from probe.compare.transplant import Transplants
    from probe.model.lm import LM
    from probe.ticks import Tick

DIRECTIONS = 15
"""Random directions of each part."""
TIMED, MOMENT_S = 4, 0.5
"""Pairs that are timed first, and seconds from which on they tell how long all take."""
KINDS = {"Blocks": "block", "Attention": "attention", "Heads": "head", "Shared keys": "keys", "MLPs": "mlp"}
"""Kinds of parts by what they are called."""
CLAIMS = "false claims of their world or of TruthfulQA"
"""What is asked without a file."""


class Sizes(NamedTuple):
    """What is asked at first."""

    pairs: int
    matched: int
    """Scattered parts of each kind."""
    kinds: tuple[str, ...]
    """Of parts."""


IN_A_WORLD, REAL = Sizes(40, 99, ("Blocks", "Heads", "MLPs")), Sizes(8, 29, ("Blocks",))
"""For small models of a world, and for those of none: a model of 135 million parameters then takes minutes."""
EQUATIONS = [
    r"\mathrm{effect}(P) = B(\theta_{\mathrm{base}} + \Delta_P) - B(\theta_{\mathrm{base}}), \quad"
    r"\Delta_P = \theta_{\mathrm{aligned}} - \theta_{\mathrm{base}} \ \mathrm{in\ part\ } P,\ 0\ \mathrm{elsewhere}",
    r"p = \frac{1 + \#\{\mathrm{matched\ parts\ that\ do\ as\ much}\}}{1 + N}",
]
DEFINITION = """
The weights of one part of the base become those of the aligned model; all others stay. *Effect* is the change of the
behaviour over the same pairs, with a 95 % interval (bootstrap over pairs). *Matched parts* are as many rows of the same
matrices of the aligned model, drawn from all parts of the kind: a part of the same make that is scattered over the
model. p is one-sided, in the direction of the whole change; p (Holm) is corrected for all parts of the kind. *Random
directions* are changes of the same place, norm and singular values. Single effects need not add up to the whole change.
A head is its slices of the query and output matrices, with its keys and values unless heads share them.
"""


def draw(pair: Pair) -> None:
    """Draw the tab from its choices to its folded section."""
    if not pair.write("probabilities of answers to compare"):
        return
    sizes = REAL if of(pair.base) is None else IN_A_WORLD
    columns = st.columns([5, 2, 5, 3], vertical_alignment="bottom", gap="medium")
    with columns[0]:
        path = st.text_input(
            "File of pairs of answers",
            key=tell_again(PAIR_FILE),
            bind="query-params",
            placeholder=CLAIMS,
            on_change=name_choice,
            args=(PAIR_FILE,),
            help="Rows with prompt, chosen and rejected: JSON Lines, JSON, CSV, TSV or Parquet.",
        )
    path = (path or "").strip()
    with columns[1]:
        n = number_input("Pairs", 1, 10**5, sizes.pairs, key=PAIR_N)
    with columns[2]:
        titles = st.multiselect(
            "Parts",
            list(KINDS),
            key=begin(PART_KINDS, list(sizes.kinds)),
            bind="query-params",
            placeholder="choose kinds",
            format_func=visible,
        )
    with columns[3]:
        hint = f"{DIRECTIONS} changes of each part in random directions; they take most of the time."
        random = st.toggle("Random directions", False, key=tell_again(RANDOM), bind="query-params", help=hint)
    if path and not may_open(path):
        pair.tell("The pairs come from a link and have not been opened.")
        return
    if not path and not share_questions(*pair.lms):
        pair.tell(f"{pair.names[0]} and {pair.names[1]} belong to different worlds: name a file of pairs above.")
        note("It says which part of the aligned model, put into the base, makes the first answer of a pair likelier.")
        return
    kinds = tuple(KINDS[title] for title in KINDS if title in titles)
    if not kinds:
        pair.tell("Choose at least one kind of parts.")
        return
    version = stamp(Path(path).expanduser()) if path else (0, 0)
    options: dict[str, Any] = {"path": path, "version": version, "n": int(n), "kinds": kinds}
    options |= {"matched": sizes.matched, "random": DIRECTIONS if random else 0}
    try:
        each = compute_once(behaviour_seconds, pair.base, say="Timing the pairs", path=path, n=int(n), version=version)
        found = compute_when_asked(
            transplant,
            *pair.lms,
            button="Run the base with each part",
            seconds=each * runs(pair.base, kinds, sizes.matched, options["random"]),
            key="parts-run",
            say="The base answers with one part of the aligned model at a time",
            **options,
        )
    except ProbeError as error:
        pair.tell(f"No part of {pair.names[1]} was put into {pair.names[0]}.")
        tell_refusal(error, path)
        return
    if found is None:
        pair.tell("Press the button to put one part of the aligned model after the other into the base.")
        note("It says which block, head or MLP carries the change, and whether as large a part elsewhere does as much.")
        return
    found = replace(found, names=pair.names)
    pair.tell(found.sentence())
    show(pair, found, options)


def show(pair: Pair, found: "Transplants", options: dict[str, Any]) -> None:
    """Figure, table and folded section."""
    title = f"{found.title} of {pair.names[0]} with one part of {pair.names[1]}"
    about = pair.source | {"pairs": options["path"] or "false claims", "n": options["n"]}
    figure(found.figure(), found.parts, "transplants", title=title, source=about)
    if found.why_no_heads:
        note(f"Heads are not shown: {found.why_no_heads}")
    rows = found.parts.assign(size=found.parts["effect"].abs()).sort_values("size", ascending=False, kind="stable")
    show_table(shown(rows), hide_index=True, height=38 + 35 * min(10, len(rows)), key="parts-list")
    csv_button(rows.drop(columns="size"), "transplants")
    matched, most = options["matched"], int(found.parts["kind"].value_counts().max())
    if most / (1 + matched) > LEVEL:
        note(
            f"With {matched} matched parts p is at least {1 / (1 + matched):.2g}, too much to correct for {most} parts."
        )
    path, n = options["path"], options["n"]
    pairs = f"read_pairs({path!r}, selection=probe.rows.Selection({n}))" if path else f"claim_pairs(base, {n})"
    code = ["import probe", "from probe.compare.behaviour import claim_pairs, preference, read_pairs", "", pair.loads]
    call = f"base, aligned, preference({pairs}), {options['kinds']!r}, {options['matched']}, {options['random']}"
    code += [f"found = probe.compare.transplant_parts({call})", "print(found.sentence())"]
    code += ["found.figure(), found.parts, found.controls"]
    tables = {"transplants": found.parts, "transplant-controls": found.controls}
    details(EQUATIONS, DEFINITION, "\n".join(code), tables)


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Format the table of parts for a reader."""
    ends = zip(rows["effect"], rows["effect_low"], rows["effect_high"], strict=True)
    table = {
        "part": rows["part"],
        "effect, nats [95 %]": [interval(*each) for each in ends],
        "of the change": [rate(share) for share in rows["share"]],
        "matched parts do": [
            "" if low != low else f"{number(low)} to {number(high)}"
            for low, high in zip(rows["matched_low"], rows["matched_high"], strict=True)
        ],
        "p": [p_value(each) for each in rows["p"]],
        "p (Holm)": [p_value(each) for each in rows["p_holm"]],
        "change of the weights": [in_percent(each) for each in rows["relative"]],
        "parameters": [f"{count:,}" for count in rows["parameters"]],
    }
    if rows["random"].any():
        between = zip(rows["random_low"], rows["random_high"], strict=True)
        table["random directions do"] = [f"{number(low)} to {number(high)}" for low, high in between]
    return pd.DataFrame(table)


def number(value: float) -> str:
    """Format a change with its sign."""
    return f"{value:+.2g}".replace("-", "\u2212")


def interval(value: float, low: float, high: float) -> str:
    """Format a change with its interval."""
    return number(value) + ("" if low != low else f" [{number(low)}, {number(high)}]")


def p_value(p: float) -> str:
    """Format a p-value; empty where there are no controls."""
    return "" if p != p else f"{p:.2g}"


def tell_refusal(error: ProbeError, path: str) -> None:
    """Why pairs cannot be used: a reader's file is to be mended, the claims do not suit every model."""
    if path:
        st.error(prose(error))
    else:
        note(f"The claims do not suit these models, so name a file of pairs. {prose(error)}")


def behaviour_of(lm: "LM", path: str, n: int) -> "Behaviour":
    """By how much the first answer of each pair is preferred: of a file, or a user's false claim against the truth."""
    from probe.compare.behaviour import claim_pairs, preference, read_pairs
    from probe.rows import Selection

    if path:
        return preference(read_pairs(path, selection=Selection(n)))
    return preference(claim_pairs(lm, n), "log p(claim) \u2212 log p(truth)")


def behaviour_seconds(lm: "LM", path: str, n: int, version: Stamp) -> float:
    """Seconds that the pairs take once, about: by a few of them, where these take longer than a moment."""
    few = min(n, TIMED)
    seconds = _seconds(lm, behaviour_of(lm, path, few))
    return seconds * n / few if seconds > MOMENT_S else _seconds(lm, behaviour_of(lm, path, n))


def _seconds(lm: "LM", behaviour: "Behaviour") -> float:
    times = []
    for _ in range(2):
        start = time.perf_counter()
        behaviour.measure(lm)
        times.append(time.perf_counter() - start)
    return min(times)


def runs(lm: "LM", kinds: tuple[str, ...], matched: int, random: int) -> int:
    """How often the pairs are answered, about."""
    config = lm.bridge.cfg
    keys = getattr(config, "n_key_value_heads", None) or config.n_heads
    each = {"head": config.n_heads, "keys": keys if keys < config.n_heads else 0}
    parts = sum(config.n_layers * each.get(kind, 1) for kind in kinds)
    return parts * (1 + random) + matched * len(kinds)


def transplant(
    base: "LM",
    aligned: "LM",
    tick: "Tick",
    path: str,
    version: Stamp,
    n: int,
    kinds: tuple[str, ...],
    matched: int,
    random: int,
) -> "Transplants":
    """`transplant_parts` of the pairs."""
    from probe.compare.transplant import transplant_parts

    return transplant_parts(base, aligned, behaviour_of(base, path, n), kinds, matched, random, tick=tick)
