"""The Findings page: what is on record at once, what is missing on demand, and the way to the page behind a claim."""

import json
import shutil
from pathlib import Path

import pytest

from probe.findings.bench import Bench
from probe.findings.claim import Finding, Null, Replication
from probe.findings.claims import CLAIMS, choose_claims, finding
from probe.findings.ledger import FILE, read_record, record
from probe.findings.verdicts import read_plan
from tests.dashboard.experiments import press
from tests.dashboard.pages import Show, chart, every_tab, heading, names, read, values
from tests.places import SAMPLES

PAGE = "findings/page.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample runs without what is on record."""
    ignored = shutil.ignore_patterns("results", "captures", FILE)
    return Path(shutil.copytree(SAMPLES, tmp_path_factory.mktemp("findings") / "runs", ignore=ignored))


@pytest.fixture
def known(tmp_path: Path, root: Path) -> Path:
    """The same with made-up findings: the first claim fails, the second one's null holds, the third has no null."""
    copy = Path(shutil.copytree(root, tmp_path / "known", ignore=shutil.ignore_patterns(FILE, "checkpoints")))
    nulls = {1: Null(20, 20, "nothing"), 2: Null(said="it was not trained")}
    for number, claim in enumerate(CLAIMS):
        sign = (1 if claim.terms.direction == "above" else -1) * (-0.5 if number == 0 else 1)
        origins = [f"seed{seed}" for seed in range(5)]
        if not claim.controls:
            origins = ["", *(each.origin for each in Bench(copy).further(claim.runs))]
        trainings = {
            at: Replication(
                seed,
                value := claim.terms.threshold + sign * (0.4 + seed / 100),
                value - 0.1,
                value + 0.1,
                9,
                f"{claim.name} was said",
            )
            for seed, at in enumerate(origins)
        }
        null = nulls.get(number, Null(1, 40, "made-up nothing"))
        found = Finding.of(claim, "said", trainings=trainings, null=null, p=1e-6, plan=read_plan().hash)
        record(Bench(copy), [claim], [found])
    return copy


def test_what_is_on_record_is_there_at_once(show: Show, known: Path):
    on_record = read_record(Bench(known), CLAIMS)
    assert len(on_record) == len(CLAIMS)
    app = show(known, page=PAGE)
    assert not app.exception
    rest = len(CLAIMS) - 3
    assert heading(app) == f"Of {len(CLAIMS)} published claims {rest} hold on these runs, 1 fail and 2 are undecided."
    drawn = [value for trace in chart(app, "findings")["data"] for value in values(trace["x"])]
    shown = [
        value for each in on_record.values() for value in (each.interval.value, read_plan().claims[each.name].threshold)
    ]
    shown += [each.value for found in on_record.values() for each in found.trainings.values()]
    assert sorted(drawn) == pytest.approx(sorted(shown))
    told = "".join(read(whole) for whole in every_tab(app))
    for claim in CLAIMS:
        each = on_record[claim.name]
        for part in (each.said, each.over_trainings, each.against_null, claim.terms.refuted_by, each.threshold):
            assert part in told, (claim.name, part)
    assert "holds in 1 of 40 repetitions of its null (2 % [0, 13]): made-up nothing." in told
    assert "Null not measured: it was not trained." in told


def test_every_claim_leads_to_its_page(show: Show):
    links = [
        (part.proto.label, part.proto.page.rpartition("/")[2])
        for app in every_tab(show(SAMPLES, page=PAGE))
        for part in app.get("page_link")
    ]
    assert len(links) == len(CLAIMS)
    assert sorted(page for _, page in links) == sorted(claim.page for claim in CLAIMS)
    assert all(label == f"Open {page.replace('_', ' ')}" for label, page in links)


@pytest.mark.slow
def test_missing_claims_are_measured_when_asked(show: Show, root: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = ("reward_agreement", "reward_agreement_honest")
    monkeypatch.setattr("probe.findings.claims.CLAIMS", choose_claims(chosen))
    app = show(root, page=PAGE)
    assert heading(app) == "No claim has been measured on these runs yet."
    assert names(app) == []
    press(app, "findings-run")
    assert not app.exception
    assert heading(app) == "Of 2 published claims 0 hold on these runs, 0 fail and 2 are undecided."  # no null is here
    assert set(json.loads((root / FILE).read_text())["findings"]) == set(chosen)


def test_another_run_of_the_name_is_measured_anew(tmp_path: Path, root: Path):
    copy = Path(shutil.copytree(root, tmp_path / "runs", ignore=shutil.ignore_patterns(FILE)))
    bench, (claim,) = Bench(copy), choose_claims(("reward_agreement",))
    record(bench, [claim], [finding(bench, claim)])
    assert read_record(Bench(copy), [claim])[claim.name].trainings
    meta = json.loads((copy / "reward-agreeable" / "run.json").read_text())
    (copy / "reward-agreeable" / "run.json").write_text(json.dumps(meta | {"created": "2030-01-01T00:00:00+00:00"}))
    assert read_record(Bench(copy), [claim]) == {}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 9, "findings": {}}', '{"format": 2, "findings": {"exposure": 3}}']
)
def test_a_damaged_record_counts_as_none(show: Show, tmp_path: Path, content: str):
    shutil.copytree(SAMPLES / "base", tmp_path / "base", ignore=shutil.ignore_patterns("captures", "results"))
    (tmp_path / FILE).write_text(content)
    assert read_record(Bench(tmp_path), CLAIMS) == {}
    assert heading(show(tmp_path, page=PAGE)) == "No claim has been measured on these runs yet."


def test_without_runs_the_page_says_what_to_do(show: Show, tmp_path: Path):
    app = show(tmp_path, page=PAGE)
    assert "no run called base" in heading(app)
    assert "probe samples" in read(app)


def test_a_missing_run_is_named(show: Show, tmp_path: Path):
    shutil.copytree(SAMPLES / "base", tmp_path / "base", ignore=shutil.ignore_patterns("captures", "results"))
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    told = "".join(read(whole) for whole in every_tab(app))
    assert "There is no run rlvr in this folder." in told
    assert "It is measured on `proxy-64`, `proxy-256`, `proxy-1024`, which do not come with Probe" in told


def test_every_training_is_told_in_words(show: Show):
    """The base overtakes RLVR in some trainings alone, which the first one does not say."""
    told = read(show(SAMPLES, page="findings/page.py"))
    assert "Seed 0: On sums that neither was trained on RLVR takes pass@1 from" in told
    for seed in (1, 2, 3, 4):
        assert f"Seed {seed}: On sums that neither was trained on RLVR takes pass@1 from" in told
