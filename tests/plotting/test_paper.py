"""Files for papers: names and tables that any system takes, no local path inside, and text that fits at any width."""

import gzip
import json
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

import probe
from probe.cli import main
from probe.commands.export import drawings
from probe.errors import ConfigError
from probe.experiments.result import Result
from probe.plotting import export, theme
from probe.plotting.latex import escape_latex, to_latex
from probe.plotting.names import RESERVED, file_name, file_stem, models_of, short_hash, without_paths
from probe.plotting.paper import Paper, put_on_paper
from tests.models import random_lm

SAMPLES = Path(__file__).resolve().parents[2] / "sample_runs"
TELLING = "name-of-nobodys-home"

needs_browser = pytest.mark.skipif(
    export.missing() is not None and not os.environ.get("CI"), reason="Chromium is not installed."
)


@pytest.fixture(scope="module", autouse=True)
def close():
    yield
    export.renderer.close()


# names


@given(st.text(), st.lists(st.text(), max_size=4), st.text())
def test_a_file_name_is_safe_on_any_system(figure: str, models: list[str], prompt: str):
    stem = file_stem(figure, {"models": models, "prompt": prompt})
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", stem)
    assert len(stem) <= 140
    assert not stem.endswith((".", "-"))
    assert not RESERVED.fullmatch(file_name(figure))


def test_a_file_name_says_model_figure_and_prompt():
    source = {"aligned": "runs/dpo-agreeable", "prompt": "where does mira live ?"}
    assert file_stem("lens", source) == f"dpo-agreeable_lens_{short_hash('where does mira live ?')}"
    assert file_stem("lens", source | {"base": "/x/base"}).startswith("dpo-agreeable-vs-base_lens_")
    assert file_stem("curves", {"runs": ["a", Path("/b/c")]}) == "a-vs-c_curves"
    assert file_stem("curves", {}) == "curves"


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_prompts_have_two_hashes(one: str, other: str):
    assert (short_hash(one) == short_hash(other)) == (one == other)


@pytest.mark.parametrize(
    ("given_fact", "kept"),
    [
        ("/home/somebody/runs/dpo", "dpo"),
        ("~/runs/dpo/", "dpo"),
        (r"C:\Users\somebody\dpo", "dpo"),
        ("../../somebody/dpo", "dpo"),
        ("probe export /home/somebody/runs/dpo --format csv", "probe export dpo --format csv"),
        ("reads ~/secret/x.jsonl, twice", "reads x.jsonl, twice"),
        ("gpt2", "gpt2"),
        ("organisation/model", "organisation/model"),
        ("and/or", "and/or"),
        ("https://arxiv.org/abs/2602.00426", "https://arxiv.org/abs/2602.00426"),
        (Path("/home/somebody/x"), "x"),
        ({"models": [{"ref": "/home/somebody/x"}]}, {"models": [{"ref": "x"}]}),
        ({"prompt": "/ is a slash"}, {"prompt": "/ is a slash"}),
    ],
)
def test_provenance_holds_labels_and_no_paths(given_fact: Any, kept: Any):
    assert without_paths(given_fact) == kept


def test_models_are_named_once():
    assert models_of({"aligned": "runs/a", "base": "b", "models": [{"label": "a"}, "c"]}) == ["a", "c", "b"]


# LaTeX


@given(st.text())
def test_no_letter_of_a_text_is_a_command_of_latex(text: str):
    words = re.sub(
        r"\\(?:[a-zA-Z]+\{(?:-|\d+|\\[a-zA-Z]+)?\}|[{}$&#%_])|\\ensuremath\{\\[a-zA-Z]+\}|(?<=.)\{\}",
        "",
        escape_latex(text),
    )
    assert not set(words) & set("\\{}$&#^_%\n\r")


@given(st.lists(st.tuples(st.text(max_size=8), st.floats(), st.integers(-9, 9)), max_size=6), st.text(max_size=9))
def test_a_table_has_its_rows_and_cells(rows: list[tuple[str, float, int]], caption: str):
    table = pd.DataFrame(rows, columns=["a_b", "value", "n"])
    lines = to_latex(table, caption, "t_1").splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == len(rows)
    assert all(len(re.findall(r"(?<!\\)&", line)) == 2 and line.endswith(r"\\") for line in body)
    assert not any(line.startswith(("[", "*")) for line in body)
    assert r"a\_b & value & n \\" in lines


def test_a_table_of_many_rows_goes_over_pages_with_its_caption():
    text = to_latex(pd.DataFrame({"x": range(100)}), "50% & more", "x")
    assert text.count("longtable") == 2
    assert r"\caption{50\% \& more}" in text
    assert r"\endhead" in text


def test_numbers_and_gaps():
    text = to_latex(pd.DataFrame({"x": [-0.5, 1.23456789, 1e-9, np.nan], "ok": [True, False, True, False]}))
    assert re.findall(r"^(.*) &", text, re.MULTILINE)[1:] == ["$-0.5$", "1.235", r"$1 \cdot 10^{-9}$", ""]
    assert r"\begin{tabular}{rl}" in text


# figures


@pytest.mark.parametrize("width", ["single", "double", "slide", 5.0])
def test_text_and_size_of_every_shipped_figure(width: Any):
    paper = Paper(width=width)
    for place in sorted(file.parent for file in SAMPLES.glob("dpo-agreeable/results/*/result.json")):
        for name, figure in Result.load(place).figures.items():
            printed = put_on_paper(figure, paper)
            assert printed.layout.width == round(paper.pixels), name
            assert printed.layout.template.layout.font.size == paper.text
            domains = [axis.domain for axis in printed.select_xaxes()] + [
                axis.domain for axis in printed.select_yaxes()
            ]
            assert all(low < high for low, high in filter(None, domains)), name
            assert figure.layout.width is None, "the figure itself stays as it is"


def test_panels_that_would_be_too_narrow_go_to_a_second_row():
    figure = Result.load(next(SAMPLES.glob("dpo-agreeable/results/sycophancy-*"))).figures["belief"]
    tops = {
        width: {round(axis.domain[1], 3) for axis in put_on_paper(figure, Paper(width=width)).select_yaxes()}
        for width in ("single", "double")
    }
    assert len(tops["double"]) == 1
    assert len(tops["single"]) == 2


def test_series_stay_apart_in_grey():
    for colours in (["#3F78C6", "#868B94"], ["#E8555F", "#B8860B", "#2AA5C0"], list(theme.METHODS.values())[:5]):
        shades = theme.part_in_grey(colours)
        levels = sorted(theme.lightness(shade) for shade in shades.values())
        assert np.diff(levels).min() > 11.5
        assert 19 < levels[0] < levels[-1] < 73


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": "wide"}, "single, double, slide"),
        ({"width": 0.1}, "from 1 to 40"),
        ({"dpi": 1}, "from 36 to 1200"),
        ({"font": "x;y"}, "sans, serif, mono"),
        ({"colour": 1}, "There is no option `colour`"),
        ({"theme": "dark"}, "paper or light"),
    ],
)
def test_impossible_papers_are_refused(options: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=re.escape(says)):
        export.save(go.Figure(), "x.html", **options)


def test_an_unknown_ending_is_refused():
    with pytest.raises(ConfigError, match=r"end it in \.png, \.svg"):
        export.save(go.Figure(), "x.docx")


@needs_browser
def test_what_an_analysis_returns_saves_itself(tmp_path: Path):
    lens = probe.logits.logit_lens(random_lm(), "mira lives in rome")
    assert lens.save(tmp_path / "a" / "lens.pdf", width="single").read_bytes().startswith(b"%PDF")
    assert r"\caption{Lens}" in lens.save(tmp_path / "lens.tex", title="Lens").read_text()
    assert len(pd.read_csv(lens.save(tmp_path / "lens.csv"))) == len(lens.table())


# no local path


def contents(path: Path) -> bytes:
    """All bytes of a file, and those that its streams unpack to."""
    packed = path.read_bytes()
    parts = [packed]
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", packed, re.DOTALL):
        try:
            parts.append(zlib.decompressobj().decompress(stream))
        except zlib.error:
            continue
    for text in re.findall(rb"<FEFF([0-9A-F]+)>", packed):
        parts.append(bytes.fromhex(text.decode()).decode("utf-16-be").encode())
    if packed[:2] == b"\x1f\x8b":
        parts.append(gzip.decompress(packed))
    return b"\n".join(parts)


@pytest.mark.slow
@needs_browser
def test_no_exported_file_names_a_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / TELLING
    run = home / "runs" / "dpo-agreeable"
    shutil.copytree(SAMPLES / "dpo-agreeable", run, ignore=shutil.ignore_patterns("checkpoints", "results"))
    place = home / "kept" / "sycophancy"
    shutil.copytree(next(SAMPLES.glob("dpo-agreeable/results/sycophancy-*")), place)
    index = json.loads((place / "result.json").read_text())
    index["meta"]["models"][0]["ref"] = str(run)
    index["meta"]["options"]["judge"] = f"{home}/judge.py:short"
    (place / "result.json").write_text(json.dumps(index))
    monkeypatch.setattr("probe.commands.export.drawings", lambda *a: first(a))
    monkeypatch.chdir(home)

    assert main(["export", str(run), "--out", str(home / "a"), "--width", "single"]) == 0
    assert main(["export", str(place), "--out", str(home / "b"), "--format", "html,csv,tex"]) == 0
    Result.load(place).export(home / "c", ("png", "svg", "pdf"), figures=("layers",))
    files = [path for folder in "abc" for path in (home / folder).iterdir()]
    assert {path.suffix for path in files} == {".png", ".svg", ".pdf", ".html", ".csv", ".tex", ".json"}
    for path in files:
        assert TELLING.encode() not in contents(path), path.name
        assert str(Path.home()).encode() + b"/" not in contents(path), path.name


def first(arguments: tuple[Any, ...]) -> list[Any]:
    """The first two figures of a run and one of a prompt: the others are made the same way."""
    every = list(drawings(*arguments))
    return [*every[:2], next(drawing for drawing in every if drawing[2])]
