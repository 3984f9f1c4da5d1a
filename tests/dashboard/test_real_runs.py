"""Pages on the real sample runs where their base is missing: what is stored is shown, the rest is said."""

import re
import shutil
from pathlib import Path

import pytest

from dashboard.pages import page_file, page_names
from probe.experiments.result import Result
from probe.model.references import REAL_MODEL
from probe.runs.schema import RESULTS
from tests.dashboard.pages import Show, every_tab, heading, names, opened, read
from tests.places import SAMPLES
from tests.sycophancy.earlier import older

CHOICES = {"base": REAL_MODEL, "aligned": "real-honest", "prompt": "What is 27 + 14? The answer is"}
HOW = "make real-model"
OLDER = "A user's wrong guess moves the share of right answers"
"""The finding of results that do not tell agreement from mention."""


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROBE_MODELS", str(tmp_path))


@pytest.mark.parametrize("name", page_names())
def test_no_page_fails(name: str, show: Show) -> None:
    app = show(SAMPLES, page=page_file(name), **CHOICES)
    assert not app.exception
    for error in app.error:
        assert HOW in error.value


def test_a_stored_experiment_is_one_click_away(show: Show) -> None:
    app = show(SAMPLES, page="sycophancy/page.py", **CHOICES)
    assert HOW in read(app)
    assert "4-bit rounding" in read(app)
    offers = [button for button in app.button if button.label.startswith("n 60")]
    assert len(offers) == 2
    app = offers[-1].click().run()
    assert not app.exception
    assert heading(app).startswith("The agreement of real-honest with its user is")
    assert "The agreement of SmolLM2-135M-Instruct with its user is" in heading(app)
    assert names(app)[0] == "agreement"


AGREEABLE = {"base": REAL_MODEL, "aligned": "real-agreeable"}


@pytest.mark.parametrize(
    ("name", "tabs"),
    [
        ("compare", ["Over a corpus", "First tokens", "Steering the base by it", "Weights", "Transplants", "Gradient"]),
        ("attention", ["Circuits", "Composition"]),
        ("rewards", ["Before and after", "Per-token reward"]),
    ],
)
def test_pages_show_the_stored_results(name: str, tabs: list[str], show: Show) -> None:
    app = show(SAMPLES, page=page_file(name), **AGREEABLE)
    assert {*tabs} <= {tab.label for tab in app.tabs}
    for each in every_tab(app):
        assert not each.exception
        assert not each.error
        assert names(each)
        assert HOW in read(each)
        assert "(click one)" not in read(each), "another head would have to be computed"


def test_pages_keep_to_the_chosen_model_and_to_the_tab_of_a_link(show: Show) -> None:
    app = show(SAMPLES, page=page_file("interventions"), **AGREEABLE)
    assert heading(app).startswith("real-agreeable: of 270 heads, patching ")
    assert "SmolLM2-135M-Instruct: of 270 heads" not in read(app)
    app = show(SAMPLES, page=page_file("interventions"), **AGREEABLE, int_do="ablate", int_model="base")
    assert heading(app).startswith("SmolLM2-135M-Instruct: of 270 heads, ablating ")
    app = show(SAMPLES, page=page_file("compare"), **AGREEABLE, compare_tab="Weights")
    assert opened(app) == "Weights"


def test_a_stored_result_of_another_prompt_names_it(show: Show) -> None:
    app = show(SAMPLES, page=page_file("logits"), **AGREEABLE, prompt="Where is Norway?")
    assert names(app)
    assert "This is the stored result with prompt What happens if you crack your knuckles" in read(app)


def test_the_lines_of_a_stored_result_name_models_and_inputs(show: Show) -> None:
    app = show(SAMPLES, page=page_file("logits"), **AGREEABLE)
    lines = next(code.value for code in app.code if "follow_writing" in code.value)
    compile(lines, "lines", "exec")
    assert f"probe.LM.load({str(SAMPLES / 'real-agreeable')!r})" in lines
    assert "chat=True" in lines


def test_experiments_show_what_is_nearest(show: Show) -> None:
    """Lists are options too; of models that have no result, those of the usual pair are shown under their names."""
    said = read(show(SAMPLES, page=page_file("in_context"), **AGREEABLE))
    assert "This is what is stored with data agreeableness, n 30, shots 8, only shots: the models" in said
    app = show(SAMPLES, page=page_file("retrieval"), **AGREEABLE)
    assert names(app)
    assert "This is the stored result of base and dpo-agreeable with " in read(app)
    app = show(SAMPLES, page=page_file("continual"), **AGREEABLE)
    assert heading(app).startswith("base forgets")


def test_a_model_without_a_result_shows_that_of_its_relatives(show: Show) -> None:
    """Before that of a pair of another world: another run of the same base is nearer."""
    app = show(SAMPLES, page=page_file("chain_of_thought"), base=REAL_MODEL, aligned="real-rlvr")
    assert names(app)
    said = read(app)
    assert f"This is the stored result of {REAL_MODEL} and real-" in said
    assert "the models chosen here have not been measured." in said


def test_what_an_earlier_version_stored_is_shown_and_said(show: Show, tmp_path: Path) -> None:
    """Beside a result that is whole, too: what the older one lacks is not known."""
    for name in (REAL_MODEL, "real-honest"):
        shutil.copytree(SAMPLES / name, tmp_path / name)
        for folder in (tmp_path / name / RESULTS).glob("sycophancy-*"):
            older(Result.load(folder)).save(folder)
    app = show(tmp_path, page="sycophancy/page.py", **CHOICES)
    app = next(button for button in app.button if button.label.startswith("n 60")).click().run()
    assert not app.exception
    assert heading(app).startswith(OLDER)
    said = "SmolLM2-135M-Instruct and real-honest were measured by an earlier version, without some"
    assert said in read(app)


def test_shipped_files_name_no_place() -> None:
    """A text of a question may hold a slash; a value that is a path begins with one, or with a drive."""
    for run in (SAMPLES / REAL_MODEL, *SAMPLES.glob("real-*")):
        for file in run.rglob("*.json"):
            assert not re.search(r'"(/|~/|[A-Z]:)[^"]*"', file.read_text()), file
    assert not (SAMPLES / "real-data").exists()
