"""The Findings page: what is on record at once, what is missing on demand, and the way to the page behind a claim."""

import json
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from probe.findings.claim import FILE, Bench, read_record, record
from probe.findings.claims import CLAIMS, choose_claims, finding
from tests.dashboard.pages import Show, chart, every_tab, heading, names, read, values
from tests.places import SAMPLES

PAGE = "findings/page.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample runs without what is on record."""
    ignored = shutil.ignore_patterns("results", "captures", FILE)
    return Path(shutil.copytree(SAMPLES, tmp_path_factory.mktemp("findings") / "runs", ignore=ignored))


def pressed(app: AppTest) -> AppTest:
    return next(button for button in app.button if button.key == "findings-run").click().run()


def test_what_is_on_record_is_there_at_once(show: Show):
    """The committed findings belong to the committed runs."""
    on_record = read_record(Bench(SAMPLES), CLAIMS)
    assert len(on_record) == 10
    app = show(SAMPLES, page=PAGE)
    assert not app.exception
    held = sum(bool(each.holds) for each in on_record.values())
    always = sum(each.held == 5 for each in on_record.values())
    assert heading(app) == f"{held} of 10 published claims hold on these runs, {always} of them in all 5 trainings."
    drawn = [value for trace in chart(app, "findings")["data"] for value in values(trace["x"])]
    seeds = [each for found in on_record.values() for each in found.seeds]
    assert sorted(drawn) == pytest.approx(sorted(each.value for each in seeds))
    told = "".join(read(whole) for whole in every_tab(app))
    assert all(each.said in told and each.over_trainings in told for each in on_record.values())


def test_every_claim_leads_to_its_page(show: Show):
    links = [
        (part.proto.label, part.proto.page.rpartition("/")[2])
        for app in every_tab(show(SAMPLES, page=PAGE))
        for part in app.get("page_link")
    ]
    assert len(links) == 10
    assert sorted(page for _, page in links) == sorted(claim.page for claim in CLAIMS)
    assert all(label == f"Open {page.replace('_', ' ')}" for label, page in links)


def test_missing_claims_are_measured_when_asked(show: Show, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("probe.findings.claims.CLAIMS", choose_claims(("guessing", "reward_agreement")))
    app = show(root, page=PAGE)
    assert heading(app) == "No claim has been measured on these runs yet."
    assert names(app) == []
    pressed(app)
    assert not app.exception
    assert heading(app) == "2 of 2 published claims hold on these runs."
    assert set(json.loads((root / FILE).read_text())["findings"]) == {"guessing", "reward_agreement"}


def test_another_run_of_the_name_is_measured_anew(tmp_path: Path, root: Path):
    copy = Path(shutil.copytree(root, tmp_path / "runs", ignore=shutil.ignore_patterns(FILE)))
    bench, (claim,) = Bench(copy), choose_claims(("guessing",))
    record(bench, [claim], [finding(bench, claim)])
    assert read_record(Bench(copy), [claim])[claim.name].holds
    meta = json.loads((copy / "rlvr" / "run.json").read_text())
    (copy / "rlvr" / "run.json").write_text(json.dumps(meta | {"created": "2030-01-01T00:00:00+00:00"}))
    assert read_record(Bench(copy), [claim]) == {}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 9, "findings": {}}', '{"format": 1, "findings": {"guessing": 3}}']
)
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: str):
    shutil.copytree(SAMPLES / "base", tmp_path / "base", ignore=shutil.ignore_patterns("captures", "results"))
    (tmp_path / FILE).write_text(content)
    assert read_record(Bench(tmp_path), CLAIMS) == {}


def test_without_runs_the_page_says_what_to_do(show: Show, tmp_path: Path):
    app = show(tmp_path, page=PAGE)
    assert "no run called base" in heading(app)
    assert "probe samples" in read(app)


def test_a_missing_run_is_named(show: Show, tmp_path: Path):
    shutil.copytree(SAMPLES / "base", tmp_path / "base", ignore=shutil.ignore_patterns("captures", "results"))
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert "There is no run rlvr in this folder." in read(app)
