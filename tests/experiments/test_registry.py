"""Experiments by name: the decorator, plugins, entry points, and what is said when they are wrong."""

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import probe
from probe import plugins
from probe.errors import ConfigError, DataError
from probe.experiments import registry
from probe.experiments.metrics import Share
from probe.experiments.registry import experiments, find_experiment, load_plugin
from probe.experiments.run import call
from probe.model.lm import LM
from probe.plugins import ExtensionWarning, source_hash
from probe.rows import EVERY, Rows, Selection, field, read_rows
from tests.models import random_lm

PLUGIN = """
import probe

@probe.experiment("{name}", title="{title}")
def measure(lm, *, n: int = 2, seed: int = 0):
    \"\"\"Says nothing.\"\"\"
    import pandas as pd
    return pd.DataFrame({{"one": [1] * n}})
"""


@pytest.fixture(autouse=True)
def own_registries() -> Iterator[None]:
    with plugins.aside():
        yield


@pytest.fixture(scope="module")
def lm() -> LM:
    return random_lm()


def plugin(folder: Path, name: str = "echo", title: str = "Echo", file: str = "mine.py", more: str = "") -> Path:
    path = folder / file
    path.write_text(PLUGIN.format(name=name, title=title) + more)
    return path


def test_the_decorator_makes_an_experiment(lm: LM):
    @probe.experiment("echo", title="Does it echo?", metrics=[Share("echoes")])
    def echo(lm: LM, *, n: int = 4, seed: int = 0, word: str = "a") -> pd.DataFrame:
        """Asks and listens.

        Args:
            n: questions.
        """
        return pd.DataFrame({"echoes": [i % 2 for i in range(n)]})

    found = find_experiment("echo")
    assert (found.title, found.about, found.origin) == ("Does it echo?", "Asks and listens.", __name__)
    assert list(found.signature.parameters) == ["lm", "baseline", "n", "seed", "word", "tick"]
    assert found.takes("word")
    assert not found.takes("data")
    assert echo.__name__ == "echo"
    for result in (echo(lm, n=6), probe.run_experiment("echo", lm, n=6)):
        assert isinstance(result, probe.Result)
        assert result.value("echoes", "n") == 6
    shares: list[float] = []
    assert echo(lm, tick=shares.append).value("echoes") == 0.5
    assert shares[-1] == 1


def test_an_experiment_that_reads_files_has_strict(tmp_path: Path, lm: LM):
    """Its files are read first; what is left out is recorded; strict is no part of the key, for it alters no number."""
    calls: list[bool] = []

    def read(*, data: str, strict: bool, **_: Any) -> list[Rows[int]]:
        calls.append(strict)
        return [read_rows(Path(data), lambda row: int(field(row, "one")), strict)]

    @probe.experiment("echo", read=read)
    def echo(lm: LM, *, data: str, seed: int = 0) -> pd.DataFrame:
        return pd.DataFrame({"one": list(read_rows(Path(data), lambda row: int(field(row, "one"))))})

    path = tmp_path / "a.jsonl"
    path.write_text('{"one": "3"}\n{"two": "4"}\n{"one": "5"}')
    assert list(find_experiment("echo").signature.parameters) == [
        "lm",
        "baseline",
        "data",
        "seed",
        "strict",
        "unit",
        "tick",
    ]
    result = echo(lm, data=str(path))
    assert (result.value("one"), result.meta["left_out"], len(result.meta["notes"])) == (4, 1, 1)
    assert "Line 2 of" in result.meta["notes"][0]
    assert "strict" not in result.meta["options"]
    with pytest.raises(DataError, match=r"^Line 2 of"):
        echo("no-such-folder/model", data=str(path), strict=True)
    assert set(calls) == {False, True}
    path.write_text('{"one": "3"}')
    keys = [call(find_experiment("echo"), lm, data=str(path), strict=strict).key for strict in (False, True)]
    assert keys[0] == keys[1]

    @probe.experiment("reads_wrongly", read=lambda **_: 1 / 0)
    def wrong(lm: LM) -> pd.DataFrame:
        raise AssertionError("not reached")

    with pytest.raises(ConfigError, match="The reader of the experiment `reads_wrongly`"):
        wrong(lm)


def test_an_experiment_with_limit_reads_the_rows_that_it_uses(tmp_path: Path, lm: LM):
    def numbers(data: str, strict: bool = False, selection: Selection = EVERY) -> Rows[int]:
        return read_rows(Path(data), lambda row: int(field(row, "one")), strict, selection=selection)

    @probe.experiment("echo", read=lambda *, data, strict, selection, **_: [numbers(data, strict, selection)])
    def echo(lm: LM, *, data: str, n: int = 9, limit: int | None = None, seed: int = 0) -> pd.DataFrame:
        return pd.DataFrame({"one": list(numbers(data, selection=Selection(n, seed, limit)))})

    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*(f'{{"one": "{number}"}}' for number in range(8)), "{}", "{}"]))
    whole = echo(lm, data=str(path))
    assert (whole.meta["n"], len(whole.items), whole.meta["left_out"]) == (10, 8, 2)
    first = echo(lm, data=str(path), limit=8, strict=True)
    assert (first.meta["n"], list(first.items["one"]), first.meta["notes"]) == (8, list(range(8)), [])
    few = echo(lm, data=str(path), n=3, seed=1)
    order = [int(i) for i in np.random.default_rng(1).permutation(10)]
    assert list(few.items["one"]) == sorted([number for number in order if number < 8][:3])
    found = find_experiment("echo")
    assert list(call(found, lm, data=str(path), n=3, seed=1).read[0]) == list(few.items["one"])
    assert call(found, lm, data=str(path), n=10).key == call(found, lm, data=str(path)).key


def test_titles_come_from_names():
    @probe.experiment("how_deep")
    def deep(lm: LM) -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    assert find_experiment("how_deep").title == "How deep"
    assert find_experiment("how_deep").about == ""


def test_unknown_names_and_options_have_a_near_one(lm: LM):
    @probe.experiment("echo")
    def echo(lm: LM, *, length: int = 4) -> pd.DataFrame:
        return pd.DataFrame({"x": [length]})

    with pytest.raises(ConfigError, match=r"no experiment `ecko`, only .*: did you mean `echo`"):
        probe.run_experiment("ecko", lm)
    with pytest.raises(ConfigError, match="name one of these, or give its file with --plugin"):
        find_experiment("zzz")
    with pytest.raises(ConfigError, match=r"`echo` has no option `lenght`: did you mean `length`"):
        echo(lm, lenght=3)
    with pytest.raises(ConfigError, match="has no option `q`: its options are length"):
        echo(lm, q=3)


def test_one_name_for_two_functions_is_refused():
    def one(lm: LM) -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    def two(lm: LM) -> pd.DataFrame:
        return pd.DataFrame({"x": [2]})

    probe.experiment("echo")(one)
    with pytest.raises(ConfigError, match=f"An experiment `echo` exists already \\({__name__}\\): choose another name"):
        probe.experiment("echo")(two)
    probe.experiment("echo")(one)  # the same again
    with pytest.raises(ConfigError, match="`hallucination` exists already \\(built in\\)"):
        probe.experiment("hallucination")(two)


def test_a_notebook_may_define_a_thing_anew(lm: LM):
    cells: dict[str, Any] = {"__name__": "__main__", "probe": probe, "pd": pd}
    cell = "@probe.experiment('echo')\ndef {}(lm): return pd.DataFrame(dict(x=[{}]))"
    for number, name in enumerate(("first", "first", "renamed")):
        exec(compile(cell.format(name, number), f"<cell {number}>", "exec"), cells)
        assert probe.run_experiment("echo", lm).value("x") == number
    assert find_experiment("echo").source != ""


@pytest.mark.parametrize(
    "function",
    [lambda: None, lambda lm, **options: None, lambda lm, *rest: None, lambda *lms: None],
    ids=["no model", "any options", "any places", "any models"],
)
def test_functions_that_name_not_what_they_take_are_refused(function: Any):
    with pytest.raises(ConfigError, match="must take a model, and name each"):
        probe.experiment("echo")(function)


@pytest.mark.parametrize("name", ["two words", "", "a-b", "3"])
def test_names_are_words(name: str):
    with pytest.raises(ConfigError, match="give a word of letters"):
        probe.experiment(name)


def test_built_in_experiments_come_first_and_are_called_so():
    found = experiments()
    assert tuple(found)[: len(registry.BUILT_IN)] == registry.BUILT_IN
    for name in registry.BUILT_IN:
        assert found[name].origin == "built in"
        assert found[name].source is None


# plugins


def test_a_plugin_brings_its_experiments(tmp_path: Path, lm: LM):
    file = plugin(tmp_path)
    assert load_plugin(file) == ["echo"]
    found = find_experiment("echo")
    assert found.origin == str(file)
    assert found.run(lm).value("one") == 1
    first = found.source
    plugin(tmp_path, title="Other")
    assert load_plugin(str(file)) == []  # it was there
    assert find_experiment("echo").title == "Other"
    assert find_experiment("echo").source != first


def test_what_a_plugin_no_longer_defines_is_gone(tmp_path: Path):
    file = plugin(tmp_path)
    load_plugin(file)
    assert load_plugin(plugin(tmp_path, name="other")) == ["other"]
    assert "echo" not in experiments()


def test_two_plugins_of_one_file_name_and_one_experiment(tmp_path: Path):
    (tmp_path / "b").mkdir()
    load_plugin(plugin(tmp_path))
    load_plugin(plugin(tmp_path / "b", name="other"))
    assert {"echo", "other"} <= set(experiments())
    with pytest.raises(
        ConfigError, match=r"`echo` exists already .*mine.py.*: choose another name for that of .*b.mine"
    ):
        load_plugin(plugin(tmp_path / "b"))
    assert {"echo", "other"} <= set(experiments())  # a plugin that fails changes nothing


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("\n1 / 0", "fails with ZeroDivisionError: division by zero in line 10: fix it"),
        ("\ndef (", "fails with SyntaxError: "),
        ("\nimport no_such_module", "fails with ModuleNotFoundError: No module named 'no_such_module' in line 10"),
        ("\nraise SystemExit(3)", "fails with SystemExit: 3"),
    ],
)
def test_a_plugin_that_fails_is_one_sentence_and_leaves_nothing(more: str, message: str, tmp_path: Path):
    modules = set(sys.modules)
    with pytest.raises(ConfigError, match=message) as caught:
        load_plugin(plugin(tmp_path, more=more))
    assert "\n" not in str(caught.value)
    assert "echo" not in experiments()
    assert not [name for name in set(sys.modules) - modules if name.startswith("probe_plugin")]
    assert plugins.problems() == [str(caught.value)]
    load_plugin(plugin(tmp_path))
    assert plugins.problems() == []


@pytest.mark.parametrize("name", ["absent.py", "folder.py", "mine.txt"])
def test_what_is_no_python_file_is_refused(name: str, tmp_path: Path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match=r"is not a Python file: give the path of a file that ends in .py"):
        load_plugin(tmp_path / name)


def test_plugins_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "b").mkdir()
    one, two = plugin(tmp_path), plugin(tmp_path / "b", name="other", more="\nimport no_such_module")
    monkeypatch.setenv("PROBE_PLUGINS", os.pathsep.join(map(str, (one, two))))
    with pytest.warns(ExtensionWarning, match=r"b.mine.py` fails with ModuleNotFoundError"):
        assert "echo" in experiments()
    assert len(plugins.problems()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "other" not in experiments()  # it has not changed, so it is not tried again
        plugin(tmp_path / "b", name="other", title="Mended")
        assert experiments()["other"].title == "Mended"
        plugin(tmp_path, title="A longer title")
        assert experiments()["echo"].title == "A longer title"
    assert plugins.problems() == []


def test_words_of_a_command_line(tmp_path: Path):
    file = str(plugin(tmp_path))
    assert plugins.take(["echo", "--plugin", file, "--n", "3"]) == ["echo", "--n", "3"]
    assert plugins.take([f"--plugin={file}", "echo"]) == ["echo"]
    for words in (["echo", "--plugin"], ["--plugin", "--n", "3"], ["--plugin="]):
        with pytest.raises(ConfigError, match="`--plugin` stands without a file"):
            plugins.take(words)


# entry points


def package(folder: Path, code: str, points: str, name: str = "lent") -> Path:
    """An installed distribution as the import system sees it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    (folder / f"{name}.py").write_text(code)
    return folder


def test_entry_points_bring_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lm: LM):
    code = PLUGIN.format(name="lent_echo", title="Lent")
    monkeypatch.syspath_prepend(str(package(tmp_path, code, "[probe.experiments]\nlent_echo = lent:measure\n")))
    found = experiments()["lent_echo"]
    assert (found.origin, found.title) == ("lent", "Lent")
    assert len(found.source or "") == 64
    assert found.run(lm, n=3).value("one", "n") == 3
    sys.modules.pop("lent")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('no numbers')", "ImportError: no numbers"),
        (PLUGIN.format(name="bad_echo", title="") + "\n1 / 0", "ZeroDivisionError: division by zero"),
        (PLUGIN.format(name="two words", title=""), "'two words' cannot name an experiment"),
        ("", "AttributeError: module 'broken' has no attribute 'measure'"),
    ],
)
def test_an_entry_point_that_fails_is_left_out(code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    points = "[probe.experiments]\nbad_echo = broken:measure\n"
    monkeypatch.syspath_prepend(str(package(tmp_path, code, points, "broken")))
    with pytest.warns(ExtensionWarning, match=f"`bad_echo` of broken cannot be imported \\({said}.*is left out"):
        found = experiments()
    assert "bad_echo" not in found
    assert len(plugins.problems()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        experiments()
    sys.modules.pop("broken", None)


# code without a file


def test_the_source_of_a_function_is_known_by_what_it_does():
    def typed(text: str) -> Any:
        space: dict[str, Any] = {}
        exec(compile(text, "<stdin>", "exec"), space)
        return space["f"]

    def digest(text: str) -> str:
        return source_hash(typed(text))

    first = digest("def f(x): return [x + 1 for _ in 'ab']")
    assert digest("\n\ndef f(x): return [x + 1 for _ in 'ab']") == first
    assert digest("def f(x): return [x + 2 for _ in 'ab']") != first
    assert digest("def f(x): return [x - 1 for _ in 'ab']") != first
    assert digest("def f(x): return [abs(x) for _ in 'ab']") != digest("def f(x): return [int(x) for _ in 'ab']")
