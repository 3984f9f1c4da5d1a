"""What a link may open: runs of the folders of runs; anything else only once the person of the session says so."""

import json
import os
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import models
from dashboard.pages import page_file
from probe.runs.store.remote import upload
from tests.dashboard.pages import Show, again, read, unescape
from tests.model.test_adapters import adapter
from tests.models import saved_lm

INSIDE = [page_file(name) for name in ("compare", "attention", "logits", "interventions", "autoregression")]
OUTSIDE = "is in none of the run directories"


def buttons(app: AppTest, word: str) -> list[str]:
    """Labels of the buttons that begin with a word."""
    return [unescape(button.label) for button in app.button if button.label.startswith(word)]


def press(app: AppTest, word: str) -> AppTest:
    next(button for button in app.button if button.label.startswith(word)).click()
    return again(app)


def typed(app: AppTest, key: str, text: str) -> AppTest:
    """Type a value of one's own into a box."""
    app.selectbox(key=key).set_value(text)
    return again(app)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder outside the folders of runs."""
    return saved_lm(tmp_path_factory.mktemp("elsewhere") / "m0d3l")


@pytest.mark.parametrize("ref", ["org/model", "org/model#value", "org/model#reward", "model", "org/model@7"])
@pytest.mark.parametrize("page", ["compare/page.py", "sycophancy/page.py"])
def test_a_link_asks_the_hub_for_nothing(show: Show, runs: Path, page: str, ref: str):
    app = show(runs, page=page, base=ref, link=True)
    assert not app.exception
    assert not app.error  # a refusal of the hub, or of the network, would be one
    assert OUTSIDE in read(app)
    assert buttons(app, "Open") == [f"Open {ref}"]


@pytest.mark.parametrize("ref", ["org/model", "org/model#value"])
def test_a_typed_hub_id_is_fetched_only_when_asked(show: Show, runs: Path, ref: str):
    app = show(runs, page="compare/page.py")
    typed(app, "base", ref)
    assert not app.error
    assert OUTSIDE not in read(app)
    assert buttons(app, "Fetch") == ["Fetch org/model"]
    press(app, "Fetch")
    assert len(app.error) == 1  # the tests are offline
    assert "org/model" in read(app)


def test_the_rewards_of_a_gradient_are_a_model_that_a_person_opens(show: Show, runs: Path, model: Path):
    query = {"page": "compare/page.py", "compare_tab": "Gradient"}
    app = show(runs, gradient_reward=str(model), link=True, **query)
    assert OUTSIDE in read(app)
    assert buttons(app, "Open") == [f"Open {model}"]
    app = show(runs, gradient_reward="org/model", **query)  # typed, and not here
    assert buttons(app, "Fetch") == ["Fetch org/model"]
    assert "have not been opened" in app.subheader[0].value


QUERIES = [
    *((page, "aligned", "{}") for page in INSIDE),
    ("compare/page.py", "base", "{}"),
    ("compare/page.py", "aligned", "{}#value"),
    ("compare/page.py", "base", "{}@20"),
    ("rewards/page.py", "rew_model", "{}"),
    ("rewards/page.py", "aligned", "{}"),
    ("hallucination/page.py", "also", "{}"),
    ("sycophancy/page.py", "sycophancy.data", "{}"),
    ("sycophancy/page.py", "sycophancy.data", "sample_runs,{}"),
    ("sycophancy/page.py", "sycophancy.judge", "{}"),
    ("hallucination/page.py", "hallucination.preamble", "{}"),
    ("continual/page.py", "continual.old", "{}"),
    ("overview/page.py", "with_base", "{}"),
    ("compare/page.py", "with_aligned", "{}"),
]


@pytest.mark.parametrize(("page", "key", "form"), QUERIES)
def test_a_link_does_not_tell_what_is_there(show: Show, runs: Path, model: Path, page: str, key: str, form: str):
    said = []
    for path in (model, model.with_name("n0n3")):
        app = show(runs, page=page, link=True, **{key: form.format(path)})
        assert not app.exception
        assert not app.error
        said.append(read(app).replace(str(path), "PATH").replace(path.name, "NAME"))
    assert said[0] == said[1]
    assert (OUTSIDE in said[0]) == (page != "overview/page.py")


@pytest.mark.parametrize("ref", ["~", "~nobody-of-this-name/x", "/", "..", "\0", "x" * 5000, "/" + "x/" * 3000])
@pytest.mark.parametrize("link", [True, False])
def test_a_reference_of_any_form_is_a_sentence(show: Show, runs: Path, ref: str, link: bool):
    app = show(runs, page="compare/page.py", base=ref, link=link)
    assert not app.exception
    assert len(app.error) + len(buttons(app, "Open")) + len(buttons(app, "Fetch")) == 1
    assert all(len(part.value) < 1000 for part in [*app.error, *app.caption])


def test_what_a_link_names_is_opened_when_the_person_says_so(show: Show, runs: Path, model: Path):
    app = show(runs, page="logits/page.py", base=str(model), aligned=str(model), link=True)
    assert len(buttons(app, "Open")) == 1
    press(app, "Open")
    assert not app.exception
    assert not app.error
    assert not buttons(app, "Open")
    assert app.get("plotly_chart")


def test_what_the_person_types_is_opened_at_once(show: Show, runs: Path, model: Path):
    app = show(runs, page="logits/page.py")
    typed(app, "base", str(model))
    assert not app.error
    assert not buttons(app, "Open")
    assert app.get("plotly_chart")


def test_a_further_model_that_is_typed_takes_none_of_the_links_along(show: Show, runs: Path, model: Path):
    other = str(model.with_name("other"))
    app = show(runs, page="hallucination/page.py", also=[str(model)], link=True)
    assert len(buttons(app, "Open")) == 1
    app.multiselect(key="also").set_value([str(model), other]).run()
    assert len(buttons(app, "Open")) == 1
    assert len(app.error) == 1  # of what was typed: there is none


def test_runs_of_the_run_directories_are_opened_from_a_link(show: Show, runs: Path, tmp_path: Path):
    (tmp_path / "named").symlink_to(runs)  # a root may be a link itself: the person named it
    for root in (runs, tmp_path / "named"):
        for ref in ("base@20", str(root / "base"), str(root / "base/checkpoints/00000020")):
            app = show(root, page="compare/page.py", base=ref, link=True)
            assert not app.error
            assert not buttons(app, "Open")
            assert app.get("plotly_chart")


def away(root: Path, runs: Path, inside: str) -> Path:
    """A run directory in which one entry is a link to what lies outside the folders of runs."""
    shutil.copytree(runs / "base", root / "base")
    entry, outside = root / "base" / inside, root.parent / "outside" / inside
    outside.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(entry, outside)
    entry.symlink_to(outside)
    return outside


ENTRIES = [
    "",
    "run.json",
    "metrics.jsonl",
    "captures/00000020.safetensors",
    "checkpoints/00000040",
    "checkpoints/00000040/model.safetensors",
]


@pytest.mark.parametrize("inside", ENTRIES)
def test_links_out_of_a_run_are_a_problem_and_are_not_followed(show: Show, runs: Path, tmp_path: Path, inside: str):
    root = tmp_path / "root"
    root.mkdir()
    shutil.copytree(runs / "dpo-agreeable", root / "dpo-agreeable")
    outside = away(root, runs, inside) if inside else tmp_path / "outside"
    if not inside:
        shutil.copytree(runs / "base", outside)
        (root / "base").symlink_to(outside)
    app = show(root)
    assert not app.exception
    assert [each.value for each in app.warning if "leads outside the run directories" in each.value]
    assert set(app.session_state["_shared"].store.runs) == {"dpo-agreeable"}
    app = show(root, page="logits/page.py", base=str(root / "base"), link=True)
    assert buttons(app, "Open")
    named = show(root, outside if outside.is_dir() else outside.parent)  # the person names where it leads to
    assert any("base" in label for label in named.session_state["_shared"].store.runs)


def test_a_link_within_the_run_directories_is_followed(show: Show, runs: Path, tmp_path: Path):
    shutil.copytree(runs / "base", tmp_path / "base")
    (tmp_path / "twin").symlink_to(tmp_path / "base")
    app = show(tmp_path, page="compare/page.py")
    assert {"base", "twin"} <= set(app.selectbox(key="base").options)


@pytest.mark.parametrize("base", ["someone/base", "/etc", "~", "OUTSIDE"])
def test_the_base_of_an_adapter_is_opened_only_when_asked(
    show: Show, runs: Path, model: Path, tmp_path: Path, base: str
):
    """Its own file names the base: a run that came from elsewhere may name anything."""
    folder = adapter(model, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(model) if base == "OUTSIDE" else base
    (folder / "adapter_config.json").write_text(json.dumps(config))
    app = show(runs, tmp_path, page="logits/page.py", base=str(folder), aligned=str(folder), link=True)
    assert not app.exception
    assert not app.error
    assert OUTSIDE in read(app)
    press(app, "Open")
    assert bool(app.get("plotly_chart")) == (base == "OUTSIDE")
    assert bool(buttons(app, "Fetch")) == (base == "someone/base")


def test_adapters_that_are_each_others_base_are_one_sentence(show: Show, runs: Path, model: Path, tmp_path: Path):
    first, second = (adapter(model, tmp_path / name) for name in ("first", "second"))
    for folder, other in ((first, second), (second, first)):
        config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(other)}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    app = show(runs, tmp_path, page="compare/page.py", base=str(first), link=True)
    assert not app.exception
    assert len(app.error) == 1
    assert "its own base" in app.error[0].value


def test_a_root_that_may_not_be_read_hides_no_other(show: Show, runs: Path, tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    if os.access(closed, os.R_OK):
        pytest.skip("This user may read everything.")
    app = show(runs, closed)
    assert "base" in app.selectbox(key="base").options


def test_a_large_checkpoint_of_a_store_is_fetched_only_when_asked(
    show: Show, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "COSTLY_BYTES", 1000)
    monkeypatch.setattr(models, "brief", lambda text, *_: text)
    store = f"file://{tmp_path}/store"
    upload(runs / "base", f"{store}/base")
    app = show(store, page="logits/page.py")
    assert "GiB to fetch from its store" in read(app)
    assert buttons(app, "Fetch") == [f"Fetch {store}/base"]
    weights = sorted((tmp_path / "cache").rglob("model.safetensors"))
    assert {file.stat().st_size for file in weights} == {0}
    press(app, "Fetch")
    assert not app.exception
    assert buttons(app, "Fetch") == []
    assert [file.stat().st_size > 0 for file in weights] == [file == weights[-1] for file in weights]
