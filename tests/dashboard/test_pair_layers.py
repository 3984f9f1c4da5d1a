"""Pairs through the layers on the pages Curves and captures and Rewards, on a run with the instrument."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from probe import LM, watch
from probe.recording.pair_lens import PairLens
from probe.recording.reward_tokens import TextPair
from probe.rewards import follow_pair_layers
from tests.dashboard.pages import Show, chart, names, open_tab, read, values

PAIRS = [TextPair([1, 5, 9, 7], [11, 3, 8], [6]), TextPair([1, 2, 3], [4], [9, 8, 7])]


@pytest.fixture(scope="module")
def paired(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `base`, and one that captured pairs at two steps."""
    root = tmp_path_factory.mktemp("paired")
    shutil.copytree(runs / "base", root / "base")
    lm = LM.load(root / "base")
    instrument = PairLens(PAIRS, LM.load(root / "base").logits)
    with watch(lm, root / "aligned", every=1, method="dpo", config={"beta": 0.1}, instruments=[instrument]) as recorder:
        recorder.step(0)
        lm.model.lm_head.weight.data[11] += 0.5
        recorder.step(1, loss=1.0)
    return root


def test_pairs_through_the_layers_in_both_places(show: Show, paired: Path):
    found = follow_pair_layers(run=paired / "aligned")
    app = open_tab(show(paired, page="training/page.py", runs="aligned"), "Pairs")
    grid = values(chart(app, "pair-layers")["data"][0]["z"])
    np.testing.assert_allclose(grid, found.margins.mean(1).T, rtol=1e-4, atol=1e-5)
    assert found.sentence() in read(app)
    app.selectbox(key="rew_layer_pair").select("2").run()
    grid = values(chart(app, "pair-layers")["data"][0]["z"])
    np.testing.assert_allclose(grid, found.margins[:, 1].T, rtol=1e-4, atol=1e-5)
    assert "pair-tokens" in names(app)
    app = show(paired, page="rewards/page.py", base="base", aligned="aligned", rew_layer_step="0")
    assert "Pair 1 at step 0, token by token" in read(app)


def test_a_run_without_pairs_has_no_such_tab(show: Show, paired: Path):
    assert "Pairs" not in [tab.label for tab in show(paired, page="training/page.py", runs="base").tabs]
