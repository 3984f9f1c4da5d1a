"""A run is data: code that it names is imported only when the command line names it again, and only if unchanged."""

import importlib.util
import json
import py_compile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe import open_run
from probe.errors import ConfigError, RunError
from probe.plugins import code_options, names_code
from trainers import rlvr
from trainers.commands import train
from trainers.reward_functions import resolve

JUDGE = """
from pathlib import Path

Path({mark!r}).touch()

def score(prompts, completions, **columns):
    return [float(len(text)) for text in completions]
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that shows that the judge was imported."""
    return tmp_path / "imported"


@pytest.fixture
def judge(tmp_path: Path, mark: Path) -> str:
    """A reward function that leaves a mark where it is imported."""
    file = tmp_path / "judge.py"
    file.write_text(JUDGE.format(mark=str(mark)))
    return f"{file}:score"


@pytest.fixture
def run(configs: Callable[..., Any], judge: str, mark: Path) -> Path:
    """A run of two steps whose reward is that function."""
    out = configs("rlvr")().out
    rlvr.train(configs("rlvr")(reward=(judge,), steps=2, save_every=1))
    mark.unlink()
    return out


def test_a_run_that_names_code_is_resumed_only_when_the_command_line_names_it_too(run: Path, judge: str, mark: Path):
    with pytest.raises(ConfigError) as refused:
        train(["rlvr", "--out", str(run), "--resume", "--steps", "3"])
    command = f"probe train rlvr --out {run} --resume --reward {judge}"
    assert f"type `{command}`" in str(refused.value)
    assert not mark.exists()
    assert train([*command.split()[2:], "--steps", "3"]) == 0
    assert mark.exists()
    assert open_run(run).metrics()["step"].iloc[-1] == 3


def test_code_that_was_put_into_a_run_is_not_imported(configs: Callable[..., Any], judge: str, mark: Path):
    config = configs("rlvr")(steps=2, save_every=1)
    rlvr.train(config)
    about = json.loads((config.out / "run.json").read_text())
    about["config"]["reward"], about["status"] = [judge], "interrupted"
    (config.out / "run.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match="imported only when"):
        train(["rlvr", f"--out={config.out}", "--resume"])
    with pytest.raises(RunError, match="have changed"):  # the run never had it, whatever its options say now
        train(["rlvr", "--out", str(config.out), "--resume", "--steps", "3", "--reward", judge])
    assert not mark.exists()


def test_a_file_that_has_changed_is_refused_before_it_is_run(run: Path, judge: str, mark: Path):
    file = Path(judge.removesuffix(":score"))
    file.write_text(file.read_text() + "\n# changed\n")
    with pytest.raises(RunError, match=r"have changed .*judge\.py"):
        train(["rlvr", "--out", str(run), "--resume", "--steps", "3", "--reward", judge])
    assert not mark.exists()


def test_another_reward_than_the_runs_is_refused_before_it_is_run(run: Path, judge: str, mark: Path, tmp_path: Path):
    other = tmp_path / "other.py"
    other.write_text(JUDGE.format(mark=str(mark)))
    with pytest.raises(ConfigError, match="--reward"):
        train(["rlvr", "--out", str(run), "--resume", "--steps", "3", "--reward", f"{other}:score"])
    assert not mark.exists()


def test_what_runs_is_what_was_hashed_and_no_older_compiled_file(tmp_path: Path, judge: str, mark: Path):
    source = tmp_path / "judge.py"
    hostile = tmp_path / "hostile"
    evil = tmp_path / "evil.py"
    evil.write_text(f"from pathlib import Path\nPath({str(hostile)!r}).touch()\ndef score(**given): return []\n")
    compiled = importlib.util.cache_from_source(str(source))
    py_compile.compile(str(evil), cfile=compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    (reward,) = resolve([judge], None)
    assert reward(["a"], ["bc"]) == [2.0]
    assert mark.exists()
    assert not hostile.exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a.py:f", True),
        ("package.module:f", True),
        ("C:\\a b\\c.py:f", True),
        (["os:system"], False),
        ("verifier", False),
        ("runs/reward", False),
        ("C:\\runs\\reward", False),
        ("", False),
        (None, False),
    ],
)
def test_which_texts_name_code(text: object, named: bool):
    assert names_code(text) is named


def test_which_options_name_code():
    assert code_options({"reward": ["verifier", "a.py:f"], "data": "b.py:f"}) == {"reward": ["verifier", "a.py:f"]}
    assert code_options({"reward": "a.py:f"}) == {"reward": ["a.py:f"]}
    for harmless in ({}, {"reward": ["verifier"]}, {"reward": None}, {"reward": {"a.py:f": 1}}, {"reward": 3}):
        assert code_options(harmless) == {}
