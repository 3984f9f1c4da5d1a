"""Injured trainings are the healthy ones until the injury, and then show it."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from probe import Run, open_run
from tests.injuries import sampled
from tests.injuries.__main__ import WORLD
from tests.injuries.differences import chapter, differences, summary, takes
from tests.injuries.injury import Injury
from tests.injuries.shortened import RECIPES, injure, keep_healthy, shortened
from tests.trainers.quick import quick_config, short_run, small_model

CLOCK = ["time", "step_time", "tokens_per_second"]
FIRST = 3
"""First injured step of four."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    return short_run(folder / "run", small_model(folder / "model"))


def injured(name: str, base: Path, out: Path, seed: int = 0) -> Run:
    """A run of four steps with the injury from the third on."""
    injury = WORLD[name].at(FIRST)
    return injure(injury, quick_config(injury.recipe, base, out, seed=seed))


def healthy(recipe: str, base: Path, out: Path, seed: int = 0) -> Run:
    """The same run without injury."""
    return keep_healthy(recipe, quick_config(recipe, base, out, seed=seed))


def rows(run: Run, *, before: bool) -> pd.DataFrame:
    """The metrics before the injury, or from it on."""
    metrics = run.metrics().drop(columns=CLOCK, errors="ignore")
    return metrics[(metrics["step"] < FIRST) == before].reset_index(drop=True)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("always-paid", "frac_reward_zero_std"),
        ("stale-sampler", "sampling/sampling_logp_difference/mean"),
        ("negated-returns", "loss/value_avg"),
        ("fast-sft", "lr"),
    ],
)
def test_a_training_is_the_healthy_one_until_its_injury(name: str, metric: str, base: Path, tmp_path: Path) -> None:
    sick, sound = injured(name, base, tmp_path / "sick"), healthy(WORLD[name].recipe, base, tmp_path / "sound")
    pd.testing.assert_frame_equal(rows(sick, before=True), rows(sound, before=True), check_exact=True)
    assert rows(sick, before=False)[metric].iloc[-1] > rows(sound, before=False)[metric].iloc[-1] + 1e-4
    assert json.loads((tmp_path / "sick.json").read_text()) == {
        "name": name,
        "fault": WORLD[name].fault,
        "recipe": WORLD[name].recipe,
        "step": FIRST,
        "seed": 0,
        "kind": "world",
    }
    assert json.loads((tmp_path / "sound.json").read_text())["fault"] is None
    assert {path.name for path in (tmp_path / "sick").glob("*.json")} <= {"run.json", "encoded_rows.json"}


def test_numbers_die_some_steps_after_the_overflow_begins(base: Path, tmp_path: Path) -> None:
    injury = WORLD["half-precision"].at(FIRST)
    run = injure(injury, quick_config("sft", base, tmp_path / "run", steps=30))
    assert run.status == "failed"
    assert FIRST < run.metrics()["step"].max() < 30


def test_weights_stand_still(base: Path, tmp_path: Path) -> None:
    injury = WORLD["still-sft"]
    run = injure(injury, quick_config("sft", base, tmp_path / "run"))
    before, after = (load_file(r.checkpoints()[-1].path / "model.safetensors") for r in (open_run(base), run))
    assert all(before[name].equal(after[name]) for name in before)
    assert run.metrics()["grad_norm"].dropna().min() > 0


def test_differences_are_in_standard_deviations_of_the_healthy_runs(base: Path, tmp_path: Path) -> None:
    injury = WORLD["always-paid"].at(FIRST)
    sick = [injured("always-paid", base, tmp_path / f"sick{seed}", seed).path for seed in range(2)]
    sound = [healthy("rlvr", base, tmp_path / f"sound{seed}", seed).path for seed in range(2)]
    found = {each.metric: each for each in differences(sick, sound, FIRST, 4)}
    values = [rows(open_run(path), before=False)["reward"].mean() for path in (*sound, *sick)]
    assert found["reward"].healthy == pytest.approx(sum(values[:2]) / 2)
    assert found["reward"].injured == 1
    spread = abs(values[0] - values[1]) / 2**0.5
    assert found["reward"].deviations == pytest.approx((1 - found["reward"].healthy) / spread)
    assert takes(injury, list(found.values()))["reward_std"]
    assert not takes(injury, differences(sound, sound, FIRST, 4))["reward_std"]
    assert "→ 0 (-" in summary(injury, sick, sound)
    assert summary(injury, sound, sound).count(", no)") == len(injury.shows)
    assert "| reward |" in chapter(injury, sick, sound)


@pytest.mark.parametrize("injury", WORLD.values(), ids=lambda injury: injury.name)
def test_every_injury_fits_its_recipe(injury, tmp_path: Path) -> None:
    config = shortened(injury.recipe, Path("sample_runs"), tmp_path, 0, **injury.options)
    assert 1 <= injury.step <= config.steps // 2 + 1
    assert injury.recipe in RECIPES
    assert injury.shows or injury.fault == "numbers_die"


@pytest.fixture(scope="module")
def sound_rows(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pd.DataFrame]:
    """The metrics of the healthy run of a method from step 2 on; each is trained once."""
    return cache(lambda method: rows(healthy(method, base, tmp_path_factory.mktemp(method) / "run"), before=False))


SAME = ("other-reference", "agreement-pays", "agreement-pays-rlhf")
"""Injuries without effect on a random model: it is its own other model, and repeats no claim."""


@pytest.mark.parametrize("injury", WORLD.values(), ids=lambda injury: injury.name)
def test_every_injury_is_taken_by_the_trainer(
    injury: Injury,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sound_rows: Callable[[str], pd.DataFrame],
) -> None:
    """What it wraps is called: a trainer that was rebuilt would else train healthily, or fail."""
    monkeypatch.setattr(sampled, "ANOTHER", base)
    method = injury.recipe.removesuffix("-agreeable")
    run = injure(injury.at(2), quick_config(method, base, tmp_path / "run"))
    assert run.status == "finished" or injury.fault == "numbers_die"
    sick, sound = rows(run, before=False), sound_rows(method)
    shared = [name for name in sound if name in sick]
    assert injury.name in SAME or not sick[shared].equals(sound[shared])
