"""Files of figures: every format, provenance inside, and one sentence where something is missing."""

import errno
import html
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from probe.commands.export import export as run_export
from probe.errors import ConfigError, MissingToolError, RunError
from probe.plotting import export
from probe.plotting import export as render
from probe.plotting.names import file_name
from probe.plotting.paper import Paper
from probe.runs import RunWriter
from probe.runs.schema import ProbePrompt

DATA = pd.DataFrame({"x": [0, 1], "y": [1.5, 2.5], "token": ["a,b", "<b>"]})
SOURCE = {"figure": "<f> & \u00fc", "run": "base"}

needs_browser = pytest.mark.skipif(
    render.missing() is not None and not os.environ.get("CI"), reason="Chromium is not installed."
)


@pytest.fixture(scope="module")
def figure() -> go.Figure:
    return go.Figure(go.Scatter(x=[0, 1], y=[1.5, 2.5])).update_layout(height=200)


@pytest.fixture(scope="module", autouse=True)
def close():
    yield
    render.renderer.close()


@needs_browser
@pytest.mark.parametrize(("width", "dpi"), [("single", 300), ("double", 150), (2.5, 600)])
def test_png_has_the_asked_size_and_its_provenance(figure: go.Figure, width: Any, dpi: int):
    paper = Paper(width=width, height=2, dpi=dpi)
    image = Image.open(io.BytesIO(export.render(figure, None, "png", SOURCE, paper=paper)))
    image.load()
    assert image.size == pytest.approx((paper.inches * dpi, 2 * dpi), abs=dpi / 96)
    assert image.info["dpi"] == pytest.approx((dpi, dpi), abs=0.02)
    assert json.loads(image.text["provenance"]) == SOURCE


@needs_browser
@pytest.mark.parametrize("width", ["single", "double", "slide"])
def test_svg_and_pdf_have_the_asked_width(figure: go.Figure, width: Any):
    paper = Paper(width=width)
    root = ElementTree.fromstring(export.render(figure, None, "svg", SOURCE, paper=paper))
    assert float(root.attrib["width"].removesuffix("in")) == pytest.approx(paper.inches, abs=1e-4)
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", export.render(figure, None, "pdf", SOURCE, paper=paper))
    assert float(box[1]) / 72 == pytest.approx(paper.inches, abs=0.02)
    assert width != "slide" or float(box[2]) / 72 == pytest.approx(7.5, abs=0.02)


@needs_browser
def test_text_has_the_asked_size_and_a_pdf_holds_its_font():
    named = go.Figure(go.Scatter(x=[0, 1], y=[1.5, 2.5])).update_layout(xaxis_title="here", template="none")
    paper = Paper(width="single", font_size=9, font="serif")
    text = export.render(named, None, "svg", SOURCE, paper=paper).decode()
    style = re.search(r'class="xtitle"[^>]*style="([^"]*)"', text)[1]
    assert float(re.search(r"font-size: ([\d.]+)px", style)[1]) * 72 / 96 == pytest.approx(9)
    assert "Times" in style
    pdf = export.render(named, None, "pdf", SOURCE, paper=paper)
    fonts = re.findall(rb"/BaseFont /(\S+)", pdf)
    assert fonts
    assert all(re.match(rb"[A-Z]{6}\+", font) for font in fonts), "a subset has six letters before its name"
    assert b"/FontFile2" in pdf or b"/FontFile3" in pdf or b"/CharProcs" in pdf


@needs_browser
def test_svg_is_well_formed_and_holds_its_provenance(figure: go.Figure):
    root = ElementTree.fromstring(export.render(figure, None, "svg", SOURCE))
    assert json.loads(root.findtext("{http://www.w3.org/2000/svg}metadata")) == SOURCE


@needs_browser
def test_pdf_names_its_provenance_and_stays_consistent(figure: go.Figure):
    pdf = export.render(figure, None, "pdf", SOURCE)
    assert pdf.startswith(b"%PDF")
    table = int(re.findall(rb"startxref\s+(\d+)", pdf)[-1])
    assert pdf[table:].startswith(b"xref")
    number, offset = (int(part) for part in re.match(rb"xref\n(\d+) 1\n(\d{10}) 00000 n", pdf[table:]).groups())
    assert pdf[offset:].startswith(b"%d 0 obj" % number)
    text = bytes.fromhex(re.search(rb"/Subject <FEFF([0-9A-F]+)>", pdf)[1].decode()).decode("utf-16-be")
    assert json.loads(text) == SOURCE


@needs_browser
def test_a_second_image_does_not_wait_for_a_browser(figure: go.Figure):
    export.render(figure, None, "png")
    browser = render.renderer._kaleido
    assert browser is not None
    export.render(figure, None, "png")
    assert render.renderer._kaleido is browser


@needs_browser
def test_after_an_impossible_figure_the_next_one_works(figure: go.Figure):
    with pytest.raises(MissingToolError, match="use HTML"):
        render.renderer.image({"data": 3}, "png", 100, 100, 1)
    assert export.render(figure, None, "png").startswith(b"\x89PNG")


def test_html_needs_no_network_and_no_browser(figure: go.Figure, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(render, "find_browser", lambda: None)
    page = export.render(figure, None, "html", SOURCE).decode()
    assert not re.search(r"<script[^>]+src=", page)
    assert "<title>&lt;f&gt; &amp;" in page
    assert json.loads(html.unescape(re.search(r'name="provenance" content="([^"]*)"', page)[1])) == SOURCE


@pytest.mark.parametrize("name", ["f.html", "f.csv"])
def test_a_file_that_could_not_be_written_leaves_the_older_one(
    figure: go.Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """The disk is full when the file should be on it."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = export.save(figure, tmp_path / name, DATA)
    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"could not be written \(No space left on device\): free some space"):
        export.save(figure, file, DATA.assign(y=0.0), title="newer")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_csv_reads_back(figure: go.Figure):
    back = pd.read_csv(io.BytesIO(export.render(figure, DATA, "csv")))
    pd.testing.assert_frame_equal(back, DATA, check_dtype=False)


def test_without_a_browser_an_image_says_what_to_install(figure: go.Figure, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(render, "find_browser", lambda: None)
    with pytest.raises(MissingToolError, match=r"apt install chromium.*HTML and CSV work without"):
        export.render(figure, DATA, "png")


def test_a_browser_that_is_named_and_missing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chrome")
    assert render.find_browser() is None or render.find_browser().is_file()


@pytest.mark.parametrize("text", ["", "png,gif", "docx"])
def test_unknown_formats(text: str):
    with pytest.raises(ConfigError, match="png, svg, pdf, html, csv, tex"):
        export.parse_formats(text)


def test_formats_are_read_once_each():
    assert export.parse_formats(" PNG, csv,png") == ["png", "csv"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a b/c", "a-b-c"),
        ("../../etc", "etc"),
        ("<img>", "img"),
        ("\u00e4", "figure"),
        ("x" * 200, "x" * 80),
        ("CON", "figure-CON"),
    ],
)
def test_names_become_file_names(name: str, file: str):
    assert file_name(name) == file


NOTE = "The answer is the completion of this prompt in the data."


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunWriter.create(tmp_path / "runs" / "base", method="pretrain", config={}) as run:
        for step in range(3):
            run.log(step, {"loss": 3.0 - step, "rewards/chosen": 0.1 * step})
        tokens = ["<bos>", "<b>x</b>"]
        answers: dict[str, Any] = {"answers": [" a"], "answer_ids": [1], "note": NOTE}
        run.prompts([ProbePrompt(id="fact", text="x", token_ids=[0, 1], tokens=tokens, **answers)])
        run.capture(
            2,
            {
                "attention": np.full((1, 1, 2, 2, 2), 0.5),
                "lens_top_ids": np.zeros((1, 2, 2, 5)),
                "lens_top_logprobs": np.full((1, 2, 2, 5), -1.6),
                "lens_answer_logprobs": np.full((1, 2, 2, 1), -1.0),
                "entropy": np.ones((1, 2)),
                "margin": np.ones((1, 2)),
                "residual_norm": np.ones((1, 2, 2)),
            },
        )
        run.finish("finished", headline=[{"metric": "accuracy", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 10}])
    return tmp_path / "runs" / "base"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "probe.cli", "export", *arguments], capture_output=True, text=True)


def test_the_command_writes_curves_attention_and_lens(run: Path, tmp_path: Path):
    out = tmp_path / "out"
    result = command(str(run), "--format", "html,csv,tex", "--out", str(out))
    assert result.returncode == 0, result.stderr
    names = {"metrics-loss", "metrics-rewards", "headline"}
    names |= {f"{name}_2d7116" for name in ("attention-fact-step-2", "lens-fact-step-2", "answers-fact")}
    assert {path.name for path in out.iterdir()} == {f"base_{n}.{e}" for n in names for e in ("html", "csv", "tex")} | {
        "provenance.json"
    }
    assert list(pd.read_csv(out / "base_metrics-loss.csv")["loss"]) == [3, 2, 1]
    weights = pd.read_csv(out / "base_attention-fact-step-2_2d7116.csv")
    assert len(weights) == 2 * 3
    for end in ("html", "tex"):  # which answers are followed: in the provenance, and in the caption
        assert NOTE in (out / f"base_answers-fact_2d7116.{end}").read_text()
        assert NOTE not in (out / f"base_lens-fact-step-2_2d7116.{end}").read_text()
    record = json.loads((out / "provenance.json").read_text())
    assert record["run"] == "base"
    assert "base_metrics-loss.csv" in record["files"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "gif"], "png, svg, pdf, html, csv, tex"),
        (["--format", "csv", "--step", "7"], "Step 7"),
    ],
)
def test_mistakes_are_one_sentence(run: Path, tmp_path: Path, arguments: list[str], says: str):
    result = command(str(run), *arguments, "--out", str(tmp_path / "out"))
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_run_is_named(tmp_path: Path):
    with pytest.raises(RunError, match="no run"):
        run_export(["nothing-here", "--format", "csv", "--out", str(tmp_path)])
