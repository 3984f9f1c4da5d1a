"""The documents keep to what exists: every file, function and test that they name is there."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from probe.model.lm import LM
from probe.world import of
from tests.tree import FILE, tree
from trainers.samples import tables

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
EQUATIONS = (ROOT / "docs" / "equations.md").read_text()
SUBJECTS = ("model", "attention", "logits", "interventions", "autoregression", "rewards")
ANALYSES = "\n".join((ROOT / "docs" / f"{name}.md").read_text() for name in SUBJECTS)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def named(document: str) -> list[str]:
    """The dotted names of ours in a document."""
    return sorted(set(re.findall(r"`((?:probe|trainers)(?:\.\w+)+)`", document)))


def found(name: str) -> object:
    """What a dotted name stands for: something in a module, or a module."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            thing: object = import_module(".".join(parts[:cut]))
            for attribute in parts[cut:]:
                thing = getattr(thing, attribute)
        except (ModuleNotFoundError, AttributeError):
            continue
        return thing
    return import_module(name)


@pytest.mark.parametrize("name", named(EQUATIONS))
def test_equations_name_functions_that_exist(name: str):
    assert callable(found(name))


@pytest.mark.parametrize("name", named(ANALYSES))
def test_analyses_name_what_exists(name: str):
    assert found(name)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", EQUATIONS))))
def test_equations_name_tests_that_exist(path: str):
    assert (ROOT / path).is_file()


def test_the_tree_is_made_of_the_docstrings():
    assert FILE.read_text() == tree(), "docs/tree.md is stale: run `make tree`."


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_readme_shows_what_the_sample_runs_gave():
    readme = (ROOT / "README.md").read_text()
    for table in tables(ROOT / "sample_runs").split("\n\n"):
        assert table in readme


def test_the_sample_runs_stay_small():
    """What is committed; results of experiments that somebody ran lie beside it."""
    listed = subprocess.run(["git", "ls-files", "-z", "sample_runs"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    assert len(files) > 100
    assert sum(path.stat().st_size for path in files if path.is_file()) < 40e6


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL), ids=["first", "inside"])
def test_the_python_of_the_readme_runs(code: str):
    assert len(code.split("\n")) <= 13
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "at"), [("model", 0), ("model", 1), ("world", 0), ("world", 1), ("runs", 3)])
def test_the_python_of_the_documents_runs(name: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the names that the text around it speaks of."""
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.DOTALL)[at]
    base, lm = (LM.load(ROOT / "sample_runs" / run) for run in ("base", "rlvr"))
    world = of(base)
    assert world
    prompt = world.questions("opinion_false", 1, 0)[0].prompt
    space = {"base": base, "lm": lm, "world": world, "text": prompt, "train_one_step": lambda: 1.0}
    exec(compile(code.replace("n=400", "n=4"), name, "exec"), space)
