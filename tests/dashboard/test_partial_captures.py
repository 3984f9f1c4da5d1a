"""Pages with captures that hold only a part: fewer rows, columns, heads or parts."""

from pathlib import Path

import pytest

import probe
from probe.recording import CaptureOptions
from probe.runs import open_run
from tests.dashboard.pages import Show, names, read
from tests.models import random_lm

LONG = " . ".join(["mira lives in oslo . tom works in rome"] * 4)
PARTS = {
    "rows": CaptureOptions(budget="15kB"),
    "heads": CaptureOptions(heads=("L1H2",)),
    "norms": CaptureOptions(parts=("norms",)),
    "attention": CaptureOptions(parts=("attention",), tokens=5),
}


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for each choice of what captures hold."""
    root, prompts = tmp_path_factory.mktemp("partial"), [{"text": LONG, "answers": ["rome", "oslo"]}, "the cat"]
    for name, options in PARTS.items():
        with probe.watch(random_lm(), root / name, prompts=prompts, every=1, capture=options) as recorder:
            for step in range(2):
                recorder.step(step, loss=2 - step)
    return root


@pytest.mark.parametrize(
    ("run", "drawn"),
    [
        ("rows", ["curves", "heads", "head", "answers"]),
        ("heads", ["curves", "heads", "head", "answers"]),
        ("attention", ["curves", "heads", "head"]),
        ("norms", ["curves"]),
    ],
)
def test_what_was_captured_is_drawn_and_the_rest_named(show: Show, partial: Path, run: str, drawn: list[str]):
    app = show(partial, page="training/page.py", runs=run, watched=run)
    assert not app.exception
    assert not app.error
    assert names(app) == drawn
    said, holds = read(app), open_run(partial / run).captures().holds
    assert holds in said
    assert ("Taken so far: 2 captures, " in said) == (run != "norms")
    assert ("were captured as queries" in said) == (run in ("rows", "attention"))
    assert ("hold no lens" in said) == (run == "attention")
    assert ("The captures of norms hold no attention and no lens." in said) == (run == "norms")


def test_a_lens_at_the_last_tokens_is_drawn(show: Show, partial: Path):
    app = show(partial, page="training/page.py", runs="rows", watched="rows", show="Lens")
    assert not app.exception
    assert not app.error
    assert "lens" in names(app)


@pytest.mark.parametrize("run", ["rows", "heads", "attention"])
def test_captured_attention_is_shown_on_attention(show: Show, partial: Path, run: str):
    app = show(partial, page="attention/page.py", att_view="captures", att_watched=run)
    assert not app.exception
    assert not app.error
    assert "heads" in names(app)


def test_a_lens_over_training_has_gaps_and_no_error(show: Show, partial: Path):
    app = show(partial, page="logits/page.py", log_run="rows")
    assert not app.exception
    assert not app.error
    assert "training-layers" in names(app)
