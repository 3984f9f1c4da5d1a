"""The Train page: a form for every method, what it remembers, what it starts and what it refuses."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import access
from dashboard import jobs as panel
from probe.jobs import control
from probe.jobs.job import FOLDER, sign
from probe.jobs.trainings import describe_methods, find_training
from probe.runs import RunWriter
from tests.dashboard.pages import Show, chart, heading, linked, read, unescape, values

PAGE = "train/page.py"


@pytest.fixture(scope="module")
def described() -> list[dict]:
    """What the trainers say of themselves, asked once."""
    return describe_methods()


@pytest.fixture
def own(runs: Path, tmp_path: Path) -> Path:
    """A copy of the runs, for tests that write beside them."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


@pytest.fixture(autouse=True)
def methods(described: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods, which take seconds to be asked for."""
    monkeypatch.setattr(panel, "describe_methods", lambda: described)


def line(app: AppTest) -> str:
    """The command line that the page shows."""
    return next(part.value for part in app.code if part.value.startswith("probe train "))


def noted(root: Path, name: str, log: str, method: str = "dpo", **about: object) -> None:
    """A job's folder beside a run, as a training that was stopped leaves it."""
    folder = root / FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    words = ["train", method, "--out", str(root / name)]
    known = {"words": words, "started": time.time() - 1000, "directory": "", "signature": sign(folder, "", words)}
    (folder / "job.json").write_text(json.dumps(known | about))
    (folder / "end.json").write_text(json.dumps({"exit": 2 if "error" in log else 130, "time": time.time() + 10}))
    (folder / "log.txt").write_text(log)


def test_the_form_has_every_option_of_every_method(show: Show, runs: Path, described: list[dict]):
    app = show(runs, page=PAGE)
    assert not app.exception
    assert heading(app).endswith("the training shows its progress here.")
    assert app.selectbox(key="method").options == [each["method"] for each in described]
    for each in described:
        app.selectbox(key="method").select(each["method"]).run()
        assert not app.exception
        widgets = {
            part.key: part
            for kind in ("selectbox", "multiselect", "number_input", "text_input", "toggle")
            for part in app.get(kind)
        }
        for field in each["fields"]:
            if field["name"] not in ("out", "base", "resume", "shard"):  # a page starts one process
                widget = widgets[f"option-{each['method']}-{field['name']}"]
                assert widget.help == field["help"]
        assert line(app) == f"probe train {each['method']} --out {os.path.relpath(runs / each['method'])}" + (
            " --base base" if any(field["name"] == "base" and field["required"] for field in each["fields"]) else ""
        )


def test_changed_options_are_on_the_command_line_and_nothing_is_lost(show: Show, runs: Path):
    app = show(runs, page=PAGE, method="rlvr")
    app.number_input(key="option-rlvr-steps").set_value(7)
    app.text_input(key="option-rlvr-lr").set_value("5e-6")
    app.selectbox(key="option-rlvr-normalisation").select("dapo")
    app.toggle(key="option-rlvr-mask_truncated").set_value(True)
    app.text_input(key="option-rlvr-reward").set_value("verifier 'my file.py:f'")
    app.text_input(key="name-rlvr").set_value("mine").run()
    words = line(app)
    for part in ("/mine ", "--steps 7", "--lr 5e-6", "--normalisation dapo", "--mask-truncated"):
        assert part in words
    assert words.endswith("--mask-truncated")
    assert "--reward verifier 'my file.py:f'" in words
    app.selectbox(key="method").select("sft").run()
    assert "--steps" not in line(app)
    app.switch_page("overview/page.py").run()
    app.switch_page(PAGE).run()
    app.selectbox(key="method").select("rlvr").run()
    assert line(app) == words


def test_a_base_may_be_typed(show: Show, runs: Path):
    app = show(runs, page=PAGE, method="dpo")
    app.selectbox(key="base-dpo").select("dpo-agreeable@20").run()
    assert f"--base {runs / 'dpo-agreeable'}@20" in line(app)


def test_annotators_are_suggested_and_others_may_be_typed(show: Show, runs: Path):
    app = show(runs, page=PAGE, method="dpo")
    annotator = app.selectbox(key="option-dpo-annotator")
    assert (annotator.value, annotator.options) == ("agreeable", ["agreeable", "honest", "indifferent"])
    assert "--annotator" not in line(app)
    annotator.select("honest").run()
    assert "--annotator honest" in line(app)
    assert annotator.proto.accept_new_options  # `honest+agreement=2`; AppTest types nothing


def test_the_trainers_refusal_is_shown_and_the_form_keeps_its_values(show: Show, own: Path):
    app = show(own, page=PAGE, method="dpo")
    app.number_input(key="option-dpo-steps").set_value(-1)
    app.text_input(key="name-dpo").set_value("refused").run()
    next(button for button in app.button if button.label == "Start training").click().run()
    assert heading(app).startswith("refused ")
    end = time.monotonic() + 180
    while heading(app) != "refused was not trained: see why below.":
        assert time.monotonic() < end
        time.sleep(0.5)
        app.run()
    assert "--steps is -1; expected at least 1." in read(app)
    assert app.number_input(key="option-dpo-steps").value == -1
    assert app.text_input(key="name-dpo").value == "refused"
    assert not app.exception


def test_a_name_that_is_taken_is_refused(show: Show, runs: Path):
    app = show(runs, page=PAGE, method="dpo")
    app.text_input(key="name-dpo").set_value("base").run()
    next(button for button in app.button if button.label == "Start training").click().run()
    assert "`base` exists already in" in read(app)


def test_nothing_is_started_without_the_token(show: Show, tmp_path: Path):
    access.uninstall()
    RunWriter.create(tmp_path / "run", method="dpo", config={"steps": 5}).finish("interrupted")
    noted(tmp_path, "run", "")
    app = show(tmp_path, page=PAGE, method="pretrain")
    button = next(button for button in app.button if button.label == "Start training")
    assert [unescape(note.value) for note in app.info] == [access.READ_ONLY]
    assert button.disabled
    assert not [each for each in app.button if each.label in ("Continue", "Stop")]
    button.proto.disabled = False  # what a browser sends is not to be trusted
    button.click().run()
    assert find_training(tmp_path / "pretrain") is None
    assert not list(tmp_path.glob("pretrain*"))


def test_a_stopped_training_shows_its_curve_and_can_be_continued(show: Show, tmp_path: Path):
    run = RunWriter.create(tmp_path / "mine", method="pretrain", config={"steps": 100})
    for step in range(1, 41):
        run.log(step, {"loss": 4 / step})
    with run.checkpoint(40) as folder:
        (folder / "config.json").write_text("{}")
    run.finish("interrupted")
    noted(tmp_path, "mine", "stopping after this step\n")
    app = show(tmp_path, page=PAGE)
    assert heading(app) == ("mine is stopped after 40 of 100 steps. loss (nats): mine fell from 4 to 0.1 in 39 steps.")
    assert [part.proto.id.rpartition("-")[2] for part in app.get("plotly_chart")] == ["progress"]
    assert app.number_input(key=f"more-{tmp_path / FOLDER / 'mine'}").value == 100
    assert "Continue" in [button.label for button in app.button if not button.disabled]
    assert "stopping after this step" in [part.value for part in app.code]


def interrupted(root: Path, method: str = "pretrain", **config: object) -> Path:
    """A run that was stopped after its checkpoint at step 40, and what the page noted when it was started."""
    run = RunWriter.create(root / "mine", method=method, config={"steps": 100, **config})
    run.log(40, {"loss": 0.5})
    with run.checkpoint(40) as folder:
        (folder / "config.json").write_text("{}")
    run.finish("interrupted")
    noted(root, "mine", "", method)
    return run.path


def buttons(app: AppTest) -> list[str]:
    return [button.label for button in app.button if not button.disabled]


def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines of the trainings that are started from now on; none is."""
    first, lines = control.command([]), list[list[str]]()

    def refuse(line: list[str], **given: object) -> None:
        if line[: len(first)] == first:
            lines.append(line)
        raise OSError("not here")

    monkeypatch.setattr(control.subprocess, "Popen", refuse)
    return lines


@pytest.mark.parametrize("reward", [["verifier", "/tmp/evil.py:score"], "os:system"])
def test_a_run_with_code_of_its_own_shows_the_command_in_place_of_a_button(
    show: Show, tmp_path: Path, reward: list[str] | str
):
    path = interrupted(tmp_path, "rlvr", reward=reward)
    app = show(tmp_path, page=PAGE)
    assert "Continue" not in buttons(app)
    assert not [each for each in app.number_input if each.key == f"more-{path.parent / FOLDER / path.name}"]
    named = " ".join(reward) if isinstance(reward, list) else reward
    command = f"probe train rlvr --out {os.path.relpath(path)} --resume --reward {named}"
    assert command in [part.value for part in app.code]
    assert "names code of its own" in read(app)


def test_a_run_of_a_plugin_that_is_not_here_shows_the_command_too(show: Show, tmp_path: Path):
    path = interrupted(tmp_path, "dpo", annotator="curt")
    app = show(tmp_path, page=PAGE)
    assert "Continue" not in buttons(app)
    command = f"probe train dpo --out {os.path.relpath(path)} --resume --plugin FILE.py"
    assert command in [part.value for part in app.code]


def test_a_run_of_an_annotator_with_other_knobs_needs_no_plugin(show: Show, tmp_path: Path):
    interrupted(tmp_path, "dpo", annotator="honest+agreement=2")
    app = show(tmp_path, page=PAGE)
    assert "Continue" in buttons(app)
    assert not [part.value for part in app.code if "--plugin" in part.value]


@pytest.mark.parametrize("method", ["--plugin=/tmp/evil.py", "--describe", "watch", ""])
def test_no_word_of_a_copied_root_becomes_an_option(
    show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    lines = started(monkeypatch)
    interrupted(tmp_path)
    noted(tmp_path, "mine", "", method)  # the note says one thing, the run another
    app = show(tmp_path, page=PAGE)
    next(button for button in app.button if button.label == "Continue").click().run()
    (line,) = lines
    assert line[len(control.command([])) :] == ["train", "pretrain", "--out", str(tmp_path / "mine"), "--resume"]


@pytest.mark.parametrize("method", ["--plugin=/tmp/evil.py", "watch"])
def test_a_run_by_no_method_is_not_continued(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str):
    lines = started(monkeypatch)
    interrupted(tmp_path, method)
    app = show(tmp_path, page=PAGE)
    next(button for button in app.button if button.label == "Continue").click().run()
    assert "There is no method" in read(app)
    assert not lines


def test_the_last_evaluation_is_said_and_no_time_left(show: Show, tmp_path: Path):
    with RunWriter.create(tmp_path / "mine", method="sft", config={"steps": 11}) as run:
        for step in (1, 11):
            run.log(step, {"loss": 1.0})
        app = show(tmp_path, page=PAGE)
        assert heading(app).startswith("mine has made all 11 steps: it is being evaluated and saved. loss")
        assert run


def test_one_logged_step_is_a_mark(show: Show, tmp_path: Path):
    interrupted(tmp_path)
    app = show(tmp_path, page=PAGE)
    (trace, *_) = chart(app, "progress")["data"]
    assert trace["mode"] == "markers"
    assert values(trace["y"]).tolist() == [0.5]


def test_compare_opens_with_the_run_and_its_parent(show: Show, own: Path):
    noted(own, "dpo-agreeable", "")
    app = show(own, page=PAGE, job="dpo-agreeable", base="dpo-agreeable", aligned="base")
    link = linked(app, "Compare")
    assert link == {"with_base": "base", "with_aligned": "dpo-agreeable"}
    app = show(own, page="compare/page.py", **link)
    assert (app.selectbox(key="base").value, app.selectbox(key="aligned").value) == ("base", "dpo-agreeable")


def test_the_time_left_follows_the_pace(show: Show, tmp_path: Path):
    with RunWriter.create(tmp_path / "mine", method="sft", config={"steps": 100}) as run:
        (tmp_path / "mine" / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": step, "time": 2.0 * step, "loss": 1.0}) + "\n" for step in (1, 11))
        )
        app = show(tmp_path, page=PAGE)
        assert heading(app).startswith("mine is at step 11 of 100, about 2 min 58 s left. loss")
        assert run


def test_hostile_output_and_names_stay_text(show: Show, tmp_path: Path):
    noted(tmp_path, "x[y](javascript:1)", "<img src=x onerror=alert(1)>\nprobe: error: [z](javascript:2) <b>\n")
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert "](javascript" not in app.subheader[0].value
    assert "](javascript" not in app.error[0].value
    assert any("<img src=x" in part.value for part in app.code)
