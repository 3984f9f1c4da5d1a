"""First tokens, on Side by side: what the mean activation difference reads there, and what steering by it does."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from dashboard.pages.compare.choices import (
    STEER_FILE,
    TOKEN_BLOCK,
    TOKEN_FILE,
    TOKEN_N,
    TOKEN_POSITION,
    Pair,
)
from dashboard.pages.compare.over_corpus import share_questions
from dashboard.pages.compare.part_transplants import CLAIMS, behaviour_of, behaviour_seconds, tell_refusal
from dashboard.state import keep, tell_again
from probe.compare.first_tokens import middle_block
from probe.errors import ProbeError
from probe.experiments.cost import seconds_a_token
from probe.texts import visible
from probe.world import of

if TYPE_CHECKING:
    from probe.compare.first_tokens import FirstTokens, Steering
    from probe.model.lm import LM
    from probe.ticks import Tick

K, TEXTS = 5, 128
"""First tokens that are read, and texts at first."""
DIRECTIONS, NEW_TOKENS = 15, 24
"""Random directions beside each dose of steering, and tokens of a continuation."""
IN_A_WORLD, REAL = (24, (-0.5, -0.25, 0.25, 0.5)), (8, (-0.25, 0.25))
"""Pairs of answers by which steering is measured, and doses: for small models of a world, and for those of none."""
HOOKED = 3.0
"""Time of the pairs while a direction is added, against that without: prompts are then run again for each answer."""
TIMED = 32
"""Vectors whose lens is timed; the nulls read `LENSES` a position."""
LENSES = 302
LARGEST = "largest"
EQUATIONS = [
    r"\delta_{lj} = \frac{1}{N}\sum_n h^{\mathrm{aligned}}_{lj}(x_n) - h^{\mathrm{base}}_{lj}(x_n), \quad"
    r"\mathrm{score}(v) = z_v - \frac{1}{V}\sum_u z_u, \quad z = W_{\mathrm{out}}\,\mathrm{norm}(\delta_{lj})",
]
DEFINITION = """
Both models read unrelated texts; of each only the first tokens count (Minder et al. 2025). The mean difference of their
residual streams goes through the base's final norm and unembedding as if it were a residual. A star marks scores that
are larger than those of any token, in 95 % of 100 draws, when each text's difference has a random sign: what is marked
is shared by the texts; whether it says what the training was about is for the reader to judge. Position 0 has residuals
of its own size in many models. Steering adds alpha times the difference, as long as a residual is on average, at every
token of the base; random directions are as long.
"""


def draw(pair: Pair) -> None:
    """Draw the tab from its choices to its folded section."""
    if not pair.write("residual stream with a lens to compare"):
        return
    columns = st.columns([5, 2, 3], vertical_alignment="bottom", gap="medium")
    with columns[0]:
        path = text_file("File of unrelated texts", TOKEN_FILE, "documents of their world, or problems of GSM8K")
    with columns[1]:
        n = number_input("Texts", 1, 10**5, TEXTS, key=TOKEN_N)
    if path and not may_open(path):
        pair.tell("The texts come from a link and have not been opened.")
        return
    if not path and not share_questions(*pair.lms):
        pair.tell(f"{pair.names[0]} and {pair.names[1]} belong to different worlds: name a file of texts above.")
        note("Both models read their first tokens; the tab says what the difference of their activations reads.")
        return
    try:
        depth = pair.base.bridge.cfg.n_layers
        with columns[2]:
            blocks = ["embedding", *(f"block {number}" for number in range(depth))]
            key = keep(TOKEN_BLOCK, blocks, blocks[1 + middle_block(depth)])
            block = blocks.index(st.selectbox("Block", blocks, key=key, bind="query-params", format_func=visible)) - 1
        source: dict[str, Any] = {"path": path, "version": stamp(Path(path).expanduser()) if path else (0, 0)}
        source |= {"n": int(n), "block": block}
        found = compute_when_asked(
            compare,
            *pair.lms,
            button="Run both models over the first tokens",
            seconds=compute_once(tell_cost, *pair.lms, say="Timing the lens", n=int(n)),
            key="first-run",
            say="Both models read the first tokens",
            **source,
        )
    except ProbeError as error:
        pair.tell(f"The first tokens of {pair.names[0]} and {pair.names[1]} have not been compared.")
        st.error(prose(error))
        return
    if found is None:
        pair.tell("Press the button to read the first tokens of the texts with both models.")
        note("It says how large the mean difference of their activations is, and which tokens its lens reads.")
        return
    found = replace(found, names=pair.names)
    pair.tell(found.sentence())
    title = f"Mean difference {pair.names[1]} \u2212 {pair.names[0]} at the first tokens of {found.texts} texts"
    about = pair.source | {"texts": path or "plain texts", "n": int(n), "block": block}
    figure(found.figure(block), found.tokens, "first-tokens", title=title, source=about)
    steering = steer_base(pair, found, source)
    texts = f"texts = {call_of(path, int(n))}"
    code = ["import probe", "from probe.compare.first_tokens import plain_texts", "", pair.loads, texts]
    code += [f"found = probe.compare.compare_first_tokens(base, aligned, texts, layers=[{block}])"]
    code += ["print(found.sentence())", "found.figure(), found.layers, found.tokens"]
    tables = {"first-tokens": found.tokens, "first-layers": found.layers}
    details(EQUATIONS, DEFINITION, "\n".join(code), tables | ({} if steering is None else {"steering": steering.doses}))


def text_file(label: str, key: str, placeholder: str) -> str:
    """Let the reader type a path, and return it; "" for none."""
    path = st.text_input(
        label,
        key=tell_again(key),
        bind="query-params",
        placeholder=placeholder,
        on_change=name_choice,
        args=(key,),
        help="JSON Lines, JSON, CSV, TSV or Parquet; a text file is one text.",
    )
    return (path or "").strip()


def call_of(path: str, n: int) -> str:
    """Return the Python call that gives the texts."""
    if not path:
        return f"plain_texts(base, {n})"
    return f"probe.compare.read_texts({path!r}, selection=probe.rows.Selection({n}))"


def tell_cost(base: "LM", aligned: "LM", n: int) -> float:
    """Seconds, about: a few tokens and a few lenses are timed."""
    import torch

    from probe.compare.first_tokens import lens_scores

    reading = n * K * sum(seconds_a_token(lm) for lm in (base, aligned))
    vectors = torch.randn(TIMED, base.bridge.cfg.d_model, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    lens_scores(base, vectors)
    return 1.0 + 2 * reading + 2 * K * LENSES * (time.perf_counter() - start) / TIMED


def compare(base: "LM", aligned: "LM", tick: "Tick", path: str, version: Stamp, n: int, block: int) -> "FirstTokens":
    """`compare_first_tokens` of the texts."""
    from probe.compare.corpus_shift import read_texts
    from probe.compare.first_tokens import compare_first_tokens, plain_texts
    from probe.rows import Selection

    texts: Sequence[Any] = read_texts(path, selection=Selection(n)) if path else plain_texts(base, n)
    return compare_first_tokens(base, aligned, texts, K, [block], tick=tick)


def steer_base(pair: Pair, found: "FirstTokens", source: dict[str, Any]) -> "Steering | None":
    """Steering of the base by the difference at one position, when it is asked for."""
    st.markdown("#### Steering the base by it")
    columns = st.columns([5, 5], vertical_alignment="bottom", gap="medium")
    with columns[0]:
        pairs = text_file("File of pairs of answers", STEER_FILE, CLAIMS)
    with columns[1]:
        positions = list(map(str, range(found.vectors.shape[1])))
        largest = str(found.largest(source["block"]))
        position = st.segmented_control(
            "Difference at token",
            positions,
            key=keep(TOKEN_POSITION, positions, largest),
            bind="query-params",
            required=True,
        )
    if pairs and not may_open(pairs):
        return None
    if not pairs and not share_questions(*pair.lms):
        note("Name a file with `prompt`, `chosen` and `rejected` to measure which answer steering makes likelier.")
        return None
    n, alphas = REAL if of(pair.base) is None else IN_A_WORLD
    options = source | {"position": int(position or 0), "pairs": pairs, "count": n, "alphas": alphas}
    options["prompt"] = pair.shared.prompt
    options["pairs_version"] = stamp(Path(pairs).expanduser()) if pairs else (0, 0)
    try:
        each = compute_once(
            behaviour_seconds, pair.base, say="Timing the pairs", path=pairs, n=n, version=options["pairs_version"]
        )
        steering = compute_when_asked(
            steer,
            *pair.lms,
            button="Run the steered base",
            seconds=HOOKED * each * len(alphas) * (1 + DIRECTIONS),
            key="first-steer",
            say="The base answers with the difference and with random directions",
            **options,
        )
    except ProbeError as error:
        tell_refusal(error, pairs)
        return None
    if steering is None:
        note("It adds the difference at every token while the base answers, and random directions as long beside it.")
        return None
    note(steering.sentence())
    figure(
        steering.figure(),
        steering.doses,
        "first-steering",
        title=steering.title,
        source=pair.source | {"block": steering.layer},
    )
    if len(steering.texts):
        show_table(
            steering.texts[["alpha", "text"]].rename(columns={"text": "the base continues the prompt"}),
            hide_index=True,
            key="first-texts",
            height="content",
        )
        csv_button(steering.texts, "first-continuations")
    return steering


def steer(
    base: "LM",
    aligned: "LM",
    tick: "Tick",
    position: int,
    pairs: str,
    pairs_version: Stamp,
    count: int,
    alphas: tuple[float, ...],
    prompt: str,
    **source: Any,
) -> "Steering":
    """`probe.compare.steer` of the base by the difference of the tab."""
    from probe.compare.first_tokens import steer

    found = compare(base, aligned, lambda share: None, **source)
    prompts = [base.prompt_text(prompt)] if prompt.strip() else []
    direction = found.direction(source["block"], position)
    return steer(base, direction, behaviour_of(base, pairs, count), alphas, DIRECTIONS, prompts, NEW_TOKENS, tick=tick)
