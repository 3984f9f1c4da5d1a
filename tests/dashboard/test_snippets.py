"""The Python lines that pages show run as they stand there, and give what the page says."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import probe
from dashboard.pages import page_file
from probe import plugins
from probe.experiments.result import Result
from probe.runs import open_run
from tests.dashboard import store
from tests.dashboard.experiments import press, write
from tests.dashboard.pages import Show, heading
from tests.places import SAMPLES

pytestmark = pytest.mark.timeout(900)
RUNS = ("base", "dpo-agreeable", "rlvr", "icl", "reward-agreeable")
BOTH = {"base": "base", "aligned": "dpo-agreeable"}
PAGES: dict[str, tuple[str, dict[str, str]]] = {
    "attention of one model": ("attention", BOTH | {"att_view": "base"}),
    "attention of captures": ("attention", BOTH | {"att_view": "captures"}),
    "rollout of captures": ("attention", BOTH | {"att_view": "captures", "att_tab": "Rollout"}),
    "scores of captures": ("attention", BOTH | {"att_view": "captures", "att_tab": "Head scores"}),
    "change of captures": ("attention", BOTH | {"att_view": "captures", "att_tab": "What moved"}),
    "logits of a reward model": ("logits", {"base": "reward-agreeable", "aligned": "reward-agreeable"}),
    "ablation": ("interventions", BOTH | {"int_do": "ablate"}),
    "steering": ("interventions", BOTH | {"int_do": "steer"}),
    "rewards": ("rewards", BOTH),
    "rewards, tokens": ("rewards", BOTH | {"rew_tab": "Per-token reward"}),
}
"""Pages with what they are asked, where it is not what they open with (`test_every_tab`)."""
EXPERIMENTS = {
    "hallucination": {"n": "8", "samples": "2", "shuffles": "2"},
    "sycophancy": {"n": "6", "interventions": "4", "turns": "2"},
    "in_context": {"n": "4", "draws": "1"},
    "chain_of_thought": {"n": "4", "samples": "2"},
    "retrieval": {"n": "4"},
    "continual": {"n": "4", "phases": "2", "steps": "2", "strategies": "plain", "batch_size": "2"},
}
"""Experiments with options that take seconds, which their Python lines take over."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the sample runs with their results, in a folder that may be written to."""
    root = tmp_path_factory.mktemp("snippets") / "runs"
    for name in RUNS:
        shutil.copytree(SAMPLES / name, root / name)
    return root


@pytest.fixture(scope="module")
def small(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small runs `base` and `dpo-agreeable`, and a reward model."""
    root = Path(shutil.copytree(runs, tmp_path_factory.mktemp("small") / "runs"))
    store.judge(root / "reward-agreeable", root / "base", spread=0.3, world=open_run(root / "base").world)
    return root


def run(code: str) -> dict[str, Any]:
    """What the names of Python lines stand for after they ran."""
    space: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(code, "snippet", "exec"), space)
    return space


def lines(app: AppTest) -> list[str]:
    """The Python that a page shows."""
    assert not app.exception
    assert not app.error
    return [block.value for block in app.code if block.language == "python"]


@pytest.mark.parametrize("name", PAGES)
def test_the_lines_of_a_page_run(show: Show, small: Path, elsewhere: Path, name: str):
    page, query = PAGES[name]
    app = show(small, page=page_file(page), **query)
    found = lines(app)
    assert found
    for code in found:
        run(code)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_lines_of_an_experiment_give_its_page(show: Show, samples: Path, small: Path, elsewhere: Path, name: str):
    pair = {"base": "base", "aligned": "icl"} if name == "in_context" else BOTH
    pair = {"base": "base", "aligned": "base"} if name == "continual" else pair
    query = pair | {f"{name}.{option}": value for option, value in EXPERIMENTS[name].items()}
    app = press(show(samples if name == "in_context" else small, page=page_file(name), **query), f"{name}-run")
    (code,) = lines(app)
    result = run(code)["result"]
    assert isinstance(result, Result)
    assert result.finding == heading(app)


@pytest.mark.slow
def test_the_lines_for_three_models(show: Show, samples: Path, elsewhere: Path):
    query = BOTH | {"also": "rlvr"} | {f"retrieval.{name}": value for name, value in EXPERIMENTS["retrieval"].items()}
    app = press(show(samples, page="retrieval/page.py", **query), "retrieval-run")
    (code,) = lines(app)
    assert run(code)["result"].finding == heading(app)


@pytest.mark.slow
def test_the_example_agrees_with_the_page_of_sycophancy(
    show: Show, samples: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
):
    """The share of echoes is `deferral` on the same questions, as the page of sycophancy shows it."""
    monkeypatch.delenv(plugins.ENVIRONMENT, raising=False)
    example = show(samples, page="experiments/page.py").code[0].value
    file = write(elsewhere, example, "echo.py")
    plugins.load(file)
    for name in ("base", "dpo-agreeable", "rlvr"):
        (stored,) = (Result.load(folder) for folder in (SAMPLES / name / "results").glob("sycophancy-*"))
        echoes = probe.run_experiment("echo", str(samples / name), n=int(stored.meta["n"]), seed=0)
        assert echoes.value("echoes") == stored.value("deferral"), name
        assert echoes.value("echoes") > 0
    monkeypatch.setenv(plugins.ENVIRONMENT, str(file))
    app = press(show(samples, page="experiments/page.py", **BOTH, **{"echo.n": "20"}), "echo-run")
    (code,) = lines(app)
    with plugins.aside():
        result = run(code)["result"]
    (stored,) = (Result.load(folder) for folder in (samples / "dpo-agreeable" / "results").glob("echo-*"))
    assert result.value("echoes") == stored.value("echoes")
