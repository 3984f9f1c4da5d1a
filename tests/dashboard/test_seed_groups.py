"""Groups of seeds on the pages: one entry each, with intervals over trainings that say so."""

import dataclasses
import itertools
import re
import shutil
from pathlib import Path

import pytest

from probe.experiments.metrics import BARE
from probe.experiments.result import Result
from probe.runs import list_runs
from probe.seeds import groups, headline, mean_over_trainings, paired_by_seed
from probe.seeds.t_intervals import UNKNOWN
from tests.dashboard import store
from tests.dashboard.pages import Show, chart, heading, names, open_tab, read
from tests.places import SAMPLES


@pytest.fixture(scope="session")
def seeds(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the runs of `runs` from seeds 1 and 2, without weights."""
    return store.further_seeds(runs, tmp_path_factory.mktemp("seeds"))


def test_runs_are_one_entry_a_group(show: Show, runs: Path, seeds: Path):
    app = show(runs, seeds)
    assert heading(app).startswith("Over 3 trainings dpo-agreeable (3 seeds) repeats a user's false claim in")
    table = app.dataframe[0].value
    assert list(table["run"]) == ["base", "dpo-agreeable"]
    assert list(table["over"]) == ["3 trainings"] * 2
    assert "questions held fixed" in read(app)
    assert UNKNOWN not in read(app)
    assert "dpo-agreeable (3 seeds)" in str(chart(app, "lineage"))
    axis = chart(app, "headline")["layout"]["xaxis"]["title"]["text"]
    assert "over trainings" in axis
    app.toggle(key="seeds").set_value(True).run()
    opened = app.dataframe[0].value
    assert len(opened) == 8
    assert list(opened["over"][:4]) == ["3 trainings", "answers", "answers", "answers"]


def test_one_run_shows_both_intervals(show: Show, runs: Path, seeds: Path):
    app = open_tab(show(runs, seeds, run="dpo-agreeable-seed2"), "One run")
    assert "This run has no weights" in read(app)
    assert "3 seeds of the whole pipeline (pretrain and dpo): dpo-agreeable, dpo-agreeable-seed1" in read(app)
    table = app.dataframe[0].value.set_index("name in files")
    assert table.loc["deferral", "over answers"] == "98 % [96, 100]"
    assert "over 3 trainings" in table
    labels = [box.options for box in app.selectbox if box.key == "run"]
    assert "dpo-agreeable-seed2" in labels[0]


def test_one_seed_is_said_in_one_sentence(show: Show, runs: Path):
    app = show(runs)
    assert read(app).count(UNKNOWN) == 1
    assert set(app.dataframe[0].value["over"]) == {"answers"}


def test_runs_without_weights_are_not_offered_as_models(show: Show, runs: Path, seeds: Path):
    app = show(runs, seeds, page="logits/page.py")
    for key in ("base", "aligned"):
        assert not [each for each in app.selectbox(key=key).options if "seed" in each]


def test_the_group_of_the_test_runs(runs: Path, seeds: Path):
    found = groups([*list_runs(runs), *list_runs(seeds)])
    assert [group.seeds for group in found] == [(0, 1, 2), (0, 1, 2)]
    assert headline(found[1])["n"].tolist() == [3] * 5


def test_curves_are_means_over_seeds(show: Show, runs: Path, seeds: Path):
    app = show(runs, seeds, page="training/page.py", runs=["base", "dpo-agreeable-seed2"])
    assert "base (3 seeds) fell from" in heading(app)
    assert app.multiselect[0].options[2:] == [f"{n}-seed{s}" for n in ("base", "dpo-agreeable") for s in (1, 2)]
    assert "band: its 95 % t interval; faint: each training." in read(app)
    traces = chart(app, "curves")["data"]
    assert sum(trace.get("fill") == "toself" for trace in traces) >= 2
    assert len([trace for trace in traces if trace.get("opacity") == 0.3]) >= 6
    app.toggle(key="joined").set_value(False).run()
    assert "dpo-agreeable-seed2 fell from" in heading(app)
    assert not [trace for trace in chart(app, "curves")["data"] if trace.get("fill") == "toself"]


def test_curves_of_one_seed_have_no_switch(show: Show, runs: Path):
    app = show(runs, page="training/page.py")
    assert "joined" not in [toggle.key for toggle in app.toggle]


def test_a_copy_is_an_entry_of_its_own_and_no_seed(show: Show, runs: Path, seeds: Path, tmp_path: Path):
    shutil.copytree(seeds / "dpo-agreeable-seed1", tmp_path / "again")
    table = show(runs, seeds, tmp_path).dataframe[0].value
    assert list(table["run"]) == ["base", "again", "dpo-agreeable"]
    assert list(table["over"]) == ["3 trainings", "answers", "3 trainings"]


def test_an_experiment_says_what_other_seeds_found(show: Show, tmp_path: Path):
    """The base and dpo-agreeable with stored results of three seeds."""
    values = {"base": (0.3, 0.36, 0.33), "dpo-agreeable": (0.9, 0.99, 0.93)}
    root = tmp_path / "runs"
    for name in values:
        shutil.copytree(SAMPLES / name, root / name, ignore=shutil.ignore_patterns("captures", "figures"))
    store.further_seeds(SAMPLES, root)
    for name in values:
        (place,) = (root / name / "results").glob("sycophancy-*")
        result = Result.load(SAMPLES / name / "results" / place.name)
        for seed, value in enumerate(values[name]):
            summary = result.summary.assign(value=result.summary["value"].where(result.summary.index > 0, value))
            folder = root / (f"{name}-seed{seed}" if seed else name) / "results" / place.name
            dataclasses.replace(result, summary=summary).save(folder)
    choices = {"base": "base", "aligned": "dpo-agreeable"}
    app = show(root, page="sycophancy/page.py", **choices)
    gap = paired_by_seed(values["dpo-agreeable"], values["base"]).format("difference", sign=True)
    assert f"dpo-agreeable \u2212 base {gap} (paired by seed, 3 pairs)" in read(app)
    app = open_tab(app, "Over trainings")
    table = app.dataframe[0].value
    assert table["dpo-agreeable, over trainings"][0] == mean_over_trainings(values["dpo-agreeable"]).format("share")
    assert table["dpo-agreeable \u2212 base, over trainings"][0] == gap
    assert "base, over answers" in table
    assert "over-trainings" in names(app)
    for seed, name in itertools.product((1, 2), values):
        shutil.rmtree(root / f"{name}-seed{seed}" / "results")
    bare = read(show(root, page="sycophancy/page.py", **choices))
    assert "other seeds of base and dpo-agreeable have no stored result" in bare
    for seed, name in itertools.product((1, 2), values):
        shutil.rmtree(root / f"{name}-seed{seed}")
    assert UNKNOWN in read(show(root, page="sycophancy/page.py", **choices))


def test_what_a_search_finds_is_no_number_of_trainings(show: Show):
    """Recall is the same in all of them; the sentence is about the models."""
    app = show(SAMPLES, page="retrieval/page.py", base="base", aligned="base")
    (said,) = [line for line in read(app).splitlines() if "Over trainings, " in line]
    assert "recall" not in said
    assert re.search(r"base \d+ % \[\d+, \d+\] \(5 trainings\)", said)


def test_why_a_value_has_no_interval_is_said_where_one_has_none(show: Show):
    pages = {"in_context": "icl", "continual": "base"}
    said = {page: read(show(SAMPLES, page=f"{page}/page.py", base=name, aligned=name)) for page, name in pages.items()}
    assert {page: BARE in text for page, text in said.items()} == {"in_context": True, "continual": False}
