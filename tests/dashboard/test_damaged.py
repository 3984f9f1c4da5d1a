"""Pages over runs of which a part is damaged: the part is said to be, and everything else is there."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest

from tests.dashboard import store
from tests.dashboard.pages import Show, names, read

PAGE = "training/page.py"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    store.captured(tmp_path / "watched", config={"steps": "many", "rate": 10**400})
    store.sampled(tmp_path / "rlvr")
    return tmp_path


def errors(app: AppTest) -> str:
    return " ".join(part.value.replace("\\", "") for part in app.error)


@pytest.mark.parametrize("tokens", [[None, "b"], ["a"]])
def test_damaged_prompts_hide_no_curve(show: Show, runs: Path, tokens: list[str]):
    file = runs / "watched" / "captures" / "prompts.json"
    content = json.loads(file.read_text())
    content["prompts"][0]["tokens"] = tokens
    file.write_text(json.dumps(content))
    app = show(runs, page=PAGE, runs="watched")
    assert not app.exception
    assert "curves" in names(app)
    assert "damaged" in errors(app)


def test_captures_without_attention_hide_no_curve(show: Show, runs: Path):
    file = next((runs / "watched" / "captures").glob("*.safetensors"))
    kept = {name: tensor for name, tensor in load_file(file).items() if name != "attention"}
    save_file(kept | {"residual_norm": torch.ones(1, 2, 2).bfloat16()}, file)
    app = show(runs, page=PAGE, runs="watched")
    assert not app.exception
    assert "curves" in names(app)
    assert "hold no attention" in read(app)
    app = show(runs, page=PAGE, runs="watched", show="Lens")
    assert not app.exception


def test_rollouts_of_odd_numbers_and_texts_hide_no_other(show: Show, runs: Path):
    rows = (
        '{"step": 20, "prompt": "\\ud800", "completion": "\\udfff odd", "tokens": ["\\ud800"], "reward": 1e400}',
        f'{{"step": 20, "prompt": "p", "completion": "large", "reward": {10**400}, "rewards": {{"a": {10**400}}}}}',
    )
    with open(runs / "rlvr" / "rollouts.jsonl", "a") as file:
        file.write("".join(row + "\n" for row in rows))
    for number in ("0", "8", "9"):
        app = show(runs, page=PAGE, runs="rlvr", rollout=number)
        assert not app.exception
        listed = next(part.value for part in app.dataframe if "completion" in part.value)["completion"].tolist()
        assert {"large", "\ufffd odd", "answer 3"} <= set(listed)


def test_the_overview_shows_damaged_figures_as_missing(show: Show, runs: Path):
    file = runs / "rlvr" / "run.json"
    row = {"metric": "deferral", "value": "@", "ci_low": 10**400, "ci_high": None, "n": 4}
    meta = json.loads(file.read_text()) | {
        "headline": [row, row | {"metric": "a\ud800", "value": 0.5}],
        "message": "\udfff",
    }
    file.write_text(json.dumps(meta).replace('"@"', "1e400"))
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text('{"schema": 1, "method": "x", "pid": Infinity}')
    app = show(runs, run="rlvr")
    assert not app.exception
    assert {"watched", "rlvr"} <= set(app.selectbox(key="run").options)
    assert "damaged entry" in " ".join(part.value for part in app.warning)
