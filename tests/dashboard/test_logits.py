"""The Logits page: what it says is what the analyses give, and it follows its widgets and its URL."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.state import Visit
from probe.logits.attribution import attribute
from probe.logits.lens import logit_lens
from probe.logits.targets import target_of
from probe.logits.trained import kl_over_training, neurons_over_training, promoted_over_training
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.model.rewards import RewardModel
from probe.model.text import encode
from probe.recording.recorder import ReferenceKL, watch
from probe.runs import open_run
from tests.dashboard import store
from tests.dashboard.pages import Show, again, chart, every_tab, heading, names, offered, open_tab, read, values
from tests.models import random_lm, tiny, word_tokenizer

PAGE = "logits/page.py"
DISTANCE, TRAINING = "Distance between the models", "Over training"


def shown(app: AppTest) -> set[str]:
    """Names of the figures."""
    return set(names(app))


def shown_in_tabs(app: AppTest) -> set[str]:
    """The same of all tabs."""
    return {name.removeprefix("log-") for whole in every_tab(app) for name in shown(whole)}


def placeholder(app: AppTest, key: str) -> str:
    return app.selectbox(key=key).proto.placeholder


def test_the_sentence_and_the_figures_are_what_the_analyses_give(show: Show, runs: Path):
    app = show(runs, page=PAGE)
    assert not app.exception
    assert not app.error
    prompt = app.text_area(key="prompt").value
    models = [LM.load(runs / name) for name in ("base", "dpo-agreeable")]
    ids = encode(models[0].tokenizer, prompt)
    top = [models[i].logits([ids])[0, -1].argmax().item() for i in (0, 1)]
    second = models[1].logits([ids])[0, -1].topk(2).indices[1].item()
    against = top[0] if top[0] != top[1] else second
    target = target_of(models[1], ids, top[1], against)
    parts = [attribute(lm, ids, target) for lm in models]
    moved = parts[1].total - parts[0].total
    change = np.concatenate([parts[1].heads - parts[0].heads, (parts[1].mlps - parts[0].mlps)[:, None]], axis=1)
    layer, column = np.unravel_index((change * np.sign(moved)).argmax(), change.shape)
    part = f"L{layer}H{column}" if column < 2 else f"L{layer} MLP"
    most = f"the largest direct effect comes from {part} ({change[layer, column]:+.2f})."
    assert f"{target.name} changes by {moved:+.2f} nats; {most}" in read(app)
    lens = logit_lens(models[1], ids, k=2)
    word, share = lens.top_tokens[-1, -1, 0], 100 * np.exp(lens.top_logprobs[-1, -1, 0])
    assert f"dpo-agreeable says \u201c{word}\u201d ({share:.0f} %)" in heading(app)
    assert app.selectbox(key="log_part").value == part
    assert placeholder(app, "log_answer") == f"likeliest: {word}"
    cells = values(chart(app, "parts")["data"][4]["z"])
    np.testing.assert_allclose(cells[1:], change, atol=1e-4)
    buttons = offered(app)
    assert [buttons.count(kind) for kind in ("PNG", "SVG", "PDF", "HTML", "CSV")] == [len(names(app))] * 5


def test_the_target_follows_its_widgets(show: Show, runs: Path):
    app = show(runs, page=PAGE)
    app.selectbox(key="log_answer").set_value("rome").run()
    assert "rome \u2212 " in read(app)
    app.selectbox(key="log_against").set_value("(nothing)").run()
    assert re.search(r"^rome changes by ", read(app), re.MULTILINE)
    app.number_input(key="log_position").set_value(4).run()
    assert not app.exception
    assert chart(app, "lens")["layout"]["shapes"][0]["x0"] == 3.5
    app = show(runs, page=PAGE, log_answer="oslo in typed words", log_against="(nothing)")
    assert re.search(r"^oslo changes by ", read(app), re.MULTILINE)


def test_one_model_alone(show: Show, runs: Path):
    app = show(runs, page=PAGE, log_view="base")
    assert re.match(r"base says \u201c.+\u201d \(\d+ %\), its favourite ", heading(app))
    assert re.search(r" = .+ nats in base; the largest direct effect comes from L\d(H\d| MLP) ", read(app))
    assert sum(trace["type"] == "heatmap" for trace in chart(app, "parts")["data"]) == 1
    whole = shown_in_tabs(app)
    assert whole == {
        *("lens", "layers", "parts", "promoted", "written", "training-layers", "training"),
        *("training-parts", "training-neurons"),
        next(name for name in whole if name in ("sources", "neurons")),
    }
    assert not app.exception
    assert not app.error


def test_a_head_and_an_mlp_are_enlarged(show: Show, runs: Path):
    app = show(runs, page=PAGE, log_part="L1H0")
    assert {"promoted", "sources"} <= shown(app)
    app.segmented_control(key="log_parts_list").set_value("What L1H0 promotes").run()
    named = next(part.value for part in app.dataframe if "what" in part.value)
    assert "by the weights of dpo-agreeable alone, attending to " in named["what"].iloc[-1]
    assert len(values(chart(app, "promoted")["data"][0]["y"])) == 16
    app.selectbox(key="log_part").select("L0 MLP").run()
    assert "neurons" in shown(app)
    assert len(values(chart(app, "neurons")["data"][0]["y"])) == 20


def test_the_url_brings_a_view_back(show: Show, runs: Path):
    asked = {"log_view": "aligned", "log_position": "3", "log_answer": "lyon", "log_part": "L0H1", "log_new": "3"}
    app = show(runs, page=PAGE, log_captured="<user> where does helen live ? <bot>", log_measure="margin", **asked)
    assert not app.exception
    assert app.number_input(key="log_position").value == 3
    assert "lyon \u2212 " in read(app)
    assert app.selectbox(key="log_part").value == "L0H1"
    open_tab(app, TRAINING)
    assert app.selectbox(key="log_measure").value == "margin"
    assert chart(app, "training-layers")["layout"]["coloraxis"]["colorbar"]["title"]["text"].startswith("margin")
    open_tab(app, "Token by token")
    assert len(values(chart(app, "written")["data"][0]["y"])) <= 3


def test_choices_are_told_again_where_the_run_that_told_them_was_broken_off(show: Show, runs: Path) -> None:
    """After Back: the browser begins a run of its own before the page has drawn what it was told."""
    state = {"_visit": Visit("logits", time.monotonic(), {"logits": {"log_position": ["3"]}})}
    app = show(runs, page=PAGE, state=state)
    assert app.number_input(key="log_position").value == 3
    app.number_input(key="log_position").set_value(5).run()
    assert app.number_input(key="log_position").value == 5


def test_a_new_prompt_is_read_after_its_last_token(show: Show, runs: Path):
    app = show(runs, page=PAGE, log_position="2")
    app.text_area(key="prompt").set_value("<user> where does helen live ? <bot>").run()
    assert app.number_input(key="log_position").value == 7
    app.text_area(key="prompt").set_value("<user> where").run()
    assert app.number_input(key="log_position").value == 2
    assert not app.exception


def test_training_needs_no_model(show: Show, runs: Path, tmp_path: Path):
    """A capture of an older version: what it lacks is told, and the rest is shown as it was."""
    store.captured(tmp_path / "watched")
    app = show(runs, tmp_path, page=PAGE, log_run="watched")
    assert chart(app, "training-layers")["data"][0]["z"]
    assert app.selectbox(key="log_run").value == "watched"
    assert "entropy" not in app.selectbox(key="log_measure").options
    for name in ("training-parts", "training-neurons", "training-kl"):
        assert name not in names(app)
    assert "watched was captured before this version of Probe" in read(app)
    assert "watched captured no KL to a reference: train by a method that has one, or give probe.watch" in read(app)
    assert not app.exception
    assert not app.error


def test_training_is_shown_by_layer_and_by_part(show: Show, runs: Path):
    run = open_run(runs / "dpo-agreeable")
    app = show(runs, page=PAGE, log_run="dpo-agreeable", log_measure="entropy")
    assert "before this version" not in read(app)
    prompts = {prompt.text: index for index, prompt in enumerate(run.captures().prompts)}
    index = prompts[app.selectbox(key="log_captured").value]
    asked, steps = run.captures().prompts[index], run.captures().steps
    at = asked.length - 1
    captured = [run.captures().load(step) for step in steps]
    cells = values(chart(app, "training-layers")["data"][0]["z"])
    expected = np.stack([each["lens_entropy"][index, :, at] for each in captured], axis=1)
    np.testing.assert_allclose(cells, expected, atol=0.01)
    parts = np.stack([each["attribution"][index] for each in captured], axis=-1).reshape(-1, len(steps))
    drawn = chart(app, "training-parts")
    assert list(drawn["layout"]["xaxis"]["ticktext"]) == [str(step) for step in steps]
    order = np.argsort(np.abs(parts).max(axis=1))
    np.testing.assert_allclose(values(drawn["data"][0]["z"]), parts[order], atol=1e-5, rtol=1e-4)
    part = ["L0H0", "L0H1", "L0 MLP", "L1H0", "L1H1", "L1 MLP"][order[-1]]
    assert drawn["layout"]["yaxis"]["ticktext"][-1] == part
    axis = drawn["layout"]["coloraxis"]
    assert axis["cmin"] == -axis["cmax"]
    assert app.selectbox(key="log_trained_part").value == part
    words = promoted_over_training(run, index)
    first = words[(words.step == steps[0]) & (words.layer == int(part[1])) & (words.part == part[2:].strip())]
    shown = next(part.value for part in app.dataframe if "step" in part.value)
    assert shown["step"].tolist() == steps
    for kind in ("promoted", "suppressed"):
        assert shown[kind][0] == "  ".join(first[first.kind == kind].sort_values("rank").token)
    first = asked.answers[0].strip()
    app.selectbox(key="log_measure").select(f"rank of {first}").run()
    ranks = np.stack([each["lens_answer_ranks"][index, :, at, 0] for each in captured], axis=1)
    cells = values(chart(app, "training-layers")["data"][0]["z"])
    np.testing.assert_allclose(10**cells, ranks + 1, rtol=1e-5)
    assert ranks.max() > 5
    assert not app.exception
    assert not app.error


def test_training_is_shown_by_neuron_and_as_kl_by_token(show: Show, runs: Path, tmp_path: Path):
    lm = LM.load(runs / "base")
    prompts = open_run(runs / "base").captures().prompts
    with watch(lm, tmp_path / "moved", prompts=prompts, every=1, instruments=[ReferenceKL(lm.logits)]) as recorder:
        for step in range(2):
            recorder.step(step)
            for parameter in lm.model.parameters():
                parameter.data *= 1.1
    run = open_run(tmp_path / "moved")
    app = show(runs, tmp_path, page=PAGE, log_run="moved")
    index = [prompt.text for prompt in prompts].index(app.selectbox(key="log_captured").value)
    neurons, kl = neurons_over_training(run, index), kl_over_training(run, index)
    drawn = chart(app, "training-neurons")
    cells, labels = values(drawn["data"][0]["z"]), drawn["layout"]["yaxis"]["ticktext"]
    assert cells.shape == (12, 2)
    strongest = neurons.loc[neurons["value"].abs().idxmax()]
    assert labels[-1] == f"L{strongest.layer:.0f} neuron {strongest.neuron:.0f}"
    same = (neurons["layer"] == strongest.layer) & (neurons["neuron"] == strongest.neuron)
    np.testing.assert_allclose(cells[-1], neurons[same].sort_values("step")["value"], rtol=1e-5)
    by_token = kl.pivot(index="position", columns="step", values="kl").to_numpy()
    np.testing.assert_allclose(values(chart(app, "training-kl")["data"][0]["z"]), by_token, rtol=1e-5)
    assert not by_token[:, 0].any()
    assert by_token[:, 1].max() > 0.01
    assert f"{by_token[:, 1].max():.2f} nats" in read(app)
    assert "has no reference" not in read(app)
    assert not app.exception
    assert not app.error


def test_captures_without_the_kl_to_the_reference_say_so(show: Show, runs: Path):
    app = show(runs, page=PAGE, log_run="dpo-agreeable")
    assert "training-neurons" in names(app)
    assert "training-kl" not in names(app)
    assert "The captures of dpo-agreeable lack its KL to base; a new run has it" in read(app)


def test_training_on_a_prompt_without_answers_has_no_parts(show: Show, runs: Path, tmp_path: Path):
    with watch(LM.load(runs / "base"), tmp_path / "plain", prompts=["<user> where"]) as recorder:
        recorder.step(0)
    app = show(runs, tmp_path, page=PAGE, log_run="plain")
    assert "training-parts" not in names(app)
    assert "This prompt was captured without answers" in read(app)
    assert not app.exception


def test_training_of_a_model_whose_parts_do_not_sum(show: Show, runs: Path, tmp_path: Path):
    lm = LM(tiny("granite", residual_multiplier=0.5), word_tokenizer())
    with watch(lm, tmp_path / "scaled", prompts=[{"text": "tom", "answers": ["rome"]}]) as recorder:
        recorder.step(0)
    app = show(runs, tmp_path, page=PAGE, log_run="scaled")
    assert "training-parts" not in names(app)
    assert "The heads and MLPs of scaled do not sum to its logits" in read(app)
    assert not app.exception


def test_one_model_in_both_places_is_shown_once(show: Show, runs: Path):
    app = show(runs, page=PAGE, base="base", aligned="base")
    assert app.segmented_control(key="log_view").options == ["base"]
    assert not app.exception


def test_models_that_do_not_pair_up(show: Show, runs: Path, tmp_path: Path):
    """A deeper model: two lenses without a difference. Another vocabulary: one model at a time."""
    tokenizer = LM.load(runs / "base").tokenizer
    LM.create(ModelConfig(layers=3, width=32, heads=2, mlp=64, context=128), tokenizer).save(tmp_path / "deep")
    app = show(runs, page=PAGE, aligned=str(tmp_path / "deep"))
    assert not app.exception
    whole = shown_in_tabs(app)
    assert {"parts", "parts-1", "kl"} <= whole
    assert "kl-layers" not in whole
    assert "have different depths" in read(open_tab(app, DISTANCE))
    random_lm().save(tmp_path / "other")
    app = show(runs, page=PAGE, aligned=str(tmp_path / "other"))
    assert not app.exception
    assert app.segmented_control(key="log_view").options == ["aligned", "base"]
    assert "each is shown alone" in read(app)


def test_a_reader_chooses_which_layers_of_a_deep_model_are_drawn(show: Show, runs: Path, tmp_path: Path):
    ref = str(random_lm(num_hidden_layers=24).save(tmp_path / "deep"))
    app = show(runs, page=PAGE, base=ref, aligned=ref, prompt="where does mira live ?")
    assert app.selectbox(key="log_layers").options == [
        "auto",
        "all",
        "every 2nd",
        "every 3rd",
        "every 4th",
        "every 5th",
    ]
    drawn = chart(app, "lens")["layout"]
    assert len(drawn["yaxis"]["ticktext"]) == 25
    assert "layer by layer" in read(app)
    app.selectbox(key="log_layers").select("every 4th")
    again(app)
    assert not app.exception
    assert chart(app, "lens")["layout"]["yaxis"]["ticktext"] == [
        "embedding",
        *(f"L{at}" for at in (3, 7, 11, 15, 19)),
        "L23 = output",
    ]
    assert "Predictions after each token, every 4th layer" in read(app)
    shallow = show(runs, page=PAGE)
    assert "log_layers" not in {box.key for box in shallow.selectbox}


def test_an_empty_page_says_what_to_do(show: Show, runs: Path, tmp_path: Path):
    assert heading(show(tmp_path, page=PAGE)).startswith("Choose a model above")
    app = show(runs, page=PAGE)
    app.text_area(key="prompt").set_value("  ").run()
    assert heading(app).startswith("Write a prompt above")


def test_hostile_text_stays_text(show: Show, runs: Path, tmp_path: Path):
    name = store.hostile(tmp_path).name
    app = show(runs, tmp_path, page=PAGE, prompt=store.HOSTILE, log_run=name, log_answer=store.HOSTILE)
    for whole in every_tab(app):
        assert not whole.exception
        for part in [*whole.subheader, *whole.markdown, *whole.caption, *whole.error]:
            assert not re.search(r"(?<!\\)(<img|\]\(|:streamlit:)", part.value), part.value
        for part in whole.get("plotly_chart"):
            assert "<img" not in part.proto.spec


def test_the_python_lines_run(show: Show, runs: Path):
    for view in ("both", "aligned"):
        for whole in every_tab(show(runs, page=PAGE, log_view=view)):
            for code in whole.code:
                exec(compile(code.value, view, "exec"), {})


@pytest.mark.parametrize("view", ["both", "base"])
def test_a_reward_model_is_read_as_a_scalar(show: Show, runs: Path, tmp_path: Path, view: str):
    for seed, name in enumerate(("one", "two")):
        store.judge(tmp_path / name, runs / "base", seed=seed)
    prompt = "<user> where does helen live ? <bot>"
    app = show(runs, tmp_path, page=PAGE, base="one", aligned="two", prompt=prompt, log_view=view)
    assert not app.exception
    assert not app.error
    model = RewardModel.load(tmp_path / "one")
    *start, last = encode(model.tokenizer, prompt)
    reward = model.score([start], [[last]])[0]
    assert f"one reads {float(reward):+.2f}" in heading(app)
    assert "It is one number" in read(app)
    assert shown_in_tabs(app) & {"promoted", "layers", "written", "kl"} == set()
    exec(compile(app.code[0].value, "scalar", "exec"), {})
