"""A spec is data: it runs no code, writes nowhere but where it was let, and does not grow without bound."""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from probe.commands.sweep import sweep
from probe.errors import ConfigError, ProbeError
from probe.plugins import REGISTRIES, restore
from probe.sweep import read_spec
from probe.sweep.spec import Task, check_commands
from probe.sweep.trust import MOST_TASKS

BASE: dict[str, Any] = {"name": "base", "method": "pretrain", "options": {"steps": 3}}
ASK: dict[str, Any] = {"name": "sycophancy", "of": ["base"]}


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A plugin that leaves a mark where it is run; relative to the working folder, as a hostile spec would name it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    return "evil.py"


def toml(path: Path, spec: dict[str, Any]) -> Path:
    """Write a spec of plain values; inline tables of TOML are those of JSON with another sign."""

    def value(each: Any) -> str:
        if isinstance(each, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {value(v)}" for k, v in each.items()) + "}"
        if isinstance(each, list):
            return "[" + ", ".join(map(value, each)) + "]"
        return json.dumps(each)

    lines = [f"{key} = {value(each)}" for key, each in spec.items() if key not in ("train", "experiment")]
    for kind in ("train", "experiment"):
        for entry in spec.get(kind, ()):
            lines += [f"[[{kind}]]", *(f"{json.dumps(key)} = {value(each)}" for key, each in entry.items())]
    path.write_text("\n".join(lines))
    return path


OPTION = "--plugin=evil.py"
HOSTILE = {
    "an option": {"train": [BASE | {"options": {"plugin": "evil.py"}}]},
    "an option of a grid": {"train": [BASE | {"grid": {"plugin": ["evil.py"]}}]},
    "an option of each": {"train": [BASE | {"each": [{"--plugin": "evil.py"}]}]},
    "an option of an experiment": {"train": [BASE], "experiment": [ASK | {"options": {"plugin": "evil.py"}}]},
    "a value": {"train": [BASE | {"options": {"preset": OPTION}}]},
    "a value in two words": {"train": [BASE | {"options": {"preset": "--plugin", "data": "evil.py"}}]},
    "a value of a list": {"train": [BASE, {"name": "b", "method": "rlvr", "options": {"reward": ["judge", OPTION]}}]},
    "a value of a grid": {"train": [BASE | {"grid": {"data": [OPTION]}}]},
    "a value of an experiment": {"train": [BASE], "experiment": [ASK | {"options": {"data": OPTION}}]},
    "a model": {"train": [BASE], "experiment": [ASK | {"options": {"also": ["x/y", f"{OPTION}/x"]}}]},
    "a method": {"train": [BASE | {"method": OPTION}]},
    "an experiment": {"train": [BASE], "experiment": [ASK | {"experiment": OPTION}]},
    "a name of an option": {"train": [BASE | {"options": {"plugin=evil.py": True}}]},
    "a nested name": {"train": [BASE | {"options": {"plugin=evil": {"py": True}}}]},
    "a folder": {"out": "--plugin=evil.py", "train": [BASE]},
    "a folder of a plugin": {"out": "--plugin=.", "train": [BASE | {"name": "evil.py"}]},
    "a reward": {"train": [BASE, {"name": "b", "method": "rlvr", "options": {"base": "base", "reward": "evil.py:x"}}]},
}


@pytest.mark.parametrize("where", HOSTILE)
def test_nothing_that_a_spec_says_is_run_by_a_check(where: str, evil: str, tmp_path: Path) -> None:
    file = toml(tmp_path / "spec.toml", {"out": "runs/x"} | HOSTILE[where])
    with suppress(ProbeError):
        sweep([str(file), "--check"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", HOSTILE)
def test_a_value_is_never_a_word_of_its_own(where: str, evil: str) -> None:
    tasks: tuple[Task, ...] = ()
    with suppress(ConfigError):
        tasks = read_spec({"out": "runs/x"} | HOSTILE[where]).tasks
    for task in tasks:
        assert not [word for word in task.words if word.partition("=")[0] == "--plugin"], task.words
        assert all(word.startswith("--") for word in task.words[2:])


def test_lists_flags_and_numbers_reach_the_commands(evil: str) -> None:
    options = {"betas": [0.9, 0.95], "thin": 8, "strict": True, "world": {"pool": 60}, "lr": -0.0, "steps": 3}
    rl = {"name": "rl", "method": "rlvr", "options": {"base": "x/y", "reward": ["verifier", "evil.py:x"]}}
    spec = read_spec({"out": "runs/x", "train": [BASE | {"options": options | {"lr": 1e-3}}, rl]})
    words = spec.tasks[0].words
    assert words[2:] == (
        *("--out=runs/x/base", "--betas=0.9", "--betas=0.95", "--thin=8", "--strict", "--world.pool=60"),
        *("--lr=0.001", "--steps=3"),
    )
    assert spec.tasks[1].words[-2:] == ("--reward=verifier", "--reward=evil.py:x")
    check_commands(spec)
    with pytest.raises(ConfigError, match=r"--lr is -0\.1"):
        check_commands(read_spec({"out": "runs/x", "train": [BASE | {"options": {"lr": -0.1}}]}))


def test_code_and_addresses_are_named_first(evil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rl = {"name": "rl", "method": "rlvr", "options": {"base": "base", "reward": ["judge.py:short", "verifier"]}}
    dpo = {"name": "dpo", "method": "dpo", "options": {"base": "s3://bucket/runs/base"}}
    file = toml(tmp_path / "spec.toml", {"out": "runs/x", "store": "s3://bucket/x", "train": [BASE, rl, dpo]})
    assert sweep([str(file), "--check"]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        "probe: note: The tasks of this sweep run code (judge.py:short) and reach s3://bucket/x, s3://bucket/runs/base."
    )
    assert sweep([str(toml(file, {"out": "runs/x", "train": [BASE]})), "--check"]) == 0
    assert capsys.readouterr().err == ""


@pytest.fixture
def registries() -> Iterator[None]:
    """What a test adds is gone afterwards."""
    states = [(registry, registry.state()) for registry in REGISTRIES]
    yield
    restore(states)


@pytest.mark.usefixtures("registries")
def test_a_plugin_of_the_command_line_is_one_of_every_task(
    evil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "import probe\n\n@probe.annotator('terse_of_this_test')\ndef terse(world, prompt, completion):\n    return 0\n"
    )
    dpo = {"name": "dpo", "method": "dpo", "options": {"base": "base", "annotator": "terse_of_this_test"}}
    file = toml(tmp_path / "spec.toml", {"out": "runs/x", "train": [BASE, dpo], "experiment": [ASK]})
    assert sweep([str(file), "--check", "--json", "--plugin", "mine.py"]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0] == "probe: note: The tasks of this sweep run code (mine.py)."
    commands = [task["command"] for task in json.loads(printed.out)]
    assert len(commands) == 3
    assert all(command.endswith(" --plugin=mine.py") for command in commands)
    with pytest.raises(ConfigError, match=r"--plugin FILE\.py"):
        read_spec({"out": "x", "train": [BASE | {"options": {"plugin": "mine.py"}}]})


def test_runs_go_elsewhere_only_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("work", "specs", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    (tmp_path / "specs" / "link").symlink_to(tmp_path / "elsewhere")
    file = tmp_path / "specs" / "spec.toml"
    for out in ("runs/x", str(tmp_path / "specs" / "runs"), str(tmp_path / "work" / "runs"), "../specs/runs", "."):
        assert read_spec(toml(file, {"out": out, "train": [BASE]})).out == Path(out)
    elsewhere = ("../elsewhere/x", "/", str(tmp_path), "~/x", str(tmp_path / "specs" / "link" / "x"), "..")
    for out in elsewhere:
        toml(file, {"out": out, "train": [BASE]})
        with pytest.raises(ConfigError, match=r"neither in its own folder nor in the working folder: add --out"):
            sweep([str(file), "--check"])
        assert read_spec(file, out=out).out == Path(out).expanduser()
    assert sweep([str(file), "--check", "--out", str(tmp_path / "elsewhere" / "x")]) == 0
    assert read_spec({"out": str(tmp_path / "elsewhere"), "train": [BASE]}).tasks  # whoever calls it from Python


HALF = list(range(MOST_TASKS // 2))
MANY = {
    "one list": {"train": [BASE | {"grid": {"lr": list(range(1, MOST_TASKS + 2))}}]},
    "lists": {"train": [BASE | {"grid": {name: list(range(1, 200)) for name in ("lr", "clip", "steps", "width")}}]},
    "nested lists": {"train": [BASE | {"grid": {"world": {str(name): [1, 2] for name in "abcdefghijklmn"}}}]},
    "seeds": {"train": [BASE | {"seeds": list(range(MOST_TASKS + 1))}]},
    "seeds times lists": {"train": [BASE | {"seeds": HALF, "grid": {"lr": [1, 2, 3]}}]},
    "each times lists": {"train": [BASE | {"each": [{"clip": each} for each in HALF], "grid": {"lr": [1, 2, 3]}}]},
    "methods": {"train": [BASE | {"method": ["pretrain"] * 101, "grid": {"lr": list(range(1, 101))}}]},
    "entries": {"train": [BASE | {"name": f"a{each}", "seeds": HALF} for each in range(3)]},
    "seeds of others": {
        "train": [
            BASE | {"seeds": HALF},
            {"name": "d", "method": "dpo", "options": {"base": "base"}, "grid": {"lr": HALF}},
        ]
    },
    "experiments": {"train": [BASE | {"seeds": HALF}], "experiment": [ASK | {"grid": {"n": HALF}}]},
    "checkpoints": {
        "train": [BASE | {"seeds": HALF}],
        "experiment": [ASK | {"of": [f"base@{step}" for step in range(10_000)]}],
    },
}


@pytest.mark.parametrize("how", MANY)
def test_too_many_tasks_are_refused_before_they_are_made(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def count(*_: Any, **__: Any) -> None:
        nonlocal made
        made += 1
        assert made < 3 * MOST_TASKS

    from probe.sweep import spec

    monkeypatch.setattr(spec._Variant, "__post_init__", count, raising=False)
    monkeypatch.setattr(spec.Task, "__post_init__", count, raising=False)
    with pytest.raises(ConfigError, match="tasks or more, and at most 10,000 are made"):
        read_spec({"out": "x"} | MANY[how])


def test_as_many_as_are_allowed_are_made() -> None:
    side = math.isqrt(MOST_TASKS)
    entry = BASE | {"seeds": list(range(side)), "grid": {"lr": [1 + each for each in range(side)]}}
    assert len(read_spec({"out": "x", "train": [entry]}).tasks) == MOST_TASKS
    with pytest.raises(ConfigError, match="gives `reward` 1,001 values: give at most 1,000"):
        read_spec({"out": "x", "train": [BASE | {"options": {"reward": ["verifier"] * 1001}}]})
