"""The promises of docs/security.md and docs/reliability.md name tests that exist, and guards that can be taken out."""

import ast
import re

import pytest

from tests.guards import RELIABILITY, SECURITY, Guard
from tests.places import ROOT

GUARDS = {"security": SECURITY, "reliability": RELIABILITY}
TEST = re.compile(r"`(tests/[\w/]+\.py::\w+)`")


def rows(page: str) -> list[list[str]]:
    """The tests that each row of a page's tables of promises names."""
    lines = (ROOT / "docs" / f"{page}.md").read_text().splitlines()
    return [TEST.findall(line) for line in lines if line.startswith("| ") and line.count(" | ") == 2]


def functions(file: str) -> set[str]:
    """The tests of a file."""
    return {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", GUARDS)
def test_every_test_that_is_named_exists(page: str) -> None:
    named = TEST.findall((ROOT / "docs" / f"{page}.md").read_text())
    assert [name for name in named if name.partition("::")[2] not in functions(name.partition("::")[0])] == []


@pytest.mark.parametrize("page", GUARDS)
def test_every_promise_has_a_guard_that_can_be_taken_out(page: str) -> None:
    guarded = {guard.test.partition("[")[0] for guard in GUARDS[page]}
    promises = [tests for tests in rows(page) if tests]
    assert len(promises) >= 15
    assert [tests for tests in promises if not guarded & set(tests)] == []
    assert guarded <= {test for tests in promises for test in tests}


@pytest.mark.parametrize("guard", [*SECURITY, *RELIABILITY], ids=lambda guard: guard.what)
def test_a_guard_is_where_it_is_taken_out(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text().count(guard.old) == 1
    assert guard.new != guard.old
    assert guard.second is None or (ROOT / guard.file).read_text().count(guard.second[0]) == 1
