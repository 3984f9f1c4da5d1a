"""Metrics as columns: the same as the lines say, read on by offset, and kept beside the text without being believed."""

import json
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from probe.runs import RunWarning, metric_log, open_run, storage
from probe.runs.captures import metrics_frame, newest
from probe.runs.metric_log import FILE, KEY, MetricLog, parse_numbers
from probe.runs.storage import Block, Position, parse_block, read_lines
from tests.runs.conftest import Make

ROWS = 400


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, logs of any size kept, and times that show every change."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PROBE_CACHE", str(cache))
    monkeypatch.setattr(metric_log, "SMALL", 1000)
    monkeypatch.setattr(metric_log, "RECENT_NS", -1)
    return cache


def line(step: int, **values: Any) -> str:
    return json.dumps({"step": step, "time": 0.5 * step, "loss": 1 / (step + 1), "tokens": 7 * step, **values}) + "\n"


def write(run: Path, rows: int = ROWS) -> Path:
    run.mkdir()
    text = run / "metrics.jsonl"
    text.write_text("".join(line(step) for step in range(rows)))
    return text


def by_lines(text: Path) -> pd.DataFrame:
    """The metrics by the lines themselves, all at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, _ = read_lines(text, Position(), live=False)
        return metrics_frame(newest({}, rows, text))


def read(run: Path, **options: Any) -> pd.DataFrame:
    return MetricLog(run).read(live=False, **options)


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, wanted, check_like=True)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the lines that were parsed."""
    counts: list[int] = []

    def parse(lines: list[bytes]) -> pd.DataFrame | None:
        counts.append(sum(1 for each in lines if each.strip()))
        return parse_numbers(lines)

    monkeypatch.setattr(metric_log, "parse_numbers", parse)
    return counts


def test_a_second_reader_parses_only_what_was_appended(tmp_path: Path, parsed: list[int]):
    text = write(tmp_path / "run")
    first = read(tmp_path / "run")
    same(first, by_lines(text))
    assert first.dtypes.astype(str).to_dict() == {
        "step": "int64",
        "time": "float64",
        "loss": "float64",
        "tokens": "int64",
    }
    assert sum(parsed) == ROWS
    parsed.clear()
    same(read(tmp_path / "run"), first)
    assert sum(parsed) == 0
    with open(text, "a") as more:
        more.write(line(ROWS, reward=2.0))
    grown = read(tmp_path / "run")
    assert sum(parsed) == 1
    same(grown, by_lines(text))
    assert grown["reward"].notna().sum() == 1


def test_a_reader_of_a_growing_run_goes_on(tmp_path: Path, parsed: list[int]):
    text = write(tmp_path / "run")
    read(tmp_path / "run")
    log = MetricLog(tmp_path / "run")
    for step in range(ROWS, ROWS + 4):
        parsed.clear()
        with open(text, "a") as more:
            more.write(line(step))
        same(log.read(live=True), by_lines(text))
        assert sum(parsed) == 1


def in_the_middle(text: Path) -> None:
    data = text.read_bytes()
    at = data.index(b'"step": 200') + len(b'"step": 200, "time": ')
    with open(text, "rb+") as file:
        file.seek(at)
        file.write(b"9")


def replaced(text: Path) -> None:
    (text.parent / "new").write_text("".join(line(step + 1) for step in range(ROWS)))
    os.replace(text.parent / "new", text)


def cut(text: Path) -> None:
    with open(text, "rb+") as file:
        file.truncate(text.stat().st_size // 2)


def longer(text: Path) -> None:
    in_the_middle(text)
    with open(text, "a") as more:
        more.write(line(ROWS))


@pytest.mark.parametrize("change", [in_the_middle, replaced, cut, longer])
@pytest.mark.parametrize("recent", [True, False])
def test_columns_of_another_text_are_not_believed(tmp_path: Path, change: Any, recent: bool, monkeypatch: Any):
    monkeypatch.setattr(metric_log, "RECENT_NS", 2**62 if recent else -1)
    text = write(tmp_path / "run")
    before = read(tmp_path / "run")
    status = text.stat()
    change(text)
    os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        found = read(tmp_path / "run")
    same(found, by_lines(text))
    assert not found.equals(before)


def test_columns_from_elsewhere_are_not_parsed(tmp_path: Path, own_key: Path, monkeypatch: Any):
    import pyarrow as pa

    text = write(tmp_path / "run")
    good = read(tmp_path / "run")
    kept = tmp_path / "run" / FILE
    mine = kept.read_bytes()

    def refuse(*_: Any) -> None:
        raise AssertionError("bytes of another person were parsed")

    with monkeypatch.context() as patch:
        patch.setattr(pa.ipc, "open_file", refuse)
        for data in (b"", mine[:40], mine[:32] + b"x" + mine[33:], b"\0" * len(mine), mine[:-1]):
            kept.write_bytes(data)
            same(read(tmp_path / "run"), good)
            assert kept.read_bytes()[32:] == mine[32:], "it is made anew"
        (own_key / KEY).unlink()  # another user
        same(read(tmp_path / "run"), good)
        assert kept.read_bytes() != mine
        kept.unlink()
        kept.symlink_to(shutil.copy(text, tmp_path / "other"))
        same(read(tmp_path / "run"), good)
        assert not kept.is_symlink()
        assert (tmp_path / "other").read_bytes() == text.read_bytes()
        kept.unlink()
        os.mkfifo(kept)
        same(read(tmp_path / "run"), good)
        kept.unlink()
        kept.mkdir()
        same(read(tmp_path / "run"), good)
    assert sorted(os.listdir(tmp_path / "run")) == [FILE, "metrics.jsonl"]


def test_a_copied_run_keeps_its_columns(tmp_path: Path, parsed: list[int]):
    write(tmp_path / "run")
    good = read(tmp_path / "run")
    parsed.clear()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    same(read(tmp_path / "copy"), good)
    assert sum(parsed) == 0
    (tmp_path / "copy" / "metrics.jsonl").write_text(line(3) * 40)
    assert read(tmp_path / "copy")["step"].tolist() == [3]


def test_nothing_is_kept_where_something_was_left_out(tmp_path: Path):
    text = write(tmp_path / "run")
    with open(text, "a") as more:
        more.write("broken\n" + line(ROWS))
    for _ in range(2):
        with pytest.warns(RunWarning, match=f"Line {ROWS + 1} of .* is broken"):
            assert len(read(tmp_path / "run")) == ROWS + 1
    text = write(tmp_path / "long")
    with pytest.warns(RunWarning, match="only the first"):
        assert len(read(tmp_path / "long", most=5000)) < ROWS
    assert not [*tmp_path.glob(f"*/{FILE}")]


def test_as_many_lines_as_are_read_are_no_problem(tmp_path: Path, monkeypatch: Any):
    text = write(tmp_path / "run")
    monkeypatch.setattr(storage, "LINES", ROWS)
    for _ in range(2):
        assert len(read(tmp_path / "run")) == ROWS
    with open(text, "a") as more:
        more.write(line(ROWS))
    for _ in range(2):
        with pytest.warns(RunWarning, match=f"only the first {ROWS} lines"):
            assert len(read(tmp_path / "run")) == ROWS


def test_a_torn_last_line_is_told_each_time(tmp_path: Path):
    text = write(tmp_path / "run")
    with open(text, "a") as more:
        more.write(line(ROWS)[:-5])
    for _ in range(2):
        with pytest.warns(RunWarning, match=rf"last line \({ROWS + 1}\) of .* was not finished"):
            assert len(read(tmp_path / "run")) == ROWS
        assert (tmp_path / "run" / FILE).exists()
    with open(text, "a") as more:
        more.write(line(ROWS)[-5:])
    same(read(tmp_path / "run"), by_lines(text))


def test_a_run_in_progress_is_kept_seldom(tmp_path: Path):
    text = write(tmp_path / "run")
    times = []
    for step in range(ROWS, 2 * ROWS):
        with open(text, "a") as more:
            more.write(line(step))
        MetricLog(tmp_path / "run").read(live=True)
        times.append((tmp_path / "run" / FILE).stat().st_mtime_ns)
    assert len(set(times)) < 6
    same(read(tmp_path / "run"), by_lines(text))


def test_a_finished_run_has_its_columns(tmp_path: Path, make: Make, parsed: list[int]):
    writer = make()
    for step in range(ROWS):
        writer.log(step, {"loss": 1.0 / (step + 1)})
    writer.finish()
    assert (writer.path / FILE).exists()
    parsed.clear()
    found = open_run(writer.path).metrics()
    assert sum(parsed) == 0
    same(found, by_lines(writer.path / "metrics.jsonl"))


def test_small_logs_and_sample_runs_have_no_columns(tmp_path: Path, monkeypatch: Any):
    write(tmp_path / "small", 5)
    read(tmp_path / "small")
    write(tmp_path / "shipped")
    monkeypatch.setattr("probe.runs.directories.SHIPPED", tmp_path / "shipped")
    read(tmp_path / "shipped")
    assert not [*tmp_path.glob(f"*/{FILE}")]


def test_without_a_key_everything_is_read_from_the_text(tmp_path: Path, own_key: Path, monkeypatch: Any):
    (own_key / "file").write_text("")
    monkeypatch.setenv("PROBE_CACHE", str(own_key / "file"))
    text = write(tmp_path / "run")
    same(read(tmp_path / "run"), by_lines(text))
    assert not (tmp_path / "run" / FILE).exists()


NUMBERS = some.one_of(
    some.none(), some.booleans(), some.integers(-5, 5), some.floats(), some.sampled_from(["high", [1], 2**70, 1e300])
)
LINES = some.one_of(
    some.builds(
        lambda step, values: json.dumps({"step": step, **values}),
        some.integers(0, 12),
        some.dictionaries(some.sampled_from(["time", "loss", "lr", "kl"]), NUMBERS),
    ),
    some.builds(lambda step: json.dumps({"event": "resume", "step": step, "time": 1.0}), some.integers(0, 12)),
    some.sampled_from(["", "{", '{"step": 1', "[1]", '{"loss": 1}', '{"step": 3, "event": "other"}']),
)


@given(
    lines=some.lists(LINES, max_size=40),
    cuts=some.lists(some.integers(0, 2000), max_size=3),
    chunk=some.integers(1, 300),
)
def test_columns_say_what_the_lines_say(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], cuts: list[int], chunk: int
):
    run = tmp_path_factory.mktemp("run")
    text, whole = run / "metrics.jsonl", "\n".join(lines).encode()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(metric_log, "SMALL", 1)
        patch.setattr(storage, "CHUNK", chunk)
        staying = MetricLog(run)
        for end in [*sorted(cuts), len(whole)]:
            with open(text, "ab") as file:
                file.write(whole[file.tell() : end])
            wanted = by_lines(text)
            for found in (staying.read(live=False), MetricLog(run).read(live=True)):
                assert set(found) == set(wanted)
                np.testing.assert_array_equal(
                    found[[*wanted]].to_numpy(dtype=float), wanted.to_numpy(dtype=float), strict=True
                )


MARKS = [
    b'"',
    b"{",
    b"}",
    b",",
    b":",
    b"1",
    b"-",
    b".",
    b"e",
    b"null",
    b"NaN",
    b"Infinity",
    b"\\",
    b" ",
    b"\n",
    b"\xff",
    b"[",
    b"true",
]


def test_arrow_reads_what_the_parser_of_lines_reads(monkeypatch: Any):
    """Blocks with one damage each; what Arrow takes has to be what Python's own parser says."""
    monkeypatch.setattr(metric_log, "SMALL", 1)
    monkeypatch.setattr(metric_log, "SAMPLED", 2)
    rng, taken = random.Random(0), 0
    whole = "".join(
        json.dumps({"step": step, "loss": rng.choice([1.5, None, 1e-9, -2.25, 1e22]), "n": step}) + "\n"
        for step in range(6)
    ).encode()
    for _ in range(6000):
        at, width = rng.randrange(len(whole)), rng.choice([0, 0, 1, 2, 9])
        text = whole[:at] + rng.choice(MARKS) + whole[at + width :]
        lines = text.split(b"\n")
        quick = parse_numbers(lines)
        if quick is None:
            continue
        taken += 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = parse_block(Block(lines, 0, Position()), Path("x"))
            same(quick, metrics_frame(newest({}, rows, Path("x"))))
    assert taken > 150
