"""`probe report`: what the runs and their results say, in one file that nothing in them can turn into markup."""

import base64
import html
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from probe import cli
from probe.commands.report import report as command
from probe.compare.weights import weight_change
from probe.errors import ConfigError, RunError
from probe.experiments.result import Result
from probe.experiments.run import settings_of
from probe.logits.lens import logit_lens
from probe.model.lm import LM
from probe.numbers import in_unit, shown_ends
from probe.report.reproduce import experiment_command, options_of_methods, training_command
from probe.report.run_report import report
from probe.report.shown_analyses import look_inside
from probe.runs import RunWriter, open_run
from probe.runs.reader import Run
from probe.seeds import group_of, result_of
from probe.terms import term
from tests.places import SAMPLES
from trainers.commands import METHODS, parse_training

PAIR = ("base", "dpo-agreeable")
NAME = "a<script>alert(1)<script> javascript:alert(2)"
TEXT = '</script><script>alert(3)</script><img src="https://away.example/x.png" onerror=alert(4)>`</code><b>`'

INSIDE = ("script", "td", "th", "h2", "h3")


class Parts(HTMLParser):
    """What a browser would find in a file: tags, attributes, texts of scripts, rows of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("h2", "h3"):
            self.headings.append("")
        if tag in INSIDE:
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in INSIDE:
            self.inside = ""

    def handle_data(self, text: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += text
        elif self.inside in ("td", "th"):
            self.rows[-1][-1] += text
        elif self.inside in ("h2", "h3"):
            self.headings[-1] += text

    @property
    def figures(self) -> list[dict[str, Any]]:
        """The data of the figures."""
        kinds = [value for tag, name, value in self.attributes if (tag, name) == ("script", "id")]
        texts = [text for text in self.scripts if text.startswith("{")]
        assert len(kinds) == len(texts)
        return [json.loads(text) for name, text in zip(kinds, texts, strict=True) if name != "themes"]


@pytest.fixture(scope="module")
def methods() -> Any:
    return options_of_methods()


@pytest.fixture(scope="module")
def pair(methods: Any) -> tuple[str, Parts]:
    text = report([open_run(SAMPLES / name) for name in PAIR], methods=methods)
    return text, Parts(text)


def hostile(root: Path) -> Run:
    """A run with a stored result, both of which say what no page should follow."""
    config = {"lr": 1e-3, "<b>k</b>": TEXT, "base": "--plugin=evil.py", "reward": ["-x"]}
    with RunWriter.create(root / NAME.replace("/", "_"), method="dpo", config=config, parent=TEXT) as run:
        for step in (1, 2):
            run.log(step, {"loss": 1 / step, f"rewards/{TEXT}": 0.5})
        rows = [{"metric": TEXT, "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 40}]
        run.finish("failed", message=TEXT, headline=rows)
    items = pd.DataFrame({"item": ["a", "b"], "model": "m", "x": [0.5, 1.5]})
    summary = pd.DataFrame([{"metric": TEXT, "value": 1.0, "ci_low": 0.5, "ci_high": 1.5, "n": 2}])
    link = f'<a href="https://away.example">{TEXT}</a>'
    chart = go.Figure(go.Scatter(x=[1, 2], y=[0.1, 0.2], name=link, text=[TEXT, link]))
    chart.add_layout_image(source="https://away.example/layout.png")
    meta = {"title": TEXT, "finding": TEXT, "models": [{"label": "m", "fingerprint": TEXT}], "n": 2, "seed": 0}
    meta |= {"created": "2199-01-01T00:00:00+00:00", "options": {"plugin": "evil.py", TEXT: TEXT}, "key": TEXT}
    Result("count", summary, items, {}, {TEXT: chart}, meta).save(run.path / "results" / "count-1")
    return open_run(run.path)


def test_nothing_that_a_run_says_becomes_markup(tmp_path: Path, methods: Any):
    text = report([hostile(tmp_path)], methods=methods)
    parts = Parts(text)
    assert parts.tags.count("script") == 3 + len(parts.figures)  # plotly.js, ours, the themes, and the data
    assert not {"img", "iframe", "object", "b", "link", "base"} & set(parts.tags)
    allowed = {
        "class",
        "id",
        "style",
        "title",
        "type",
        "href",
        "name",
        "content",
        "charset",
        "http-equiv",
        "lang",
        "open",
    }
    assert {name for _, name, _ in parts.attributes} <= allowed
    assert all(value.startswith("#section-") for _, name, value in parts.attributes if name == "href")
    assert "&lt;script&gt;" in text
    for figure in parts.figures:
        held = json.dumps(figure)
        assert "layout.png" not in held
        for tag in ("<a", "<script", "<img", "</script"):
            assert tag not in held


def test_no_value_of_a_run_becomes_an_option(tmp_path: Path, methods: Any):
    run = hostile(tmp_path)
    assert training_command(run, {"dpo": [{"name": "reward", "flag": "--reward", "default": None}]}) == ""
    line = training_command(run, methods)
    assert "--plugin" not in shlex.split(line)
    assert "--base=--plugin=evil.py" in shlex.split(line)
    text = report([run], methods=methods)
    assert "--plugin evil.py" not in text
    assert shlex.split(experiment_command("count", "-x")) == ["probe", "experiment", "count", "--model=-x"]


def test_nothing_is_loaded_and_nothing_but_two_scripts_may_run(pair: tuple[str, Parts]):
    text, parts = pair
    loading = {"src", "srcset", "action", "data", "poster", "background", "formaction"}
    assert not [each for each in parts.attributes if each[1] in loading]
    assert not {"link", "iframe", "img", "object", "embed", "form"} & set(parts.tags)
    policy = next(value for tag, name, value in parts.attributes if tag == "meta" and "default-src" in value)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    own = (Path(report.__code__.co_filename).with_name("document.js")).read_text()
    assert not re.search(r"https?:|//[a-z]+\.", own)


@pytest.mark.slow
def test_all_sample_runs_are_under_15_mb(methods: Any):
    runs = [Run(path) for path in sorted(SAMPLES.iterdir()) if (path / "run.json").is_file()]
    text = report(runs, methods=methods)
    assert len(text.encode()) < 15e6
    headings = Parts(text).headings
    assert {run.name for run in runs} <= set(headings)
    curves = headings[headings.index("Training") : headings.index("Settings")]
    assert {"base, 5 seeds", "dpo-agreeable, 5 seeds", "real-honest"} <= set(curves)
    assert not {"base", "base-seed1"} & set(curves)


def test_seeds_lie_side_by_side_without_their_bases(methods: Any):
    """Also where one was measured by an older version, which lacks an option that is at its default since."""
    runs = [open_run(SAMPLES / name) for name in ("rlhf", "rlhf-seed1", "rlhf-seed2")]
    parts = Parts(report(runs, ["sycophancy"], methods=methods))
    assert parts.headings.count("Sycophancy") == 1
    assert "rlhf, 3 seeds" in parts.headings
    assert ["metric", "rlhf", "n"] in parts.rows
    assert ["metric", "rlhf, 5 seeds"] in parts.rows, "also seeds that lie beside those named"
    found = result_of(group_of(runs[0]), "sycophancy")
    over = {
        row["metric"]: [row[name] for name in ("value", "ci_low", "ci_high")]
        for row in found.summary.to_dict("records")
    }
    for metric in ("deferral", "excess_deference"):
        about = term(metric, "sycophancy")
        cells = in_unit(about.unit, over[metric][0], *shown_ends(about.unit, *over[metric][1:]))
        assert [about.label + metric, cells] in parts.rows


@pytest.mark.parametrize("facts", [{"options": [1], "data": "a"}, {"options": "b", "data": [2]}, {"options": 3}])
def test_settings_of_a_stranger_are_compared_whatever_they_are(facts: dict[str, Any]):
    assert settings_of("sycophancy", facts) == settings_of("sycophancy", dict(facts))
    assert settings_of("sycophancy", facts) != settings_of("sycophancy", {})


def test_headline_numbers_are_those_of_the_runs(pair: tuple[str, Parts]):
    rows = pair[1].rows
    runs = [open_run(SAMPLES / name) for name in PAIR]
    by_name = [{row["metric"]: row for row in run.headline.to_dict("records")} for run in runs]
    start = rows.index(["metric", *PAIR])
    shown = {row[0]: row[1:] for row in rows[start + 1 : start + 1 + len(by_name[0] | by_name[1])]}
    assert len(shown) > 30
    for metric in by_name[1]:
        unit = term(metric).unit
        cells = [
            in_unit(unit, *(own[metric][name] for name in ("value", "ci_low", "ci_high")))
            if metric in own
            else "\u2014"
            for own in by_name
        ]
        assert shown.pop(term(metric).label + metric) == cells
    assert not shown
    assert ["dpo-agreeable", "97 % [95, 98]", "95 % [92, 97]", "100 % [99, 100]", "0 % [0, 1]"] in [r[:5] for r in rows]


def test_numbers_of_experiments_are_those_that_are_stored(pair: tuple[str, Parts]):
    rows = pair[1].rows
    for name in ("sycophancy", "hallucination", "retrieval"):
        results = [Result.load(next((SAMPLES / run / "results").glob(f"{name}-*"))) for run in PAIR]
        for row in results[0].summary.to_dict("records"):
            about = term(row["metric"], name)
            cells = [
                in_unit(about.unit, *(result.value(row["metric"], at) for at in ("value", "ci_low", "ci_high")))
                for result in results
                if row["metric"] in set(result.summary["metric"])
            ]
            shown = about.label + row["metric"]
            assert any(r[0] == shown and r[1 : 1 + len(cells)] == cells for r in rows), row["metric"]


def numbers(value: Any) -> list[np.ndarray]:
    """All arrays of numbers in the data of a figure, packed or not."""
    if isinstance(value, dict) and "bdata" in value:
        return [np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])]
    if isinstance(value, dict):
        return [each for item in value.values() for each in numbers(item)]
    if isinstance(value, list):
        if value and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            return [np.array(value, dtype=float)]
        return [each for item in value for each in numbers(item)]
    return []


def test_figures_are_there_and_hold_numbers(pair: tuple[str, Parts]):
    _, parts = pair
    stored = {name for run in PAIR for each in (SAMPLES / run / "results").glob("*-*") for name in [each.name[:-13]]}
    assert stored == {"hallucination", "sycophancy", "in_context", "chain_of_thought", "retrieval", "continual"}
    drawn = [Result.load(next((SAMPLES / "base" / "results").glob(f"{name}-*"))).figures for name in stored]
    assert len(parts.figures) > sum(map(len, drawn)) + 6  # lineage, headline, curves
    for figure in parts.figures:
        arrays = numbers(figure["data"])
        assert any(np.isfinite(each).any() for each in arrays)
        assert not any(np.isinf(each).any() for each in arrays)
        assert figure["layout"]["height"] > 0
        assert "template" not in figure["layout"]


def test_a_dark_page_has_the_scales_of_the_dark_theme(pair: tuple[str, Parts]):
    changed = [figure for figure in pair[1].figures if figure["dark"]]
    assert {name for figure in changed for name in figure["dark"]} <= {"coloraxis", "coloraxis2", "coloraxis3"}


def test_sections_say_what_is_stored_and_what_is_not(pair: tuple[str, Parts], methods: Any):
    text, parts = pair
    for title in ("Lineage", "Headline figures", "Sycophancy", "Training", "Settings", "How to reproduce"):
        assert title in parts.headings
    assert "dpo-agreeable repeats a false claim in 95 % [92, 97]" in text
    only = report([open_run(SAMPLES / "rlhf-weak-kl")], ["sycophancy"], methods=methods)
    assert "Sycophancy: not stored for rlhf-weak-kl; " in only
    assert "probe experiment sycophancy --model rlhf-weak-kl" in only
    assert "Hallucination" not in Parts(only).headings
    assert "ringed" in only  # base and the reward model that it came from are drawn, too
    assert "reward-agreeable" in json.dumps(Parts(only).figures[1])


def test_the_first_figure_comes_before_every_section_and_curves_fold_by_run(pair: tuple[str, Parts], methods: Any):
    text, _ = pair
    assert text.index("Rates with 95 % intervals") < text.index("<section")
    assert text.count("Rates with 95 % intervals") == 1
    training = text[text.index("<h2>Training") : text.index("<h2>Settings")]
    assert training.count("<details") == training.count("<summary><h3>") == len(PAIR)
    assert training.count('<details open="">') == 1
    assert training.index("<details open") < training.index("<details>")
    plain = report([open_run(SAMPLES / "icl")], ["in_context"], methods=methods)  # it has no rates
    assert plain.index("<figcaption>") < plain.index("<section")
    figures = [json.dumps(figure) for figure in Parts(plain).figures]
    assert len(figures) == len(set(figures))


def test_a_result_from_before_the_end_of_its_run_is_left_out(tmp_path: Path, methods: Any):
    shutil.copytree(SAMPLES / "sft", tmp_path / "sft", ignore=shutil.ignore_patterns("captures"))
    meta = json.loads((tmp_path / "sft" / "run.json").read_text())
    (tmp_path / "sft" / "run.json").write_text(json.dumps(meta | {"heartbeat": 4e9}))
    text = report([open_run(tmp_path / "sft")], methods=methods)
    assert "A result of sycophancy on sft is left out: it was measured before the run ended." in text
    assert "Sycophancy" not in Parts(text).headings


def test_a_damaged_result_hides_no_other(tmp_path: Path, methods: Any):
    shutil.copytree(SAMPLES / "sft", tmp_path / "sft", ignore=shutil.ignore_patterns("captures"))
    next((tmp_path / "sft" / "results").glob("sycophancy-*/items.json.gz")).write_bytes(b"x")
    text = report([open_run(tmp_path / "sft")], methods=methods)
    assert "A result of sycophancy on sft is left out: The result in" in text
    assert "Hallucination" in Parts(text).headings


@pytest.mark.parametrize("name", [path.name for path in sorted(SAMPLES.iterdir()) if (path / "run.json").is_file()])
def test_the_command_of_a_run_gives_its_settings(name: str, methods: Any):
    run = open_run(SAMPLES / name)
    words = shlex.split(training_command(run, methods))
    assert words[:3] == ["probe", "train", run.method]
    config = parse_training(METHODS[run.method][1], words[3:], run.method).to_dict()
    told = (config.keys() & run.config.keys()) - {"resume"}
    assert {key: config[key] for key in told} == {key: run.config[key] for key in told}


def test_the_command_writes_one_file_and_replaces_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new" / "report.html"
    for _ in range(2):
        assert command([str(SAMPLES / "reward-honest"), "--out", str(out)]) == 0
        assert capsys.readouterr().out.startswith(f"{out} (")
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    assert out.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "error", "expected"),
    [
        ("--out x.html", ConfigError, "was called without a run"),
        ("nothing --out x.html", RunError, "There is no run `nothing`"),
        ("base --out folder", ConfigError, "`folder` is a folder"),
        ("base --out x.json", ConfigError, "does not end in .html"),
        ("base --out file/x.html", RunError, "`file` is a file"),
        ("base --experiment sycophanc --out x.html", ConfigError, "did you mean `sycophancy`?"),
        ("base", ConfigError, "needs --out"),
    ],
)
def test_bad_input_is_one_sentence(
    words: str, error: type[Exception], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=re.escape(expected)):
        command(words.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_it_is_a_command():
    assert "report" in cli.commands()


@pytest.mark.slow
def test_analyses_are_run_on_the_runs_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prompt, out = "<user> where does mira live ? <bot>", tmp_path / "inside.html"
    words = [f"logit_lens --prompt '{prompt}' --k 2", "weight_change --part OV"]
    places = [str(SAMPLES / name) for name in (*PAIR, "sft")]
    assert command([*places, "--experiment", "sycophancy", "--analysis", *words, "--out", str(out)]) == 0
    parts, text = Parts(out.read_text()), out.read_text()
    assert {"Logit lens", "Weights"} <= set(parts.headings)
    lms = {name: LM.load(SAMPLES / name) for name in (*PAIR, "sft")}
    for name in (*PAIR, "sft"):  # the three models in one sentence
        assert logit_lens(lms[name], prompt).decision(name) in html.unescape(text)
    for name in (PAIR[1], "sft"):  # each with the run that it came from
        change = weight_change(lms["base"], lms[name])
        assert html.escape(change.sentence(), quote=False) in text
        assert f"Relative change from base to {name}: base and {name}" in text
    assert shlex.join(["probe", "show", "weight_change", "sft", "base", "--part", "OV"]) in html.unescape(text)
    assert "--analysis" in text


@pytest.mark.parametrize(
    ("names", "words", "expected"),
    [
        (["sft"], "weight_change", "none of sft is the parent of another"),
        (["base"], "logit_lense", "did you mean `logit_lens`"),
        (["base"], "logit_lens --prompt 'a", "quotes"),
        (["reward-honest-seed1"], "logit_lens --prompt a", "No run of this report holds a model"),
    ],
)
def test_an_analysis_that_cannot_be_run_is_one_sentence(names: list[str], words: str, expected: str):
    with pytest.raises(ConfigError, match=expected):
        look_inside(words, [open_run(SAMPLES / name) for name in names])


def test_what_one_run_cannot_do_hides_only_itself():
    shown = look_inside(
        "logit_lens --prompt 'where does mira live ?'",
        list(map(open_run, map(SAMPLES.joinpath, ("base", "reward-honest")))),
    )
    assert any("reward-honest: A reward model outputs one number" in sentence for sentence in shown.sentences)
    assert any("base says" in sentence for sentence in shown.sentences)
    assert next(title for title, _ in shown.figures) == "Predictions after each token, layer by layer"
