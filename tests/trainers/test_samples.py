"""The recipes of the sample runs from further seeds."""

from pathlib import Path

import pytest

from trainers.samples import RECIPES, Name, with_seed

FROM = ("base", "reward-agreeable")
"""Runs that others start from."""


@pytest.mark.parametrize("name", RECIPES)
def test_the_run_of_a_seed_starts_from_runs_of_that_seed(name: Name) -> None:
    plain = RECIPES[name].config(Path("s"))
    config = with_seed(plain, 2)
    assert (config.out, config.seed) == (Path(f"s/{name}-seed2"), 2)
    values, others = plain.to_dict(), config.to_dict()
    own = {"out", "seed", "base", "reward"}
    assert {key: values[key] for key in values.keys() - own} == {key: others[key] for key in others.keys() - own}
    named = {f"s/{each}": f"s/{each}-seed2" for each in FROM}
    assert others.get("base") == named.get(str(values.get("base")))
    assert others.get("reward") == (values.get("reward") and [named.get(each, each) for each in values["reward"]])
    assert with_seed(plain, 0) == plain
