"""Logs of lm-evaluation-harness and rows of scores: read, paired and compared."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe import stats
from probe.audit.verdict import CHANGED, EQUIVALENT
from probe.cli import main
from probe.errors import ConfigError, DataError
from probe.experiments.result import Result
from probe.logs import Log, compare_logs, read_log
from probe.logs.log import score_value
from probe.logs.paired_logs import stored_comparison
from tests.logs.made_logs import harness_lines, write_lines

BASE = [1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0] * 4
TUNED = [1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0] * 4


def harness(folder: Path, model: str, right: list[int], **more: object) -> Path:
    return write_lines(folder / model / "samples_arc_2026-01-02T03-04-05.678.jsonl", harness_lines(right, **more))  # type: ignore[arg-type]


def rows(folder: Path, name: str, scores: list[float], **columns: list[object]) -> Path:
    lines = [{"id": f"q{at}", "score": score} for at, score in enumerate(scores)]
    for column, values in columns.items():
        lines = [line | {column: value} for line, value in zip(lines, values, strict=True)]
    return write_lines(folder / f"{name}.jsonl", lines)


def test_samples_of_the_harness_have_their_model_task_choices_and_scores(tmp_path: Path) -> None:
    log = read_log(harness(tmp_path, "org__model", BASE))
    assert (log.model, log.task, log.scores) == ("org__model", "arc", ["acc"])  # f1 is no number of an item
    assert [item.scores["acc"] for item in log.items] == BASE
    assert [item.answer for item in log.items[:2]] == ["a", "b"]
    assert {item.expected for item in log.items} == {"a"}
    assert log.items[5].prompt == "Q: 5\nA:"
    assert log.items[5].fields == {"question": "5", "passage": "p1"}


def test_filters_of_the_harness_are_scores_of_one_document(tmp_path: Path) -> None:
    lines = harness_lines([1, 0], "exact_match", {"filter": "strict"}) + harness_lines([1, 1], "exact_match")
    log = read_log(write_lines(tmp_path / "samples_gsm8k_2026-01-02T03-04-05.jsonl", lines))
    assert [dict(item.scores) for item in log.items] == [
        {"exact_match,strict": 1, "exact_match": 1},
        {"exact_match,strict": 0, "exact_match": 1},
    ]


def test_samples_of_an_older_harness_have_lists_of_arguments_and_no_names_of_metrics(tmp_path: Path) -> None:
    old = {"doc_id": 3, "doc": {}, "target": "4", "arguments": [["Q: 2+2", {"until": ["\n"]}]], "resps": [["5"]]}
    log = read_log(write_lines(tmp_path / "samples_sums.jsonl", [old | {"filtered_resps": ["5"], "exact_match": 0.0}]))
    (item,) = log.items
    assert (item.id, item.prompt, item.answer, item.expected) == ("3", "Q: 2+2", "5", "4")
    assert item.scores == {"exact_match": 0}


def test_the_difference_is_paired(tmp_path: Path) -> None:
    found = compare_logs(read_log(harness(tmp_path, "base", BASE)), read_log(harness(tmp_path, "tuned", TUNED)))
    (row,) = found.rows.to_dict("records")
    assert row["difference"] == pytest.approx(np.mean(TUNED) - np.mean(BASE))
    assert (row["difference"], row["difference_low"], row["difference_high"]) == tuple(
        stats.paired_proportions(TUNED, BASE)
    )
    assert row["verdict"] == CHANGED
    assert found.names == ("base", "tuned")
    assert "tuned against base: acc from 33 % to 75 %" in found.sentence()
    assert len(found.differing) == 20


def test_a_cluster_is_drawn_as_a_whole(tmp_path: Path) -> None:
    logs = [read_log(harness(tmp_path, name, values)) for name, values in (("base", BASE), ("tuned", TUNED))]
    (row,) = compare_logs(*logs, cluster="passage").rows.to_dict("records")
    expected = stats.paired_difference(TUNED, BASE, bounds=stats.SHARE, units=[f"p{at // 4}" for at in range(48)])
    assert (row["difference"], row["difference_low"], row["difference_high"]) == tuple(expected)
    with pytest.raises(ConfigError, match="did you mean `passage`"):
        compare_logs(*logs, cluster="pasage")


def test_whole_clusters_that_differ_are_weaker_evidence_than_as_many_items(tmp_path: Path) -> None:
    topic = [f"t{at // 12}" for at in range(48)]
    base, tuned = [0] * 48, [1] * 12 + [0] * 36
    logs = [read_log(rows(tmp_path, name, values, topic=topic)) for name, values in (("a", base), ("b", tuned))]
    alone, clustered = (compare_logs(*logs, cluster=name).rows.iloc[0] for name in ("", "topic"))
    assert alone["verdict"] == CHANGED
    assert clustered["verdict"] != CHANGED
    assert clustered["p"] > 0.05 > alone["p"]


def test_repetitions_of_a_question_are_one_unit(tmp_path: Path) -> None:
    lines = [{"id": at // 4, "epoch": at % 4 + 1, "score": at // 4 % 2} for at in range(48)]
    other = [line | {"score": 1} for line in lines]
    logs = [read_log(write_lines(tmp_path / f"{name}.jsonl", each)) for name, each in (("a", lines), ("b", other))]
    (row,) = compare_logs(*logs).rows.to_dict("records")
    assert row["n"] == 48
    once = [
        read_log(write_lines(tmp_path / f"{name}1.jsonl", each[::4])) for name, each in (("a", lines), ("b", other))
    ]
    (single,) = compare_logs(*once).rows.to_dict("records")
    width, wide = (each["difference_high"] - each["difference_low"] for each in (row, single))
    assert width > 0.6 * wide  # four times as many independent items would halve it


def test_a_model_and_itself_are_equivalent(tmp_path: Path) -> None:
    scores = [float(at % 3 == 0) for at in range(200)]
    found = compare_logs(read_log(rows(tmp_path, "a", scores)), read_log(rows(tmp_path, "b", scores)))
    assert list(found.rows["verdict"]) == [EQUIVALENT]
    assert found.differing == []


def test_equal_models_are_seldom_called_changed(tmp_path: Path) -> None:
    rng, calls = np.random.default_rng(0), 0
    for _ in range(60):
        ability = rng.random(80)
        scores = [[float(each) for each in rng.random(80) < ability] for _ in range(2)]
        logs = [
            Log(tmp_path, read_log(rows(tmp_path, "x", each)).items, model=str(at)) for at, each in enumerate(scores)
        ]
        calls += compare_logs(*logs).rows["verdict"].iloc[0] == CHANGED
    assert calls <= 5  # 3 of 60 expected at 5 %


def test_slices_are_corrected_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    topic = [f"t{at % 20}" for at in range(400)]
    scores = [[float(each) for each in rng.integers(0, 2, 400)] for _ in range(2)]
    scores[1][::20] = [1.0] * 20
    scores[0][::20] = [0.0] * 20
    logs = [read_log(rows(tmp_path, name, each, topic=topic)) for name, each in zip("ab", scores, strict=True)]
    found = compare_logs(*logs, by="topic")
    changed = found.rows[(found.rows["slice"] != "") & (found.rows["verdict"] == CHANGED)]
    assert list(changed["slice"]) == ["t0"]
    assert len(found.rows) == 21
    assert "Of 20 differences in slices 1 changed (score in t0)" in found.sentence()


def test_what_is_not_paired_is_said(tmp_path: Path) -> None:
    base = rows(tmp_path, "a", [1, 0, 1, 0], prompt=["x", "y", "z", "w"], expected=["1"] * 4)
    tuned = rows(tmp_path, "b", [1, 1, 0], prompt=["x", "other", "z"], expected=["1"] * 3)
    found = compare_logs(read_log(base), read_log(tuned))
    notes = " ".join(found.notes)
    assert "1 items have equal identifiers and other questions" in notes
    assert "1 of 4 items of" in notes
    assert "2 items are paired" in notes
    assert set(found.result.items["item"]) == {"q0", "q2"}
    with pytest.raises(DataError, match=r"No item of .* can be paired"):
        compare_logs(read_log(base), read_log(write_lines(tmp_path / "c.jsonl", [{"id": "z9", "score": 1}])))


def test_two_logs_of_one_model_are_told_apart(tmp_path: Path) -> None:
    def labels(first: Path, second: Path, model: str = "m") -> tuple[str, ...]:
        for path in (first, second):
            write_lines(path, [{"id": at, "score": at % 2, "model": model} for at in range(12)])
        return compare_logs(read_log(first), read_log(second)).names

    one, two = tmp_path / "plain" / "a.jsonl", tmp_path / "terse" / "a.jsonl"
    assert labels(one, two) == ("m (plain)", "m (terse)")
    assert labels(one, one.with_name("b.jsonl")) == ("m (a)", "m (b)")
    assert labels(one, one) == ("m", "m (2)")


def test_several_scores_are_compared_or_one_that_is_named(tmp_path: Path) -> None:
    lines = [{"id": at, "f1": at / 48, "right": at % 2 == 0, "answer": "same"} for at in range(48)]
    logs = [read_log(write_lines(tmp_path / f"{name}.jsonl", lines)) for name in "ab"]
    found = compare_logs(*logs)
    assert list(found.rows["score"]) == ["f1", "right score"]
    assert list(compare_logs(*logs, scores=("f1",)).rows["score"]) == ["f1"]
    with pytest.raises(ConfigError, match="`f11` is not in both logs: did you mean `f1`"):
        compare_logs(*logs, scores=("f11",))


def test_a_folder_of_rows_is_one_log(tmp_path: Path) -> None:
    for part, start in (("one", 0), ("two", 10)):
        write_lines(tmp_path / "m" / f"{part}.jsonl", [{"id": at, "score": 1} for at in range(start, start + 10)])
    log = read_log(tmp_path / "m")
    assert (len(log.items), log.model) == (20, "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file with rows"):
        read_log(tmp_path / "empty")


def test_a_csv_with_two_columns_is_a_log(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item,score\nx,0.5\ny,true\nz,\n")
    log = read_log(tmp_path / "a.csv")
    assert {item.id: item.scores["score"] for item in log.items} == {"x": 0.5, "y": 1}
    assert "1 of 3 items" in log.notes[0]
    (tmp_path / "b.csv").write_text("item,acc,topic\nx,0.5,a\ny,-1e-3,b\n")
    named = read_log(tmp_path / "b.csv")
    assert [(item.scores, item.fields) for item in named.items] == [
        ({"acc": 0.5}, {"topic": "a"}),
        ({"acc": -0.001}, {"topic": "b"}),
    ]


@pytest.mark.parametrize(
    ("value", "number"),
    [("C", 1), ("I", 0), ("P", 0.5), ("N", 0), (True, 1), ("yes", 1), ("0.25", 0.25), (3, 3)]
    + [(each, None) for each in (float("nan"), float("inf"), "NaN", "maybe", None, [1], 10**400)],
)
def test_a_score_is_a_finite_number_or_none(value: object, number: float | None) -> None:
    assert score_value(value) == number


def test_the_stored_result_gives_the_same_comparison(tmp_path: Path) -> None:
    logs = [read_log(harness(tmp_path, name, values)) for name, values in (("base", BASE), ("tuned", TUNED))]
    found = compare_logs(*logs, by="passage")
    stored = Result.load(found.result.save(tmp_path / "kept"))
    again = stored_comparison(stored)
    for label, summary in found.both.summaries.items():
        pd.testing.assert_frame_equal(again.summaries[label], summary)
    assert stored.finding == found.sentence()
    assert set(stored.items["kind"]) == {f"p{at}" for at in range(12)}
    assert set(stored.tables) == {"differences"}


def test_the_command_prints_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(harness(tmp_path, name, values)) for name, values in (("base", BASE), ("tuned", TUNED))]
    assert main(["logs", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["differences"][0]["difference"] == pytest.approx(20 / 48)
    assert [row["model"] for row in told["differing"][:2]] == ["base", "tuned"]
    assert [row["answer"] for row in told["differing"][:2]] == ["b", "a"]
    assert len(told["differing"]) == 40
    assert Result.load(told["saved"]).finding == told["finding"]
    assert main(["logs", *words]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split("\t")[:3] == ["score", "slice", "unit"]
    assert said.err.splitlines()[0] == "probe: note: 48 items are paired."
    assert main(["logs", words[0], str(tmp_path / "nowhere.eval")]) == 2
    assert "is not a file or folder" in capsys.readouterr().err
