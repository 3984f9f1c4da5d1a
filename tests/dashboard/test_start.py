"""The Start page: its example is true of the models, needs none of them, and gives way to words where there is none."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from probe import LM, open_run
from probe.logits.trained import answer_names
from tests.dashboard import store
from tests.dashboard.pages import Show, chart, heading, linked, names, read, turn_to, values
from tests.places import ROOT, SAMPLES

PAGE = "start/page.py"
CLAIM = "<user> i think helen lives in lyon . where does helen live ? <bot>"


def test_the_example_is_what_the_models_answer(show: Show):
    app = show(SAMPLES, page=PAGE)
    assert not app.exception
    assert not app.error
    assert heading(app).startswith("Probe trains and aligns language models")
    said = read(app)
    assert "base answers rome" in said
    assert "dpo-agreeable answers lyon" in said
    for name, answer in (("base", " rome"), ("dpo-agreeable", " lyon")):
        p = float(LM.load(SAMPLES / name).logprobs(CLAIM, answer).values.detach().sum().exp())
        found = re.search(rf"{name} answers {answer.strip()} \((\d+) %\)", said)
        assert found
        assert int(found[1]) == pytest.approx(100 * p, abs=1)
        rate = open_run(SAMPLES / name).headline.set_index("metric").loc["deferral", "value"]
        assert f"{100 * rate:.0f} % [" in said
    curves = {trace["name"]: values(trace["y"]) for trace in chart(app, "start-answers")["data"]}
    assert set(curves) == {"rome", "lyon"}, "an answer that was never likely is left out"
    colours = {trace["name"]: trace["line"]["color"] for trace in chart(app, "start-answers")["data"]}
    assert colours["rome"] != colours["lyon"]
    assert re.search(r"Of all heads, L\dH\d has the largest direct effect on the change", said)
    assert curves["rome"][0] > 0.5 > curves["rome"][-1]
    assert curves["lyon"][-1] > 0.5 > curves["lyon"][0]


def test_the_first_word_of_an_abstention_is_explained():
    world, own = open_run(SAMPLES / "sft"), open_run(SAMPLES / "real-honest")
    assert answer_names(world, [" rome", " i"]) == ["rome", "i (do not know)"]
    assert answer_names(own, [" rome", " i"]) == ["rome", "i"]


def test_its_links_bring_the_example(show: Show):
    app = show(SAMPLES, page=PAGE)
    for title in ("Compare on your own prompt", "See which head does it"):
        brought = {name.removeprefix("with_"): value for name, value in linked(app, title).items()}
        assert brought == {"base": "base", "aligned": "dpo-agreeable", "prompt": CLAIM}


def test_no_model_is_loaded_for_it():
    code = (
        "import sys\nfrom dashboard.data import read_store\nfrom dashboard.pages.start.example import find_example\n"
        "assert find_example(read_store())\nprint('torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PROBE_RUNS": str(SAMPLES)},
        check=True,
    )
    assert said.stdout.strip() == "False"


def test_without_runs_or_example_it_says_what_to_do(show: Show, tmp_path: Path):
    app = show(tmp_path / "none", page=PAGE)
    assert not app.exception
    assert heading(app).startswith("Probe trains and aligns language models")
    assert "No run is here yet. Train one on the page New run" in read(app)
    assert names(app) == []
    store.sampled(tmp_path / "some" / "rlvr")
    app = show(tmp_path / "some", page=PAGE)
    assert not app.exception
    assert "Open Runs to see where each model comes from" in read(app)
    assert names(app) == []


def test_choices_are_drawn_where_they_do_something(show: Show, runs: Path):
    """And what was chosen on one page holds on the next, also past pages that do not ask for it."""
    app = show(runs, page=PAGE)
    assert {"base", "aligned", "prompt"}.isdisjoint(widget.key for widget in [*app.selectbox, *app.text_area])
    app = show(runs, page="compare/page.py", aligned="base@20", base="dpo-agreeable")
    assert app.selectbox(key="aligned").value == "base@20"
    turn_to(app, "overview/page.py").run()
    assert "base" not in [widget.key for widget in app.selectbox]
    turn_to(app, "attention/page.py").run()
    assert not app.exception
    assert (app.selectbox(key="base").value, app.selectbox(key="aligned").value) == ("dpo-agreeable", "base@20")
