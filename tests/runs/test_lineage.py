"""Who came from whom, also after the folders were moved."""

import shutil
from pathlib import Path

from probe.runs import Edge, lineage, list_runs
from tests.runs.conftest import Make


def test_edges(make: Make, tmp_path: Path):
    make("base")
    make("reward", method="reward-model", parent="base@500")
    make(
        "rlhf",
        method="rlhf",
        parent=str(tmp_path / "base" / "checkpoints" / "00000500"),
        reference="base",
        reward_model="./somewhere/reward",
    )
    make("real", parent="org/base-1b")
    make("self", parent="self")
    for path in [tmp_path, shutil.copytree(tmp_path, tmp_path.parent / "moved")]:
        assert set(lineage(list_runs(path))) == {
            Edge("base", "reward", "parent", known=True),
            Edge("base", "rlhf", "parent", known=True),
            Edge("base", "rlhf", "reference", known=True),
            Edge("reward", "rlhf", "reward_model", known=True),
            Edge("org/base-1b", "real", "parent", known=False),
            Edge("self", "self", "parent", known=False),
        }
