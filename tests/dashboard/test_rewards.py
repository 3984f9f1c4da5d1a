"""The Rewards page on a small store with a reward model: what it says, what it reacts to, what it refuses."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard import models
from dashboard.models import Results
from probe import LM, RewardModel, open_run
from probe.model import in_memory
from probe.numbers import format_interval, in_unit
from probe.rewards import frontiers as reward_frontier
from probe.rewards.answers import verifier_reward
from probe.rewards.factorial import factorial
from probe.rewards.frontiers import FORMS, KINDS, ask, field_of, model_reward, place
from probe.runs import RunWriter
from probe.runs.world_file import WORLD_FILE
from probe.seeds import mean_over_trainings
from probe.seeds.t_intervals import UNKNOWN
from probe.world import of
from tests.dashboard import store
from tests.dashboard.pages import Show, chart, every_tab, heading, names, offered, open_tab, read

PAGE = "rewards/page.py"
FITS, TOKENS, CAUSES = "Overoptimisation", "Per-token reward", "One cause at a time"
IN_TABS = {
    "Before and after": "distributions",
    FITS: "overoptimisation",
    TOKENS: "token-effects",
    CAUSES: "one-cause",
    "Best of N": "best-of-n",
}
"""The figure of each tab."""


@pytest.fixture(scope="module")
def rewarded(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs `base` and `dpo-agreeable`, a reward model, and a run of RLHF that used it and logged its way."""
    root = tmp_path_factory.mktemp("rewarded")
    for path in runs.iterdir():
        shutil.copytree(path, root / path.name, dirs_exist_ok=True)
    aligned, world = LM.load(root / "dpo-agreeable"), open_run(root / "base").world
    about: dict[str, Any] = {"config": {"beta": 0.5}, "world": world, "parent": "base"}
    store.judge(root / "judge", root / "base", spread=0.3, **about)  # scores that differ by whole nats
    about |= {"reference": "base", "reward_model": "judge", "data": {"kinds": list(KINDS)}}
    with RunWriter.create(root / "rlhf", method="rlhf", **about) as run:
        for step, kl in enumerate((0.0, 0.1, 0.3, 0.6)):
            gold = kl**0.5 - kl
            run.log(
                step, {"kl_to_reference": kl, "expected_reward": kl**0.5, "expected_gold": gold, "kl_to_optimal": 0.1}
            )
        with run.checkpoint(3) as folder:
            aligned.save(folder)
        run.finish("finished")
    return root


def test_the_sentence_is_what_the_answers_say(show: Show, rewarded: Path) -> None:
    app = show(rewarded, page=PAGE, base="base", aligned="rlhf")
    assert not app.exception
    assert not app.error
    base, policy = LM.load(rewarded / "base"), LM.load(rewarded / "rlhf")
    world = of(base)
    assert world
    rewards = {"proxy": model_reward(RewardModel.load(rewarded / "judge")), "gold": verifier_reward(world)}
    field = field_of(base, world, ask(world), rewards)
    row = place(field.answers.score(policy), field, "proxy").row()
    for name in ("proxy", "gold"):
        value, low, high = (row[f"gain_{name}{end}"] for end in ("", "_low", "_high"))
        told = format_interval(-value, -high, -low) if high < 0 else format_interval(value, low, high)
        assert told in heading(app)
        verb = "hardly moves" if low <= 0 <= high else "raises" if value > 0 else "lowers"
        assert verb in heading(app)
    assert heading(app).startswith("rlhf ")
    assert "the proxy (judge) " in heading(app)
    assert row["gain_proxy_high"] - row["gain_proxy_low"] > 0.05
    spent = "excess" if row["gain_proxy"] > 0 else "kl"
    assert format_interval(row[spent], row[f"{spent}_low"], row[f"{spent}_high"]) in heading(app)
    assert "rlhf captured no reward shift" in read(app)
    assert "3 policies under the exact frontier" in read(app)
    assert "rlhf at step" in str(chart(app, "frontier"))  # its way, logged on these very questions
    if row["mass"] < 0.9:
        assert "of the answers of rlhf are listed" in read(app)
    assert app.selectbox(key="rew_model").value == "judge"
    said = heading(app)
    assert [tab.label for tab in app.tabs] == list(IN_TABS)
    for tab, whole in zip(IN_TABS, every_tab(app), strict=True):
        assert not whole.exception
        assert not whole.error
        assert names(whole) == ["frontier", "gains", IN_TABS[tab]]
        buttons = offered(whole)
        assert [buttons.count(kind) for kind in ("PNG", "SVG", "PDF", "HTML", "CSV")] == [3] * 5
        assert heading(whole) == said
        assert not {"rew_chosen", "rew_rejected"} & set(whole.query_params)  # they follow from the prompt


def test_a_link_opens_the_tab_of_what_it_brings(show: Show, rewarded: Path) -> None:
    app = show(rewarded, page=PAGE, base="base", aligned="rlhf", rew_chosen="i do not know", rew_form=FORMS["bon"])
    assert names(app)[-1] == "overoptimisation"
    assert app.segmented_control(key="rew_form").value == "bon"
    open_tab(app, TOKENS)
    assert app.text_input(key="rew_chosen").value == "i do not know"


def test_choices_of_a_tab_last_while_another_one_is_open(show: Show, rewarded: Path) -> None:
    app = show(rewarded, page=PAGE, base="base", aligned="rlhf", rew_tab=TOKENS)
    app.text_input(key="rew_chosen").set_value("i do not know").run()
    app.selectbox(key="rew_colour").set_value("as it is written").run()
    for whole in every_tab(app):
        assert not whole.exception
    open_tab(app, TOKENS)
    assert app.text_input(key="rew_chosen").value == "i do not know"
    assert app.selectbox(key="rew_colour").value == "as it is written"


@pytest.mark.usefixtures("new_server")
def test_the_first_answer_is_about_the_aligned_model_and_the_others_follow(
    show: Show, rewarded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(st, "rerun", st.stop)
        first = show(rewarded, page=PAGE, base="base", aligned="rlhf")
        assert not first.exception
        said = heading(first)
        assert "2 policies under the exact frontier" in read(first)
        assert "1 more method answers next." in read(first)
    app = first.run()
    assert "3 policies under the exact frontier" in read(app)
    assert "answers next" not in read(app)
    assert heading(app) == said
    assert names(app) == names(first)
    app.multiselect(key="rew_kinds").set_value(["city"]).run()  # other questions: the page runs twice by itself
    assert "3 policies under the exact frontier" in read(app)


def test_choices_change_what_is_shown(show: Show, rewarded: Path) -> None:
    app = show(rewarded, page=PAGE, base="base", aligned="rlhf")
    app.segmented_control(key="rew_by").set_value("gold").run()
    assert "of the true reward" in heading(app) or "gains no true reward" in heading(app)
    app.multiselect(key="rew_kinds").set_value(["city"]).run()
    assert "64 questions" in read(app)
    app.multiselect(key="rew_kinds").set_value([]).run()
    assert heading(app) == "Choose at least one kind of question: without any there is nothing to ask."
    app.multiselect(key="rew_kinds").set_value(["fact", "stranger"]).run()
    app.selectbox(key="rew_kind").set_value("fact").run()
    assert "Rewards of 128 answers to 32 prompts" in read(app)
    open_tab(app, FITS)
    app.multiselect(key="rew_runs").set_value([]).run()
    assert [row["series"] for row in frame(app, "series").to_dict("records")] == ["best of N"] * 2
    app.selectbox(key="rew_model").set_value("none").run()
    open_tab(app, TOKENS)
    assert "Choose a reward model above to see which tokens earn its reward" in read(app)
    assert "proxy" not in heading(app)
    app.selectbox(key="aligned").set_value("dpo-agreeable").run()  # brings its own reward model again
    assert app.selectbox(key="rew_model").value == "judge"
    assert not app.exception


def test_tokens_of_two_completions(show: Show, rewarded: Path) -> None:
    world = of(open_run(rewarded / "base"))
    assert world
    item = world.questions("opinion_false", 1, 3)[0]
    app = show(rewarded, page=PAGE, base="base", aligned="rlhf", prompt=item.prompt, rew_tab=TOKENS)
    truth, claim = item.answers[0].strip(), str(item.claim).strip()
    assert (app.text_input(key="rew_chosen").value, app.text_input(key="rew_rejected").value) == (truth, claim)
    model = RewardModel.load(rewarded / "judge")
    scores = model.score([item.prompt] * 2, [f" {truth}", f" {claim}"]).tolist()
    for text, score in zip((truth, claim), scores, strict=True):
        assert f"\u201c{text}\u201d {score:.2f}".replace("-", "\u2212") in read(app)
    app.text_input(key="rew_chosen").set_value("i do not know").run()
    assert app.query_params["rew_chosen"] == "i do not know"
    (score,) = model.score([item.prompt], [" i do not know"]).tolist()
    assert f"\u201ci do not know\u201d {score:.2f}".replace("-", "\u2212") in read(app)
    other = world.questions("stranger", 1, 3)[0]
    app.text_area(key="prompt").set_value(other.prompt).run()
    assert app.text_input(key="rew_chosen").value == "i do not know"
    app.text_area(key="prompt").set_value("mira mira").run()  # asks nothing: what the two models say
    assert app.text_input(key="rew_chosen").value != "i do not know"
    assert not app.exception


def test_the_python_lines_run(show: Show, rewarded: Path) -> None:
    app = show(rewarded, page=PAGE, base="base", aligned="rlhf")
    known: dict[str, Any] = {}
    whole = [block.value for block in app.code if "import probe" in block.value]
    assert sum("compare_rewards" in lines for lines in whole) == 1
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        for lines in whole:
            exec(lines, known)
    assert told.getvalue().strip().partition(" rlhf ")[2] in read(app)
    shown = frame(app, "aligned higher").set_index("name in files").loc["gold"]
    given = known["result"].lists()["Before and after"].set_index("name in files").loc["gold"]
    columns = ["base", "aligned", "aligned \u2212 base"]
    assert list(shown[["base", "rlhf", "aligned \u2212 base"]]) == list(given[columns])
    open_tab(app, TOKENS)
    (lines,) = [block.value for block in app.code if "compare_completions" in block.value]
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(lines, known)
    texts = [app.text_input(key=f"rew_{name}").value for name in ("chosen", "rejected")]
    assert all(repr(text) in lines for text in texts)
    assert told.getvalue().strip().partition(" gives ")[2] in read(app)


def test_a_store_without_a_reward_model_is_judged_by_the_world(show: Show, runs: Path) -> None:
    app = show(runs, page=PAGE)
    assert not app.exception
    assert heading(app).startswith("dpo-agreeable ")
    assert "the true reward" in heading(app)
    assert "proxy" not in heading(app)
    open_tab(app, FITS)
    assert "No run is chosen that logged its reward and KL" in read(app)


def test_models_without_a_world(show: Show, rewarded: Path, tmp_path: Path) -> None:
    for name in ("base", "rlhf", "judge"):
        (checkpoint,) = open_run(rewarded / name).checkpoints()[-1:]
        shutil.copytree(checkpoint.path, tmp_path / name)
        (tmp_path / name / WORLD_FILE).unlink()
    places = {"base": str(tmp_path / "base"), "aligned": str(tmp_path / "rlhf"), "rew_model": str(tmp_path / "judge")}
    app = show(rewarded, page=PAGE, prompt="<user> where does mira live ? <bot>", **places)
    assert not app.exception
    assert not app.error
    assert heading(app).startswith("On this prompt rlhf ")
    assert " judge by " in heading(app)
    assert "Without a world there is no true reward and no exact frontier" in read(app)
    figures = names(app)
    assert figures == ["distributions", "token-effects"]
    whole = [block.value for block in app.code if "import probe" in block.value]
    assert len(whole) == 2
    for lines in whole:
        exec(lines, {})


def test_what_cannot_be_shown(show: Show, rewarded: Path, tmp_path: Path) -> None:
    empty = show(tmp_path, page=PAGE, prompt="x")
    assert heading(empty) == "Choose a base model above to see what alignment earned."
    app = show(rewarded, page=PAGE, base="judge", aligned="base")
    assert heading(app).startswith("judge outputs one number, a reward, and writes nothing: choose a language model")
    app = show(rewarded, page=PAGE, base="base", aligned="rlhf", rew_model="rlhf")
    assert "rlhf writes tokens and outputs no reward: choose a reward model." in read(app)
    app = show(rewarded, page=PAGE, base="base", aligned="judge")
    assert "is nearest to the exact frontier of the proxy reward" in heading(app) or "gain" in heading(app)
    assert not app.exception
    assert not app.error


def frame(app: AppTest, column: str) -> Any:
    """The table that has a column."""
    return next(table.value for table in app.dataframe if column in table.value)


def test_one_model_on_both_sides_is_shown_twice(show: Show, rewarded: Path) -> None:
    app = show(rewarded, page=PAGE, base="base", aligned="base")
    assert not app.exception
    assert not app.error
    shown = frame(app, "aligned higher").set_index("metric")
    assert list(shown.columns)[:2] == ["base", "base (aligned)"]
    assert (shown["base"] == shown["base (aligned)"]).all()


@pytest.mark.usefixtures("new_server")
def test_another_choice_computes_only_what_is_new(
    show: Show, rewarded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "two"
    shutil.copytree(rewarded, root, ignore=shutil.ignore_patterns("results"))
    store.judge(root / "critic", root / "base", seed=5, spread=0.3, config={}, world=open_run(root / "base").world)
    listed, drawn = [], []
    enumerate_answers, generate = reward_frontier.enumerate_answers, LM.generate
    monkeypatch.setattr(
        reward_frontier, "enumerate_answers", lambda lm, *args: listed.append(lm.ref) or enumerate_answers(lm, *args)
    )
    monkeypatch.setattr(
        LM, "generate", lambda lm, *args, **options: drawn.append(Path(lm.ref).name) or generate(lm, *args, **options)
    )
    app = show(root, page=PAGE, base="base", aligned="rlhf")
    asked = len(drawn)
    assert len(listed) == 1
    app.selectbox(key="rew_model").set_value("critic").run()
    assert not app.exception
    assert (len(listed), len(drawn)) == (1, asked)  # another judge of the same answers and samples
    told, table = heading(app), frame(app, "aligned higher")
    fresh = show(root, page=PAGE, base="base", aligned="rlhf", rew_model="critic")
    monkeypatch.setattr(models, "RESULTS", Results())  # as if nothing had been computed yet
    in_memory.KEPT.clear()
    again = show(root, page=PAGE, base="base", aligned="rlhf", rew_model="critic")
    assert heading(fresh) == heading(again) == told
    assert frame(again, "aligned higher").equals(table)
    assert len(listed) == 2
    count = len(drawn)
    again.selectbox(key="aligned").set_value("dpo-agreeable").run()
    assert not again.exception
    assert len(drawn) == count + 1  # what the base says is known
    assert len(listed) == 2


@pytest.mark.usefixtures("new_server")
def test_what_takes_long_is_offered_and_the_offer_goes_once_it_is_taken(
    show: Show, rewarded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "is_quick", lambda seconds, *most: not seconds)
    app = show(rewarded, page=PAGE, base="base", aligned="rlhf")
    assert heading(app).startswith("Press the button to measure the rewards")
    assert "Place dpo-agreeable (about " in " ".join(part.label for part in app.button)
    for key in ("place_policies-run", "compare_rewards-run"):
        offer = app.button(key=key)
        assert "(about " in offer.label
        offer.click().run()
        assert not app.exception
        assert key not in {part.key for part in app.button}
    assert "2 policies under the exact frontier" in read(app)
    app.button(key="rew-place-dpo-agreeable").click().run()
    app.button(key="place_policies-run").click().run()
    assert "3 policies under the exact frontier" in read(app)


def test_where_several_trainings_end(show: Show, rewarded: Path, tmp_path: Path) -> None:
    """Means over seeds of what each training logged last; they start from one base, which the page says."""
    shown = show(rewarded, page=PAGE, base="base", aligned="rlhf")
    assert "Over trainings" not in [tab.label for tab in shown.tabs]
    assert UNKNOWN in read(shown)
    for seed, factor in ((1, 1.2), (2, 0.7)):
        folder = tmp_path / f"rlhf-seed{seed}"
        folder.mkdir()
        meta = json.loads((rewarded / "rlhf" / "run.json").read_text()) | {"seed": seed}
        (folder / "run.json").write_text(json.dumps(meta))
        rows = [json.loads(line) for line in (rewarded / "rlhf" / "metrics.jsonl").read_text().splitlines()]
        rows = [row | {"expected_gold": row["expected_gold"] * factor} for row in rows]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = open_tab(show(rewarded, tmp_path, page=PAGE, base="base", aligned="rlhf"), "Over trainings")
    gold = [(0.6**0.5 - 0.6) * factor for factor in (1, 1.2, 0.7)]
    expected = mean_over_trainings(gold)
    assert in_unit("score", *expected[:3]) in {str(cell) for cell in app.dataframe[0].value.iloc[0]}
    assert "over-trainings" in names(app)
    assert "Seeds of rlhf start from one base" in read(app)


@pytest.mark.slow
def test_one_cause_at_a_time(show: Show, rewarded: Path, tmp_path: Path) -> None:
    """The optima of all annotators, and a training on the cell that its annotator is; no other training."""
    config = {"beta": 0.3, "data": "world", "annotator": "agreeable+abstain=0"}
    rows = [
        {"metric": name, "value": 0.25, "ci_low": 0.2, "ci_high": 0.3, "n": 400} for name in ("invention", "deferral")
    ]
    for name, more in (("cell", {}), ("other", {"annotator": "agreeable+abstain=9"}), ("<b>", {"annotator": "curt"})):
        about: dict[str, Any] = {"config": config | more, "world": open_run(rewarded / "base").world, "parent": "base"}
        with RunWriter.create(tmp_path / name, method="dpo", **about) as run:
            run.finish("finished", rows)
    app = open_tab(show(rewarded, tmp_path, page=PAGE, base="base", aligned="rlhf"), CAUSES)
    base = LM.load(rewarded / "base")
    world = of(base)
    assert world is not None
    found = factorial(base, world, name="base")
    assert found.sentence in read(app)
    drawn = {trace["name"]: trace for trace in chart(app, "one-cause")["data"]}
    assert list(drawn) == ["optimum, weight 1", "optimum, weight 2", "DPO, weight 1"]
    assert [text.partition(":")[0] for text in drawn["DPO, weight 1"]["customdata"]] == ["cell, agreeable+abstain=0"]
    assert app.dataframe[0].value["effect"].tolist()[:4] == ["agreement", "fine", "rare checks", "low weight"]
