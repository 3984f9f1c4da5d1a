"""Experiments of a user's own file on their page: they appear, have a form, run, are stored, lead to single tokens."""

import gzip
import io
import json
import re
import shutil
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import probe
from dashboard import models
from dashboard.models import Results
from dashboard.pages.experiments import asking as source
from dashboard.pages.experiments import experiment as page
from dashboard.pages.experiments import items
from probe import plugins
from probe.experiments import comparison
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import call
from probe.experiments.slices import DIFFER, ONES, VERDICTS, verdict
from tests.dashboard.experiments import AGAIN, PLUGIN, RUN, button, chips, press, table, tables, write
from tests.dashboard.pages import Show, heading, names, read, unescape

PAGE = "experiments/page.py"
VIEW = Path(__file__).parents[2] / "dashboard" / PAGE


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plugin, named as `probe dashboard --plugin` does; forgotten afterwards."""
    file = write(tmp_path)
    with plugins.aside():
        monkeypatch.setenv(plugins.ENVIRONMENT, str(file))
        yield file


@pytest.fixture(scope="module")
def fresh(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the runs that results may be put in; tests that follow find them."""
    return Path(shutil.copytree(runs, tmp_path_factory.mktemp("experiments") / "runs"))


@pytest.fixture
def echoed(mine: Path, fresh: Path) -> Path:
    """The copy with results of both models."""
    for name in ("base", "dpo-agreeable"):
        experiment = find_experiment("echo")
        probe.experiments.store.obtain(experiment, probe.LM.load(fresh / name))
    return fresh


def test_without_an_experiment_the_example_is_shown_and_works(
    show: Show, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(plugins.ENVIRONMENT, raising=False)
    with plugins.aside():
        app = show(runs, page=PAGE)
        assert heading(app).startswith("No experiment of your own is known yet")
        assert not app.exception
        text = app.code[0].value
        assert len([line for line in text.splitlines() if line.strip()]) <= 12
        plugins.load(write(tmp_path, text))
        result = probe.run_experiment("echo", str(runs / "base"), n=5)
        assert len(result.items) == 5
        assert list(result.summary["metric"]) == ["echoes"]


def test_an_experiment_appears_runs_and_is_found_again(
    show: Show, fresh: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
):
    app = show(fresh, page=PAGE, **{"echo.n": "7"})
    assert app.selectbox(key="experiment").options == ["echo"]
    assert heading(app) == "Echo has not been measured on base and dpo-agreeable with these options."
    assert button(app, "echo-try").label == "How long?"
    assert button(app, AGAIN).disabled, "nothing is there to be measured again"
    press(app, "echo-try")
    assert re.search(r"Not measured yet with these options: about \d+ s\.", read(app))
    assert "echo-try" not in {each.key for each in app.button}
    press(app, RUN)
    assert not button(app, AGAIN).disabled
    assert not app.exception
    assert re.fullmatch(r"dpo-agreeable echoes \d+ % of the claims\.", heading(app))
    assert names(app)[0] == "echoes"
    assert list(table(app, "base")["n"]) == [7, 14, 14, 7]
    for name in ("base", "dpo-agreeable"):
        stored = list((fresh / name / "results").glob("echo-*"))
        assert len(stored) == 1
        assert Result.load(stored[0]).models == [name]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what is stored is not computed again")

    monkeypatch.setattr(source.store, "perform", never)
    again = show(fresh, page=PAGE, **{"echo.n": "7"})
    assert heading(again) == heading(app)
    assert all(each.key != RUN for each in again.button)


@pytest.mark.slow
def test_what_was_measured_a_moment_ago_is_measured_again(show: Show, echoed: Path):
    app = press(show(echoed, page=PAGE, **{"echo.seed": "5", "echo.n": "3"}), RUN)
    before = {path: path.stat().st_mtime_ns for path in echoed.glob("*/results/echo-*/result.json")}
    press(app, AGAIN)
    assert sum(path.stat().st_mtime_ns > at for path, at in before.items()) == 2
    app.run()
    assert not button(app, AGAIN).disabled


@pytest.mark.slow
def test_measure_again_runs_and_stores_anew(show: Show, echoed: Path):
    app = show(echoed, page=PAGE)
    before = {path: path.stat().st_mtime_ns for path in echoed.glob("*/results/echo-*/result.json")}
    press(app, AGAIN)
    after = {path: path.stat().st_mtime_ns for path in echoed.glob("*/results/echo-*/result.json")}
    assert before.keys() == after.keys()
    assert sum(after[path] > before[path] for path in before) == 2


@pytest.mark.slow
def test_a_missing_model_is_offered_with_its_cost_while_the_others_are_shown(show: Show, echoed: Path):
    app = show(echoed, page=PAGE, also="base@20")
    assert "about 1 s" in read(app)
    offered = button(app, RUN)
    assert unescape(offered.label) == "Measure base@20"
    assert heading(app).startswith("dpo-agreeable echoes")
    press(app, RUN)
    shown = table(app, "base@20")
    assert "base@20 \u2212 base" in shown
    assert "dpo-agreeable \u2212 base" in shown


def test_differences_are_compared_once_and_kept(show: Show, echoed: Path, monkeypatch: pytest.MonkeyPatch):
    first = table(show(echoed, page=PAGE, **{"echo.seed": "0"}), "dpo-agreeable \u2212 base")
    assert list(echoed.glob("dpo-agreeable/results/echo-*/compared/*.csv"))
    monkeypatch.setattr(comparison, "differences", lambda *_: pytest.fail("it is kept"))
    monkeypatch.setattr(models, "RESULTS", Results())
    again = table(show(echoed, page=PAGE, **{"echo.seed": "0"}), "dpo-agreeable \u2212 base")
    pd.testing.assert_frame_equal(first, again)
    experiment = find_experiment("echo")
    calls = [call(experiment, str(echoed / name)) for name in ("dpo-agreeable", "base")]
    place = probe.experiments.store.place(calls[0])
    result, base = (Result.load(probe.experiments.store.place(each)) for each in calls)
    probe.experiments.store.compare_stored(experiment, result, base, place)
    for file in echoed.glob("dpo-agreeable/results/echo-*/compared/*"):
        file.write_text("damaged\n")
    with pytest.raises(pytest.fail.Exception):
        probe.experiments.store.compare_stored(experiment, result, base, place)


@pytest.mark.slow
def test_the_form_is_the_signature(show: Show, fresh: Path, mine: Path):
    app = show(fresh, page=PAGE)
    assert app.number_input(key="echo.n").value == 12
    assert app.number_input(key="echo.n").help == "questions of each kind."
    assert app.number_input(key="echo.seed").value == 0
    assert app.text_input(key="echo.lead").value == ""
    assert app.toggle(key="echo.fail").value is False
    app.number_input(key="echo.n").set_value(3)
    app.text_input(key="echo.lead").set_value("<user>").run()
    press(app, RUN)
    prompts = table(app, "prompt")["prompt"]
    assert len(prompts) == 3
    stored = max((fresh / "base/results").glob("echo-*"), key=lambda place: place.stat().st_mtime_ns)
    assert all(prompt.startswith("<user>") for prompt in Result.load(stored).items["prompt"])
    linked = show(fresh, page=PAGE, **{"echo.n": "3", "echo.lead": "<user>"})
    assert list(table(linked, "prompt")["prompt"]) == list(prompts)


@pytest.mark.slow
def test_what_fails_is_one_sentence_with_its_line(show: Show, echoed: Path, mine: Path):
    app = show(echoed, page=PAGE, **{"echo.fail": "true"})
    press(app, RUN)
    line = 1 + next(i for i, text in enumerate(PLUGIN.splitlines()) if "raise KeyError" in text)
    assert len(app.error) == 2
    assert "KeyError" in read(app)
    assert f"line {line} of mine.py" in read(app)
    assert not app.exception


@pytest.mark.slow
def test_a_drawing_that_fails_leaves_numbers_and_items(show: Show, echoed: Path, mine: Path, tmp_path: Path):
    broken = PLUGIN.replace("chart = go.Figure", "raise ValueError('no ink')\n    chart = go.Figure")
    app = show(echoed, page=PAGE)
    write(tmp_path, broken)
    app.run()
    press(app, RUN)  # an edited file is another experiment
    assert "no ink" in read(app)
    assert not app.exception


@pytest.mark.filterwarnings("ignore::probe.plugins.ExtensionWarning")
def test_a_plugin_that_fails_hides_no_other(
    show: Show, fresh: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bad = write(tmp_path, "import pandas\n1 / 0\n", "bad.py")
    monkeypatch.setenv(plugins.ENVIRONMENT, f"{bad}:{mine}")
    app = show(fresh, page=PAGE)
    assert not app.exception
    assert app.selectbox(key="experiment").options == ["echo"]
    said = [text for text in read(app).splitlines() if "bad.py" in text]
    assert len(said) == 1
    assert "ZeroDivisionError" in said[0]


def test_from_a_number_to_its_items(show: Show, echoed: Path):
    app = show(echoed, page=PAGE)
    assert app.selectbox(key="echo~metric").options == ["echoes", "length", "spread", "other"]
    whole = find_experiment("echo").run(probe.LM.load(echoed / "base")).items
    shown = table(app, "prompt")
    assert list(shown["item"]) == list(whole["item"][whole["kind"] == "opinion_false"])
    assert list(shown["echoes: base"]) == list(whole["echoes"].dropna())
    app.selectbox(key="echo~metric").select("other").run()
    assert set(table(app, "prompt")["kind"]) == {"stranger"}
    app.selectbox(key="echo~show").select(ONES).run()
    assert list(table(app, "prompt")["item"]) == [f"stranger-{number}" for number in range(1, 12, 2)]
    app.selectbox(key="echo~metric").select("length").run()
    app.selectbox(key="echo~show").select(items.HIGH)
    app.selectbox(key="echo~of").select("base").run()
    lengths = table(app, "prompt")["length: base"]
    assert len(lengths) == 24
    assert list(lengths) == sorted(lengths, reverse=True)
    app.multiselect(key="echo~kind").set_value(["stranger"]).run()
    assert len(table(app, "prompt")) == 12
    word = whole["prompt"].iloc[-1].split()[-3]
    app.text_input(key="echo~text").set_value(word.upper()).run()
    left = table(app, "prompt")
    assert 0 < len(left) < 12
    for row in left.to_dict("records"):
        assert any(word in str(value) for name, value in row.items() if name == "prompt" or "answer" in name)


def test_items_by_their_verdict(show: Show, echoed: Path):
    app = show(echoed, page=PAGE, **{"echo~metric": "length", "echo~of": "base"})
    listed = {}
    for way, right in VERDICTS.items():
        app.selectbox(key="echo~show").select(way).run()
        rows = table(app, "prompt").to_dict("records") if tables(app)[1:] else []
        listed[right] = {row["item"] for row in rows if "answer: base" in row}
        for row in rows:
            assert verdict(row | {"answer": row["answer: base"]}) is right
    assert len(listed[True] | listed[False]) == 24
    assert not listed[True] & listed[False]


def test_all_items_are_listed_page_by_page_and_exported(show: Show, echoed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(items, "EACH", 10)
    offers: dict[str, pd.DataFrame] = {}
    offer = items.csv_button
    monkeypatch.setattr(items, "csv_button", lambda rows, name: (offers.update({name: rows}), offer(rows, name)))
    app = show(echoed, page=PAGE, **{"echo~metric": "length", "echo~page": "2"})
    assert not app.exception
    assert "24 of 24 items, 11 to 20 listed" in read(app)
    pages = {}
    for number in (1, 2, 3):
        app.pagination(key="echo~page").set_value(number).run()
        pages[number] = list(table(app, "prompt")["item"])
    assert [len(names) for names in pages.values()] == [10, 10, 4]
    every = offers["items-of-echo"]
    assert [name for names in pages.values() for name in names] == list(every["item"])
    assert len(set(every["item"])) == 24
    app.multiselect(key="echo~kind").set_value(["stranger"]).run()  # the third page is gone: the first one opens
    assert app.pagination(key="echo~page").value == 1
    assert "12 of 24 items, 1 to 10 listed" in read(app)
    assert set(offers["items-of-echo"]["kind"]) == {"stranger"}
    assert len(offers["items-of-echo"]) == 12
    app.text_input(key="echo~text").set_value("nowhere").run()
    assert not app.exception
    assert not app.pagination
    assert len(offers["items-of-echo"]) == 0


def test_items_on_which_models_differ(show: Show, echoed: Path):
    app = show(echoed, page=PAGE, **{"echo~metric": "length", "echo~show": DIFFER})
    shown = table(app, "prompt")
    gaps = (shown["length: base"] - shown["length: dpo-agreeable"]).abs()
    assert (gaps > 0).all()
    assert list(gaps) == sorted(gaps, reverse=True)


def test_from_an_item_to_its_tokens_and_on(show: Show, echoed: Path):
    app = show(echoed, page=PAGE, **{"echo~item": "opinion_false-2"})
    assert not app.exception
    rows = chips(app)["rows"]
    assert [row["label"] for row in rows] == ["prompt", "base", "dpo-agreeable"]
    lm = probe.LM.load(echoed / "dpo-agreeable")
    shown = table(app, "prompt").set_index("item").loc["opinion_false-2"].copy()
    results = (Result.load(folder).items.set_index("item") for folder in (echoed / "base/results").glob("echo-*"))
    asked = [items.loc["opinion_false-2", "prompt"] for items in results if "opinion_false-2" in items.index]
    ending = shown["prompt"].removeprefix("\u2026 ")
    shown["prompt"] = next(prompt for prompt in asked if ending in prompt)
    assert len(ending) < len(shown["prompt"])
    assert ending in shown["prompt"]
    said = read(app)
    assert unescape(shown["prompt"]).replace("<user>", "").replace("<bot>", "").strip() in said
    for label in ("base", "dpo-agreeable"):
        assert " ".join(shown[f"answer: {label}"].split()) in " ".join(said.split())
    ids = lm.tokenizer(shown["prompt"])["input_ids"]
    answer = lm.tokenizer(" " + shown["answer: dpo-agreeable"], add_special_tokens=False)["input_ids"]
    found = [float(re.search(r"log p = (\S+) nats", chip["tip"])[1]) for chip in rows[2]["tokens"]]  # type: ignore[index]
    with torch.no_grad():
        outputs = lm.model(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(outputs, torch.tensor(answer), reduction="none")
    np.testing.assert_allclose(found, -expected.numpy(), atol=0.006)
    links = {link.proto.label: link.proto for link in app.get("page_link")}
    assert {"Attention", "Logits", "Compare", "Interventions"} <= set(links)
    query = urllib.parse.parse_qs(links["Attention"].query_string)
    assert query == {"with_base": ["base"], "with_aligned": ["dpo-agreeable"], "with_prompt": [shown["prompt"]]}


def test_a_link_brings_its_choices(show: Show, runs: Path):
    app = show(runs, page="attention/page.py", with_prompt="<user> hello <bot>", with_base="base@20")
    assert app.text_area(key="prompt").value == "<user> hello <bot>"
    assert app.selectbox(key="base").value == "base@20"
    assert "with_prompt" not in app.query_params


@pytest.mark.slow
def test_a_result_that_cannot_be_saved_says_so(
    show: Show, fresh: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = Path(shutil.copytree(fresh, tmp_path / "runs", ignore=shutil.ignore_patterns("results", ".jobs")))
    for name in ("base", "dpo-agreeable"):
        (root / name / "results").write_text("a file")
    app = press(show(root, page=PAGE, **{"echo.n": "4"}), RUN)
    said = [unescape(error.value) for error in app.error]
    assert [line.partition(":")[0] for line in said] == ["base", "dpo-agreeable"]
    assert all("is a file: choose another folder" in line for line in said)
    assert heading(app) == "Echo has not been measured on base and dpo-agreeable with these options."


@pytest.mark.slow
def test_the_python_lines_give_the_page(show: Show, echoed: Path, mine: Path):
    for more, count in ((None, 2), ("base@20", 3)):
        app = show(echoed, page=PAGE, **({"also": more} if more else {}), **{"echo.seed": "1"})
        press(app, RUN)
        space: dict = {}
        lines = next(block.value for block in app.code if "run_experiment" in block.value)
        exec(lines, space)
        result = space["result"]
        assert len(result.models) == count
        shown = table(app, "base")
        assert [int(text.partition(" ")[0]) for text in shown["dpo-agreeable"][:1]] == [
            round(100 * result.value("echoes"))
        ]


def test_the_zip_is_a_result(mine: Path, echoed: Path, tmp_path: Path):
    result = find_experiment("echo").run(probe.LM.load(echoed / "base"), n=3)
    zipfile.ZipFile(io.BytesIO(page.zip_result(result))).extractall(tmp_path / "out")
    again = Result.load(tmp_path / "out" / "echo")
    assert again.summary.equals(result.summary)
    assert list(again.figures) == ["echoes", "curve"]


@pytest.mark.slow
def test_hostile_names_and_answers_are_text(show: Show, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bad = "<img src=x onerror=alert(1)> [y](javascript:alert(2)) :streamlit: $z$"
    text = PLUGIN.replace('title="Echo"', f"title={bad!r}").replace('"answer": text', f'"answer": {bad!r}')
    with plugins.aside():
        monkeypatch.setenv(plugins.ENVIRONMENT, str(write(tmp_path, text)))
        app = press(show(fresh, page=PAGE, **{"echo.n": "2", "echo~item": "stranger-0"}), RUN)
    assert not app.exception
    for part in [*app.subheader, *app.markdown, *app.caption, *app.error]:
        assert not re.search(r"(?<!\\)(<img|\]\(|:streamlit:)", part.value), part.value
    assert [part.value for part in app.text].count(bad) == 2
    assert any("does not know \u201c<img\u201d" in unescape(each.value) for each in app.error)


def test_what_no_table_can_send_is_shown_converted(show: Show, echoed: Path, tmp_path: Path):
    copy = Path(shutil.copytree(echoed, tmp_path / "copy"))
    file = probe.experiments.store.place(call(find_experiment("echo"), probe.LM.load(copy / "base"))) / "items.json.gz"
    data = json.loads(gzip.decompress(file.read_bytes()))
    data["answer"][:2] = ["\ud800 odd", 2**70]
    file.write_bytes(gzip.compress(json.dumps(data).encode()))
    app = show(copy, page=PAGE, **{"echo~item": data["item"][0]})
    assert not app.exception
    assert list(table(app, "prompt")["answer: base"])[:2] == ["\ufffd odd", str(float(2**70))]
    assert "\ufffd odd" in [part.value for part in app.text]


def test_the_figures_have_their_own_tab(show: Show, echoed: Path):
    app = show(echoed, page=PAGE, **{"echo~tab": "Figures"})
    assert names(app) == ["echoes", "curve"]
