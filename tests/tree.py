"""Write docs/tree.md from the first lines of the modules' docstrings: `python -m tests.tree` (`make tree`)."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.places import ROOT

FILE = ROOT / "docs" / "tree.md"
PACKAGES = ("probe", "trainers", "dashboard")
HEAD = """# The tree

Where everything is: one line a module, the first of its docstring; `make tree` writes this page. Equations are listed
with their functions in [equations.md](equations.md), analyses in [model.md](model.md), experiments in
[experiments.md](experiments.md).
"""


def tree() -> str:
    """The page as it should be."""
    return HEAD + "".join("\n```\n" + "\n".join(_lines(ROOT / name, 0)) + "\n```\n" for name in PACKAGES)


def _lines(folder: Path, depth: int) -> Iterator[str]:
    """The folder, its modules, and its folders."""
    yield _line(f"{folder.name}/", folder / "__init__.py", depth)
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield _line(file.name, file, depth + 1)
    for each in sorted(folder.iterdir()):
        if each.is_dir() and any(each.glob("*.py")):
            yield from _lines(each, depth + 1)


def _line(name: str, file: Path, depth: int) -> str:
    about = (ast.get_docstring(ast.parse(file.read_text())) or "") if file.is_file() else ""
    return f"{'  ' * depth + name:<28} {about.partition(chr(10))[0]}".rstrip()


if __name__ == "__main__":
    FILE.write_text(tree())
