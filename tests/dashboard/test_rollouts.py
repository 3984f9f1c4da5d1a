"""Rollouts on the Training page: the table, its filters, one completion token by token, and its URL."""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.components import rollouts
from probe import LM
from probe.analyses import find_analysis
from probe.model.text import encode, pieces
from probe.runs import RunWriter, open_run
from probe.runs.captured import rollout_text
from tests.dashboard import store
from tests.dashboard.pages import Show, heading, linked, open_tab, opened, read, token_rows

PAGE = "training/page.py"


@pytest.fixture
def sampled(tmp_path: Path) -> Path:
    store.sampled(tmp_path / "rlvr")
    return tmp_path


def listing(app: AppTest) -> list[str]:
    """Completions in the table."""
    return next(part.value for part in app.dataframe if "completion" in part.value)["completion"].tolist()


def chips(app: AppTest) -> dict:
    """What the browser gets to draw tokens."""
    (found,) = token_rows(app)
    return found


def test_a_run_that_samples_opens_with_its_reward(show: Show, sampled: Path):
    app = show(sampled, page=PAGE, runs="rlvr")
    assert heading(app) == "reward of the samples: rlvr rose from 0.5 to 1 in 10 steps."
    assert app.selectbox(key="section").value == "reward"


def test_rollouts_newest_first_and_one_of_them_read(show: Show, sampled: Path):
    app = show(sampled, page=PAGE, runs="rlvr")
    assert not app.exception
    assert len(listing(app)) == 8
    assert listing(app)[0] == "answer 3"
    assert app.number_input(key="rollout").value == 7
    assert app.segmented_control(key="measure").options == ["advantage", "KL", "entropy"]
    assert "Rollout 7 at step 20: reward 3" in read(app)
    rows = chips(app)["rows"]
    assert [row["label"] for row in rows] == ["reward 2", "reward 3"]
    assert chips(app)["chosen"] == [1, 0]
    assert "KL 0.5 nats" in rows[1]["tokens"][0]["tip"]
    assert rows[1]["tokens"][1]["strength"] < 0 < rows[1]["tokens"][0]["strength"]


def test_the_table_shows_the_last_words_of_a_prompt_and_the_file_all(show: Show, tmp_path: Path):
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne and two are three. How much are two and two?"
    store.sampled(tmp_path / "rlvr", text=text)
    app = show(tmp_path, page=PAGE, runs="rlvr")
    table = next(part.value for part in app.dataframe if "completion" in part.value)
    assert list(table)[:3] == ["step", "prompt", "completion"]
    assert table["prompt"].iloc[0] == "\u2026 How much are two and two? 1"
    assert not app.exception
    assert f"{text} 1" in read(app) or "One and two are three. How much are two and two? 1" in read(app)


def test_filters_and_the_url(show: Show, sampled: Path):
    app = show(sampled, page=PAGE, runs="rlvr", rollout_text="ANSWER 1", rollout="1", measure="entropy")
    assert listing(app) == ["answer 1"] * 2
    assert app.number_input(key="rollout").value == 1
    assert app.segmented_control(key="measure").value == "entropy"
    app.text_input(key="rollout_text").set_value("").run()
    app.slider(key="rollout_steps").set_value((20.0, 20.0)).run()
    assert len(listing(app)) == 4
    app.slider(key="rollout_reward").set_value((2.0, 3.0)).run()
    assert listing(app) == ["answer 3", "answer 2"]
    assert app.number_input(key="rollout").value == 7
    app.text_input(key="rollout_text").set_value("nowhere").run()
    assert "No completion fits" in read(app)
    assert not app.exception


def test_all_completions_that_pass_the_filters_are_offered_as_csv(show: Show, sampled: Path):
    def offers(app: AppTest) -> list[str]:
        return [part.proto.label for part in app.get("download_button") if part.proto.label.startswith("CSV of")]

    app = show(sampled, page=PAGE, runs="rlvr")
    assert offers(app) == ["CSV of all 8 rows"]
    app.text_input(key="rollout_text").set_value("answer 1").run()
    assert offers(app) == ["CSV of all 2 rows"]
    app.text_input(key="rollout_text").set_value("nowhere").run()
    assert offers(app) == []


def test_a_rollout_without_numbers_is_shown_all_the_same(show: Show, sampled: Path):
    app = show(sampled, page=PAGE, runs="rlvr", rollout="3")
    assert "Nothing was recorded token by token" in read(app)
    assert [chip["text"] for chip in chips(app)["rows"][-1]["tokens"]] == ["answer", "3"]
    assert [row["label"] for row in chips(app)["rows"]] == ["reward 2", "no reward"]
    assert "nan" not in read(app).split()
    assert not app.exception


def test_what_was_not_recorded_is_said_in_words():
    assert rollouts.describe_parts({"reward": float("nan"), "rewards": {"a": 1.0, "b": float("nan")}}) == ": no reward"
    assert (
        rollouts.describe_parts({"reward": 3.0, "rewards": {"a": 1.0, "b": 2.0, "c": None}}) == ": reward 3 (a 1, b 2)"
    )
    sparse = {"tokens": ["x", "y"], "advantage": [0.5, None], "entropy": [0.1, 0.2], "reward": 1.0}
    first, second = rollouts.completion(sparse, "advantage", "red").tokens
    assert "advantage 0.5" in first.tip
    assert second.tip == "token 1: y\nentropy 0.2 nats"


@pytest.mark.parametrize("reference", [True, False])
def test_rollouts_without_a_reference_say_why_there_is_no_kl(show: Show, tmp_path: Path, reference: bool):
    row = {"step": 1, "prompt": "x", "completion": "y z", "tokens": ["y", "z"], "logprobs": [-1.0, -2.0]}
    with RunWriter.create(tmp_path / "x", method="rlvr", config={}) as run:
        run.log(1, {"loss": 1.0})
        run.rollouts([row | ({"ref_logprobs": [-1.5, -2.0]} if reference else {})])
    app = show(tmp_path, page=PAGE, runs="x")
    assert not app.exception
    assert ("No KL: the training had no reference" in read(app)) is not reference
    assert ("KL" in app.dataframe[0].value) is reference


def test_runs_without_rollouts_say_what_records_them(show: Show, runs: Path):
    app = open_tab(show(runs, page=PAGE), "Rollouts")
    assert "have recorded no rollouts" in read(app)
    assert not token_rows(app)


def test_hostile_rollouts_stay_text(show: Show, tmp_path: Path):
    store.sampled(tmp_path / "x", text=store.HOSTILE, method="<b>m</b>")
    app = show(tmp_path, page=PAGE, runs="x")
    assert not app.exception
    assert chips(app)["rows"][0]["tokens"][1]["text"] == store.HOSTILE
    assert any(part.value == f"{store.HOSTILE} 1" for part in app.text)


def test_a_rollout_opens_its_prompt_in_compare(show: Show, runs: Path, sampled: Path):
    app = show(runs, sampled, page=PAGE, runs="rlvr")
    app = show(runs, sampled, page="compare/page.py", **linked(app, "Compare on this prompt"))
    assert not app.exception
    assert app.text_area(key="prompt").value == "what is it ? 1"
    assert app.selectbox(key="aligned").value == "rlvr"


@pytest.fixture(scope="module")
def policy(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `base`, and a policy with its weights and one rollout of its tokens."""
    root = tmp_path_factory.mktemp("policy")
    shutil.copytree(runs / "base", root / "base")
    lm = LM.load(root / "base")
    prompt = "<user> where does mira live ? <bot>"
    ids = encode(lm.tokenizer, f"{prompt} oslo . rome")[len(encode(lm.tokenizer, prompt)) :]
    row = {
        "step": 1,
        "prompt": prompt,
        "completion": "oslo . rome",
        "token_ids": ids,
        "tokens": pieces(lm.tokenizer, ids),
    }
    world = open_run(root / "base").world
    with RunWriter.create(root / "rlvr", method="rlvr", config={}, parent="base", world=world) as run:
        run.log(1, {"reward": 1.0})
        run.rollouts([row, row | {"prompt": "long " * 3000}])
        with run.checkpoint(1) as folder:
            lm.save(folder)
    return root


def test_a_token_of_a_rollout_opens_its_attention(show: Show, policy: Path):
    app = show(policy, page=PAGE, runs="rlvr", rollout="0", rollout_token="1")
    query = linked(app, "Attention of this token")
    assert max(map(len, query.values())) < 20, "the address names the token, and holds no text"
    lm = LM.load(policy / "rlvr")
    prompt = "<user> where does mira live ? <bot> oslo ."
    ids = encode(lm.tokenizer, prompt)
    attention = show(policy, page="attention/page.py", **query)
    assert not attention.exception
    assert attention.text_area(key="prompt").value == prompt
    assert [attention.selectbox(key=key).value for key in ("base", "aligned")] == ["base", "rlvr"]
    assert opened(attention) == find_analysis("read_stages").title
    assert attention.selectbox(key="att_query").value == len(ids) - 1
    assert attention.selectbox(key="att_query").options[-1] == f"{len(ids) - 1}: ."
    compare = show(policy, page="compare/page.py", **linked(app, "Side by side after this token"))
    assert compare.text_area(key="prompt").value == prompt
    assert not compare.exception


def test_a_long_prompt_stays_out_of_the_address(show: Show, policy: Path):
    app = show(policy, page=PAGE, runs="rlvr", rollout="1")
    compare = show(policy, page="compare/page.py", **linked(app, "Compare on this prompt"))
    assert compare.text_area(key="prompt").value == "long " * 3000
    assert "prompt" not in compare.query_params


@pytest.mark.parametrize("token", ["99", "-1", "1e3", "9" * 5000, "\u0663"])
def test_a_link_to_no_token_leaves_the_prompt(show: Show, policy: Path, token: str):
    app = show(policy, page="attention/page.py", with_aligned="rlvr", with_rollout="0", with_token=token)
    assert not app.exception
    assert app.text_area(key="prompt").value not in (None, "")


def test_a_text_that_splits_otherwise_is_not_offered(policy: Path, tmp_path: Path):
    run, row = open_run(policy / "rlvr"), open_run(policy / "rlvr").rollouts().iloc[0].to_dict()
    found = rollout_text(run, row, 0)
    assert found is not None
    assert found.text.endswith("<bot> oslo")
    (tmp_path / "bare").mkdir()
    bare = RunWriter.create(tmp_path / "bare", method="rlvr", config={})
    bare.finish("finished")
    pieces = {"prompt": "<a>", "completion": "14 + 2", "tokens": ["1", "4", "\u00b7+", "\u00b7", "2", "<|im_end|>"]}
    without = [rollout_text(open_run(bare.path), pieces, token) for token in (1, 2, 4, 5, 6, -1)]
    assert without == [("<a>14", None), ("<a>14 +", None), ("<a>14 + 2", None), None, None, None]
    for ids in (None, "x", ["1"], [-1], [2**40], [10_000]):
        assert rollout_text(run, row | {"token_ids": ids}, 0) is None
