"""The tabs First tokens and Transplants of Side by side, on the sample runs and on two plain folders."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import probe
from dashboard import models
from probe.compare.behaviour import claim_pairs, preference
from probe.compare.first_tokens import plain_texts
from probe.model.lm import LM
from tests.dashboard.pages import Show, again, heading, names, offered, read, unescape
from tests.models import byte_tokenizer, random_lm

PAGE = "compare/page.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two Hugging Face folders of one architecture, a file of texts and one of pairs."""
    root, tokenizer = tmp_path_factory.mktemp("plain"), byte_tokenizer()
    for seed, name in enumerate(("first", "second")):
        random_lm("llama", tokenizer, seed=seed, max_position_embeddings=1024).save(root / name)
    (root / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("mira lives", "the cat")))
    pair = {"prompt": "where ?", "chosen": " oslo", "rejected": " rome"}
    (root / "pairs.jsonl").write_text(json.dumps(pair) + "\n" + json.dumps(pair | {"prompt": "who ?"}) + "\n")
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture
def plain(show: Show, folders: dict[str, str]):
    """Opens a tab on the two folders."""

    def at(tab: str, **query: str) -> AppTest:
        models = {"base": folders["first"], "aligned": folders["second"], "prompt": "where ?"}
        return show(Path(folders["first"]).parent, page=PAGE, compare_tab=tab, **models, **query)

    return at


def press(app: AppTest, key: str) -> AppTest:
    """The page after a button that it offers."""
    next(button for button in app.button if button.key == key).click()
    return again(app)


@pytest.fixture
def costly(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes too long to be computed without being asked for."""
    monkeypatch.setattr(models, "is_quick", lambda *seconds: False)


def sound(app: AppTest, *figures: str) -> None:
    assert not app.exception
    assert not app.error
    assert names(app) == list(figures)


@pytest.mark.usefixtures("costly")
def test_the_first_tokens_of_two_runs_and_steering(show: Show, runs: Path):
    app = show(runs, page=PAGE, compare_tab="First tokens", first_n="16", first_block="block 0")
    assert "Press the button" in heading(app)
    sound(app)
    app = press(app, "compare_first_tokens-run")
    base, aligned = LM.load(runs / "base"), LM.load(runs / "dpo-agreeable")
    found = probe.compare.compare_first_tokens(base, aligned, plain_texts(base, 16), layers=[0])
    assert heading(app) == found.sentence()
    sound(app, "first-tokens")
    app.session_state["details-steer_by_first_tokens"] = True
    app = press(app, "steer_by_first_tokens-run")
    sound(app, "first-tokens", "first-steering")
    assert "random directions of the same norm" in read(app)
    assert list(app.dataframe[0].value["alpha"]) == [-0.5, -0.25, 0, 0.25, 0.5]
    assert {"first-tokens.csv", "steering.csv"} <= set(map(unescape, offered(app)))


@pytest.mark.usefixtures("costly")
def test_transplants_of_two_runs(show: Show, runs: Path):
    app = show(runs, page=PAGE, compare_tab="Transplants", parts_n="3", parts_kinds=["Blocks"])
    sound(app)
    app = press(app, "transplant_parts-run")
    sound(app, "transplants")
    base, aligned = LM.load(runs / "base"), LM.load(runs / "dpo-agreeable")
    behaviour = preference(claim_pairs(base, 3), "log p(claim) \u2212 log p(truth)")
    found = probe.compare.transplant_parts(base, aligned, behaviour, ("block",))
    assert heading(app) == found.sentence()
    table = app.dataframe[0].value
    assert sorted(table["part"]) == [f"block {block}" for block in range(2)]
    assert table["part"].iloc[0] == found.parts["part"].iloc[int(found.parts["effect"].abs().argmax())]
    assert {"transplants.csv", "transplant-controls.csv"} <= set(map(unescape, offered(app)))


@pytest.mark.slow
def test_files_of_a_plain_pair(plain, folders: dict[str, str]):
    assert "over 60 texts" in heading(plain("First tokens")), "problems of GSM8K"
    query = {"first_pairs": folders["pairs.jsonl"], "first_file": folders["texts.jsonl"]}
    app = plain("First tokens", **query)
    sound(app, "first-tokens", "first-steering")
    app = plain("Transplants", parts_file=folders["pairs.jsonl"], parts_kinds=["Heads", "Shared keys"])
    sound(app, "transplants")
    assert set(app.dataframe[0].value["part"]) >= {"L0H3", "keys L1K1"}
    app = plain("Transplants", parts_file=folders["texts.jsonl"])
    assert "can be used" in heading(app)
    assert not app.error


@pytest.mark.slow
def test_two_models_without_a_world_need_no_file(plain, folders: dict[str, str]):
    app = plain("Transplants", parts_n="3")
    sound(app, "transplants")
    assert app.multiselect(key="parts_kinds").value == ["block"]
    base, aligned = LM.load(folders["first"]), LM.load(folders["second"])
    behaviour = preference(claim_pairs(base, 3), "log p(claim) \u2212 log p(truth)")
    found = probe.compare.transplant_parts(base, aligned, behaviour, ("block",))
    assert heading(app) == found.sentence()
    app = plain("First tokens", first_n="8")
    sound(app, "first-tokens", "first-steering")
