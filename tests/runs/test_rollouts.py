"""Recorded completions: what is known of each token, the table, and its filters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.plotting.runs import token_panels
from probe.runs import RunWriter, open_run
from probe.runs.captured import matching, rollout_table, token_measures, tokens

FULL: dict[str, Any] = {
    "step": 10,
    "prompt": "<user> Hello <bot>",
    "completion": "a b",
    "group": 0,
    "tokens": ["a", "b", "<end>"],
    "rewards": {"verifier": 1.0, "length": None},
    "reward": 1.0,
    "advantage": [0.5, -0.5, 0.25],
    "logprobs": [-1.0, -2.0, None],
    "ref_logprobs": [-1.5, -1.0, -1.0],
    "entropy": [0.1, 0.2, 0.3],
    "finished": True,
}


def read(tmp_path: Path, *rows: dict[str, Any]) -> pd.DataFrame:
    """Rows as a run gives them back."""
    with RunWriter.create(tmp_path / "run", method="rlvr", config={}):
        pass
    (tmp_path / "run" / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_run(tmp_path / "run").rollouts()


def test_measures_of_tokens(tmp_path: Path):
    known = token_measures(read(tmp_path, FULL).iloc[0].to_dict())
    assert list(known) == ["advantage", "KL", "entropy"]
    np.testing.assert_allclose(known["KL"], [0.5, -1.0, np.nan])
    np.testing.assert_allclose(known["advantage"], [0.5, -0.5, 0.25])


def test_one_advantage_holds_for_all_tokens_and_recorded_rewards_are_used(tmp_path: Path):
    row = read(tmp_path, FULL | {"advantage": -0.5, "token_rewards": [0, 0, 1.5]}).iloc[0].to_dict()
    known = token_measures(row)
    np.testing.assert_array_equal(known["advantage"], [-0.5] * 3)
    np.testing.assert_array_equal(known["reward"], [0, 0, 1.5])


@pytest.mark.parametrize("gone", ["advantage", "ref_logprobs", "logprobs", "entropy", "tokens", "rewards", "reward"])
@pytest.mark.parametrize("other", [True, False])
def test_entries_may_be_missing_in_some_rows_or_all(tmp_path: Path, gone: str, other: bool):
    lacking = {name: value for name, value in FULL.items() if name != gone}
    frame = read(tmp_path, lacking, *([FULL] if other else []))
    first = frame.iloc[0].to_dict()
    measure = {"ref_logprobs": "KL", "logprobs": "KL"}.get(gone, gone)
    assert measure not in token_measures(first)
    assert tokens(first) == (["a", "b"] if gone == "tokens" else ["a", "b", "<end>"])
    table = rollout_table(frame)
    assert len(table) == len(frame)
    assert table["completion"].tolist() == ["a b"] * len(frame)


def test_lists_of_another_length_are_left_out():
    assert token_measures({"tokens": ["a", "b"], "entropy": [1.0], "advantage": [1.0, 2.0, 3.0]}) == {}
    assert token_measures({"tokens": [], "advantage": 1.0}) == {}


def test_table(tmp_path: Path):
    other = FULL | {"rewards": {"verifier": 0.0, "length": 2.0}, "reward": 2.0, "finished": False}
    table = rollout_table(read(tmp_path, FULL, other))
    assert table["reward: length"].isna().tolist() == [True, False]
    assert table["reward: verifier"].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(table["KL"], [-0.5, -0.5])
    np.testing.assert_allclose(table["entropy"], [0.2, 0.2])
    np.testing.assert_allclose(table["advantage"], [0.25 / 3, 0.25 / 3])
    assert table["tokens"].tolist() == [3, 3]
    assert not [name for name in rollout_table(read(tmp_path / "b", FULL | {"rewards": {"v": 1.0}})) if ":" in name]


def test_filters(tmp_path: Path):
    rows = [FULL | {"step": step, "reward": reward} for step, reward in [(1, 0.0), (5, 1.0), (9, 2.0)]]
    table = rollout_table(read(tmp_path, *rows, {"step": 5, "prompt": "q", "completion": "[x"}))
    assert matching(table, steps=(1, 5), rewards=None).index.tolist() == [0, 1, 3]
    assert matching(table, steps=(1, 9), rewards=(1.0, 2.0)).index.tolist() == [1, 2, 3]
    assert matching(table, steps=(1, 9), rewards=None, text=" hello").index.tolist() == [0, 1, 2]
    assert matching(table, steps=(1, 9), rewards=None, text="[X").index.tolist() == [3]


def test_panels_have_a_row_a_measure_and_escape_tokens():
    chart = token_panels({"KL": np.array([0.1, 0.2]), "entropy": np.zeros(2)}, ["<b>x</b>", "y"], chosen=1)
    assert [axis.title.text for axis in (chart.layout.yaxis, chart.layout.yaxis2)] == [
        "KL<br>(nats)",
        "entropy<br>(nats)",
    ]
    assert list(chart.layout.xaxis2.ticktext) == ["&lt;b&gt;x&lt;/b&gt;", "y"]
    assert chart.data[0].customdata[0] == "&lt;b&gt;x&lt;/b&gt; [0]"
    assert list(chart.data[0].marker.opacity) == [0.45, 1.0]
