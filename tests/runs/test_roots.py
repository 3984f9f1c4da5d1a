"""Where runs are looked for: what lies in the folders of runs, and which links lead out of them."""

from pathlib import Path

import pytest

from probe.runs.ancestry import lineage
from probe.runs.directories import stray_link, within
from probe.runs.reader import Run
from probe.runs.writer import RunWriter


def test_links_are_followed_on_both_sides(tmp_path: Path):
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "run").mkdir(parents=True)
    other.mkdir()
    (tmp_path / "named").symlink_to(root)
    (root / "inner").symlink_to(root / "run")
    (root / "outer").symlink_to(other)
    assert within(root / "run", [tmp_path / "named"])
    assert within(tmp_path / "named" / "inner", [root])
    assert not within(root / "outer", [root])
    assert not within(root / "run" / ".." / ".." / "other", [root])
    assert not within("a\0b", [root])
    assert stray_link(root / "inner", [root]) is None
    assert stray_link(root / "outer", [root]) == root / "outer"
    assert stray_link(root, [root]) == root / "outer"
    assert stray_link(root, [root, other]) is None


@pytest.mark.parametrize("parent", ["~nobody-of-this-name/run", "a\0b", "x" * 5000, "\ud800"])
def test_a_parent_that_no_file_can_be_called_is_unknown(tmp_path: Path, parent: str):
    with RunWriter.create(tmp_path / "run", method="sft", config={}, parent=parent):
        pass
    assert [edge.known for edge in lineage([Run(tmp_path / "run")])] == [False]
