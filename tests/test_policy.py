"""Policy as tests: the import direction, light starts, and no unsafe loading."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "probe": {"trainers", "dashboard", "streamlit"},
    "trainers": {"dashboard", "streamlit"},
    "dashboard": set(),
}
SOURCES = sorted(path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of everything that a module imports, wherever the import stands."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_one_way(path: Path):
    package = path.relative_to(ROOT).parts[0]
    assert not imported(ast.parse(path.read_text())) & FORBIDDEN[package]


def test_dashboard_does_not_train():
    """Pages start training as a process of its own; they never import a trainer."""
    for path in (ROOT / "dashboard").rglob("*.py"):
        assert "trainers" not in imported(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe(path: Path):
    """No pickles, no remote code, no raw HTML (DESIGN: security and failure)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword):
            unsafe = node.arg in {"unsafe_allow_html", "trust_remote_code", "unsafe_allow_javascript"}
            assert not (unsafe and isinstance(node.value, ast.Constant) and node.value.value is True), node.lineno
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("pickle", "load"), ("pickle", "loads")}


@pytest.mark.parametrize("module", ["probe", "probe.cli", "trainers.commands", "dashboard.command"])
def test_light_start(module: str):
    """Nothing heavy is imported before a command runs, so that `probe --help` answers at once."""
    heavy = "torch transformers transformer_lens pandas numpy streamlit plotly scipy tyro rich"
    code = f"import sys, {module}; print(*(set('{heavy}'.split()) & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == ""
