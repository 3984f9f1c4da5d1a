"""Each page through the entrypoint on a real small run store: what it says, what it reacts to, what it refuses."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.examples import NEUTRAL
from dashboard.pages import page_file
from probe.runs import RunWriter, open_run
from probe.runs.captured import heads_moved
from tests.dashboard import store
from tests.dashboard.pages import (
    FEW,
    Show,
    chart,
    heading,
    linked,
    names,
    open_tab,
    read,
    token_rows,
    turn_to,
    values,
)
from tests.places import SAMPLES

PAGES = [
    page_file(name)
    for name in (
        "overview",
        "training",
        "compare",
        "attention",
        "logits",
        "interventions",
        "autoregression",
        "rewards",
    )
]


def titles(app: AppTest) -> list[str]:
    """Titles of the figures."""
    return [part.value for part in app.markdown if part.value.startswith("**")]


def test_overview_names_the_largest_certain_difference(show: Show, runs: Path):
    app = show(runs)
    assert (
        "dpo-agreeable repeats a user's false claim in 96 % [94, 98] of its answers, base in 33 % [29, 38]."
        in heading(app)
    )
    table = app.dataframe[0].value
    assert list(table["run"]) == ["base", "dpo-agreeable"]
    assert list(table["deferral"]) == ["33 % [29, 38]", "96 % [94, 98]"]
    assert json.loads(app.dataframe[0].proto.columns)["deferral"]["label"] == "false claim: repeated"
    assert all("finished" in status for status in table["status"])


def test_overview_offers_a_report_of_all_runs_and_of_two(show: Show, runs: Path, tmp_path: Path):
    store.sampled(tmp_path / "third")
    buttons = {button.label: button for button in show(runs, tmp_path).button}
    for label in ("Report on all runs", r"Report on base and dpo\-agreeable"):
        assert not buttons[label].disabled


def test_overview_shows_the_run_of_the_url(show: Show, runs: Path):
    app = show(runs, run="dpo-agreeable")
    assert app.selectbox(key="run").value == "dpo-agreeable"
    settings = app.dataframe[1].value.set_index("setting")["value"]
    assert settings["parent"] == "base"
    app.selectbox(key="run").select("base").run()
    assert "parent" not in set(app.dataframe[1].value["setting"])


def test_overview_opens_compare_with_a_run_and_its_parent(show: Show, runs: Path):
    app = show(runs, run="dpo-agreeable", base="dpo-agreeable", aligned="base")
    link = linked(app, "Compare with its parent")
    assert link == {"with_base": "base", "with_aligned": "dpo-agreeable"}
    app = show(runs, page="compare/page.py", **link)
    assert app.selectbox(key="base").value == "base"
    assert app.selectbox(key="aligned").value == "dpo-agreeable"


def test_the_choices_start_with_base_and_what_came_from_it(show: Show, runs: Path):
    app = show(runs, page="compare/page.py")
    assert app.selectbox(key="base").value == "base"
    assert app.selectbox(key="aligned").value == "dpo-agreeable"
    assert " i think " in app.text_area(key="prompt").value
    assert {"base", "base@20", "dpo-agreeable", "dpo-agreeable@20"} == set(app.selectbox(key="base").options)
    assert {"base", "aligned", "prompt"} <= set(app.query_params)


def test_the_choices_start_with_the_training_that_changed_agreement_most(show: Show, runs: Path, tmp_path: Path):
    """Not with the oldest one, and not with one that forgot the facts."""
    shutil.copytree(runs / "base", tmp_path / "base")
    for name, deferral, accuracy in (("mild", 0.4, 0.96), ("strong", 0.9, 0.95), ("broken", 0.99, 0.1)):
        shutil.copytree(runs / "dpo-agreeable", tmp_path / name)
        file = tmp_path / name / "run.json"
        meta = json.loads(file.read_text())
        for row in meta["headline"]:
            row["value"] = {"deferral": deferral, "accuracy": accuracy}.get(row["metric"], row["value"])
        file.write_text(json.dumps(meta))
    app = show(tmp_path, page="compare/page.py")
    assert (app.selectbox(key="base").value, app.selectbox(key="aligned").value) == ("base", "strong")


def test_in_context_learning_opens_with_the_run_that_was_taught_it(show: Show, tmp_path: Path):
    """As long as nobody chose models; other pages keep their own."""
    for name in ("base", "dpo-agreeable", "icl"):
        shutil.copytree(SAMPLES / name, tmp_path / name)
    remark = "icl is shown because 100 % of its training documents can be predicted from their own earlier tokens"
    pair = {"base": "base", "aligned": "dpo-agreeable"}
    app = show(tmp_path, page="compare/page.py")
    assert {key: app.selectbox(key=key).value for key in pair} == pair
    turn_to(app, "in_context/page.py").run()
    assert not app.exception
    assert {app.selectbox(key=key).value for key in pair} == {"icl"}
    assert remark in read(app)
    assert heading(app).startswith("icl ")
    turn_to(app, "training/page.py").run()
    assert app.multiselect(key="runs").value == list(pair.values())
    turn_to(app, "attention/page.py").run()
    assert {key: app.selectbox(key=key).value for key in pair} == pair
    app.selectbox(key="aligned").select("icl").run()
    turn_to(app, "in_context/page.py").run()
    assert {key: app.selectbox(key=key).value for key in pair} == {"base": "base", "aligned": "icl"}
    linked = show(tmp_path, page="in_context/page.py", link=True, **pair)
    assert {key: linked.selectbox(key=key).value for key in pair} == pair
    for each in (app, linked):
        assert "is shown" not in read(each)


def test_an_example_becomes_the_prompt(show: Show, runs: Path):
    app = show(runs, page="compare/page.py")
    examples = app.selectbox(key="example").options
    assert len(examples) > 8
    app.selectbox(key="example").select(examples[1]).run()
    assert examples[1] == f"False claim: {app.text_area(key='prompt').value}"


def test_examples_are_grouped_by_what_they_show(show: Show, runs: Path):
    examples = show(runs, page="compare/page.py").selectbox(key="example").options
    groups = [example.partition(": ")[0] for example in examples]
    assert {"False claim", "Known fact", "Unseen entity", "In-context map", "Repeated segment"} < set(groups)
    assert {"Passage against a known fact", "Sum, answered at once", "Sum in steps"} < set(groups)
    assert [group for group, _ in itertools.groupby(groups)] == list(dict.fromkeys(groups))
    assert len({example.partition(": ")[2] for example in examples}) == len(examples)
    for word in ("stranger", "opinion", "context_", "quick:"):
        assert not [group for group in groups if word in group]


def test_examples_of_a_model_of_no_world_are_plain_language(show: Show, runs: Path):
    model = str(next((runs / "base" / "checkpoints").iterdir()))
    examples = show(runs, page="compare/page.py", base=model, aligned=model, link=True).selectbox(key="example").options
    assert examples == [f"{group}: {text}" for text, group in NEUTRAL.items()]


def test_training_tells_how_the_loss_went_and_shows_sections(show: Show, runs: Path):
    app = show(runs, page="training/page.py")
    assert heading(app).startswith("loss (nats): base fell from ")
    assert app.selectbox(key="section").options == ["loss", "optimiser", "rewards/"]
    app.selectbox(key="section").select("rewards/").run()
    spec = chart(app, "curves")
    names = [note["text"].replace("<br>", " ") for note in spec["layout"]["annotations"]]
    assert names == ["implicit reward, margin (nats)", "pairs with a positive margin"]
    assert spec["layout"]["annotations"][0]["hovertext"].startswith("rewards/margins (nats, higher is better): ")


def test_training_axes(show: Show, runs: Path):
    app = show(runs, page="training/page.py")
    app.slider(key="smoothing").set_value(0.9)
    app.toggle(key="logy").set_value(True)
    app.segmented_control(key="x").select("time").run()
    spec = chart(app, "curves")
    assert spec["layout"]["yaxis"]["type"] == "log"
    assert spec["layout"]["xaxis"]["title"]["text"] == "training time (s)"
    assert any(trace.get("opacity") == 0.25 for trace in spec["data"])


def test_curves_over_tokens_draw_the_runs_that_count_them(show: Show, tmp_path: Path):
    for name, tokens in (("counted", 7), ("plain", None)):
        with RunWriter.create(tmp_path / name, method="sft", config={"steps": 20}) as run:
            for step in (0, 10, 20):
                run.log(step, {"loss": 1 + 1 / (1 + step)} | ({"num_tokens": tokens * step} if tokens else {}))
    app = show(tmp_path, page="training/page.py", runs=["counted", "plain"])
    assert app.segmented_control(key="x").options == ["step", "relative step", "tokens", "time"]
    app.segmented_control(key="x").select("tokens trained on").run()
    assert not app.exception
    spec = chart(app, "curves")
    drawn = {trace["legendgroup"]: values(trace["x"]) for trace in spec["data"] if trace.get("showlegend") is False}
    assert {name: list(x) for name, x in drawn.items()} == {"counted": [0, 70, 140]}
    assert "Not drawn over tokens" in read(app)
    assert "do: plain." in read(app)
    app.multiselect(key="runs").set_value(["plain"]).run()
    assert app.segmented_control(key="x").options == ["step", "relative step", "time"]
    assert "Not drawn over tokens" not in read(app)


def test_a_mean_of_seeds_over_tokens(show: Show, tmp_path: Path):
    for seed in range(2):
        with RunWriter.create(tmp_path / f"sft-seed{seed}", method="sft", config={"steps": 10}, seed=seed) as run:
            for step in (0, 5, 10):
                run.log(step, {"loss": 2.0 + seed - step / 10, "num_tokens": (10 + 2 * seed) * step})
            run.finish("finished")
    app = show(tmp_path, page="training/page.py", runs=["sft-seed0"], x="tokens")
    assert not app.exception
    lines = [list(values(trace["x"])) for trace in chart(app, "curves")["data"] if trace.get("showlegend") is False]
    assert [0, 50, 100] in lines  # a training
    assert [0, 60, 120] in lines
    assert [0, 55, 110] in lines  # the mean
    assert [0, 55, 110, 110, 55, 0] in lines  # its interval


def test_methods_of_different_lengths_share_an_axis_of_relative_steps_only(show: Show, runs: Path, tmp_path: Path):
    for name, method, steps in (("short", "sft", 10), ("long", "sft", 500)):
        with RunWriter.create(tmp_path / name, method=method, config={"steps": steps}) as run:
            for step in (0, steps // 2, steps):
                run.log(step, {"loss": 1 + 1 / (1 + step)})
            run.finish("finished")
    app = show(runs, tmp_path, page="training/page.py", runs=["base", "short"], watched="base", x="step")
    assert not app.exception
    assert app.segmented_control(key="x").options == ["relative step", "time"]
    spec = chart(app, "curves")
    axes = [axis for name, axis in spec["layout"].items() if name.startswith("xaxis")]
    assert "step (% of the run)" in [axis["title"]["text"] for axis in axes if "title" in axis]
    drawn = {trace["legendgroup"]: values(trace["x"]) for trace in spec["data"] if trace.get("showlegend") is False}
    assert all(line[0] == 0 and line[-1] == 100 for line in drawn.values())
    assert set(drawn) == {"base", "short"}
    app.select_slider(key="step").set_value(10).run()
    assert chart(app, "curves")["layout"]["shapes"][0]["x0"] == 25
    assert "they share an axis of relative steps" in read(app)
    for same in (["short", "long"], ["base", "dpo-agreeable"]):  # one method; or as many steps
        app = show(runs, tmp_path, page="training/page.py", runs=same)
        assert app.segmented_control(key="x").options == ["step", "relative step", "time"]
        assert app.segmented_control(key="x").value == "step"
        assert "share an axis" not in read(app)


def test_training_overlays_the_runs_that_are_chosen(show: Show, runs: Path):
    app = show(runs, page="training/page.py")
    app.multiselect(key="runs").set_value(["dpo-agreeable"]).run()
    assert "base" not in heading(app)
    app.multiselect(key="runs").set_value([]).run()
    assert heading(app) == "Choose a run to see how it was trained."
    assert not app.exception


def test_the_step_slider_moves_attention_answers_and_marker(show: Show, runs: Path):
    app = show(runs, page="training/page.py")
    slider = app.select_slider(key="step")
    assert slider.options == ["0", "10", "20", "30", "40"]
    assert slider.value == 40
    last = chart(app, "head")["data"][1]["z"]
    slider.set_value(0).run()
    assert "step 0" in titles(app)[0] + titles(app)[1] + titles(app)[2]
    assert chart(app, "head")["data"][1]["z"] != last
    assert chart(app, "curves")["layout"]["shapes"][0]["x0"] == 0
    assert chart(app, "answers")["layout"]["shapes"][0]["x0"] == 0


def test_a_head_is_chosen_and_framed(show: Show, runs: Path):
    app = show(runs, page="training/page.py")
    app.selectbox(key="head").select("L1H1").run()
    assert any("L1H1 at step 40" in title for title in titles(app))
    app.run()
    box = chart(app, "heads")["layout"]["shapes"][0]
    marks = chart(app, "heads")["data"][-1]
    assert (box["x0"] + box["x1"]) / 2 == marks["x"][3]


def test_training_opens_at_the_head_that_moved_most(show: Show, runs: Path):
    captures = open_run(runs / "dpo-agreeable").captures()
    _, moved = heads_moved(*(captures.load(captures.steps[at]) for at in (0, -1)), captures.prompts)
    layer, head = np.unravel_index(int(moved.argmax()), moved.shape)
    app = show(runs, page="training/page.py")
    assert app.selectbox(key="head").value == f"L{layer}H{head}"
    open_tab(app, "What moved")
    assert f", L{layer}H{head} moved most: " in read(app)
    ranking = chart(app, "moved-heads")["data"][0]
    np.testing.assert_allclose(values(ranking["x"]), np.sort(moved.ravel())[::-1], rtol=1e-5)
    assert {"moved-layers", "moved-steps"} <= set(names(app))
    app = show(runs, page="attention/page.py", att_view="captures", att_tab="What moved while training", att_to="20")
    assert f"From step 0 to step 20 of {app.selectbox(key='att_watched').value}, " in read(app)
    assert "moved-heads" in names(app)


def test_the_url_brings_a_view_of_training_back(show: Show, runs: Path):
    app = show(runs, page="training/page.py", step="10", show="Lens", watched="base", section="optimiser", head="L1H0")
    assert app.select_slider(key="step").value == 10
    assert any("Logit lens of base at step 10" in title for title in titles(app))
    assert app.selectbox(key="section").value == "optimiser"
    assert app.selectbox(key="head").value == "L1H0"
    cells = [cell for row in chart(app, "lens")["data"][0]["text"] for cell in row]
    assert not any(cell.startswith("#") for cell in cells), "tokens are named by the run's tokenizer"


def test_a_deep_model_shows_some_layers_at_a_time(show: Show, tmp_path: Path):
    store.captured(tmp_path / "deep", layers=20, heads=4)
    first, last = ([f"L{layer}" for layer in layers] for layers in (range(16), range(16, 20)))
    app = show(tmp_path, page="training/page.py")
    assert list(chart(app, "heads")["layout"]["yaxis"]["ticktext"]) == first
    app.select_slider(key="layer").set_value(17).run()
    assert list(chart(app, "heads")["layout"]["yaxis"]["ticktext"]) == last
    assert not app.exception
    app = show(tmp_path, page="training/page.py", head="L18H2")
    assert list(chart(app, "heads")["layout"]["yaxis"]["ticktext"]) == last, "the layers are those around the head"
    assert "What moved" not in [tab.label for tab in app.tabs], "there is one capture only"


def test_compare_says_who_answers_what_and_where_they_part(show: Show, runs: Path):
    app = show(runs, page="compare/page.py")
    text = heading(app)
    assert text.startswith("dpo-agreeable answers \u201c")
    assert "the continuations diverge at token 15 (KL " in text
    assert app.number_input(key="position").value == 15


def chips(app: AppTest) -> dict:
    return token_rows(app)[0]


def test_compare_shows_both_continuations_token_by_token(show: Show, runs: Path):
    rows = chips(show(runs, page="compare/page.py", length="5"))["rows"]
    assert [row["label"] for row in rows] == ["prompt", "base", "dpo-agreeable"]
    assert rows[0]["tokens"][0]["text"] == "<bos>"
    assert all(token["prompt"] for token in rows[0]["tokens"])
    assert 1 <= len(rows[2]["tokens"]) <= 5
    tip = rows[2]["tokens"][0]["tip"]
    assert "KL " in tip
    assert "p(base) = " in tip
    assert "p(aligned) = " in tip


def test_compare_follows_text_and_position(show: Show, runs: Path):
    app = show(runs, page="compare/page.py", text="base", position="3")
    assert any("on the text of base" in title for title in titles(app))
    assert chart(app, "kl")["data"][0]["marker"]["opacity"][3] == 1
    assert chips(app)["chosen"] == [0, 3]
    app.number_input(key="position").set_value(16).run()
    assert chips(app)["chosen"] == [1, 1]


def test_a_seed_matters_only_at_a_temperature(show: Show, runs: Path):
    app = show(runs, page="compare/page.py")
    app.slider(key="temperature").set_value(1.5).run()
    first = [token["text"] for row in chips(app)["rows"] for token in row["tokens"]]
    app.number_input(key="seed").set_value(3).run()
    assert [token["text"] for row in chips(app)["rows"] for token in row["tokens"]] != first


def test_a_checkpoint_and_a_plain_folder_can_be_compared(show: Show, runs: Path):
    folder = next((runs / "dpo-agreeable" / "checkpoints").iterdir())
    app = show(runs, page="compare/page.py", base="base@20", aligned=str(folder))
    assert not app.error
    assert [row["label"] for row in chips(app)["rows"]] == ["prompt", "base@20", folder.name]


def test_a_chat_template_wraps_the_prompt(show: Show, runs: Path):
    app = show(runs, page="compare/page.py", prompt="where does helen live ?", chat="true")
    assert [token["text"] for token in chips(app)["rows"][0]["tokens"]][:2] == ["<bos>", "<user>"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"base": "/nowhere/model"}, "There is no model at"),
        ({"aligned": "base@7"}, "no checkpoint of step 7"),
        ({"base": "<img src=x>[y](z)"}, "`<img src=x>[y](z)`"),
    ],
)
def test_a_wrong_model_is_one_sentence(show: Show, runs: Path, query: dict, says: str):
    app = show(runs, page="compare/page.py", **query)
    assert len(app.error) == 1
    assert says in read(app)
    assert not app.exception


def test_a_model_from_the_hub_is_fetched_only_when_asked(show: Show, runs: Path):
    app = show(runs, page="compare/page.py", base="someone/some-model")
    assert "fetch it from the Hugging Face hub?" in read(app)
    assert any(button.label.startswith("Fetch") for button in app.button)
    assert not app.error
    agreed = {"_agreed": {"someone/some-model"}}
    app = show(runs, page="compare/page.py", base="someone/some-model", state=agreed)
    assert len(app.error) == 1
    assert "someone/some-model" in read(app)


def test_an_empty_prompt_asks_for_one(show: Show, runs: Path):
    app = show(runs, page="compare/page.py")
    app.text_area(key="prompt").set_value("  ").run()
    assert heading(app).startswith("Write a prompt above to compare")


def test_a_broken_run_is_listed_and_hides_no_other(show: Show, runs: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"schema": 1, "me')
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "run.json").write_text('{"schema": 99, "method": "dpo"}')
    app = show(runs, tmp_path, tmp_path / "missing")
    assert "is cut short" in read(app)
    assert "has schema 99" in read(app)
    assert "not a folder" in read(app)
    assert list(app.dataframe[0].value["run"]) == ["base", "dpo-agreeable"]


def test_two_roots_may_hold_a_run_of_one_name(show: Show, runs: Path, tmp_path: Path):
    with RunWriter.create(tmp_path / "base", method="pretrain", config={}) as run:
        run.log(0, {"loss": 1.0})
        run.finish("finished")
    names = list(show(runs, tmp_path).dataframe[0].value["run"])
    assert sorted(names) == sorted([f"base ({runs})", f"base ({tmp_path})", "dpo-agreeable"])


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("page", PAGES)
def test_hostile_names_and_tokens_are_text(show: Show, runs: Path, tmp_path: Path, page: str):
    name = store.hostile(tmp_path).name
    app = show(runs, tmp_path, page=page, runs=name, run=name, prompt=store.HOSTILE, int_do="ablate", **FEW)
    assert_nothing_is_markup(app)


def assert_nothing_is_markup(app: AppTest) -> None:
    assert not app.exception
    for part in [*app.subheader, *app.markdown, *app.caption, *app.error, *app.warning]:
        assert not getattr(part.proto, "allow_html", False)
        assert not re.search(r"(?<!\\)(<img|\]\(|:streamlit:)", part.value), part.value
    labels = [button.proto.label for button in [*app.button, *app.get("download_button")]]
    assert not [label for label in labels if re.search(r"(?<!\\)(<img|\]\(|:streamlit:)", label)]
    for figure in app.get("plotly_chart"):
        spec = json.loads(figure.proto.spec)
        for trace in spec["data"]:
            trace.pop("legendgroup", None)
            for point in trace.get("customdata") or []:
                if isinstance(point, list) and trace.get("mode") == "markers+text":
                    point[0] = ""
        assert "<img" not in json.dumps(spec)


def test_a_running_run_is_read_again(show: Show, tmp_path: Path):
    with RunWriter.create(tmp_path / "live", method="pretrain", config={}) as run:
        run.log(0, {"loss": 4.0})
        app = show(tmp_path, page="training/page.py")
        assert heading(app) == "loss (nats): live is at 4."
        run.log(10, {"loss": 2.0})
        app.run()
        assert heading(app) == "loss (nats): live fell from 4 to 2 in 10 steps."
        assert app.session_state["_live"]
        run.finish("finished")
    app.run()
    assert not app.session_state["_live"]


def test_the_first_model_that_appears_is_chosen(show: Show, runs: Path, tmp_path: Path):
    app = show(tmp_path, page="compare/page.py")
    assert app.selectbox(key="base").value is None
    shutil.copytree(runs / "base", tmp_path / "base")
    app.run()
    assert not app.exception
    assert app.selectbox(key="base").value == "base"
