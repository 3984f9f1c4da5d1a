"""The pages as AppTest runs them, through the entrypoint and on a real small run store."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest

import probe
from dashboard import access, computation, models
from dashboard.components.details import DETAILS, TAB_DETAILS
from dashboard.consent import NAMED
from dashboard.models import Results
from probe import plugins
from probe.autoregression import linear
from probe.compare import first_tokens
from probe.experiments.registry import find_experiment
from probe.model import in_memory
from tests.dashboard import store
from tests.dashboard.experiments import write
from tests.dashboard.pages import Everyone, Show, turn_to
from tests.dashboard.readouts import write_readouts

HERE = Path(__file__).parent
APP = HERE.parents[1] / "dashboard" / "pages" / "app.py"
OF_FEW = Results()
"""What was computed of few texts."""
st.config.set_option("runner.magicEnabled", False)  # as the server has it, which need not rewrite each script


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the runs `base` and `dpo-agreeable`."""
    return store.build(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def gate() -> Iterator[None]:
    """Pages may do more than read, as for whoever opened the printed address."""
    access.install(Everyone(8501))
    yield
    access.uninstall()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, where all takes longer, a page makes no job of what it computes and stores nothing of it."""
    for name in ("JOB_S", "LONG_S"):
        monkeypatch.setattr(computation, name, float("inf"))


@pytest.fixture(autouse=True, scope="module")
def server() -> Iterator[None]:
    """What a file's tests have computed is kept until its end, as a server keeps it; the models longer."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "RESULTS", Results())
        yield


@pytest.fixture
def new_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been computed yet."""
    monkeypatch.setattr(models, "RESULTS", Results())
    in_memory.KEPT.clear()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run lines in, from which runs are found by name; registered names are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    with plugins.aside():
        yield tmp_path
    torch.set_rng_state(state)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that are hostile in every field; the folders are, too."""
    return store.strangers(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def echoed(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs with stored results of an experiment of a user's file."""
    folder = tmp_path_factory.mktemp("echoed")
    file, root = write(folder), Path(shutil.copytree(runs, folder / "runs"))
    with plugins.aside(), pytest.MonkeyPatch.context() as patched:
        patched.setenv(plugins.ENVIRONMENT, str(file))
        plugins.load(file)
        for name in ("base", "dpo-agreeable"):
            probe.experiments.store.obtain(find_experiment("echo"), probe.LM.load(root / name))
        yield root


@dataclass(frozen=True)
class Readouts:
    """A store with a model of every kind."""

    root: Path
    """The run directory that holds the runs."""
    kinds: dict[str, str]
    """What the choices call the model of each kind."""


@pytest.fixture(scope="session")
def readouts(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Readouts:
    """Language model, reward model, value head, adapter, checkpoint, plain folder, another world."""
    root = tmp_path_factory.mktemp("readouts")
    return Readouts(root / "runs", write_readouts(root, runs))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pages compute by themselves they measure on few texts, which changes no word of them (beside `FEW`)."""
    monkeypatch.setattr(models, "RESULTS", OF_FEW)
    monkeypatch.setattr(first_tokens, "IN_A_WORLD", (2, first_tokens.DOSES[1:3]))
    monkeypatch.setattr(linear, "FITTED", 24)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Iterator[Show]:
    """Open a page on folders of runs: `show(root, page="training/page.py", step="20")`, the rest being the URL's query.

    What the query names counts as typed by the person, unless `link` says that it came with a link. Sections with
    definition, Python and data are open.
    """

    monkeypatch.setattr(models, "is_quick", lambda *seconds: True)  # on a busy machine everything takes long

    def run(
        *roots: Path,
        page: str = "overview/page.py",
        state: Mapping[str, object] | None = None,
        link: bool = False,
        **query: str | list[str],
    ) -> AppTest:
        monkeypatch.setenv("PROBE_RUNS", os.pathsep.join(str(root) for root in roots))
        app = AppTest.from_file(APP, default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        if not link:
            texts = [text for value in query.values() for text in ([value] if isinstance(value, str) else value)]
            app.session_state[NAMED] = set(texts)
        for key, value in ({DETAILS: True, TAB_DETAILS: True} | dict(state or {})).items():
            app.session_state[key] = value
        return turn_to(app, page).run()

    yield run
    st.cache_data.clear()
