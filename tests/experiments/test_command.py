"""`probe experiment` and `probe export RESULT` as a user meets them."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from probe import plugins
from probe.cli import main
from probe.commands import export as exporting
from probe.commands import progress
from probe.commands.experiment import table
from probe.commands.tables import fit_table
from probe.errors import RunError
from probe.experiments.result import Result
from probe.experiments.slices import ONES, Slice, keep_slice
from probe.runs import RunWriter
from tests.models import random_lm
from tests.places import SAMPLES
from tests.terminal import in_terminal

PLUGIN = '''
"""A plugin."""
import pathlib

import pandas as pd
import plotly.graph_objects as go
import probe

def draw(result):
    return {"bars": go.Figure(go.Bar(x=result.models, y=[1] * len(result.models)))}

@probe.experiment("width", title="How wide", metrics=[probe.Mean("norm"), probe.Share("long")], draw=draw,
                  say=lambda result: f"The norm of {result.models[0]} is {result.value('norm'):.3f}.")
def width(lm, *, n: int = 6, seed: int = 0, scale: float = 1.0):
    """Norms of rows of the unembedding.

    Args:
        scale: by which they are multiplied.
    """
    calls = pathlib.Path("calls")
    calls.write_text((calls.read_text() if calls.exists() else "") + "x")
    norms = lm.model.get_output_embeddings().weight[:n].norm(dim=1).detach().numpy() * scale
    items = pd.DataFrame({"item": [f"row-{i}" for i in range(n)], "norm": norms, "long": norms > norms.mean()})
    return probe.Evidence(items, {"curve": pd.DataFrame({"x": [0, 1], "value": [1.0, 2.0]})})
'''


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    with plugins.aside():
        yield


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return str(tmp_path / "mine.py")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs `base` and `other`."""
    for seed, name in enumerate(("base", "other")):
        with RunWriter.create(tmp_path / "runs" / name, method="dpo", config={}) as run, run.checkpoint(1) as folder:
            random_lm(seed=seed).save(folder)
    return tmp_path / "runs"


def printed(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(["experiment", *words]) == status
    found = capsys.readouterr()
    return found.err if status else found.out


@pytest.mark.slow
def test_the_table_and_what_is_saved(plugin: str, runs: Path):
    words = ["width", "--plugin", plugin, "--model", "runs/base", "--baseline", "runs/other", "--n", "4"]
    status, said = in_terminal(["experiment", *words], columns=140)
    assert status == 0, said
    result = Result.load(next((runs / "base" / "results").glob("width-*")))
    assert "How wide" in said
    assert "difference" in said
    folders = sorted(runs.glob("*/results/width-*"))
    assert len(folders) == 3  # each model, and both together
    both = next(found for found in map(Result.load, folders) if len(found.models) == 2)
    assert both.models == ["base", "other"]
    assert f"{both.value('norm'):.4g}" in said
    assert both.finding in " ".join(said.split())
    assert "Saved in" in said
    assert "bars" in result.figures


def test_a_program_reads_values(plugin: str, runs: Path, capsys: pytest.CaptureFixture[str]):
    words = ["width", "--plugin", plugin, "--model", "runs/base", "--baseline", "runs/other", "--n", "9"]
    assert main(["experiment", *words]) == 0
    captured = capsys.readouterr()
    table = pd.read_csv(io.StringIO(captured.out), sep="\t")
    both = next(found for found in map(Result.load, runs.glob("*/results/width-*")) if len(found.models) == 2)
    assert table["metric"].tolist() == ["norm", "long"]
    assert table["value"][0] == both.value("norm")
    assert table["difference_low"][0] == both.summary["difference_low"][0]
    assert both.finding in captured.err
    assert "Saved in" in captured.err


def test_models_of_a_repeated_option_are_all_there(plugin: str, runs: Path, capsys: pytest.CaptureFixture[str]):
    models = ["--model", "runs/base", "--also", "runs/other", "--also", "base", "runs/other@1"]
    told = json.loads(printed(capsys, "width", "--plugin", plugin, *models, "--json"))
    assert len(told["summaries"]) == 4


def test_slices_are_compared_on_request(plugin: str, runs: Path, capsys: pytest.CaptureFixture[str]):
    words = ["width", "--plugin", plugin, "--model", "runs/base", "--baseline", "runs/other", "--n", "9", "--slices"]
    assert "No slice is kept in `results/slices/width.json`" in printed(capsys, *words, status=2)
    keep_slice("width", Slice("long rows", show=ONES, metric="long", model="base"))
    told = json.loads(printed(capsys, *words, "--json"))
    assert {(row["slice"], row["metric"], row["model"]) for row in told["slices"]} == {
        ("long rows", "norm", "other"),
        ("long rows", "norm", "base"),
    }
    assert "selected by the outcome" in told["slices_notes"][0]
    assert main(["experiment", *words]) == 0
    captured = capsys.readouterr()
    numbers, _, compared = captured.out.partition("\n\n")
    assert pd.read_csv(io.StringIO(numbers), sep="\t")["metric"].tolist() == ["norm", "long"]
    rows = pd.read_csv(io.StringIO(compared), sep="\t")
    assert rows["value"].tolist() == [row["value"] for row in told["slices"]]
    assert "selected by the outcome" in captured.err


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_names_are_whole_on_narrow_terminals(capsys: pytest.CaptureFixture[str], width: int):
    name = "a_metric_with_a_name_that_is_longer_than_a_column"
    row = {"metric": name, "value": 0.123456, "ci_low": 0.1, "ci_high": 0.2, "n": 1000}
    summary = pd.DataFrame([row | {f"baseline{end}": 0.3 for end in ("", "_low", "_high")}])
    gap = {"difference": [-0.1], "difference_low": [float("nan")], "difference_high": [float("nan")]}
    console = Console(width=width)
    made = table(Result("p", summary.assign(**gap), summary, meta={"title": "[red]x", "baseline": "reward-agreeable"}))
    console.print(fit_table(made, console))
    said = capsys.readouterr().out
    assert "…" not in said
    for part in ("[red]x", name, "reward-agreeable", "difference", "0.12", "[0.10,", "0.20]", "1,000"):
        assert part in said, part
    assert max(map(len, said.splitlines())) <= width


def test_a_person_reads_titles_and_rates_in_percent(capsys: pytest.CaptureFixture[str]):
    """Of a built-in experiment; the last column has the names that files and code have."""
    row = {"metric": "deferral_exact", "value": 0.3288, "ci_low": 0.3, "ci_high": 0.36, "n": 400}
    summary = pd.DataFrame([row | {f"baseline{end}": 0.5 for end in ("", "_low", "_high")}])
    gap = {"difference": [-0.1712], "difference_low": [-0.2], "difference_high": [-0.14]}
    made = table(Result("sycophancy", summary.assign(**gap), summary, meta={"baseline": "base"}))
    Console(width=160).print(made)
    said = capsys.readouterr().out
    for part in (
        "false claim: repeated (exact)",
        "33 % [30, 36]",
        "\u221217 pp [\u221220, \u221214]",
        "deferral_exact",
    ):
        assert part in said, part


def test_json_is_one_object(plugin: str, runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    words = ["width", "--plugin", plugin, "--model", "runs/base", "--json", "--out", str(tmp_path / "out")]
    told = json.loads(printed(capsys, *words), parse_constant=pytest.fail)
    assert told["name"] == "width"
    assert told["saved"] == str(tmp_path / "out")
    found = Result.load(tmp_path / "out")
    assert told["summary"][0]["value"] == found.value("norm")
    assert told["meta"]["models"][0]["label"] == "base"
    assert told["meta"]["origin"] == plugin


def test_a_stored_result_is_printed_at_once(plugin: str, runs: Path, capsys: pytest.CaptureFixture[str]):
    words = ["width", "--plugin", plugin, "--model", "runs/base", "--json"]
    made = [json.loads(printed(capsys, *words, *more))["meta"] for more in ([], [], ["--again"], ["--scale", "2"])]
    assert made[0] == made[1]
    assert Path("calls").read_text() == "xxx"
    assert made[2]["key"] == made[0]["key"]
    assert made[3]["key"] != made[0]["key"]
    assert made[3]["options"] == {"scale": 2.0}


def test_results_of_a_model_that_is_no_run_lie_in_the_working_folder(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    random_lm().save(tmp_path / "models" / "mine")
    told = json.loads(printed(capsys, "width", "--plugin", plugin, "--model", "models/mine", "--json"))
    assert Path(told["saved"]).parent == Path("results") / "mine"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["models", "results"]
    assert main(["export", told["saved"], "--out", "figures", "--format", "html,csv"]) == 0
    assert len(list((tmp_path / "figures").glob("mine_width-summary_*.csv"))) == 1


def test_help_of_all_and_of_one(plugin: str, capsys: pytest.CaptureFixture[str]):
    assert "width        How wide" in printed(capsys, "--plugin", plugin)
    with pytest.raises(SystemExit) as ended:
        main(["experiment", "width", "--help", "--plugin", plugin])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "Norms of rows of the unembedding.",
        "by which they are multiplied.",
        "--baseline",
        "--again",
        "--out",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["widht"], "did you mean `width`?"),
        (["width"], "`probe experiment width` needs --model"),
        (["width", "--model", "runs/base", "--scael", "2"], "did you mean `--scale`?"),
        (["width", "--model", "runs/base", "--scale", "two"], "--scale"),
        (["width", "--model", "runs/absent"], "runs/absent"),
        (["width", "--model", "runs/base", "--baseline", "runs/absent"], "runs/absent"),
        (["width", "--model", "runs/base", "--n", "0"], "n=0; expected a whole number from 1 on"),
        (["width", "--model", "runs/base", "--out", "runs/base"], "holds something other than a result"),
        (["width", "--plugin"], "`--plugin` stands without a file"),
        (["width", "--plugin", "absent.py"], "`absent.py` is not a Python file"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], message: str, plugin: str, runs: Path, capsys: pytest.CaptureFixture[str]
):
    said = printed(capsys, f"--plugin={plugin}", *words, status=2)
    said = said.removeprefix("probe: model `runs/base` is ./runs/base/checkpoints/00000001\n")  # the other is asked for
    assert said.startswith("probe: error: ")
    assert said.count("\n") == 1
    assert message in said
    assert not list(runs.glob("*/results"))


def test_options_that_the_command_has_itself(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("out", "check"):
        code = f"import probe\n@probe.experiment('{name}s')\ndef f(lm, *, {name}: int = 1):\n    ...\n"
        (tmp_path / f"{name}.py").write_text(code)
        said = printed(capsys, f"{name}s", "--plugin", f"{name}.py", "--model", "runs/base", status=2)
        assert f"`{name}` of the experiment `{name}s` has the name" in said


def test_options_are_checked_without_a_model(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert not printed(capsys, "sycophancy", "--model", "runs/none", "--check")
    assert "no option `--m`" in printed(capsys, "sycophancy", "--model", "runs/base", "--m", "1", "--check", status=2)
    assert not list(runs.glob("*/results"))


def test_a_result_that_cannot_be_saved_is_printed(
    plugin: str, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def full(self: Result, directory: Path) -> Path:
        raise RunError("The disk is full: free some space.")

    words = ["width", "--plugin", plugin, "--model", "runs/base", "--baseline", "runs/other"]
    printed(capsys, *words)
    monkeypatch.setattr(Result, "save", full)
    assert main(["experiment", *words]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("metric\tvalue")
    assert "Not saved: The disk is full" in captured.err
    assert json.loads(printed(capsys, *words, "--json"))["saved"] is None
    assert "disk is full" in printed(capsys, *words, "--out", "elsewhere", status=2)


@pytest.mark.slow
def test_as_a_process_with_the_environments_plugin(plugin: str, runs: Path):
    environment = os.environ | {"PROBE_PLUGINS": plugin, "PYTHONWARNINGS": "error::FutureWarning"}
    command = [sys.executable, "-m", "probe.cli", "experiment", "width", "--model", "runs/base", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["meta"]["origin"] == plugin
    opened = "probe: model `runs/base` is ./runs/base/checkpoints/00000001\n"
    assert done.stderr == opened  # no bar where nobody looks, and no line in the first seconds


def test_progress_is_told_in_plain_lines_where_no_bar_can_be_drawn(
    plugin: str, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    words = ["width", "--plugin", plugin, "--model", "runs/base", "--also", "runs/other", "--json"]
    assert main(["experiment", *words]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["name"] == "width"
    lines = captured.err.splitlines()[2:]  # behind where the models lie
    assert lines[0].startswith("How wide: base, 1 of 2: 50% after 0:00:")
    assert "left" in lines[0]
    assert lines[-1].startswith("How wide: other, 2 of 2: 100% after 0:00:")
    assert "\x1b" not in captured.err


def test_findings_tell_their_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    samples = str(SAMPLES)
    assert main(["findings", "exposure", "reward_agreement", "--n", "4", "--runs", samples]) == 0
    said = capsys.readouterr().err
    assert "Findings: exposure, 1 of 2: 0% after" in said
    assert "Findings: reward_agreement, 2 of 2: 50% after" in said


@pytest.mark.parametrize(
    "module", ["probe.plugins", "probe.world.extensions", "probe.commands.experiment", "trainers.commands"]
)
def test_light_start(module: str):
    heavy = "torch transformers pandas numpy streamlit plotly scipy tyro rich"
    code = f"import sys, {module}; print(*(set('{heavy}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_decorators_are_light():
    code = (
        "import sys, probe\ndef own(lm): ...\n"
        "probe.verifier('a')(own); probe.analysis('b')(own); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# export


@pytest.fixture
def saved(plugin: str, runs: Path, tmp_path: Path) -> Path:
    words = ["--model", "runs/base", "--baseline", "runs/other", "--out", str(tmp_path / "saved")]
    assert main(["experiment", "width", "--plugin", plugin, *words]) == 0
    return tmp_path / "saved"


def test_a_result_is_exported(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(saved), "--format", "html,csv", "--out", "out"]) == 0
    assert capsys.readouterr().out.endswith("4 files in out\n")
    out = tmp_path / "out"
    result = Result.load(saved)
    key = result.meta["key"][:6]
    names = {
        name: f"base-vs-other_width-{name.replace('.', f'_{key}.')}"
        for name in ("bars.html", "summary.csv", "items.csv", "table-curve.csv")
    }
    assert {path.name for path in out.iterdir()} == {*names.values(), "provenance.json"}
    pd.testing.assert_frame_equal(pd.read_csv(out / names["summary.csv"]), result.summary, check_dtype=False)
    assert pd.read_csv(out / names["items.csv"])["model"].tolist() == ["base"] * 6 + ["other"] * 6
    source = json.loads((out / "provenance.json").read_text())
    assert source["experiment"] == "width"
    assert source["key"] == result.meta["key"]
    assert source["files"] == list(names.values())
    assert "&quot;key&quot;" in (out / names["bars.html"]).read_text()


def test_items_with_odd_texts_are_exported(tmp_path: Path):
    items = pd.DataFrame({"item": ["a"], "answer": pd.Series(["\ud800\n,"], dtype=object)})
    summary = pd.DataFrame({"metric": ["x"], "value": [1.0]})
    made = Result("p", summary, items, {"items": items, "table items": items}).export(tmp_path, ["csv"])
    assert len({path.name for path in made}) == 4
    assert pd.read_csv(tmp_path / "p-items.csv")["answer"].tolist() == ["\ufffd\n,"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["saved", "--out", "o", "--step", "3"], "--step was given for the result of an experiment"),
        (["saved", "--out", "o", "--format", "gif"], "The format gif was requested"),
        (["nothing", "--out", "o"], "nothing"),
    ],
)
def test_exports_that_cannot_be(words: list[str], message: str, saved: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main(["export", *words]) == 2
    assert message in capsys.readouterr().err


def test_pictures_of_a_result(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from probe.plotting.export import missing

    if missing():
        pytest.skip("Chromium is not installed.")
    assert main(["export", str(saved), "--format", "png", "--out", "out"]) == 0
    assert next((tmp_path / "out").glob("*width-bars*.png")).read_bytes().startswith(b"\x89PNG")
    assert exporting.__doc__
