"""Logs made and opened by Inspect itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from probe import stats
from probe.cli import main
from probe.experiments.result import Result
from probe.logs import compare_logs, read_log
from probe.logs.log_writers import opening
from tests.logs.made_logs import SCRIPT, run_inspect
from tests.places import SAMPLES

pytestmark = pytest.mark.slow

READ = """
import json, sys
from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries
from inspect_ai.scorer import value_to_float
number = value_to_float()
for path in sys.argv[1:]:
    log = read_eval_log(path)
    flat = lambda name, value: value.items() if isinstance(value, dict) else [(name, value)]
    samples = [
        {
            "id": str(sample.id), "epoch": sample.epoch, "input": sample.input, "target": sample.target,
            "answer": sample.output.completion, "metadata": sample.metadata,
            "texts": [message.text for message in sample.messages],
            "scores": {
                (f"{name}/{key}" if isinstance(score.value, dict) else name): number(value)
                for name, score in sample.scores.items() for key, value in flat(name, score.value)
                if value == value
            },
        }
        for sample in log.samples
    ]
    means = {score.name: score.metrics[key].value for score in log.results.scores for key in list(score.metrics)[:1]}
    listed = [summary.id for summary in read_eval_log_sample_summaries(path)]
    about = {"status": log.status, "task": log.eval.task, "model": log.eval.model, "means": means, "listed": listed}
    print(json.dumps(about | {"samples": samples}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Logs of two models on one task, an `.eval` and a `.json` file."""
    folder = tmp_path_factory.mktemp("logs")
    return [Path(line) for line in run_inspect(SCRIPT, str(folder))[-2:]]


def test_a_log_is_read_as_inspect_reads_it(made: list[Path]) -> None:
    for path, line in zip(made, run_inspect(READ, *map(str, made)), strict=True):
        theirs, ours = json.loads(line), read_log(path)
        assert (ours.task, ours.model, len(ours.items)) == (theirs["task"], theirs["model"], 24)
        samples = {(sample["id"], sample["epoch"]): sample for sample in theirs["samples"]}
        assert len(samples) == 24
        for item in ours.items:
            sample = samples[item.id, item.epoch]
            assert item.scores == sample["scores"]
            assert (item.answer, item.expected) == (sample["answer"], sample["target"])
            assert item.fields == sample["metadata"]
            assert all(text in (item.prompt or "") for text in sample["texts"][:-1])


def test_two_logs_of_inspect_are_compared(made: list[Path]) -> None:
    base, tuned = map(read_log, made)
    found = compare_logs(base, tuned)
    rows = {row["score"]: row for row in found.rows.to_dict("records")}
    assert set(rows) == {"match", "includes", "parts/digits", "parts/unscored"}
    values = [
        np.array([item.scores["match"] for item in sorted(log.items, key=lambda item: (item.id, item.epoch))])
        for log in (base, tuned)
    ]
    assert rows["match"]["difference"] == pytest.approx(values[1].mean() - values[0].mean())
    assert rows["match"]["n"] == 24
    assert rows["parts/unscored"]["n"] == 22  # two repetitions of q3 have no such score
    units = [item.id for item in sorted(base.items, key=lambda item: (item.id, item.epoch))]
    interval = stats.paired_difference(values[1], values[0], bounds=stats.SHARE, units=units)
    assert rows["match"]["difference_low"] == pytest.approx(interval.low, abs=0.02)
    assert any("different prompts for 24 of 24" in note for note in found.notes)
    assert found.differing[0] == "q11 (epoch 1)"  # by the number of digits
    items = found.result.items.set_index(["item", "model"])
    assert items.loc[("q11 (epoch 1)", "mockllm/tuned"), "answer"] == "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of sycophancy of two sample runs, in both formats."""
    folder = tmp_path_factory.mktemp("exported")
    for run in ("base", "dpo-agreeable"):
        (stored,) = sorted((SAMPLES / run / "results").glob("sycophancy-*"))[:1]
        assert main(["export", str(stored), "--format", "inspect,lm-eval", "--out", str(folder)]) == 0
    return folder


def test_an_exported_result_is_a_log_that_inspect_opens(exported: Path) -> None:
    paths = sorted(exported.glob("*.eval"))
    assert [path.name.rpartition("_")[0] for path in paths] == ["sycophancy_base", "sycophancy_dpo-agreeable"]
    for line in run_inspect(READ, *map(str, paths)):
        log = json.loads(line)
        (stored,) = sorted((SAMPLES / log["model"] / "results").glob("sycophancy-*"))[:1]
        result = Result.load(stored)
        assert (log["status"], log["task"]) == ("success", "sycophancy")
        assert log["listed"] == list(result.items["item"])
        prompts = dict(zip(result.items["item"], result.items["prompt"], strict=True))
        assert {sample["id"]: sample["texts"][0] for sample in log["samples"]} == prompts
        assert all(sample["input"] == opening(prompts[sample["id"]]) for sample in log["samples"])
        summary = result.summary.set_index("metric")["value"]
        assert len(log["means"]) > 10
        for name, value in log["means"].items():
            assert value == pytest.approx(summary[name], abs=1e-9)


def test_an_exported_result_gives_the_same_differences(exported: Path) -> None:
    from probe.experiments.comparison import compare_summaries
    from probe.experiments.registry import find_experiment

    results = [
        Result.load(sorted((SAMPLES / run / "results").glob("sycophancy-*"))[0]) for run in ("base", "dpo-agreeable")
    ]
    expected = compare_summaries(find_experiment("sycophancy"), results[1], results[0]).set_index("metric")
    for pattern in ("*.eval", "*/samples_*.jsonl"):
        base, tuned = (read_log(path) for path in sorted(exported.glob(pattern)))
        found = compare_logs(base, tuned, cluster="person")
        assert len(found.rows) > 10
        for row in found.rows.to_dict("records"):
            whole = expected.loc[row["score"]]
            for name in ("difference", "difference_low", "difference_high"):
                assert row[name] == pytest.approx(whole[name], abs=1e-9, nan_ok=True), (pattern, row["score"])


BUNDLE = """
import sys
from inspect_ai.log import bundle_log_dir
bundle_log_dir(sys.argv[1], sys.argv[2])
"""


def test_the_viewer_of_inspect_takes_an_exported_log(exported: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for path in exported.glob("*.eval"):
        (logs / path.name).write_bytes(path.read_bytes())
    run_inspect(BUNDLE, str(logs), str(tmp_path / "site"))
    listed = json.loads((tmp_path / "site" / "logs" / "listing.json").read_text())
    assert {each["task"] for each in listed.values()} == {"sycophancy"}
    assert {each["status"] for each in listed.values()} == {"success"}
    assert {each["model"] for each in listed.values()} == {"base", "dpo-agreeable"}
