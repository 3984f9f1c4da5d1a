"""Figures, curves and results of groups."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe import cli
from probe.errors import DataError
from probe.report.run_report import report
from probe.runs import Run
from probe.seeds import curves, groups, headline, mean_over_trainings, paired_by_seed, result_of
from probe.seeds.joined_results import find_results
from probe.seeds.t_intervals import UNKNOWN
from tests.seeds.conftest import store_result, write_lineage, write_run
from tests.terminal import in_terminal

BASE, DPO = [0.30, 0.36, 0.33], [0.90, 0.99, 0.93]


@pytest.fixture
def measured(lineage: list[Run]) -> list[Run]:
    for run, value in zip(lineage, BASE + DPO, strict=True):
        store_result(run, {"deferral": value, "accuracy": 0.5 + value / 10})
    return lineage


def test_a_result_over_trainings(measured: list[Run], tmp_path: Path):
    base, dpo = groups(measured)
    result = result_of(dpo, "sycophancy", baseline=base)
    row = result.summary.set_index("metric").loc["deferral"]
    assert [row["value"], row["ci_low"], row["ci_high"], row["n"]] == pytest.approx(mean_over_trainings(DPO))
    assert [row["answers"], row["answers_low"], row["answers_high"]] == pytest.approx([0.90, 0.85, 0.95])
    gap = [row[name] for name in ("difference", "difference_low", "difference_high", "pairs")]
    assert gap == pytest.approx(paired_by_seed(DPO, BASE))
    assert set(result.items["seed"]) == {0, 1, 2}
    assert len(result.tables["levels"]) == 6
    assert "over 3 trainings" in result.finding
    assert "paired" in result.finding
    again = type(result).load(result.save(tmp_path / "saved"))
    pd.testing.assert_frame_equal(again.summary, result.summary, check_dtype=False)
    assert again.meta["over"] == "trainings"


def test_one_seed_says_so(measured: list[Run]):
    (dpo,) = groups(measured[3:4])
    result = result_of(dpo, "sycophancy")
    assert result.finding.endswith(UNKNOWN)
    assert result.summary[["ci_low", "ci_high"]].isna().all(axis=None)
    assert result.summary["answers_low"].notna().all()


def test_other_questions_are_not_joined(measured: list[Run], tmp_path: Path):
    _, dpo = groups(measured)
    store_result(dpo.runs[1], {"deferral": 0.1}, n=80)
    assert result_of(dpo, "sycophancy").summary["n"].max() == 3
    with pytest.raises(DataError, match="has a stored result"):
        result_of(dpo, "hallucination")
    other = write_run(tmp_path / "other", "sft", 0)
    store_result(other, {"deferral": 0.1}, n=80)
    with pytest.raises(DataError, match="with these settings"):
        result_of(dpo, "sycophancy", baseline=groups([other])[0])


ROW = {"metric": "deferral", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 40}


@pytest.mark.parametrize(
    "summary", [None, [1], [ROW | {"metric": ["deferral"]}], [ROW | {"n": "many"}], [{"metric": 1}]]
)
def test_a_damaged_result_of_one_member_is_left_out(measured: list[Run], summary: object):
    """It may come from anybody, as the run does."""
    _, dpo = groups(measured)
    file = next((dpo.runs[1].path / "results").glob("*/result.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"summary": summary}))
    found = find_results(dpo, "sycophancy")
    assert [run.seed for run in found.group.runs] == [0, 2]
    assert found.table().set_index("metric").loc["deferral", "value"] == pytest.approx((DPO[0] + DPO[2]) / 2)
    text = report(list(dpo.runs[:1]), around=measured)
    assert "dpo, 2 seeds" in text


def test_independent_trainings_are_not_paired(measured: list[Run], tmp_path: Path):
    _, dpo = groups(measured)
    others = [write_run(tmp_path / f"sft{seed}", "sft", seed) for seed in (0, 1, 2)]
    for run, value in zip(others, BASE, strict=True):
        store_result(run, {"deferral": value})
    row = result_of(dpo, "sycophancy", baseline=groups(others)[0]).summary.iloc[0]
    assert row["pairs"] == 0
    assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_headline_figures(tmp_path: Path):
    runs = write_lineage(tmp_path, shared=True)
    for run, value in zip(runs[1:], DPO, strict=True):
        file = run.path / "run.json"
        row = {"metric": "deferral", "value": value, "ci_low": value - 0.02, "ci_high": value + 0.02, "n": 400}
        file.write_text(json.dumps(run.meta | {"headline": [row]}))
    _, dpo = groups([run.refresh() for run in runs])
    table = headline(dpo)
    assert table.loc[0, ["value", "ci_low", "ci_high", "n"]].tolist() == pytest.approx(mean_over_trainings(DPO))
    assert table.loc[0, ["answers", "answers_low", "answers_high", "answers_n"]].tolist() == [0.9, 0.88, 0.92, 400]


def test_curves(lineage: list[Run]):
    _, dpo = groups(lineage)
    for index, run in enumerate(dpo.runs):
        rows = [{"step": s, "time": s / 10, "loss": s + index} | ({"kl": 1} if s else {}) for s in range(4 + index)]
        (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = curves(dpo)
    assert found.mean["step"].tolist() == [0, 1, 2, 3]
    assert found.mean["loss"].tolist() == [1, 2, 3, 4]
    low, high = mean_over_trainings([2, 3, 4])[1:3]
    assert (found.low["loss"][2], found.high["loss"][2]) == pytest.approx((low, high))
    assert np.isnan(found.mean["kl"][0])
    assert found.low["time"].tolist() == found.mean["time"].tolist()
    assert list(found.members) == ["dpo", "dpo-seed1", "dpo-seed2"]


def test_groups_in_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = write_lineage(tmp_path, shared=True)
    for run, value in zip(runs, [0.3, *DPO], strict=True):
        row = {"metric": "deferral", "value": value, "ci_low": value - 0.02, "ci_high": value + 0.02, "n": 400}
        (run.path / "run.json").write_text(json.dumps(run.meta | {"headline": [row]}))
    assert cli.main(["runs", "list", "--group", "--root", str(tmp_path)]) == 0
    head, base, dpo = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert head == ["name", "method", "seeds", "about", "deferral", "deferral_low", "deferral_high", "runs"]
    assert base[:3] + base[4:] == ["base", "pretrain", "1", "0.3", "", "", "base"]
    assert [float(each) for each in dpo[4:7]] == pytest.approx(mean_over_trainings(DPO)[:3])
    status, said = in_terminal(["runs", "list", "--group", "--root", str(tmp_path)], columns=120)
    assert status == 0
    assert "94 % [83, 100]" in said
    assert "* only the last steps differ by seed" in said
    assert cli.main(["runs", "list", "--group", "--json", "--root", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)[1]["about"] == "3 seeds of dpo from one base (base)"


def test_a_group_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    runs = write_lineage(tmp_path / "runs", shared=True)
    for index, run in enumerate(runs):
        row = {"metric": "deferral", "value": index / 10, "ci_low": 0, "ci_high": 1, "n": 400}
        (run.path / "run.json").write_text(json.dumps(run.meta | {"headline": [row]}))
        lines = [json.dumps({"step": s, "time": s, "loss": s + index}) for s in range(3)]
        (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "runs"))
    out = tmp_path / "out"
    assert cli.main(["export", "dpo-seed1", "--group", "--format", "csv,tex,html", "--out", str(out)]) == 0
    (table,) = out.glob("*headline-seeds*.csv")
    assert pd.read_csv(table).loc[0, ["value", "ci_low", "n"]].tolist() == pytest.approx(
        [0.2, mean_over_trainings([0.1, 0.2, 0.3]).low, 3]
    )
    (curve,) = out.glob("*metrics-loss-seeds*.csv")
    assert pd.read_csv(curve)["loss"].tolist() == [2, 3, 4]
    assert "95 % t intervals over trainings" in next(out.glob("*headline-seeds*.tex")).read_text().replace("\\", "")
    assert "over trainings" in (out / "provenance.json").read_text()
    assert cli.main(["export", "base", "--group", "--format", "csv", "--out", str(out)]) == 2
    assert "has no other seed" in capsys.readouterr().err


def test_a_report_says_what_is_known_over_trainings(tmp_path: Path):
    runs = write_lineage(tmp_path)
    for run, value in zip(runs, BASE + DPO, strict=True):
        row = {"metric": "deferral", "value": value, "ci_low": value - 0.02, "ci_high": value + 0.02, "n": 400}
        (run.path / "run.json").write_text(json.dumps(run.meta | {"headline": [row]}))
    text = report([run.refresh() for run in runs][3:4])  # the others lie beside it
    assert mean_over_trainings(DPO).format("share") in text
    assert "3 seeds of the whole pipeline (pretrain and dpo)" in text
    assert "Nothing is known of other trainings." in report(runs[:1], around=[])
