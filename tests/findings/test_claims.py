"""The claims on the sample runs and on copies of them: over trainings, on record, and by the command."""

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

from probe.cli import main
from probe.commands.findings import draw_table
from probe.errors import ConfigError
from probe.experiments.result import Result
from probe.findings.bench import Bench
from probe.findings.claim import Finding, Null, Replication, judge, table
from probe.findings.claims import CLAIMS, choose_claims, finding, findings, lacks
from probe.findings.ledger import FILE, read_record, record
from probe.findings.verdicts import read_plan
from tests.places import SAMPLES


def copied(target: Path, **names: str) -> Path:
    """A folder of runs: name -> the sample run that stands in for it."""
    for name, sample in names.items():
        shutil.copytree(SAMPLES / sample, target / name, ignore=shutil.ignore_patterns("results", "captures"))
    return target


class Asking(Bench):
    """A bench that runs experiments without their interventions, which no claim reads."""

    def result(self, experiment: str, name: str, **options: Any) -> Result:
        options |= {"interventions": 0} if experiment == "sycophancy" else {}
        return super().result(experiment, name, **options)


def test_every_claim_says_what_it_needs():
    for claim in CLAIMS:
        assert claim.sentence.endswith("."), claim.name
        assert "arXiv" in claim.source, claim.name
        assert claim.runs or claim.controls, claim.name
        assert not Bench(SAMPLES).missing(claim.runs)


def test_the_bias_of_a_reward_model_is_what_its_run_knows_about_itself():
    found = finding(Bench(SAMPLES), choose_claims(("reward_agreement",))[0])
    rows = Bench(SAMPLES).run("reward-agreeable").headline.set_index("metric")
    assert found.first is not None
    assert found.first.value == rows.loc["agreement_bias", "value"]
    assert [each.seed for each in found.trainings.values()] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_the_optimum_is_where_the_run_logged_it():
    """The run logged its distance on 64 of the questions' kind; here are four times as many."""
    found = finding(Bench(SAMPLES), choose_claims(("optimum",))[0])
    logged = Bench(SAMPLES).run("dpo-agreeable").metrics()["kl_to_optimal"].dropna().iloc[-1]
    assert f"dpo-agreeable is {logged:.2f}" in found.said
    assert found.null.holds == 0
    assert found.null.repetitions == 9


@pytest.mark.slow
def test_optima_are_not_found_where_nothing_was_trained(tmp_path: Path):
    """The base in the place of every trained model."""
    names = ("base", "dpo-agreeable", "dpo-honest", "rlhf", "rlhf-weak-kl")
    root = copied(tmp_path, **dict.fromkeys(names, "base"), **{"reward-agreeable": "reward-agreeable"})
    for name in names[1:]:
        file = root / name / "run.json"
        meta = json.loads(file.read_text())
        meta["config"]["beta"] = 0.3
        file.write_text(json.dumps(meta))
    for each in findings(Bench(root, n=64), choose_claims(("optimum", "optimum_rlhf"))):
        assert each.verdict == "fails"
        assert each.first is not None
        assert each.first.ci_high < 0


@pytest.mark.slow
def test_equal_models_differ_in_nothing(tmp_path: Path):
    root = copied(tmp_path, base="base", **{"dpo-agreeable": "base"})
    for each in findings(Asking(root, n=4), choose_claims(("sycophancy",))):
        assert each.first is not None
        assert each.first.value == 0, each.name
        assert each.verdict != "holds"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sycophancy", "exposure", "retrieval", "induction"])
def test_claims_of_experiments(tmp_path: Path, name: str):
    """With few questions: the effects are large."""
    claim = choose_claims((name,))[0]
    for run in {"base", *claim.runs}:
        shutil.copytree(SAMPLES / run, tmp_path / run, ignore=shutil.ignore_patterns("results"))
    found = finding(Asking(tmp_path, n=24), claim)
    assert found.first is not None, found.said
    assert claim.terms.beyond(found.first.effect)
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
        meta["headline"] = json.loads((target / "run.json").read_text())["headline"]
        if meta["parent"]:
            meta["parent"] = meta["config"]["base"] = str(root / base)
            meta["data"] |= {each: base for each in ("base", "reference") if each in meta["data"]}
            meta["reference"] = meta["reference"] and str(root / base)
        (target / "run.json").write_text(json.dumps(meta))


REWARDS = ("reward-agreeable", "reward-honest")
COINS = ("reward-indifferent", "reward-indifferent-seed1")


def with_controls(folder: Path) -> Path:
    """Two reward models of coin tosses, by what they say of themselves."""
    for number, name in enumerate(COINS):
        shutil.copytree(SAMPLES / "reward-honest", folder / name, ignore=shutil.ignore_patterns("results", "captures"))
        meta = json.loads((folder / name / "run.json").read_text())
        for row in meta["headline"]:
            if row["metric"] == "agreement_bias":
                row |= {"value": 0.01 * number, "ci_low": -0.05, "ci_high": 0.05}
        (folder / name / "run.json").write_text(json.dumps(meta | {"seed": number}))
    return folder


def test_a_claim_over_trainings_and_on_its_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Two held-out seeds, one with the other annotator; what is on record outlives the control runs."""
    (claim,) = choose_claims(("reward_agreement",))
    root = copied(tmp_path / "runs", **{name: name for name in ("base", *REWARDS)})
    alone = finding(Bench(root), claim)
    assert "One training (seed 0, on which the recipe was chosen)" in alone.over_trainings
    record(Bench(root), [claim], [alone])  # further seeds are measured all the same
    for seed in (1, 2):
        with_seed(root, seed, base=f"base-seed{seed}", names=("base", *REWARDS), tamper=seed == 2)
    controls = with_controls(tmp_path / "controls")
    words = ["findings", "reward_agreement", "--json", "--runs", str(root)]
    assert main([*words, "--controls", str(controls)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    found = read_record(Bench(root), [claim])["reward_agreement"]
    values = [each.value for each in found.trainings.values()]
    assert [each.seed for each in found.trainings.values()] == [0, 1, 2]
    assert values[0] == row["value"] == alone.trainings[""].value
    assert (row["trainings"], row["held"], row["held_out"]) == (2, 1, True)
    assert row["mean"] == pytest.approx(np.mean(values[1:]))
    half = scipy.stats.t.ppf(0.975, 1) * scipy.stats.sem(values[1:])
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((row["mean"] - half, row["mean"] + half))
    assert row["p"] == pytest.approx(scipy.stats.ttest_1samp(values[1:], claim.terms.threshold).pvalue)
    assert row["verdict"] == "undecided"  # two trainings that go apart
    assert (row["null_holds"], row["null_repetitions"], row["null_rate"]) == (0, 2, 0.0)
    shutil.rmtree(controls)
    assert main([*words, "--again"]) == 0
    (again,) = json.loads(capsys.readouterr().out)
    assert again == row


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 9, "findings": {}}', '{"format": 2, "findings": {"exposure": 3}}']
)
def test_a_damaged_record_is_none(tmp_path: Path, content: str):
    root = copied(tmp_path, base="base")
    (root / FILE).write_text(content)
    assert read_record(Bench(root), CLAIMS) == {}


def test_what_an_older_version_stored_is_not_known(tmp_path: Path):
    """Other numbers stood under the same names."""
    root = copied(tmp_path, **{name: name for name in ("base", *REWARDS)})
    (claim,) = choose_claims(("reward_agreement",))
    record(Bench(root), [claim], [finding(Bench(root), claim)])
    assert read_record(Bench(root), [claim])
    stored = json.loads((root / FILE).read_text())
    entry = {"key": stored["findings"][claim.name]["key"], "value": 1.0, "ci_low": 0.9, "ci_high": 1.1, "n": 400}
    entry |= {"holds": True, "said": "so", "name": claim.name}
    for old in ({"format": 1, "findings": {claim.name: entry}}, stored | {"findings": {claim.name: entry}}):
        (root / FILE).write_text(json.dumps(old))
        assert read_record(Bench(root), [claim]) == {}


def test_what_was_measured_under_other_terms_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = copied(tmp_path, **{name: name for name in ("base", *REWARDS)})
    (claim,) = choose_claims(("reward_agreement",))
    record(Bench(root), [claim], [finding(Bench(root), claim)])
    plan = read_plan()
    changed = {**plan.claims, claim.name: dataclasses.replace(claim.terms, threshold=0.2)}
    monkeypatch.setattr("probe.findings.claim.read_plan", lambda: dataclasses.replace(plan, claims=changed))
    assert read_record(Bench(root), [claim]) == {}


def test_a_claim_on_control_runs_names_the_command_that_makes_them(tmp_path: Path):
    root = copied(tmp_path, base="base", rlvr="rlvr")
    (claim,) = choose_claims(("guessing",))
    found = finding(Bench(root), claim)
    assert found.verdict == "not measured"
    assert "`probe samples --controls --seeds 5 --out controls`" in found.said
    assert not lacks(Bench(root), claim, None)


@pytest.mark.slow
def test_guessing_on_equal_runs_is_nothing(tmp_path: Path):
    root = copied(tmp_path, base="base", rlvr="rlvr")
    controls = copied(tmp_path / "controls", **dict.fromkeys(("rlvr-fined", "rlvr-unfined", "rlvr-all-fined"), "rlvr"))
    (found,) = findings(Bench(root, n=16, controls=controls), choose_claims(("guessing",)))
    assert found.first is not None
    assert found.first.value == 0
    assert found.verdict != "holds"
    assert found.null.holds == 0
    assert found.null.repetitions == 1


@pytest.mark.slow
def test_seeds_with_other_names_are_measured_alike(tmp_path: Path):
    root = copied(tmp_path, base="base", rlvr="rlvr")
    with_seed(root, 1, base="base-seed1", names=("base", "rlvr"))
    named, again = finding(Bench(root, n=4), choose_claims(("retrieval_abstaining",))[0]).trainings.values()
    assert again.value == named.value
    assert again.said == named.said


def test_seeds_of_one_base_are_no_further_trainings(tmp_path: Path):
    root = copied(tmp_path, **{name: name for name in ("base", *REWARDS)})
    with_seed(root, 1, base="base", names=REWARDS)
    assert Bench(root).further(("reward-agreeable",)) == []


def test_a_missing_run_is_named():
    found = finding(Bench(SAMPLES / "base"), CLAIMS[0])
    assert found.trainings == {}
    assert found.verdict == "not measured"
    assert "dpo-agreeable" in found.said


def test_unknown_claims_are_refused():
    with pytest.raises(ConfigError, match="did you mean `sycophancy`"):
        choose_claims(("sycophanzy",))


def test_the_table_has_a_row_for_each():
    frame = table([Finding.of(CLAIMS[0], "no runs")])
    assert frame.loc[0, "holds"] is None or np.isnan(frame.loc[0, "holds"])
    assert frame.loc[0, "said"] == "no runs"
    assert frame.loc[0, "null_rate"] is None or np.isnan(frame.loc[0, "null_rate"])
    assert frame.loc[0, "refuted_by"] == CLAIMS[0].terms.refuted_by


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root, out = copied(tmp_path / "runs", **{name: name for name in ("base", *REWARDS)}), tmp_path / "findings.csv"
    names = ["reward_agreement", "reward_agreement_honest"]
    assert main(["findings", *names, "--runs", str(root), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "Of 2 claims 0 hold, 1 fail and 1 are undecided" in captured.err  # the null is unknown here
    frame = pd.read_csv(io.StringIO(captured.out), sep="\t")
    assert frame["name"].tolist() == names
    assert frame["verdict"].tolist() == ["undecided", "fails"]
    assert frame["null_rate"].isna().all()
    assert out.read_text().count("\n") >= 3
    assert main(["findings", names[0], "--runs", str(root), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["null_rate"], row["null_repetitions"], row["plan"]) == (None, 0, read_plan().hash)


def test_a_terminal_shows_null_and_verdict_of_every_claim(capsys: pytest.CaptureFixture[str]):
    found = Finding.of(
        CLAIMS[0], "so", null=Null(1, 20, "shuffled"), trainings={"": Replication(1, 0.4, 0.3, 0.5, 9, "so")}
    )
    console = Console(file=io.StringIO(), width=160)
    console.print(draw_table([judge({CLAIMS[0].name: found})[CLAIMS[0].name]]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 20" in shown
    assert "undecided" in shown
    assert "shuffled" in " ".join(shown.split())


@pytest.mark.parametrize("words", [[], ["--json"], ["exposure"], ["--again"]])
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
    assert "Of 1 claims" in captured.err
    assert "on these runs; 1 was not measured." in captured.err
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
    assert shown.first is not None, shown.said
    assert record(Bench(package), [claim], [shown]) == Path("results") / "findings.json"
    assert read_record(Bench(package), [claim])["exposure"].trainings == shown.trainings
    assert sorted(path.name for path in package.rglob("*") if path.name in ("findings.json", "results")) == []
