"""Logs that somebody else wrote, with everything wrong in turn: one sentence, in bounded time and memory."""

import io
import json
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from probe.cli import main
from probe.errors import DataError
from probe.logs import compare_logs, read_log
from probe.logs.inspect_log import SAMPLE
from probe.untrusted import MB
from tests.logs.made_logs import HEAD, archive, log, sample, write_lines


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_log_of_an_older_inspect_is_read(tmp_path: Path, method: int) -> None:
    found = read_log(archive(tmp_path / "a.eval", {"header.json": HEAD, "samples/0_epoch_1.json": sample()}, method))
    (item,) = found.items
    assert (item.id, item.scores, item.answer, item.prompt) == ("0", {"match": 1}, "5", "2 + 3?")


def test_several_frames_of_zstandard_are_one_member(tmp_path: Path) -> None:
    text = json.dumps(sample(metadata={"long": "x" * 5000})).encode()
    codec = pa.Codec("zstd")
    packed = b"".join(codec.compress(part, asbytes=True) for part in (text[:1000], text[1000:]))
    path = tmp_path / "a.eval"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", json.dumps(HEAD))
        file.writestr("samples/0_epoch_1.json", packed)
    as_zstandard(path, "samples/0_epoch_1.json", text)
    assert read_log(path).items[0].fields == {"long": "x" * 5000}


def as_zstandard(path: Path, name: str, text: bytes) -> None:
    """Say in both heads of a stored member that it is compressed by Zstandard, and what it unpacks to."""
    raw = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = -1
        while (start := raw.find(signature, start + 1)) >= 0:
            if raw[start : start + 120].find(name.encode()) >= 0:
                raw[start + at : start + at + 2] = struct.pack("<H", 93)
                raw[start + at + 6 : start + at + 10] = struct.pack("<I", zipfile.crc32(text))  # type: ignore[attr-defined]
                raw[start + at + 14 : start + at + 18] = struct.pack("<I", len(text))
    path.write_bytes(raw)


def test_an_unfinished_log_is_read_and_said_to_be(tmp_path: Path) -> None:
    start = {"version": 2, "eval": HEAD["eval"], "plan": {}}
    found = read_log(archive(tmp_path / "a.eval", {"_journal/start.json": start, "samples/0_epoch_1.json": sample()}))
    assert found.notes == (f"The evaluation in `{tmp_path / 'a.eval'}` did not finish (status started).",)


def test_the_last_of_equal_members_counts(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", sample(scores={"match": {"value": "I"}}))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("samples/0_epoch_1.json", json.dumps(sample()))
    assert read_log(path).items[0].scores == {"match": 1}


BROKEN: dict[str, Callable[[Path], object]] = {
    "no zip": lambda path: path.write_bytes(b"PK\x03\x04 and nothing"),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(log(path, sample()).read_bytes()[:-30]),
    "no header": lambda path: archive(path, {"samples/0_epoch_1.json": sample()}),
    "a header that is no JSON": lambda path: archive(path, {"header.json": b"{"}),
    "a header that is a list": lambda path: archive(path, {"header.json": []}),
    "a header without eval": lambda path: archive(path, {"header.json": {"version": 2}}),
    "a header nested deeply": lambda path: archive(path, {"header.json": b"[" * 100_000}),
    "no samples": lambda path: log(path),
    "samples without scores": lambda path: log(path, sample(scores=None)),
    "scores that are no numbers": lambda path: log(path, sample(scores={"a": {"value": "maybe"}, "b": 3})),
    "only NaN": lambda path: log(path, sample(scores={"a": {"value": float("nan")}})),
    "a directory that is too large": lambda path: huge_directory(log(path, sample())),
    "samples that are too large": lambda path: claim_sizes(bomb(path, 20, 8), SAMPLE),
}


def huge_directory(path: Path) -> None:
    """Say that the directory has a gigabyte."""
    raw = bytearray(path.read_bytes())
    raw[-10:-6] = struct.pack("<I", 2**30)
    path.write_bytes(raw)


def claim_sizes(path: Path, size: int) -> None:
    """Say in the directory that every member has so many bytes when unpacked."""
    raw, at = bytearray(path.read_bytes()), -1
    while (at := raw.find(b"PK\x01\x02", at + 1)) >= 0:
        raw[at + 24 : at + 28] = struct.pack("<I", size)
    path.write_bytes(raw)


def bomb(path: Path, count: int, size: int) -> Path:
    """Samples of blanks, a thousandth of their size when packed."""
    blanks = b" " * size
    return archive(path, {"header.json": HEAD, **{f"samples/{at}_epoch_1.json": blanks for at in range(count)}})


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_log_is_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.eval"
    BROKEN[name](path)
    start = time.perf_counter()
    with pytest.raises(DataError) as error:
        read_log(path)
    assert time.perf_counter() - start < 5
    assert str(path) in str(error.value)
    assert main(["logs", str(path), str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sample_that_is_broken_hides_only_itself(tmp_path: Path) -> None:
    bad = [b"{", b"[]", b"null", b" " * (SAMPLE + 1), {"scores": {"match": {"value": "C"}}}, sample(1, messages=3)]
    path = log(tmp_path / "a.eval", sample(7), *bad, sample(8, output={"choices": "x"}), sample(9))
    found = read_log(path)
    assert [item.id for item in found.items] == ["7", "9"]
    assert found.notes == (f"7 samples of `{path}` cannot be read and are left out.",)


def test_a_member_that_lies_about_its_size_is_left_out(tmp_path: Path) -> None:
    whole = json.dumps(sample()).encode()
    path = log(tmp_path / "a.eval", whole + b" " * 8 * MB)
    assert len(read_log(path).items) == 1
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", len(whole))  # what it says is a sample, and more is packed
    path.write_bytes(raw)
    with pytest.raises(DataError, match="No item"):
        read_log(path)


def test_nan_is_not_a_score_and_is_said(tmp_path: Path) -> None:
    path = log(
        tmp_path / "a.eval", *(sample(at, scores={"f": {"value": 1 if at else float("nan")}}) for at in range(3))
    )
    found = read_log(path)
    assert [item.id for item in found.items] == ["1", "2"]
    assert found.notes == (f"1 of 3 items of `{path}` have no score and are left out.",)


def test_names_in_a_log_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = HEAD | {"eval": {"task": "../../../t", "model": "/etc/../../up"}}
    evil = {f"samples/../../{at}.json": sample(at, id=f"../../{at}") for at in range(12)}
    paths = [archive(tmp_path / f"{name}.eval", {"header.json": head, **evil}) for name in "ab"]
    assert main(["logs", *map(str, paths), "--json"]) == 0
    made = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert made == {"a.eval", "b.eval", "results"}
    assert [path.parent.parent for path in tmp_path.rglob("result.json")] == [tmp_path / "results" / "logs"]


def test_text_of_a_log_is_no_markup_of_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[31m[bold]<script>\x07"
    paths = []
    for name, value in (("a", "C"), ("b", "I")):
        head = HEAD | {"eval": {"task": evil, "model": name + evil}}
        said = {"role": "assistant", "content": evil}
        samples = [
            sample(at, output={"choices": [{"message": said}]}, scores={evil: {"value": value}}) for at in range(12)
        ]
        paths.append(log(tmp_path / f"{name}.eval", *samples, head=head))
    assert main(["logs", *map(str, paths), "--out", str(tmp_path / "out")]) == 0
    said_all = "".join(capsys.readouterr())
    assert "\x1b" not in said_all
    assert "\x07" not in said_all


def test_a_json_log_and_rows_are_bounded_as_well(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(HEAD | {"samples": [sample(), 3, {"id": 2}]}))
    assert [item.id for item in read_log(path).items] == ["0"]
    path.write_text('{"version": 2, "samples": ' + "[" * 1000)
    with pytest.raises(DataError, match="cannot be read as a log of Inspect"):
        read_log(path)
    with pytest.raises(DataError, match="has no identifier"):
        read_log(write_lines(tmp_path / "b.jsonl", [{"score": 1, "name": "x"}]))
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    kept = read_log(write_lines(tmp_path / "c.jsonl", [{"id": 1, "score": 1}, {"id": 2, "score": deep}]))
    assert [item.id for item in kept.items] == ["1"]
    assert io.StringIO(kept.notes[0]).read().startswith("1 of 2 rows")


def test_many_values_of_a_field_are_bounded(tmp_path: Path) -> None:
    lines = [{"id": at, "score": at % 2, "topic": {"deep": ["x" * 1000, at]}} for at in range(200)]
    logs = [read_log(write_lines(tmp_path / f"{name}.jsonl", lines)) for name in "ab"]
    found = compare_logs(*logs, by="topic")
    assert len(found.rows) <= 41
    assert found.rows["slice"].str.len().max() <= 200
