"""What no page says: a backtick that should have been code, and `nan` where a number is missing."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.pages import page_file
from probe.runs import open_run
from tests.dashboard import store
from tests.dashboard.pages import Show, every_tab, literal_backticks, not_numbers
from tests.places import SAMPLES

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("few")]


def check(app: AppTest, written: str = "") -> None:
    """Whether a page says neither, apart from what a model has written."""
    assert not app.exception
    assert [(where, text) for where, text in literal_backticks(app) if text not in written] == []
    assert not_numbers(app) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", sorted(path.parent.name for path in SAMPLES.glob("*/run.json") if "-seed" not in str(path))
)
def test_the_training_of_every_sample_run(show: Show, run: str):
    """Of one seed: the others have the same figures."""
    sampled = open_run(SAMPLES / run).rollouts()
    written = "\n".join(sampled["completion"]) if len(sampled) else ""
    for whole in every_tab(show(SAMPLES, page="training/page.py", runs=run)):
        check(whole, written)


@pytest.mark.parametrize("view", ["overview", "training", "findings", "attention", "logits"])
def test_pages_of_a_run_that_recorded_little(show: Show, tmp_path: Path, view: str):
    store.sampled(tmp_path / "rlvr")
    check(show(tmp_path, page=page_file(view), runs="rlvr", run="rlvr", rollout="3"))


def test_a_mistake_with_code_in_it(show: Show, tmp_path: Path):
    app = show(tmp_path, page="sycophancy/page.py", **{"sycophancy.layer": "99", "base": "/nowhere"})
    assert app.error
    check(app)
