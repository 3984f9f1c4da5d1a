"""What the reader promises: the newest value, the rows that count, broken files named, names looked up."""

import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probe
from probe.errors import RunError
from probe.runs import RunWarning, list_runs, open_run, roots
from tests.runs.conftest import HEADLINE, Make


def write_run(path: Path, **meta: object) -> Path:
    path.mkdir(parents=True)
    record = {"schema": 1, "method": "pretrain", "created": "2026-01-01T00:00:00+00:00", "status": "finished"} | meta
    (path / "run.json").write_text(json.dumps(record))
    return path


def test_the_newest_value_wins(make: Make):
    writer = make()
    writer.log(2, {"loss": 3.0, "lr": 0.1})
    writer.log(1, {"loss": 4.0})
    writer.log(2, {"loss": 2.0, "eval_loss": 2.5})
    writer.log(2, {"lr": float("nan")})
    frame = open_run(writer.path).metrics()
    assert list(frame.columns) == ["step", "time", "loss", "lr", "eval_loss"]
    assert list(frame["step"]) == [1, 2]
    assert list(frame.index) == [0, 1]
    assert frame["loss"].tolist() == [4.0, 2.0]
    assert frame["lr"].isna().all()
    assert frame["eval_loss"].tolist()[1] == 2.5
    assert all(kind.kind in "if" for kind in frame.dtypes)


def test_a_run_that_is_being_written_grows(make: Make):
    writer = make()
    run = open_run(writer.path)
    assert run.metrics().empty
    assert list(run.metrics().columns) == ["step", "time"]
    for step in range(3):
        writer.log(step, {"loss": 1.0})
        writer.rollouts([{"step": step, "prompt": "p", "completion": "c"}])
        writer.capture(step, {"x": np.zeros(2)})
        assert (len(run.metrics()), len(run.rollouts()), len(run.captures())) == (step + 1,) * 3
    with open(writer.path / "metrics.jsonl", "a") as file, warnings.catch_warnings():
        warnings.simplefilter("error")
        file.write('{"step": 3, ')
        file.flush()
        assert len(run.metrics()) == 3
        file.write('"loss": 7}\n')
        file.flush()
        assert run.metrics()["loss"].tolist() == [1, 1, 1, 7]
    assert run.status == "running"
    writer.finish()
    assert run.status == "finished"


def test_reading_again_equals_reading_afresh(make: Make):
    writer = make()
    run = open_run(writer.path)
    rng = np.random.default_rng(0)
    for _ in range(60):
        writer.log(int(rng.integers(20)), {str(rng.choice(["a", "b"])): float(rng.normal())})
        if rng.random() < 0.3:
            pd.testing.assert_frame_equal(run.metrics(), open_run(writer.path).metrics(), check_like=True)


def test_a_replaced_file_is_read_from_its_start(make: Make):
    writer = make()
    for step in range(5):
        writer.log(step, {"loss": 1.0})
    writer.finish()
    run = open_run(writer.path)
    assert len(run.metrics()) == 5
    (writer.path / "new").write_text('{"step": 9, "time": 1, "loss": 0.5}\n')
    os.replace(writer.path / "new", writer.path / "metrics.jsonl")
    assert run.metrics()["step"].tolist() == [9]


@pytest.mark.parametrize("torn", ['{"step": 1, "lo', "{", '{"step": 1, "loss": 2', "\x00\x00\x00"])
def test_a_torn_last_line_is_left_out(make: Make, torn: str):
    writer = make()
    writer.log(0, {"loss": 1.0})
    writer.finish("failed")
    with open(writer.path / "metrics.jsonl", "a") as file:
        file.write(torn)
    with pytest.warns(RunWarning, match=r"last line \(2\) of .*metrics.jsonl` was not finished"):
        assert len(open_run(writer.path).metrics()) == 1


def test_a_whole_last_line_without_its_end_counts(make: Make):
    writer = make()
    writer.finish()
    (writer.path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}')
    run = open_run(writer.path)
    assert len(run.metrics()) == 1
    with open(writer.path / "metrics.jsonl", "a") as file:
        file.write('\n\n{"step": 1, "loss": 1.0}\nbroken\n')
    with pytest.warns(RunWarning, match="Line 4 of"):
        assert len(run.metrics()) == 2


@pytest.mark.parametrize("broken", ['{"step": 1, "lo', "[1]", '{"step":1},{"step":2}', "[" * 100_000, "\udcff"])
def test_a_broken_line_is_named_by_its_number(make: Make, broken: str):
    writer = make()
    writer.log(0, {"loss": 1.0})
    writer.finish()
    with open(writer.path / "metrics.jsonl", "a", errors="surrogateescape") as file:
        file.write(f'{broken}\n{{"step": 2, "loss": 2.0}}\n')
    with pytest.warns(RunWarning, match=r"^Line 2 of .*metrics.jsonl` is broken and is left out") as caught:
        assert open_run(writer.path).metrics()["step"].tolist() == [0, 2]
    assert len(caught) == 1


def test_a_line_without_a_step_is_counted(make: Make):
    writer = make()
    writer.finish()
    (writer.path / "metrics.jsonl").write_text('{"loss": 1}\n{"step": "3"}\n{"step": 1, "loss": "high"}\n')
    with pytest.warns(RunWarning, match="2 lines of .* have no step"):
        frame = open_run(writer.path).metrics()
    assert frame["loss"].isna().tolist() == [True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ('{"schema": 1, "met', "is cut short"),
        ("[]", "is not the record of a run"),
        ('{"schema": 1}', "is not the record of a run"),
        ('{"schema": 2, "method": "x"}', "has schema 2 and this version of Probe reads up to 1: read it with"),
        ('{"schema": 1, "method": "x", "created": 7}', "damaged entry `created`"),
        ('{"schema": 1, "method": "x", "heartbeat": "now"}', "damaged entry `heartbeat`"),
        ('{"schema": 1, "method": "x", "headline": [{"metric": "a", "value": "b"}]}', "damaged entry `headline`"),
    ],
)
def test_a_broken_record_is_one_sentence(tmp_path: Path, text: str, says: str):
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.json").write_text(text)
    with pytest.raises(RunError) as caught:
        open_run(path)
    message = str(caught.value)
    assert says in message
    assert str(path) in message
    assert message.endswith((".", "probe-lm`."))
    with pytest.warns(RunWarning, match=f"`{path}` is left out") as warned:
        assert list_runs(tmp_path) == []
    assert len(warned) == 1


@pytest.mark.parametrize("value", ["[1]", '{"a": 1}', "1" + "0" * 400, '"x"', "null", "NaN", "-Infinity"])
def test_a_value_that_is_no_number_is_nan(make: Make, value: str):
    writer = make()
    writer.finish()
    lines = f'{{"step": 0, "a": {value}, "b": 1}}\n{{"step": 1, "a": 2.5, "b": true}}\n{{"step": {10**30}}}\n'
    (writer.path / "metrics.jsonl").write_text(lines)
    with pytest.warns(RunWarning, match="1 lines of .* have no step"):
        frame = open_run(writer.path).metrics()
    assert not np.isfinite(frame["a"][0])
    assert frame["a"][1] == 2.5
    assert frame["b"].tolist() == [1, 1]


@pytest.mark.parametrize("ref", ["", "x\x00y", "~nobody/x", "x" * 5000, "a/../b", "../base", "/"])
def test_odd_names_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str):
    write_run(tmp_path / "base")
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "here"))
    monkeypatch.chdir(tmp_path / "here")
    if ref == "../base":
        assert open_run(ref).name == "base"
    else:
        with pytest.raises(RunError):
            open_run(ref)


def test_a_link_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_run(tmp_path / "elsewhere" / "long-name")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "short").symlink_to(tmp_path / "elsewhere" / "long-name")
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["short"]
    monkeypatch.chdir(tmp_path / "elsewhere" / "long-name")
    assert open_run(".").name == "long-name"


def test_lists_runs_and_skips_the_rest(tmp_path: Path):
    write_run(tmp_path / "b", created="2026-01-02")
    write_run(tmp_path / "a", created="2026-01-03")
    write_run(tmp_path / "c", created="2026-01-01")
    (tmp_path / "notes").mkdir()
    (tmp_path / "make.py").write_text("")
    write_run(tmp_path / ".hidden")
    assert [run.name for run in list_runs(tmp_path)] == ["c", "b", "a"]
    assert [run.name for run in list_runs(tmp_path / "a")] == ["a"]
    with pytest.raises(RunError, match="is not a folder"):
        list_runs(tmp_path / "nowhere")


def test_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PROBE_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    beside = [Path(probe.__file__).resolve().parents[1] / "sample_runs"]
    assert roots() == [path for path in beside if path.is_dir()]
    (tmp_path / "runs").mkdir()
    (tmp_path / "sample_runs").mkdir()
    assert roots()[:2] == [tmp_path / "runs", tmp_path / "sample_runs"]
    monkeypatch.setenv("PROBE_RUNS", os.pathsep.join(["x", "/y", "x", ""]))
    assert roots() == [Path("x"), Path("/y")]


def test_names_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "one" / "base")
    write_run(tmp_path / "two" / "base")
    write_run(tmp_path / "two" / "dpo-honest")
    monkeypatch.setenv("PROBE_RUNS", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    assert open_run("base").path == tmp_path / "one" / "base"
    assert probe.open_run("dpo-honest").path == tmp_path / "two" / "dpo-honest"
    assert [run.name for run in probe.list_runs()] == ["base", "base", "dpo-honest"]
    assert open_run("two/base").name == "base"
    with pytest.raises(RunError, match=r"no run `dpo-onest`.*one.*two.*did you mean `dpo-honest`\?"):
        open_run("dpo-onest")
    with pytest.raises(RunError, match="the runs there are base, dpo-honest"):
        open_run("zzz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match=r"a folder without run\.json"):
        open_run("folder")
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "nowhere"))
    with pytest.warns(RunWarning, match="is not a folder and is left out"):
        assert list_runs() == []
    with pytest.raises(RunError, match="set PROBE_RUNS"):
        open_run("base")


def test_many_runs_are_listed(tmp_path: Path):
    for index in range(250):
        write_run(tmp_path / f"run-{index:03d}", config={"lr": 1e-3, "steps": 100}, headline=HEADLINE)
    assert len(list_runs(tmp_path)) == 250


def test_a_hundred_thousand_lines_are_read(make: Make):
    writer = make()
    names = ["loss", "lr", "grad_norm", "tokens_per_second", "step_time", "num_tokens", "entropy"]
    with open(writer.path / "metrics.jsonl", "w") as file:
        for step in range(100_000):
            file.write(json.dumps({"step": step, "time": step * 0.1} | dict.fromkeys(names, step * 0.123456)) + "\n")
    assert open_run(writer.path).metrics().shape == (100_000, 9)


def test_captures(make: Make):
    writer = make()
    attention = np.random.default_rng(0).random((1, 2, 4, 3, 3))
    writer.capture(10, {"attention": attention})
    writer.capture(0, {"attention": attention * 0})
    writer.finish()
    captures = open_run(writer.path).captures()
    assert (captures.steps, len(captures), captures.prompts) == ([0, 10], 2, [])
    loaded = captures.load(10)["attention"]
    assert loaded.dtype == np.float16
    np.testing.assert_allclose(loaded, attention, atol=1e-3)
    with pytest.raises(RunError, match="the steps are 0, 10"):
        captures.load(5)
    (writer.path / "captures" / "00000010.safetensors").write_bytes(b"short")
    with pytest.raises(RunError, match="is damaged"):
        captures.load(10)
    (writer.path / "captures" / "00000010.safetensors").unlink()
    with pytest.warns(RunWarning, match="is listed and missing"):
        assert open_run(writer.path).captures().steps == [0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "prompts": [{"id": "a"}]}'])
def test_broken_prompts(make: Make, text: str):
    writer = make()
    writer.capture(0, {"x": np.zeros(1)})
    (writer.path / "captures" / "prompts.json").write_text(text)
    with pytest.raises(RunError, match="is damaged"):
        print(open_run(writer.path).captures().prompts)


def test_prompts_of_a_newer_schema(make: Make):
    writer = make()
    writer.capture(0, {"x": np.zeros(1)})
    (writer.path / "captures" / "prompts.json").write_text('{"schema": 2, "prompts": []}')
    with pytest.raises(RunError, match="has schema 2"):
        print(open_run(writer.path).captures().prompts)


def test_a_capture_outside_of_the_run_is_not_read(make: Make, tmp_path: Path):
    """The index is untrusted: a name in it never leads out of the folder."""
    writer = make()
    writer.capture(0, {"x": np.zeros(1)})
    (tmp_path / "outside.safetensors").write_bytes((writer.path / "captures" / "00000000.safetensors").read_bytes())
    with open(writer.path / "captures" / "index.jsonl", "a") as file:
        file.write('{"step": 1, "file": "../../outside.safetensors"}\n')
    with pytest.warns(RunWarning, match="is listed and missing"):
        assert open_run(writer.path).captures().steps == [0]


def test_results_and_html(make: Make):
    writer = make(parent="<script>alert(1)</script>")
    (writer.path / "results" / "sycophancy").mkdir(parents=True)
    (writer.path / "results" / ".tmp").mkdir()
    writer.finish(headline=[{**HEADLINE[0], "metric": "<b>x</b>"}])
    run = open_run(writer.path)
    assert run.results() == {"sycophancy": writer.path / "results" / "sycophancy"}
    page = run._repr_html_()
    assert "<script>" not in page
    assert "<b>x</b>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert repr(run) == "Run('run', method='pretrain', status='finished', steps=0)"


def test_a_run_can_be_zipped_moved_and_read_with_pandas_alone(make: Make, tmp_path: Path):
    writer = make()
    for step in range(4):
        writer.log(step, {"loss": 4.0 - step, "odd": float("inf")})
    writer.rollouts([{"step": 1, "prompt": "p", "completion": "c", "logprobs": [-1.0, float("nan")]}])
    writer.capture(0, {"x": np.ones(2)})
    writer.finish()
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        for path in sorted(writer.path.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "run"
    frame = pd.read_json(moved / "metrics.jsonl", lines=True)
    assert frame["loss"].tolist() == [4, 3, 2, 1]
    assert frame["odd"].isna().all()
    assert pd.read_json(moved / "rollouts.jsonl", lines=True).loc[0, "logprobs"] == [-1.0, None]
    pd.testing.assert_frame_equal(open_run(moved).metrics(), open_run(writer.path).metrics())
    assert open_run(moved).captures().load(0)["x"].tolist() == [1, 1]


WRITING = """
import sys
from probe.runs import RunWriter
with RunWriter.create(sys.argv[1], method="pretrain", config={}) as writer:
    print("ready", flush=True)
    for step in range(4000):
        writer.log(step, {"loss": float(step), "text " + "x" * (step % 50): 1.0})
        if step % 1000 == 999:
            sys.stdin.readline()  # until the reader has seen it
"""


def test_reading_while_another_process_writes(tmp_path: Path):
    """No half line is ever taken for a broken one, and nothing is read twice or missed."""
    command = [sys.executable, "-c", WRITING, tmp_path / "run"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        run, seen = open_run(tmp_path / "run"), [0]
        while run.status == "running":
            steps = run.metrics()["step"].tolist()
            assert steps == list(range(len(steps)))
            if len(steps) // 1000 > seen[-1] // 1000:
                child.stdin.write(b"\n")
            seen.append(len(steps))
    assert child.returncode == 0
    assert run.status == "finished"
    assert run.metrics()["loss"].tolist() == list(range(4000))
    assert len(set(seen)) > 2
