"""The Attention page through the entrypoint: what it finds, what each choice changes, where its numbers come from."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import computation
from probe.attention import reading
from probe.attention.figures import MOST_CELLS, layer_groups
from probe.attention.head_stages import stages
from probe.attention.long import attention_statistics
from probe.attention.patterns import attention, distance_table
from probe.attention.reading import parse_head
from probe.attention.scores import pattern_scores
from probe.attention.tracing import rollout
from probe.model import pace
from probe.model.lm import LM
from probe.runs import open_run
from tests.dashboard import store
from tests.dashboard.pages import Show, chart, every_tab, heading, names, offered, read, values
from tests.models import random_lm, random_reward_model

VIEW = "attention/page.py"
PROMPT = "<user> i think helen lives in lyon . where does helen live ? <bot>"


@pytest.fixture
def models(runs: Path) -> tuple[LM, LM]:
    return LM.load(runs / "base"), LM.load(runs / "dpo-agreeable")


def maps(figure: dict) -> list[np.ndarray]:
    """The coloured heat maps of a figure."""
    return [values(trace["z"]) for trace in figure["data"] if trace["type"] == "heatmap" and "coloraxis" in trace]


def lower(array: np.ndarray) -> np.ndarray:
    return array[np.tril_indices(len(array))]


def enlarged(app: AppTest) -> str:
    """The head that the figures are about."""
    found = re.search(r"(L\d+H\d+): bilinear, softmax, linear", read(app))
    assert found
    return found[1]


def framed(figure: dict) -> set[tuple[float, float]]:
    """Middles of the frames."""
    return {((shape["x0"] + shape["x1"]) / 2, (shape["y0"] + shape["y1"]) / 2) for shape in figure["layout"]["shapes"]}


def test_it_names_the_head_that_moved_most_and_enlarges_it(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT)
    assert not app.exception
    assert not app.error
    table = distance_table(*[attention(lm, PROMPT) for lm in models])
    share, whole = (f"{100 * table[name][0]:.0f} %" for name in ("other_tokens", "total_variation"))
    assert heading(app).startswith(
        f"Between base and dpo-agreeable, {table['name'][0]} changed its attention most: {share} of it moved"
        f" among tokens other than the first ({whole} with the first), "
    )
    assert enlarged(app) == table["name"][0]
    assert app.segmented_control(key="att_view").value == "both"
    badges = [part.value for part in app.markdown if "hooks verified" in part.value]
    assert len(badges) == 2
    buttons = offered(app)
    assert [buttons.count(kind) for kind in ("PNG", "SVG", "PDF", "HTML", "CSV")] == [len(names(app))] * 5


def test_the_sentence_says_where_attention_went_and_when_it_went_nowhere(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT)
    first, second = (attention(lm, PROMPT) for lm in models)
    head = parse_head(enlarged(app))
    change = (second.pattern - first.pattern)[head][:, 1:]
    query, key = np.unravel_index(np.abs(change).argmax(), change.shape)
    key += 1
    before, after = first.pattern[(*head, query, key)], second.pattern[(*head, query, key)]
    assert f"({before:.2f} \u2192 {after:.2f})." in heading(app)
    said = re.findall(r"\u201c(.*?)\u201d", heading(app))
    assert said == [first.tokens[at] for at in ((query, key) if query != key else (query,))]
    same = show(runs, page=VIEW, prompt=PROMPT, base="base", aligned="base")
    assert heading(same).startswith("Attention hardly changed between base and base (aligned): the largest")


def test_both_models_and_their_difference(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT, att_head="L1H0")
    first, second = (attention(lm, PROMPT).pattern for lm in models)
    shown, length = maps(chart(app, "heads")), first.shape[-1]
    for image, pattern in zip(shown, (first, second, second - first), strict=True):
        tile = image[length + 1 : 2 * length + 1, :length]
        np.testing.assert_allclose(lower(tile), lower(pattern[1, 0]), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("view", "index"), [("base", 0), ("aligned", 1)])
def test_one_model_shows_its_head_beside_the_mosaic(show: Show, runs: Path, models, view: str, index: int):
    app = show(runs, page=VIEW, prompt=PROMPT, att_view=view, att_head="L0H1")
    assert f"in {('base', 'dpo-agreeable')[index]}," in heading(app)
    expected = attention(models[index], PROMPT).pattern[0, 1]
    np.testing.assert_allclose(lower(maps(chart(app, "head"))[0]), lower(expected), atol=1e-6, rtol=1e-4)
    assert len(maps(chart(app, "heads"))) == 1
    assert len(maps(chart(app, "stages"))) == 3


def test_the_head_follows_the_finding_until_the_reader_takes_one(show: Show, runs: Path):
    app = show(runs, page=VIEW, prompt=PROMPT)
    for prompt in ("helen lives in", "<user> where does magda live ? <bot>"):
        app.text_area(key="prompt").set_value(prompt).run()
        assert enlarged(app) == re.findall(r"L\dH\d", heading(app))[0]
    other = next(name for name in app.selectbox(key="att_head").options[1:] if name not in heading(app))
    app.selectbox(key="att_head").select(other).run()
    app.text_area(key="prompt").set_value(PROMPT).run()
    assert app.selectbox(key="att_head").value == enlarged(app) == other
    assert len(framed(chart(app, "heads"))) == 1


def test_the_stages_are_those_of_the_analysis(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT, att_head="L1H1")
    expected = [stages(lm, PROMPT, 1, 1) for lm in models]
    shown = maps(chart(app, "stages"))
    for row, one in enumerate(expected):
        for found, right in zip(shown[3 * row : 3 * row + 3], (one.scores, one.pattern, one.contribution), strict=True):
            np.testing.assert_allclose(lower(found), lower(right), rtol=1e-4, atol=1e-5)
    bars = chart(app, "written")["data"]
    np.testing.assert_allclose(values(bars[1]["y"]), expected[1].share, rtol=1e-4)


def test_the_query_decides_which_tokens_are_named(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT, att_view="aligned", att_head="L1H1")
    length = len(attention(models[1], PROMPT).tokens)
    assert app.selectbox(key="att_query").value == length - 1
    app.selectbox(key="att_query").set_value(4).run()
    one = stages(models[1], PROMPT, 1, 1)
    words = chart(app, "words")["layout"]["yaxis"]["ticktext"]
    assert words[:5] == [word.replace("<", "&lt;").replace(">", "&gt;") for word in one.promoted.tokens[4]]
    marks = {(shape["y0"], shape["y1"]) for shape in chart(app, "stages")["layout"]["shapes"]}
    assert marks == {(3.5, 4.5)}
    app.text_area(key="prompt").set_value("helen lives in").run()
    assert app.selectbox(key="att_query").value == 3, "a new text starts at the end of its prompt"


def test_attention_goes_on_while_the_model_writes(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT, att_new="4", att_view="aligned", att_head="L0H0")
    expected = attention(models[1], PROMPT, max_new_tokens=4)
    assert len(expected.ids) > expected.prompt_length
    np.testing.assert_allclose(lower(maps(chart(app, "head"))[0]), lower(expected.pattern[0, 0]), atol=1e-6, rtol=1e-4)
    lines = [trace for trace in chart(app, "head")["data"] if trace.get("mode") == "lines"]
    assert (
        values(lines[0]["y"])[0]
        if isinstance(lines[0]["y"], dict)
        else lines[0]["y"][0] == expected.prompt_length - 0.5
    )
    written = "".join(expected.tokens[expected.prompt_length :]).replace("\u00b7", " ").strip()
    assert f"continuation of dpo-agreeable: \u201c{' '.join(written.split())}\u201d" in read(app)


def test_head_scores_are_those_of_the_patterns(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT, att_tab="Head scores", att_score="entropy")
    assert names(app) == ["heads", "scores"], "only the open tab is drawn"
    first, second = (pattern_scores(attention(lm, PROMPT)).values["entropy"] for lm in models)
    for found, right in zip(maps(chart(app, "scores")), (first, second, second - first), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5, rtol=1e-4)
    app.selectbox(key="att_score").set_value("prefix_matching").run()
    app.selectbox(key="att_score").set_value("copying").run()
    assert not app.exception
    assert len(maps(chart(app, "scores"))) == 3


def test_what_moved_ranks_all_heads_and_shows_the_chosen_one(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT, att_tab="What moved", att_head="L1H0")
    first, second = (attention(lm, PROMPT) for lm in models)
    table = distance_table(first, second)
    assert chart(app, "moved")["layout"]["yaxis"]["ticktext"] == list(table["name"])
    change = (second.pattern - first.pattern)[1, 0]
    np.testing.assert_allclose(lower(maps(chart(app, "change"))[0]), lower(change), atol=1e-6, rtol=1e-4)
    assert f"L1H0 ranks {list(table['name']).index('L1H0') + 1} of 4" in read(app)


def test_circuits_come_from_the_weights_alone(show: Show, runs: Path, models):
    from probe.attention.circuits import composition, copying_score, spectra

    app = show(runs, page=VIEW, prompt=PROMPT, att_tab="Circuits", att_view="aligned", att_head="L1H0")
    assert not app.exception
    lines = chart(app, "spectra")["data"]
    np.testing.assert_allclose(values(lines[0]["y"]), spectra(models[1]).qk[1, 0], rtol=1e-3)
    np.testing.assert_allclose(maps(chart(app, "copying"))[0], copying_score(models[1]), atol=1e-3)
    grids = maps(chart(app, "composition"))
    for kind, grid in zip("QKV", grids, strict=True):
        found = composition(models[1], kind)
        np.testing.assert_allclose(grid[0], found.excess[0, :, 1, 0], atol=1e-4)
        assert np.isnan(grid[1]).all(), "heads of its own layer neither read nor write it"
    assert "Effective rank" in read(app)


def test_rollout_starts_at_the_query_and_sums_to_one(show: Show, runs: Path, models):
    app = show(runs, page=VIEW, prompt=PROMPT, att_tab="Rollout", att_view="base")
    app.selectbox(key="att_query").set_value(5).run()
    shown = maps(chart(app, "rollout"))[0]
    np.testing.assert_allclose(shown.sum(1), 1, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(shown, rollout(attention(models[0], PROMPT))[:, 5], atol=1e-5, rtol=1e-4)
    app.toggle(key="att_weighted").set_value(True).run()
    assert not np.allclose(maps(chart(app, "rollout"))[0], shown)


def test_captures_move_through_training(show: Show, runs: Path):
    app = show(runs, page=VIEW, att_view="captures", att_watched="base", att_step="20", att_head="L1H1")
    assert not app.exception
    found = open_run(runs / "base").captures()
    index = app.selectbox(key="att_captured").options.index(app.selectbox(key="att_captured").value)
    length = found.prompts[index].length
    now, start = (found.load(step)["attention"][index, 1, 1, :length, :length] for step in (20, 0))
    assert "Between step 0 and step 20 of base, L" in heading(app)
    tile = slice(length + 1, 2 * length + 1)
    for image, right in zip(maps(chart(app, "heads")), (start, now, now - start), strict=True):
        np.testing.assert_allclose(lower(image[tile, tile]), lower(right), atol=2e-3)
    assert names(app) == ["heads", "training"]
    curves = chart(app, "training")
    assert len(curves["data"]) == 5
    assert curves["layout"]["shapes"][0]["x0"] == 20
    app.select_slider(key="att_step").set_value(40).run()
    assert "Between step 0 and step 40" in heading(app)
    app.toggle(key="att_since").set_value(False).run()
    assert heading(app).startswith("On this prompt, at step 40 of base,")
    assert names(app)[:2] == ["heads", "head"]
    app.select_slider(key="att_step").set_value(0).run()
    assert not app.exception


def test_a_reward_model_is_looked_into_like_any_other(show: Show, runs: Path, tmp_path: Path):
    folder, rewards = tmp_path / "reward", random_reward_model()
    rewards.model.save_pretrained(folder)
    rewards.tokenizer.save_pretrained(folder)
    app = show(runs, page=VIEW, prompt="mira lives in oslo .", att_view="aligned", aligned=str(folder))
    assert not app.exception
    assert not app.error
    assert app.slider(key="att_new").disabled
    assert {"heads", "stages", "words"} <= set(names(app))
    assert chart(app, "words")["layout"]["yaxis"]["ticktext"] == ["reward"]
    app = show(
        runs, page=VIEW, prompt="mira lives in oslo .", att_view="aligned", aligned=str(folder), att_tab="Circuits"
    )
    assert not app.exception
    assert "no output tokens" in read(app)


def test_models_that_do_not_pair_up_stand_side_by_side(show: Show, runs: Path, tmp_path: Path):
    folder = random_lm(num_hidden_layers=3).save(tmp_path / "other")
    app = show(runs, page=VIEW, prompt="helen lives in lyon .", aligned=str(folder))
    assert not app.exception
    assert len(maps(chart(app, "heads"))) == 2
    assert "split this prompt into different tokens" in read(app)
    assert "What moved" not in [tab.label for tab in app.tabs]
    copy = LM.load(runs / "base")
    del copy.model.model.layers[1:]
    copy.model.config.num_hidden_layers = 1
    shallow = copy.save(tmp_path / "shallow")
    app = show(runs, page=VIEW, prompt="helen lives in lyon .", aligned=str(shallow))
    assert "base has 2 layers of 2 heads and shallow has 1 layers of 2 heads" in read(app)
    assert app.selectbox(key="att_head").options[1:] == ["L0H0", "L0H1"]
    assert not app.exception


def test_long_texts_get_statistics_and_the_size_of_what_is_not_shown(
    show: Show, runs: Path, models, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading, "LONG", 12)
    app = show(runs, page=VIEW, prompt=PROMPT, att_head="L1H0", att_statistic="entropy")
    assert not app.exception
    assert heading(app).startswith("Over 15 tokens, in base, L")
    assert "; in dpo-agreeable, L" in heading(app)
    assert "All patterns of these 15 tokens would take 3.6 kB. None is stored" in read(app)
    assert len([part.value for part in app.markdown if "hooks verified" in part.value]) == 2
    first, second = (attention_statistics(lm, PROMPT) for lm in models)
    shown = maps(chart(app, "statistic"))
    for found, right in zip(shown, (first.mean("entropy"), second.mean("entropy")), strict=False):
        np.testing.assert_allclose(found, right, atol=1e-5, rtol=1e-4)
    profile = chart(app, "lags")["data"][1]["y"]
    np.testing.assert_allclose(values(profile), second.without_sink()[0][1, 0], atol=1e-5, rtol=1e-4)
    marks = chart(app, "sources")["data"][1]
    assert set(zip(values(marks["y"]), values(marks["x"]), strict=True)) == {
        (query, key)
        for query in range(15)
        for key, weight in zip(second.top_keys[1, 0, query], second.top_weights[1, 0, query], strict=True)
        if key >= 0 and weight >= 0.05
    }
    np.testing.assert_allclose(values(chart(app, "along")["data"][1]["y"]), second.entropy[1, 0], atol=1e-5, rtol=1e-4)
    averaged = chart(app, "layers")["data"][1]["y"]
    np.testing.assert_allclose(values(averaged)[:9], second.without_sink()[0][1].mean(0)[:9], atol=1e-5, rtol=1e-4)
    app.toggle(key="att_cut").set_value(True).run()
    assert not app.exception
    assert len(chart(app, "stages")["layout"]["xaxis"]["ticktext"]) == 12


def test_pages_of_layers_hold_no_more_than_a_screen_shows():
    assert layer_groups(4, 4, 20) == {"L0\u2013L3": [0, 1, 2, 3]}
    deep = layer_groups(30, 9, 60)
    assert deep["L0\u2013L6"] == list(range(7))
    assert [layer for group in deep.values() for layer in group] == list(range(30))
    assert all(len(group) * 4 * 192**2 <= MOST_CELLS for group in layer_groups(4, 4, 192).values())
    assert layer_groups(2, 100, 500) == {"L0": [0], "L1": [1]}, "a layer is the least"
    assert parse_head("L12H3") == (12, 3)


@pytest.mark.parametrize("query", [{"att_view": "both"}, {"att_view": "captures"}, {"att_view": "aligned"}])
def test_the_python_lines_run(show: Show, runs: Path, query: dict):
    for app in every_tab(show(runs, page=VIEW, prompt="helen lives in lyon .", **query)):
        spaces: list[dict] = [{} for _ in app.code]
        for code, space in zip(app.code, spaces, strict=True):
            exec(code.value, space)
        if query["att_view"] == "both":
            assert "read_attention(base, prompt=(" in app.code[0].value, "both models read the ids of one text"
            assert spaces[0]["result"].tokens[1] == "helen"


def test_all_analyses_are_of_the_text_of_the_main_figure(show: Show, runs: Path, models):
    """What the last model goes on with is part of it, for both models."""
    app = show(runs, page=VIEW, prompt=PROMPT, att_new="3", att_head="L0H1", att_tab="What moved")
    written = attention(models[1], PROMPT, max_new_tokens=3)
    reads = [attention(lm, written.ids) for lm in models]
    change = (reads[1].pattern - reads[0].pattern)[0, 1]
    np.testing.assert_allclose(lower(maps(chart(app, "change"))[0]), lower(change), atol=1e-6, rtol=1e-4)
    assert any(str(tuple(written.ids)) in code.value for code in app.code)


def test_hostile_tokens_are_text(show: Show, runs: Path, tmp_path: Path):
    store.hostile(tmp_path)
    app = show(runs, tmp_path, page=VIEW, prompt=store.HOSTILE)
    assert not app.exception
    captured = show(runs, tmp_path, page=VIEW, att_view="captures", att_watched=store.HOSTILE.replace("/", "_"))
    for shown in (app, captured):
        assert not shown.exception
        for figure in shown.get("plotly_chart"):
            assert "<img" not in json.dumps(json.loads(figure.proto.spec))
        for part in [*shown.subheader, *shown.markdown, *shown.caption]:
            assert not re.search(r"(?<!\\)(<img|\]\(|:streamlit:)", part.value), part.value


def test_what_is_missing_is_asked_for(show: Show, runs: Path, tmp_path: Path):
    app = show(runs, page=VIEW)
    app.text_area(key="prompt").set_value(" ").run()
    assert heading(app) == "Choose a prompt above to see what its heads attend to."
    empty = show(tmp_path, page=VIEW)
    assert not empty.exception
    assert heading(empty).startswith("Choose a base model")
    empty.segmented_control(key="att_view").set_value("captures").run()
    assert heading(empty) == "No run here has captures of attention to move through."
    assert not empty.exception


@pytest.mark.usefixtures("new_server")
def test_patterns_that_take_long_are_offered_with_their_price(show: Show, runs: Path, monkeypatch: pytest.MonkeyPatch):
    """A text of 15 tokens takes 6 s in each of two models; the text is in no cache."""
    monkeypatch.setattr(pace, "QUICK", 0)
    monkeypatch.setattr(pace, "seconds_a_token", lambda lm: 0.4)
    monkeypatch.setattr(computation.models, "is_quick", lambda seconds: seconds <= computation.models.PATIENCE_S)
    app = show(runs, page=VIEW, prompt=PROMPT)
    assert not app.exception
    assert not names(app)
    offer = next(each for each in app.button if each.label == "Run it (about 12 s)")
    offer.click().run()
    assert not app.exception
    assert "heads" in names(app)
    assert "changed its attention most" in heading(app)
