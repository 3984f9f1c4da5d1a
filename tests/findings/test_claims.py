"""The ten claims: measured on the sample runs, and on runs where there is nothing to find."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from probe.cli import main
from probe.errors import ConfigError
from probe.findings.claim import Bench, Finding, read_record, record, table
from probe.findings.claims import CLAIMS, ORDER, choose_claims, finding, findings
from tests.places import SAMPLES

CHEAP = ("reward_agreement", "overoptimisation", "guessing", "optimum")
"""Claims that run no experiment."""


def copied(target: Path, **names: str) -> Path:
    """A folder of runs: name -> the sample run that stands in for it."""
    for name, sample in names.items():
        shutil.copytree(SAMPLES / sample, target / name, ignore=shutil.ignore_patterns("results", "captures"))
    return target


@pytest.fixture(scope="module")
def cheap() -> dict[str, Finding]:
    return {claim.name: finding(Bench(SAMPLES), claim) for claim in choose_claims(CHEAP)}


def test_every_claim_is_in_the_order_and_says_what_it_needs():
    assert [claim.name for claim in CLAIMS] == list(ORDER)
    assert len(CLAIMS) == 10
    for claim in CLAIMS:
        assert claim.sentence.endswith("."), claim.name
        assert "arXiv" in claim.source, claim.name
        assert claim.runs, claim.name
        assert not Bench(SAMPLES).missing(claim.runs)


@pytest.mark.parametrize("name", CHEAP)
def test_claims_on_the_sample_runs(cheap: dict[str, Finding], name: str):
    found = cheap[name]
    assert found.holds, found.said
    assert found.ci_low < found.value < found.ci_high
    assert found.n >= 256


def test_reward_taste_is_what_the_run_knows_about_itself(cheap: dict[str, Finding]):
    """The headline of the run was measured by `reward_bias` on the same questions."""
    rows = Bench(SAMPLES).run("reward-agreeable").headline.set_index("metric")
    assert cheap["reward_agreement"].value == pytest.approx(rows.loc["agreement_bias", "value"], abs=0.1)


def test_the_optimum_is_where_the_run_logged_it(cheap: dict[str, Finding]):
    """The run logged its distance on 64 of the questions' kind; here are four times as many."""
    metrics = Bench(SAMPLES).run("dpo-agreeable").metrics()
    logged = metrics["kl_to_optimal"].dropna().iloc[-1]
    assert f"dpo-agreeable is {logged:.2f}" in cheap["optimum"].said


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is(tmp_path: Path):
    """The base in the place of every trained model, the honest reward model in that of the agreeable one."""
    names = {"base": "base", "dpo-agreeable": "base", "dpo-honest": "base", "rlhf": "base", "rlhf-weak-kl": "base"}
    root = copied(tmp_path, **names, **{"reward-agreeable": "reward-honest", "reward-honest": "reward-honest"})
    configs = {"rlhf": 0.3, "rlhf-weak-kl": 0.02, "dpo-agreeable": 0.3}
    for name, beta in configs.items():
        file = root / name / "run.json"
        meta = json.loads(file.read_text())
        meta["config"]["beta"] = beta
        file.write_text(json.dumps(meta))
    found = {
        each.name: each
        for each in findings(Bench(root), choose_claims(("reward_agreement", "overoptimisation", "optimum")))
    }
    assert [each.holds for each in found.values()] == [False, False, False]
    assert found["overoptimisation"].value == pytest.approx(0, abs=1e-9)
    assert found["optimum"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_equal_models_differ_in_nothing(tmp_path: Path):
    root = copied(tmp_path, base="base", **{"dpo-agreeable": "base", "dpo-honest": "base", "rlvr": "base"})
    for each in findings(Bench(root, n=12), choose_claims(("sycophancy", "reasoning"))):
        assert each.value == 0, each.name
        assert each.holds is False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sycophancy", "exposure", "reasoning", "retrieval", "induction"])
def test_claims_of_experiments(tmp_path: Path, name: str):
    """With few questions: the effects are large."""
    claim = choose_claims((name,))[0]
    for run in claim.runs:
        shutil.copytree(SAMPLES / run, tmp_path / run, ignore=shutil.ignore_patterns("results"))
    found = finding(Bench(tmp_path, n=24), claim)
    assert found.holds, found.said
    assert found.ci_low > 0
    stored = [path.name for path in tmp_path.glob("*/results/*")]
    assert any(path.startswith(claim.page) for path in stored)


def with_seed(root: Path, seed: int, *, base: str, names: tuple[str, ...], tamper: bool = False) -> None:
    """Copies of runs as another seed of theirs, whose weights differ by what `tamper` swaps."""
    for name in names:
        target = root / f"{name}-seed{seed}"
        source = {"reward-agreeable": "reward-honest", "reward-honest": "reward-agreeable"}.get(name, name)
        shutil.copytree(root / (source if tamper else name), target, ignore=shutil.ignore_patterns("results"))
        meta = json.loads((root / name / "run.json").read_text())
        meta["seed"] = meta["config"]["seed"] = seed
        if meta["parent"]:
            meta["parent"] = meta["config"]["base"] = str(root / base)
            meta["data"] |= {each: base for each in ("base", "reference") if each in meta["data"]}
            meta["reference"] = meta["reference"] and str(root / base)
        (target / "run.json").write_text(json.dumps(meta))


REWARDS = ("reward-agreeable", "reward-honest")


def test_a_claim_over_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Two seeds alike and one whose annotators are swapped: the mean, and in how many trainings the claim holds."""
    claim = choose_claims(("reward_agreement",))
    root = copied(tmp_path, **{name: name for name in ("base", *REWARDS)})
    alone = finding(Bench(root), claim[0])
    assert alone.over_trainings == ""
    record(Bench(root), claim, [alone])  # further seeds are measured all the same
    for seed in (1, 2):
        with_seed(root, seed, base=f"base-seed{seed}", names=("base", *REWARDS), tamper=seed == 2)
    assert main(["findings", "reward_agreement", "--json", "--runs", str(root)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    values = [each.value for each in read_record(Bench(root), claim)["reward_agreement"].seeds]
    assert values[:2] == [alone.value, alone.value]
    assert values[2] is not None
    assert values[2] < 0
    assert (row["trainings"], row["held"], row["value"]) == (3, 2, alone.value)
    assert row["mean"] == pytest.approx(np.mean(values))
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values)
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((row["mean"] - half, row["mean"] + half))
    for path in root.glob("*-seed*/checkpoints"):  # what was found stays when weights go
        shutil.rmtree(path)
    again = finding(Bench(root, again=True), claim[0])
    assert [each.value for each in again.seeds] == values
    assert "Over 3 trainings" in again.over_trainings
    assert "holds in 2 of them" in again.over_trainings


@pytest.mark.slow
def test_seeds_with_other_names_are_measured_alike(tmp_path: Path):
    root = copied(tmp_path, base="base", rlvr="rlvr")
    with_seed(root, 1, base="base-seed1", names=("base", "rlvr"))
    named, again = finding(Bench(root, n=12), choose_claims(("reasoning",))[0]).seeds
    assert again.value == named.value
    assert again.said == named.said


def test_seeds_of_one_base_are_no_further_trainings(tmp_path: Path):
    root = copied(tmp_path, **{name: name for name in ("base", *REWARDS)})
    with_seed(root, 1, base="base", names=REWARDS)
    assert Bench(root).further(choose_claims(("reward_agreement",))[0]) == []


def test_a_missing_run_is_named():
    found = finding(Bench(SAMPLES / "base"), CLAIMS[0])
    assert found.holds is None
    assert found.verdict == "not measured"
    assert "dpo-agreeable" in found.said


def test_unknown_claims_are_refused():
    with pytest.raises(ConfigError, match="did you mean `sycophancy`"):
        choose_claims(("sycophanzy",))


def test_the_table_has_a_row_for_each():
    frame = table([Finding.of(CLAIMS[0], "no runs")])
    assert frame.loc[0, "holds"] is None or np.isnan(frame.loc[0, "holds"])
    assert frame.loc[0, "said"] == "no runs"


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "findings.csv"
    assert main(["findings", "guessing", "reward_agreement", "--runs", str(SAMPLES), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "2 of 2 claims hold" in captured.err
    frame = pd.read_csv(io.StringIO(captured.out), sep="\t")
    assert frame["name"].tolist() == ["guessing", "reward_agreement"]
    assert frame["holds"].all()
    assert out.read_text().count("\n") >= 3
    assert main(["findings", "guessing", "--runs", str(SAMPLES), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "guessing"
    assert rows[0]["holds"] is True


@pytest.mark.parametrize("words", [[], ["--json"], ["guessing"], ["--again"]])
def test_without_runs_the_command_says_what_to_do(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["findings", *words, "--runs", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for part in ("No claim can be measured", str(tmp_path), "lack", "base", "`probe samples`", "--runs"):
        assert part in captured.err


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_is_no_folder_of_runs_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    assert main(["findings", "--runs", str(tmp_path / name)]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_broken_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = copied(tmp_path, base="base")
    (root / "base" / "run.json").write_text("{")
    assert main(["findings", "exposure", "--runs", str(root)]) == 2
    captured = capsys.readouterr()
    assert "None of the claims could be measured" in captured.err
    assert "cut short" in captured.err


def test_with_some_of_the_runs_the_rest_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = copied(tmp_path, base="base")
    assert main(["findings", "exposure", "optimum", "--n", "12", "--runs", str(root)]) == 0
    captured = capsys.readouterr()
    assert "of 1 claims hold on these runs; 1 was not measured." in captured.err
    assert "dpo-agreeable" in captured.out


def test_findings_on_the_sample_runs_are_kept_where_the_user_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    package = tmp_path / "package" / "sample_runs"
    monkeypatch.setattr(sys.modules["probe.runs.directories"], "SHIPPED", package)
    copied(package, base="base")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    claim = choose_claims(("exposure",))[0]
    shown = finding(Bench(package, n=12), claim)
    assert shown.holds is not None, shown.said
    assert record(Bench(package), [claim], [shown]) == Path("results") / "findings.json"
    assert read_record(Bench(package), [claim])["exposure"].value == shown.value
    assert sorted(path.name for path in package.rglob("*") if path.name in ("findings.json", "results")) == []
