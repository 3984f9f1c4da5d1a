"""The pages of the methods: their commands parse, their curves were logged, metrics and equations exist."""

import re
import shlex
import sys
from importlib import util
from pathlib import Path

import pytest

from probe.analyses.catalogue import find_analysis, summaries
from probe.plotting.theme import DARK, LIGHT, escape, template
from probe.terms import term
from tests.places import ROOT
from trainers.commands import METHODS, parse_training

DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text() for path in (DOCS / "methods").glob("*.md") if path.stem != "index"}


def load(path: Path):
    spec = util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load(DOCS / "figures.py")
sys.modules["figures"] = figures
analyses = load(DOCS / "analyses.py")


def commands(text: str) -> list[list[str]]:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in blocks.splitlines() if line.startswith("probe train")]


def test_every_method_has_a_page():
    assert set(PAGES) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_commands_of_a_page_parse(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = commands(PAGES[method])
    assert len(found) >= 2
    for _, _, name, *rest in found:
        assert name == method
        assert parse_training(METHODS[method][1], rest, method).out.parts[0] == "runs"


@pytest.mark.parametrize("method", METHODS)
def test_the_curves_of_a_page_were_logged_by_its_method(method: str):
    (place,) = figures.PLACE.finditer(PAGES[method])
    runs, metrics = place["runs"].split(), place["metrics"].split()
    assert {figures.open_run(figures.SAMPLES / run).method for run in runs} == {method}
    figure = figures.curves(runs, metrics)
    titles = [note.text.replace("<br>", " ") for note in figure.layout.annotations]
    assert titles == [escape(term(metric, f"train/{method}").label) for metric in metrics]
    lines = [trace for trace in figure.data if trace.y is not None and len(trace.y) > 1]
    assert len(lines) == len(runs) * len(metrics)


def test_a_metric_that_no_run_has_logged_is_refused():
    with pytest.raises(ValueError, match="have not logged `los`"):
        figures.curves(["base"], ["loss", "los"])


def test_a_figure_of_a_page_brings_both_themes_and_no_script_of_its_data():
    page = figures.draw("<p>\n<!-- curves: base | loss -->\n</p>", "../")
    assert page.count("application/json") == 1
    assert page.endswith('<script src="../assets/figures.js"></script>')
    for theme in (LIGHT, DARK):
        assert template(theme).layout.font.color in page
    assert figures.draw("<p>none</p>", "") == "<p>none</p>"


@pytest.mark.parametrize("method", METHODS)
def test_the_metrics_and_equations_of_a_page_are_defined(method: str):
    text, equations = PAGES[method], (DOCS / "equations.md").read_text()
    looked = re.search(r"\*\*What to look at\.\*\*(.*?)\n\n", text, re.DOTALL)
    assert looked
    for metric in re.findall(r"`([^`]+)`", looked[1]):
        assert term(metric, f"train/{method}").definition or term(metric).definition, metric
    numbers = re.findall(r"\((E\d+'?)\)", text)
    assert numbers
    for number in numbers:
        assert f"| {number} |" in equations


NOT_CAPTURED = ("follow_pair_layers",)
"""Analyses of captures that the sample runs do not hold."""


@pytest.mark.parametrize("page", dict.fromkeys(page for page, _ in summaries().values()))
def test_every_analysis_is_drawn_in_the_document_of_its_page(page: str):
    places = {each["name"]: each for each in analyses.PLACE.finditer((DOCS / f"{page}.md").read_text())}
    assert set(places) == {name for name, (own, _) in summaries().items() if own == page}
    assert all(each["models"] or each["options"] for name, each in places.items() if name not in NOT_CAPTURED)


def test_what_a_document_says_of_an_analysis_comes_from_its_record():
    text = analyses.write("Before.\n\n<!-- analysis: weight_change | dpo-agreeable base -->\n\nAfter.")
    record = find_analysis("weight_change")
    assert record.about in text
    assert "| `--part` | `QK` |" in text
    assert "probe show weight_change dpo-agreeable base" in text
    assert "> From base to dpo-agreeable the weights changed by" in text
    assert text.count("<math ") == len(record.equations) > 0
    page = figures.draw(analyses.draw(text), "")
    assert "<!-- drawn" not in page
    assert page.count("application/json") == 1
    assert page.endswith('<script src="assets/figures.js"></script>')
    listed = analyses.write("<!-- analyses -->")
    assert all(f"[`{name}`]({page}.md)" in listed for name, (page, _) in summaries().items())
    assert analyses.write("Nothing.") == "Nothing."
