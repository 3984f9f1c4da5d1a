"""Items that another model answered: the page says so above tokens that the chosen models read."""

import shutil
from pathlib import Path

import pytest

from dashboard.pages.experiments.item import ANSWERED_BY, stand_ins
from probe import LM, plugins
from probe.experiments.registry import find_experiment
from probe.experiments.store import obtain
from tests.dashboard.experiments import PLUGIN, chips, write
from tests.dashboard.pages import Show, read

COPY = "a copy that learned 3 phases with EWC"
SAID = "Answered by a copy that learned 3 phases with EWC (in place of {}); the text below is as {}."


@pytest.mark.parametrize(
    ("by", "says"),
    [
        ({"base": COPY}, SAID.format("base", "base itself reads it")),
        ({"base": COPY, "sft": COPY}, SAID.format("base and sft", "base and sft themselves read it")),
        ({"base": COPY, "sft": None}, SAID.format("base", "base itself reads it")),
        ({"base": None, "sft": float("nan"), "rlhf": ""}, ""),
        (
            {"base": "a copy", "sft": "another"},
            "Answered by a copy (in place of base); another (in place of sft);"
            " the text below is as base and sft themselves read it.",
        ),
    ],
)
def test_who_answered_in_place_of_whom(by: dict[str, object], says: str):
    assert stand_ins({label: {ANSWERED_BY: value} for label, value in by.items()}) == says


def test_nobody_stands_in_where_there_is_no_such_column():
    assert stand_ins({"base": {"answer": "oslo"}}) == ""


@pytest.mark.parametrize("column", [True, False])
def test_the_page_says_so_above_the_tokens(
    show: Show,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    column: bool,
):
    text = PLUGIN.replace('"answer": text,', f'"answer": text, "answered_by": "{COPY}",') if column else PLUGIN
    own = Path(shutil.copytree(runs, tmp_path / "runs"))
    with plugins.aside():
        monkeypatch.setenv(plugins.ENVIRONMENT, str(write(tmp_path, text)))
        plugins.load(tmp_path / "mine.py")
        for name in ("base", "dpo-agreeable"):
            obtain(find_experiment("echo"), LM.load(own / name), n=4)
        query = {"echo.n": "4", "echo~item": "stranger-1"}
        app = show(own, page="experiments/page.py", **query)
        assert not app.exception
        assert not app.error
        assert chips(app)["rows"]
        said = SAID.format("base and dpo-agreeable", "base and dpo-agreeable themselves read it")
        assert (said in read(app)) == column
