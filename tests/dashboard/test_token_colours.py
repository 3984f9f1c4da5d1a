"""The hallucination probe on its page, and as a colour on Side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe.analyses.catalogue import find_analysis
from probe.analyses.stored_results import keep_result
from probe.model.lm import LM
from probe.probes import token_truth
from tests.dashboard.experiments import press
from tests.dashboard.pages import Show, heading, names, read, token_rows
from tests.places import SAMPLES

PROMPT = "<user> where does mira live ? <bot>"


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder of results."""
    monkeypatch.chdir(tmp_path)


def test_the_second_tab_of_probes_is_the_hallucination_probe(show: Show):
    chosen = {"base": "base", "probe_n": "60", "probe_question": "known"}
    app = show(SAMPLES, page="probes/page.py", probe_tab="Hallucination probe", **chosen)
    if any(each.key == "token_truth-run" for each in app.button):
        press(app, "token_truth-run")
    assert not app.exception
    assert not app.error
    assert [tab.label for tab in app.tabs] == ["Use", "Hallucination probe"]
    assert names(app) == ["figure", "scores"]
    found = token_truth(LM.load(SAMPLES / "base"), n=60)
    row = found.row()
    assert f"held-out people, a linear probe of base after block {found.layer}" in read(app)
    assert f"AUROC {found.told(row, 'AUROC')}" in read(app)
    assert list(app.dataframe[0].value["AUROC"]) == pytest.approx(list(found.scores["AUROC"]))


def rows_of(app: Any) -> list[dict[str, Any]]:
    (part,) = token_rows(app)
    return list(part["rows"])


def test_a_probe_colours_side_by_side_when_asked(show: Show):
    for name in ("base", "dpo-agreeable"):  # stored, as once it was fitted
        lm = LM.load(SAMPLES / name)
        assert keep_result(find_analysis("token_truth"), {}, token_truth(lm, n=60), 2.0, lm) is not None
    chosen = {"page": "compare/page.py", "base": "base", "aligned": "dpo-agreeable", "prompt": PROMPT}
    app = show(SAMPLES, **chosen)
    assert "Colour: KL" in read(app)
    assert "errs at" not in read(app)
    app = show(SAMPLES, **chosen, colour="hallucination probe")
    assert not app.exception
    assert not app.error
    assert heading(app)
    assert "base: on greedy answers about" in read(app)
    assert "dpo-agreeable: on greedy answers about" in read(app)
    assert "Tokens that state nothing have no colour." in read(app)
    assert len(rows_of(app)) == 4
    assert np.isfinite(app.dataframe[0].value["probability wrong"]).all()


def test_a_model_that_states_nothing_has_no_colour(show: Show, runs: Path):
    chosen = {"page": "compare/page.py", "base": "base", "aligned": "dpo-agreeable", "prompt": PROMPT}
    app = show(runs, **chosen, colour="hallucination probe")
    if any(each.key == "compare-run" for each in app.button):
        press(app, "compare-run")
    assert not app.exception
    assert "No probe colours the text of base" in read(app)
    assert all(chip["strength"] == 0 for row in rows_of(app)[:3] for chip in row["tokens"])
