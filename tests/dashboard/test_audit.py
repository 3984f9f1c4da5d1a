"""The page Audit: offers to audit, shows what is stored, and stays whole beside damaged files."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from probe import LM
from probe.audit.change import AUDITS, BLOCKS, FILE, HOME, PAGE, Audit
from probe.audit.inspection import compare_part
from probe.audit.plan import ON_SETS
from probe.audit.verdict import add_verdicts
from tests.dashboard.pages import Show, chart, every_tab, heading, offered, read, unescape

FILE_OF_PAGE = "audit/page.py"


def an_audit(names: tuple[str, str], fingerprints: tuple[str, str]) -> Audit:
    """Two models that differ on 20 questions."""
    kinds = ["plain"] * 20 + ["suggests_incorrect"] * 20
    asked = [f"row-{at % 20}" for at in range(40)]
    items = pd.DataFrame({"item": list(map(str, range(40))), "kind": kinds, "row": asked, "right": 1.0, "margin": 1.0})
    items["agreement_share"] = [-0.5] * 20 + [float("nan")] * 20
    moved = items.assign(right=[1.0] * 25 + [0.0] * 15, agreement_share=[-0.5] * 5 + [0.5] * 15 + [float("nan")] * 20)
    rows = compare_part(ON_SETS[0], items, moved)[0]
    kl = {"texts": 2, "tokens": 9, "kl": 0.2, "kl_low": 0.1, "kl_high": 0.3, "kl_reverse": 0.2}
    corpus = pd.DataFrame([{"kind": kind, **kl} for kind in ("all", "gsm8k")])
    blocks = pd.DataFrame([dict.fromkeys(BLOCKS, 0.1) | {"block": block} for block in range(2)])
    models = [
        {"label": name, "ref": name, "fingerprint": fingerprint, "method": "other"}
        for name, fingerprint in zip(names, fingerprints, strict=True)
    ]
    meta = {"models": models, "sets": ["truthfulqa"], "key": "0" * 12, "seconds": 60.0, "created": "2026-01-01T00:00"}
    return Audit(add_verdicts(rows), corpus, blocks, ("sums is left out: it is.",), meta)


def test_an_audit_is_offered(show: Show, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    app = show(runs, page=FILE_OF_PAGE)
    assert not app.exception
    assert not app.error
    assert heading(app) == "These two models have not been audited."
    assert "200 questions detect 8 to 11 points (sycophancy)" in unescape(read(app))
    assert re.fullmatch(r"Audit dpo-agreeable against base \(about \d+ (s|min)\)", unescape(app.button[0].label))
    (tmp_path / HOME / "damaged").mkdir(parents=True)
    (tmp_path / HOME / "damaged" / FILE).write_text(json.dumps({"format": 1, "rows": [{"metric": "<b>"}]}))
    app = show(runs, page=FILE_OF_PAGE)
    assert not app.exception
    assert not app.error
    assert heading(app) == "These two models have not been audited."
    app = show(runs, page=FILE_OF_PAGE, state={"base": None}, base="")
    assert heading(app) == "Choose a base model above to audit what changed."


def test_a_stored_audit_is_shown_at_once(show: Show, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    prints = [LM.load(runs / name).fingerprint for name in ("base", "dpo-agreeable")]
    folder = an_audit(("base", "dpo-agreeable"), (prints[0], prints[1])).save()
    assert (folder / PAGE).is_file()
    other = an_audit(("a<b>", "$x$"), ("1", "2"))
    said = "sums: 3 of its 20 questions were in the training data of `*r*` and `<b>`: a gain there may be memory."
    seen = other.rows.assign(seen=3.0, unseen=0.1, unseen_low=0.05, unseen_high=0.15)
    other = replace(other, rows=seen, notes=(*other.notes, said))
    other.save(tmp_path / HOME / "other")
    app = show(runs, page=FILE_OF_PAGE)
    assert heading(app).startswith("dpo-agreeable against base: takes the user's side from 0 % to 75 %")
    assert app.button(key="audit-run").label == "Audit again"
    assert "Audited 2026-01-01 00:00 UTC in 60 s." in read(app)
    for tab in every_tab(app):
        assert not tab.exception
        assert not tab.error
        assert len(tab.get("plotly_chart")) + len(tab.dataframe) >= 1
        assert offered(tab).count("PNG") == len(tab.get("plotly_chart"))
    elsewhere = tmp_path / "runs"
    an_audit(("c", "d"), ("1", "2")).save(elsewhere / AUDITS / "third")
    listed = show(runs, elsewhere, page=FILE_OF_PAGE).selectbox(key="audit").options
    assert {"other", "third"} <= set(listed)
    app = show(runs, page=FILE_OF_PAGE, audit="other")
    assert heading(app).startswith("$x$ against a<b>: takes the user's side")
    figure = chart(app, "audit-differences")
    assert figure["layout"]["xaxis"]["title"]["text"] == "&#36;x&#36; minus a&lt;b&gt;, percentage points"
    assert "sums is left out" in read(app)
    assert said in unescape(read(app))
