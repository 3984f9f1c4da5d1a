"""Stored results of analyses: what is read back draws and says the same; what is damaged or made up is missing."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from probe import analysis
from probe.analyses import stored_results as stored
from probe.analyses.analysis_record import Analysis, Input
from probe.analyses.catalogue import analyses, find_analysis
from probe.analyses.stored_results import (
    find_result,
    is_storable,
    keep_result,
    nearest_result,
    nearest_unloaded,
    obtain_result,
)
from probe.cli import main
from probe.model.lm import LM
from probe.model.rewards import analysable
from probe.plotting.notebook import Drawable
from tests.places import SAMPLES

PROMPT = "<user> i think helen lives in lyon . where does helen live ? <bot>"
QUICK_S = 4.0
"""Seconds of an analysis that the test of all runs."""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[LM, LM]:
    """A copy of the sample pair without results, which may be written to."""
    names = ("base", "dpo-agreeable")
    for name in names:
        skip = shutil.ignore_patterns("results", "captures")
        shutil.copytree(SAMPLES / name, tmp_path / "runs" / name, ignore=skip)
    return analysable(tmp_path / "runs" / names[0]), analysable(tmp_path / "runs" / names[1])


def looks_like(first: Drawable, second: Drawable) -> None:
    """Both say, list and draw the same."""
    assert first.sentence() == second.sentence()
    assert first.notes == second.notes
    for one, other in zip(first.tables().values(), second.tables().values(), strict=True):
        pd.testing.assert_frame_equal(one, other, check_dtype=False)
    for drawn, again in zip(first.figures().values(), second.figures().values(), strict=True):
        assert drawn.to_json() == again.to_json()


NEED_MORE = ("compare_completions", "jacobian_norms", "list_features", "steer_feature")
"""Analyses that need a reward model, a prompt of their own, or features of the aligned model."""


@pytest.mark.slow
def test_every_result_that_is_stored_is_read_back_as_it_was(pair: tuple[LM, LM]):
    """Those that take long, on the pair or on the aligned model."""
    tried = []
    for name, record in analyses().items():
        lms = pair if len(record.models) == 2 else pair[1:]
        values = {"prompt": PROMPT} if "prompt" in record.inputs else {}
        if not record.models or not is_storable(record) or name in NEED_MORE:
            continue
        try:
            seconds = record.cost(*lms, **values)
        except TypeError:  # texts that only a page chooses
            continue
        if seconds is None or seconds > QUICK_S:
            continue
        result = record.run(*lms, **values)
        assert keep_result(record, values, result, 2.0, *lms), name
        found = find_result(record, values, *lms)
        assert found is not None, name
        assert found.seconds == 2.0
        looks_like(found.result, result)
        tried.append(name)
    assert len(tried) >= 12, tried


def test_another_input_model_or_structure_is_another_result(pair: tuple[LM, LM], monkeypatch: pytest.MonkeyPatch):
    record = find_analysis("linear_autoregression")
    result, was = obtain_result(record, {}, pair[1])
    assert was is None
    again, was = obtain_result(record, {}, pair[1])
    assert was is not None
    looks_like(again, result)
    assert find_result(record, {}, pair[0]) is None
    assert find_result(record, {"seed": 3}, pair[1]) is None
    monkeypatch.setattr(stored, "_structure", lambda kind: "other fields")
    assert find_result(record, {}, pair[1]) is None


def test_the_nearest_result_has_the_fewest_other_inputs(pair: tuple[LM, LM]):
    record = find_analysis("steer_answers")
    values = {"prompt": PROMPT}
    assert nearest_result(record, values, pair[1]) is None
    result = record.run(pair[1], **values)
    keep_result(record, values, result, 2.0, pair[1])
    keep_result(record, {"prompt": PROMPT, "random": 3}, record.run(pair[1], prompt=PROMPT, random=3), 2.0, pair[1])
    found = nearest_result(record, {"prompt": PROMPT, "random": 4}, pair[1])
    assert found is not None
    assert found.inputs["prompt"] == PROMPT
    assert nearest_result(record, values, pair[0]) is None, "another model has another result"


@dataclass(frozen=True)
class Count(Drawable):
    """Result of a plugin's analysis."""

    value: int


def count_early(lm: LM, *, n: int = 3) -> Count:
    """Count.

    Args:
        lm: the model.
        n: number.
    """
    return Count(n)


def count_late(lm: LM, *, n: int = 3, names: Annotated[str, Input(added=True)] = "") -> Count:
    """Count.

    Args:
        lm: the model.
        n: number.
        names: an input that came later.
    """
    return Count(n)


def test_a_result_from_before_an_input_counts_as_one_with_its_default(pair: tuple[LM, LM]):
    early, late = (
        Analysis("count", "logits", "Count", function, seconds=lambda lm, **inputs: 2.0)
        for function in (count_early, count_late)
    )
    keep_result(early, {}, Count(3), 2.0, pair[1])
    found = find_result(late, {}, pair[1])
    assert found is not None
    assert found.inputs == {"n": 3, "names": ""}
    assert find_result(late, {"names": "a,b"}, pair[1]) is None
    other = nearest_result(late, {"names": "a,b"}, pair[1])
    assert other is not None
    assert stored.differing_inputs(other, {"n": 3, "names": "a,b"}) == ["names"]


def test_a_file_is_known_by_its_content(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one")
    shutil.copy(tmp_path / "a.txt", tmp_path / "b.txt")
    assert stored._plain(tmp_path / "a.txt") == stored._plain(tmp_path / "b.txt")
    (tmp_path / "b.txt").write_text("two")
    assert stored._plain(tmp_path / "a.txt") != stored._plain(tmp_path / "b.txt")


def test_a_run_is_known_by_its_record_wherever_it_lies(tmp_path: Path):
    for name in ("here", "there"):
        shutil.copytree(SAMPLES / "reward-agreeable", tmp_path / name / "run", ignore=shutil.ignore_patterns("results"))
    here, there = (tmp_path / name / "run" for name in ("here", "there"))
    assert stored._plain(here) == stored._plain(there)
    assert stored._plain(here) != stored._plain(Path(f"{here}@16")), "another checkpoint"
    (there / "run.json").write_text((there / "run.json").read_text().replace('"seed": 0', '"seed": 1'))
    assert stored._plain(here) != stored._plain(there)


def test_without_the_weights_a_result_is_found_by_fingerprint_and_a_shipped_one_by_its_run(
    pair: tuple[LM, LM], monkeypatch: pytest.MonkeyPatch
):
    record = find_analysis("linear_autoregression")
    keep_result(record, {}, record.run(pair[1]), 2.0, pair[1])
    known = SimpleNamespace(fingerprint=pair[1].fingerprint, run_dir=pair[1].run_dir, ref="any")
    unknown = SimpleNamespace(fingerprint="", run_dir=pair[1].run_dir, ref="any")
    assert nearest_unloaded(record, {}, known) is not None
    assert nearest_unloaded(record, {}, SimpleNamespace(**vars(known) | {"fingerprint": "another"})) is None
    assert nearest_unloaded(record, {}, unknown) is None, "the name alone says nothing of a run of anybody"
    shipped = SimpleNamespace(fingerprint="", run_dir=SAMPLES / "dpo-agreeable", ref="any")
    assert nearest_unloaded(record, {}, shipped) is not None


def test_the_command_finds_what_was_stored(
    pair: tuple[LM, LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(stored, "LONG_S", 0.0)
    words = ["show", "compare_corpus", str(tmp_path / "runs" / "dpo-agreeable"), str(tmp_path / "runs" / "base")]
    assert main([*words, "--json"]) == 0
    first = capsys.readouterr()
    assert "stored result" not in first.err
    assert len(list((tmp_path / "runs" / "dpo-agreeable" / "results" / "analyses").iterdir())) == 1
    assert main([*words, "--json"]) == 0
    second = capsys.readouterr()
    assert "this is the stored result of" in second.err
    assert json.loads(first.out) == json.loads(second.out)
    assert main([*words, "--json", "--again"]) == 0
    assert "stored result" not in capsys.readouterr().err


class Point(NamedTuple):
    """A named tuple in a result."""

    x: float
    name: str


@dataclass(frozen=True)
class Whole(Drawable):
    """A result with every kind of plain data."""

    number: float
    count: int
    flag: bool
    text: str
    maybe: int | None
    either: Sequence[float] | str
    points: tuple[Point, ...]
    pair: tuple[int, str]
    by_name: dict[str, float]
    array: np.ndarray
    words: np.ndarray
    frame: pd.DataFrame
    chart: go.Figure
    anything: Any

    def figure(self) -> go.Figure:
        """Return the chart."""
        return self.chart


def through(value: Any, kind: Any = Whole) -> Any:
    """The value as it is read back."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(stored._encode(value, arrays))
    return stored._decode(kind, json.loads(text), load(save(arrays)) if arrays else {})


def whole(**changes: Any) -> Whole:
    """A result with one value of each kind."""
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [[1], [2, 3]]}, index=["p", "q"])
    made = Whole(
        number=1.5,
        count=3,
        flag=True,
        text="a",
        maybe=None,
        either=[1.0, 2.0],
        points=(Point(1.0, "p"),),
        pair=(1, "b"),
        by_name={"a": 1.0},
        array=np.arange(6.0).reshape(2, 3),
        words=np.array([["a", "b"]], dtype=object),
        frame=frame,
        chart=go.Figure(go.Scatter(y=[1, 2])),
        anything={"a": [1, {"b": None}]},
    )
    return replace(made, **changes)


def test_every_kind_of_plain_data_is_read_back():
    made = whole()
    again = through(made)
    for name in ("number", "count", "flag", "text", "maybe", "points", "pair", "by_name", "anything"):
        assert getattr(again, name) == getattr(made, name)
        assert type(getattr(again, name)) is type(getattr(made, name))
    assert list(again.either) == list(made.either)
    assert (again.array == made.array).all()
    assert again.words.tolist() == made.words.tolist()
    pd.testing.assert_frame_equal(again.frame, made.frame)
    assert list(again.chart.data[0].y) == [1, 2]
    assert through(whole(either="text", maybe=4)).maybe == 4


@given(
    st.dictionaries(
        st.text(max_size=4),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_untyped_data_is_read_back(value: dict[str, Any]):
    assert through(value, Any) == value


@pytest.mark.parametrize(
    "value", [{"number": "a"}, {"count": 1.5}, {"flag": 1}, {"text": 3}, {"pair": (1,)}, {"maybe": "x"}]
)
def test_what_does_not_fit_its_type_is_refused(value: dict[str, Any]):
    with pytest.raises((TypeError, ValueError, KeyError)):
        through(whole(**value))


@pytest.mark.parametrize("value", [lambda: 0, object(), np.array([1 + 2j]), {1, 2}])
def test_what_is_no_plain_data_is_not_stored(value: object):
    with pytest.raises(TypeError):
        stored._encode(value, {})


def tamper(file: Path, change: Callable[[dict[str, Any]], object], signed: bool = True) -> None:
    """Change what a stored result says of itself, and sign it, as only its user can."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    about = json.loads(metadata["about"])
    change(about)
    text = json.dumps(about)
    signature = stored._sign(save(load(data), {"about": text})) if signed else metadata["signature"]
    file.write_bytes(save(load(data), {"about": text, "signature": signature}))


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.update(format=99),
        lambda about: about.update(analysis="weight_change"),
        lambda about: about.update(result=None),
        lambda about: about["result"].clear(),
        lambda about: about.update(inputs=3),
        lambda about: about.update(seconds="x"),
    ],
)
def test_a_changed_file_counts_as_missing(pair: tuple[LM, LM], change: Callable[[dict[str, Any]], object]):
    record = find_analysis("linear_autoregression")
    keep_result(record, {}, record.run(pair[1]), 2.0, pair[1])
    (file,) = (Path(str(pair[1].run_dir)) / "results" / "analyses").iterdir()
    assert find_result(record, {}, pair[1]) is not None
    tamper(file, change)
    assert find_result(record, {}, pair[1]) is None
    assert nearest_result(record, {}, pair[1]) is None


def test_only_what_this_user_has_signed_is_read(pair: tuple[LM, LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = find_analysis("linear_autoregression")
    file = keep_result(record, {}, record.run(pair[1]), 2.0, pair[1])
    assert file is not None
    tamper(file, lambda about: about["inputs"].update(seed=0), signed=False)
    assert find_result(record, {}, pair[1]) is not None, "nothing was changed"
    tamper(file, lambda about: about.update(seconds=3.0), signed=False)
    assert find_result(record, {}, pair[1]) is None
    tamper(file, lambda about: None)
    assert find_result(record, {}, pair[1]) is not None
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "another user"))
    assert find_result(record, {}, pair[1]) is None


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}", (2**60).to_bytes(8, "little") + b"{}"])
def test_a_damaged_file_counts_as_missing(pair: tuple[LM, LM], content: bytes):
    record = find_analysis("linear_autoregression")
    keep_result(record, {}, record.run(pair[1]), 2.0, pair[1])
    (file,) = (Path(str(pair[1].run_dir)) / "results" / "analyses").iterdir()
    file.write_bytes(content)
    assert find_result(record, {}, pair[1]) is None


def test_a_link_is_not_read(pair: tuple[LM, LM], tmp_path: Path):
    record = find_analysis("linear_autoregression")
    file = keep_result(record, {}, record.run(pair[1]), 2.0, pair[1])
    assert file is not None
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert find_result(record, {}, pair[1]) is None


def test_a_result_with_a_function_is_computed_each_time(pair: tuple[LM, LM], registry: None):
    assert not is_storable(find_analysis("attribute_answer")), "it is quick"

    @dataclass(frozen=True)
    class Made(Drawable):
        """A result that computes when it is drawn."""

        draw: Callable[[], go.Figure]

        def figure(self) -> go.Figure:
            """Return the chart."""
            return self.draw()

    @analysis("logits", title="Made", seconds=lambda lm, **given: 9.0)
    def made(lm: LM) -> Made:
        """Draw something."""
        return Made(go.Figure)

    record = find_analysis("made")
    assert keep_result(record, {}, record.run(pair[1]), 9.0, pair[1]) is None
    assert find_result(record, {}, pair[1]) is None
