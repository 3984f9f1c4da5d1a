"""What `make` installs for a target, and with what: the weights of the real sample runs need no development tools."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import install
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

    def plan(*words: str) -> tuple[list[str], str]:
        said = subprocess.run(["make", "-n", *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        return re.findall(r"-e '\.\[([\w,]+)\]'", said), said

    return plan


def test_another_python_has_an_environment_of_its_own(steps):
    said = steps("test-quick", "PYTHON=python3.13", "VENV=.cache/python3.13")[1]
    assert "python3.13 -m venv .cache/python3.13" in said
    assert ".venv" not in said.replace("install.py", "")


def test_uv_takes_what_pip_would_take():
    listed = """:env:.find-links='/wheels /more'
:env:.timeout='180'
download.no-binary=':all:'
global.constraint='/etc/limits.txt'
global.find-links='/old'
install.index-url='https://index.example/simple'
"""
    found = install.settings(listed)
    assert found["find-links"] == "/wheels /more"
    assert install.uv_options(found) == [
        *("--default-index", "https://index.example/simple"),
        *("--find-links", "/wheels", "--find-links", "/more"),
        *("--constraint", "/etc/limits.txt"),
    ]
    assert install.uv_options({}) == []


def test_pip_installs_where_it_has_a_setting_that_uv_lacks():
    assert install.uv_options(install.settings("global.no-binary=':all:'\nglobal.timeout='60'\n")) is None


@pytest.mark.parametrize("uv", ["exit 1", "exit 0"])
def test_pip_installs_what_uv_cannot(uv: str, tmp_path: Path):
    """With a uv that fails, pip says what it cannot install; with one that works, nothing is left to do."""
    program = tmp_path / "uv"
    program.write_text(f"#!/bin/sh\n{uv}\n")
    program.chmod(0o755)
    around = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PIP_NO_INPUT": "1", "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, ROOT / "install.py", "-e", str(tmp_path / "nowhere")]
    done = subprocess.run(command, env=around, capture_output=True, text=True)
    assert (done.returncode == 0) == (uv == "exit 0")
    assert ("nowhere" in done.stderr) == (uv == "exit 1")


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
