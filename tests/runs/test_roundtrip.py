"""What is written comes back: metrics, rollouts with every field, captures (hypothesis)."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from probe.runs import ProbePrompt, RunWriter, open_run
from probe.runs.schema import CAPTURE_DTYPES

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**53), 2**53)
NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name not in ("step", "time", "event"))
LISTS = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=4)
STEPS = st.integers(0, 10**7)


def finite(value: float) -> float:
    """What the store makes of a number: one that is not finite comes back as NaN."""
    return float(value) if math.isfinite(value) else math.nan


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple | np.ndarray):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a is None and b is None) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def new_run(folder: str, **options: Any) -> RunWriter:
    return RunWriter.create(Path(folder) / "run", **{"method": "test", "config": {}, **options})


@settings(max_examples=40)
@given(st.lists(st.tuples(STEPS, st.dictionaries(NAMES, NUMBERS, max_size=4)), max_size=8))
def test_metrics(rows: list[tuple[int, dict[str, float]]]):
    expected: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, new_run(folder) as writer:
        for step, values in rows:
            writer.log(step, values)
            expected.setdefault(step, {}).update(values)
        frame = open_run(writer.path).metrics()
    assert frame["step"].tolist() == sorted(expected)
    for row in frame.to_dict("records"):
        values = expected[row["step"]]
        for name in set(frame.columns) - {"step", "time"}:
            assert same(float(row[name]), finite(values.get(name, math.nan)))


TEXT = st.text(st.characters(exclude_categories=()), max_size=12)  # half surrogate pairs too
ROLLOUT = st.fixed_dictionaries(
    {
        "step": STEPS,
        "prompt": TEXT,
        "completion": TEXT,
        "rewards": st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False) | st.none(), max_size=3),
        "reward": st.floats(allow_nan=False, allow_infinity=False),
        "advantage": st.floats(allow_nan=False, allow_infinity=False),
        "token_ids": st.lists(st.integers(0, 2**31), max_size=4),
        "tokens": st.lists(st.text(max_size=5), max_size=4),
        "logprobs": LISTS,
        "ref_logprobs": LISTS,
    }
)


HALF = {"step": 3, "prompt": "a", "completion": "\ud800", "rewards": {}, "reward": 0.5, "advantage": 0.0}
HALF |= {"token_ids": [1], "tokens": ["\ud800"], "logprobs": [-0.5], "ref_logprobs": [float("nan")]}


@settings(max_examples=40)
@given(st.lists(ROLLOUT, min_size=1, max_size=4))
@example([HALF])
def test_rollouts(rows: list[dict[str, Any]]):
    with tempfile.TemporaryDirectory() as folder, new_run(folder) as writer:
        writer.rollouts(rows)
        read = open_run(writer.path).rollouts().to_dict("records")
    assert len(read) == len(rows)
    for row, back in zip(rows, read, strict=True):
        assert set(back) == set(row)
        for name, value in row.items():
            wanted = [finite(x) for x in value] if name.endswith("logprobs") else value
            assert same(wanted, back[name]), name


@st.composite
def captured(draw: st.DrawFn) -> dict[str, np.ndarray]:
    tensors = {}
    for name in draw(st.sets(st.sampled_from(sorted(CAPTURE_DTYPES)))):
        shape = draw(arrays.array_shapes(min_dims=2, max_dims=3, max_side=3))
        tensors[name] = draw(arrays.arrays(CAPTURE_DTYPES[name], shape))
    return tensors


@settings(max_examples=40)
@given(st.dictionaries(STEPS, captured(), max_size=3))
def test_captures(steps: dict[int, dict[str, np.ndarray]]):
    with tempfile.TemporaryDirectory() as folder, new_run(folder) as writer:
        for step, tensors in steps.items():
            writer.capture(step, tensors)
        captures = open_run(writer.path).captures()
        assert captures.steps == sorted(steps)
        for step, tensors in steps.items():
            loaded = captures.load(step)
            assert set(loaded) == set(tensors)
            for name, tensor in tensors.items():
                assert loaded[name].dtype == CAPTURE_DTYPES[name]
                np.testing.assert_array_equal(loaded[name], tensor)


PROMPT = st.builds(
    ProbePrompt,
    id=st.text(max_size=5),
    text=st.text(max_size=10),
    token_ids=st.lists(st.integers(0, 999), max_size=4),
    tokens=st.lists(st.text(max_size=4), max_size=4),
    answers=st.lists(st.text(max_size=4), max_size=3),
    answer_ids=st.lists(st.integers(0, 999), max_size=3),
    kind=st.text(max_size=5),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=30)
@given(st.lists(PROMPT, max_size=3), st.dictionaries(st.text(), JSON, max_size=4), st.text())
def test_prompts_and_settings(prompts: list[ProbePrompt], config: dict[str, Any], parent: str):
    with tempfile.TemporaryDirectory() as folder, new_run(folder, config=config, parent=parent) as writer:
        writer.prompts(prompts)
        run = open_run(writer.path)
        assert run.captures().prompts == prompts
        assert (run.config, run.parent) == (config, parent)
        json.loads((writer.path / "run.json").read_text(encoding="utf-8"))
