"""Runs that differ by seed only are found by what they say, whatever they are called and wherever they lie."""

import itertools
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.runs import Run, list_runs
from probe.seeds import group_of, groups
from probe.seeds.grouping import ASIDE, Group, common_name, pair
from tests.places import ROOT
from tests.seeds.conftest import OPTIONS, write_lineage, write_run
from trainers.samples.recipes import RECIPES


def find_group(found: list[Group], method: str) -> Group:
    (group,) = (each for each in found if each.method == method)
    return group


def test_a_lineage_of_three_seeds(lineage: list[Run]):
    base, dpo = groups(lineage)
    assert (base.name, base.seeds, base.about) == ("base", (0, 1, 2), "3 seeds of pretrain")
    assert (dpo.name, dpo.first.name, dpo.shared) == ("dpo", "dpo", "")
    assert dpo.about == "3 seeds of the whole pipeline (pretrain and dpo)"
    assert [(a.name, b.name) for _, (a,), (b,) in pair(dpo, base)] == [
        ("dpo", "base"),
        ("dpo-seed1", "base-seed1"),
        ("dpo-seed2", "base-seed2"),
    ]


def test_one_base_is_no_pipeline(tmp_path: Path):
    base, dpo = groups(write_lineage(tmp_path, shared=True))
    assert dpo.about == "3 seeds of dpo from one base (base)"
    assert dpo.count == 3
    assert [b.name for _, _, (b,) in pair(dpo, base)] == ["base"] * 3
    sft = [write_run(tmp_path / f"sft{s}", "sft", s, str(base.first.path)) for s in (2, 0)]
    other = find_group(groups([*dpo.runs, *base.runs, *sft]), "sft")
    assert [name for name, _, _ in pair(dpo, other)] == ["seed 0", "seed 2"]


def test_equal_weights_are_one_base_whatever_their_runs_say(tmp_path: Path):
    data = {"source": "world", "hash": "w", "reference": "the same weights"}
    base, dpo = groups(write_lineage(tmp_path, data=data))
    assert base.count == 3  # nothing says that these are one
    assert dpo.about == "3 seeds of dpo from one base (base)"


def test_seeds_of_one_base_are_no_further_trainings(tmp_path: Path):
    runs = write_lineage(tmp_path)
    again = write_run(tmp_path / "dpo-again", "dpo", 7, str(tmp_path / "base"))
    group = find_group(groups([*runs, again]), "dpo")
    assert (len(group.runs), group.count) == (4, 3)
    assert group.about == "4 seeds of the whole pipeline (pretrain and dpo), 3 of them independent"


def test_a_reward_model_is_part_of_the_recipe(tmp_path: Path):
    runs = write_lineage(tmp_path, (0, 1))
    for taste, seed in itertools.product(("honest", "agreeable"), (0, 1)):
        base, name = str(runs[seed].path), f"{taste}{seed}"
        write_run(tmp_path / name, "reward-model", seed, base, config={"annotator": taste})
        write_run(tmp_path / f"ppo-{name}", "rlhf", seed, base, reward_model=name, config={"reward": [name]})
    found = [group for group in groups(list_runs(tmp_path)) if group.method == "rlhf"]
    assert sorted(sorted(run.name for run in group.runs) for group in found) == [
        ["ppo-agreeable0", "ppo-agreeable1"],
        ["ppo-honest0", "ppo-honest1"],
    ]


NAMES = st.lists(st.text("abcdefgh-", min_size=6, max_size=9), min_size=6, max_size=6, unique=True)


@settings(max_examples=8)
@given(order=st.permutations(range(6)), names=NAMES, copied=st.sets(st.integers(0, 5)))
def test_neither_order_nor_names_nor_copies_matter(order: list[int], names: list[str], copied: set[int]):
    with tempfile.TemporaryDirectory() as text:
        made, moved = Path(text, "made"), Path(text, "moved")
        runs = write_lineage(made)
        expected = {frozenset(run.seed for run in group.runs) for group in groups(runs)}
        moved.mkdir()
        for index, (run, name) in enumerate(zip(runs, names, strict=True)):
            if index in copied:
                shutil.copytree(run.path, moved / f"copy of {name}")
            run.path.rename(moved / f"run {name}")
        found = list_runs(moved)
        found = [found[i] for i in order] + found[6:]
        assert {frozenset(run.seed for run in group.runs) for group in groups(found)} == expected
        assert [group.count for group in groups(found)] == [3, 3]
        assert {group.about for group in groups(found)} == {group.about for group in groups(found[::-1])}


@settings(max_examples=20)
@given(name=st.sampled_from(sorted({*OPTIONS, *ASIDE, "beta", "new"} - {"data"})), which=st.integers(3, 5))
def test_another_option_makes_another_group(name: str, which: int):
    with tempfile.TemporaryDirectory() as text:
        runs = write_lineage(Path(text))
        file = runs[which].path / "run.json"
        meta = json.loads(file.read_text())
        meta["config"][name] = "another"
        file.write_text(json.dumps(meta))
        sizes = sorted(len(group.runs) for group in groups(list_runs(text)))
        assert sizes == ([3, 3] if name in ASIDE else [1, 2, 3])


def test_an_older_version_lacks_options(tmp_path: Path):
    runs = write_lineage(tmp_path)
    file = runs[0].path / "run.json"
    for options in (
        {"weights_dtype": "float32", "reference_dtype": None, "shard": False, "lora_targets": []},
        {"weights_dtype": "bfloat16"},
    ):
        meta = json.loads(file.read_text())
        file.write_text(json.dumps(meta | {"config": meta["config"] | options}))
        sizes = [len(group.runs) for group in groups(list_runs(tmp_path))]
        assert sizes == ([3, 3] if options["weights_dtype"] == "float32" else [1, 1, 2, 2])


def test_files_are_known_by_what_they_hold(tmp_path: Path):
    for seed, path, digest in ((0, "a.jsonl", "x"), (1, "elsewhere/b.jsonl", "x"), (2, "a.jsonl", "y")):
        data = {"source": path, "hash": digest, "rows": seed}
        write_run(tmp_path / f"sft{seed}", "sft", seed, "org/model", data=data, config={"data": path})
    assert [group.seeds for group in groups(list_runs(tmp_path))] == [(0, 1), (2,)]


def test_a_run_has_its_group(lineage: list[Run], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_RUNS", str(lineage[0].path.parent))
    assert group_of("dpo-seed2").seeds == (0, 1, 2)
    assert group_of(lineage[-1], lineage[:-1]).first.name == "dpo"


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["base", "base-seed1"], "base"),
        (["s1-dpo-honest", "s2-dpo-honest"], "dpo-honest"),
        (["one", "two"], "one"),
        (["dpo-seed1"], "dpo-seed1"),
    ],
)
def test_the_name_of_a_group(names: list[str], name: str):
    assert common_name(names) == name


def test_groups_of_the_sample_runs_share_no_base():
    """Five seeds of the whole pipeline: no two members start from the same weights."""
    found = [group for group in groups(list_runs(ROOT / "sample_runs")) if len(group.runs) > 1]
    assert {group.first.name: group.seeds for group in found} == dict.fromkeys(RECIPES, (0, 1, 2, 3, 4))
    for group in found:
        weights = [(run.meta["data"] or {}).get("reference") or run.meta["data"].get("base") for run in group.runs]
        assert not group.shared, group.about
        assert len(set(weights)) == len(weights) or weights == [None] * len(weights), group.name
        assert group.count == len(group.runs)
