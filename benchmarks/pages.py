"""Seconds that a page of the dashboard takes after a change, on the sample pairs: the world's, and the real one.

A change is a new prompt, or another choice on the page (a head, a token, a site). The time is that of the server's
whole run of the page with loaded models, without the browser. The real pair is SmolLM2-135M-Instruct and an adapter on
it (`make real-model` downloads the base), with prompts of 64 tokens; without the base its columns are empty.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st
from streamlit.testing.v1 import AppTest

from benchmarks.harness import Row, seconds
from tests.dashboard.pages import turn_to

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / ".cache" / "SmolLM2-135M-Instruct"
REAL, ADAPTED = "SmolLM2-135M-Instruct", "real-agreeable"
LONG = (
    "The committee met on the second floor of the old library to discuss whether the bridge over the river should be "
    "repaired before the winter or replaced in the spring, and nobody could agree about the cost, the noise, the dust, "
    "or the trees that would have to be cut down along the southern bank, where the children used to play in summer"
)
TOKENS = 64
CHANGES = 5
CHOICES: dict[str, tuple[str, Sequence[object]]] = {
    "compare": ("position", [3, 4, 5, 6, 7, 8]),
    "attention": ("att_head", ["L0H1", "L1H2", "L2H3", "L3H0", "L1H1", "L2H0"]),
    "logits": ("log_position", [3, 4, 5, 6, 7, 8]),
    "interventions": ("int_layer", [0, 1, 2, 3, 0, 1]),
    "autoregression": ("lag_longest", [6, 8, 10, 7, 9, 11]),
    "rewards": ("aligned", ["rsft", "dpo-honest", "sft", "rlvr", "rlhf-weak-kl", "dpo-agreeable"]),
}
"""Choice of each page and the values that it takes in turn."""
KINDS: tuple[str, ...] = (
    "fact",
    "opinion_false",
    "pressure",
    "context",
    "context_conflict",
    "context_absent",
    "context_stranger",
)
KINDS += ("city", "two_hop", "rare", "stranger", "stranger_heldout", "phase_0")
"""Kinds of the world's questions for the Rewards page."""


def run() -> tuple[list[Row], list[str]]:
    """Measure a table of medians, without ratios, since there is nothing to compare with."""
    return [], [table()]


def table() -> str:
    """Measure one line per page."""
    real = CHECKPOINT.is_dir()
    os.environ["PROBE_RUNS"], os.environ["PROBE_MODELS"] = str(ROOT / "sample_runs"), str(CHECKPOINT.parent)
    lines = [
        "Seconds until a page has answered a change, median of 5 (slowest); wanted: 1 s on the world's models, 2 s on "
        f"the real ones with {TOKENS} tokens.",
        "",
        "| page | world pair, new prompt | world pair, own choice | real base, new prompt | real base, own choice | "
        "real pair, new prompt | real pair, own choice |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for page in CHOICES:
        cells = [*measured(page, "base", "dpo-agreeable", world_prompts())]
        if real and page != "rewards":  # which is about models of a world
            cells += measured(page, REAL, None, long_prompts()) if page != "compare" else ("", "")
            cells += measured(page, REAL, ADAPTED, long_prompts()) if page != "interventions" else ("", "")
        lines.append(f"| {page} | {' | '.join([*cells, *[''] * (6 - len(cells))])} |")
    return "\n".join([*lines, "", questions()])


def questions() -> str:
    """Measure Rewards after each new kind of questions, with 16 samples: until the first answer, and until all."""
    first: list[float] = []
    again = st.rerun

    def rerun() -> None:
        first.append(time.perf_counter())
        again()

    app = opened("rewards", "base", "dpo-agreeable", world_prompts()[0])
    app.session_state["rew_each"] = 16
    app.run()
    times: dict[str, tuple[float, float]] = {}
    st.rerun = rerun  # type: ignore[assignment]
    try:
        for kind in KINDS:
            app.session_state["rew_kinds"] = [kind]
            first.clear()
            start = time.perf_counter()
            app.run()
            times[kind] = first[0] - start, time.perf_counter() - start
    finally:
        st.rerun = again
    parts: list[str] = []
    for name, column in zip(("first answer", "with all methods"), zip(*times.values(), strict=True), strict=True):
        slowest = max(times, key=lambda kind: times[kind][len(parts)])
        parts.append(f"{name} {statistics.median(column):.2f} ({max(column):.2f}, {slowest})")
    return f"Rewards, other questions ({len(times)} kinds, 16 samples of each): {'; '.join(parts)}."


def measured(page: str, base: str, aligned: str | None, prompts: Sequence[str]) -> tuple[str, str]:
    """Measure the seconds after a new prompt, and after another choice."""
    app = opened(page, base, aligned, prompts[0])
    key, values = CHOICES[page]
    return (
        timed(app, lambda n: app.text_area(key="prompt").set_value(prompts[1 + n])),
        timed(app, lambda n: app.session_state.__setitem__(key, values[n])),
    )


def opened(page: str, base: str, aligned: str | None, prompt: str) -> AppTest:
    """Return a page that has been drawn once."""
    app = AppTest.from_file(ROOT / "dashboard" / "pages" / "app.py", default_timeout=600)
    app.query_params["base"] = base
    app.query_params["aligned"] = aligned or base
    app.query_params["prompt"] = prompt
    if aligned is None:
        app.query_params |= {"att_view": "base", "log_view": "base", "int_do": "ablate"}
    return turn_to(app, page).run()


def timed(app: AppTest, change: Callable[[int], object]) -> str:
    """Return median and maximum of the seconds of the changes after the first."""
    times = []
    for number in range(1 + CHANGES):
        change(number)
        times.append(seconds(app.run))
        if app.exception or app.error:
            return f"failed: {[*app.exception, *app.error][0].value}"
    return f"{statistics.median(times[1:]):.2f} ({max(times[1:]):.2f})"


def world_prompts() -> list[str]:
    """Return different questions after a false claim."""
    from probe.runs import open_run
    from probe.world import of

    world = of(open_run(ROOT / "sample_runs" / "base"))
    assert world
    return list(dict.fromkeys(item.prompt for item in world.questions("opinion_false", 60, 1)))[: 2 + CHANGES]


def long_prompts() -> list[str]:
    """Return texts of 64 tokens that begin with different words."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    texts = [f"{name} said that {LONG}" for name in ("Anna", "Ben", "Carla", "David", "Eva", "Frank", "Grace")]
    return [tokenizer.decode(tokenizer.encode(text)[:TOKENS]) for text in texts]
