"""What `make` installs for a target: the weights of the real sample runs need no development tools."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.places import ROOT

FETCH = "tests/real/fetch.py"


@pytest.fixture
def steps(tmp_path: Path):
    """Return the extras that a target installs in a fresh checkout, in order, and all its lines."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed.")
    for name in ("Makefile", "pyproject.toml", FETCH):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def plan(target: str) -> tuple[list[str], str]:
        said = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        return re.findall(r"-e '\.\[([\w,]+)\]'", said), said

    return plan


def test_the_real_model_needs_what_the_dashboard_needs(steps):
    extras, said = steps("real-model")
    assert extras == steps("dashboard")[0] == ["export,peft"]
    assert FETCH in said


def test_tests_on_the_real_model_have_the_development_tools_and_the_model(steps):
    extras, said = steps("test-real")
    assert any("dev" in each.split(",") for each in extras)
    assert FETCH in said


def test_the_model_is_fetched_with_libraries_that_the_installation_has():
    tree = ast.parse((ROOT / FETCH).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {(each.module if isinstance(each, ast.ImportFrom) else each.names[0].name) or "" for each in imports}
    assert found <= {"os", "shutil", "sys", "importlib.util", "pathlib", "torch", "transformers"}
