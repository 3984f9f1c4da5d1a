"""The lines of CONTRIBUTING.md leave a run, and every page shows it, or names the recording that is missing.

What a page may lack is listed here and nowhere else, so that the list cannot grow by itself.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest
from transformers import Trainer, TrainingArguments

from dashboard.pages import page_file, page_names
from probe import LM, open_run
from tests.dashboard.pages import Show, chart, every_tab, literal_backticks, names, not_numbers, read, values
from tests.dashboard.test_every_readout import ALWAYS, numbers, problem
from tests.models import saved_lm
from tests.recording.test_trl import judge, sampler
from tests.test_contributing import FILES

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # TRL's own use of transformers
    pytest.mark.filterwarnings("ignore:.*default prompts are left out:UserWarning"),  # of models of words
]

PROMPT, CORRUPTED = "where does mira lives ?", "where does tom lives ?"
STEPS = 21
MAY_LACK: Mapping[str, set[str]] = {
    "chain_of_thought": {"has not been measured on"},
    "continual": {"has not been measured on"},
    "findings": {"There is no run called base"},
    "hallucination": {"has not been measured on"},
    "in_context": {"has not been measured on"},
    "overview": {"No run has headline figures yet", "This run has no headline figures"},
    "retrieval": {"has not been measured on"},
    "rewards": {"captured no reward shift: train with .* or give probe.watch the instrument"},
    "start": {"An example appears here once a run and its parent are listed.* record one with probe.watch"},
    "sycophancy": {"has not been measured on"},
}
"""By page: the recordings that a run of any loop may lack, as the page names them and how to get them."""
OTHERWISE: Mapping[tuple[str, str], set[str]] = {
    ("loop", "logits"): {"captured no KL to a reference: train by .* or give probe.watch the instrument"},
    ("loop", "training"): {"have recorded no rollouts: .* TRL with ProbeCallback.* recorder.writer.rollouts"},
    ("callback", "logits"): {"captured no KL to a reference: train by .* or give probe.watch the instrument"},
    ("callback", "training"): {"have recorded no rollouts: .* TRL with ProbeCallback.* recorder.writer.rollouts"},
    ("reward", "logits"): {"captured no KL to a reference: train by .* or give probe.watch the instrument"},
    ("reward", "rewards"): set(),
}
"""By maker and page, where it is not as above."""
INSTEAD = ALWAYS | {
    "findings": "There is no run called base",
    "start": "Probe trains and aligns language models",
}
"""Pages without a main figure for such a run, and the sentence that opens them."""
SIGNS = (
    "captured no",
    "recorded no",
    "logged no",
    "has captures",
    "has (no )?headline",
    "has not been measured",
    "There is no run",
    "appears here once",
)
"""How pages say that something is missing."""
MAY_SAY: Mapping[tuple[str, str], str] = {
    ("reward", "compare"): "outputs one number, a reward, and .* outputs probabilities of tokens",
    **{
        (maker, "probes"): "A text has 67 tokens and the model reads at most 48"
        for maker in ("loop", "samples", "callback", "reward")
    },
    ("reward", "rewards"): "Choose an aligned model above to compare its answers",
}
"""By maker and page: the sentence in place of the main figure, where the model is one that the page cannot compare."""


def loop(base: Path) -> None:
    lm = LM.load(base)
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=1e-2)
    ids = torch.tensor([lm.tokenizer("mira lives in oslo .")["input_ids"]])

    def train_step(_: int) -> torch.Tensor:
        optimiser.zero_grad()
        loss: torch.Tensor = lm.model(ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        return loss

    space = {"model": lm.model, "tokenizer": lm.tokenizer, "batches": range(STEPS), "train_step": train_step}
    exec(FILES["loop.py"], space)


def callback(base: Path) -> None:
    lm = LM.load(base)
    ids = torch.tensor(lm.tokenizer("mira lives in oslo .")["input_ids"])
    options: dict[str, Any] = {"use_cpu": True, "report_to": [], "save_strategy": "no", "logging_steps": 1}
    args = TrainingArguments(output_dir="theirs", max_steps=STEPS, learning_rate=1e-2, **options)
    data: Any = [{"input_ids": ids, "labels": ids}] * 8
    trainer = Trainer(lm.model, args, train_dataset=data, processing_class=lm.tokenizer)
    exec(FILES["callback.py"], {"trainer": trainer})


def samples(base: Path) -> None:
    import trl

    exec(FILES["callback.py"], {"trainer": sampler(trl, "GRPO", base, max_steps=STEPS)})


def reward(base: Path) -> None:
    import trl

    trainer = judge(trl, base, None, max_steps=STEPS)
    exec(FILES["callback.py"], {"trainer": trainer})


MAKERS = {"loop": loop, "callback": callback, "samples": samples, "reward": reward}


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `start` and the run `runs/mine` that a maker leaves."""
    if request.param in ("samples", "reward"):
        pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp(request.param)
    base = saved_lm(folder / "start")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        MAKERS[request.param](base)
    return folder


def opened(show: Show, root: Path, page: str) -> AppTest:
    """A page with the run chosen wherever a page chooses one, beside the model that it started from."""
    sides: dict[str, Any] = {"base": str(root / "start"), "aligned": "mine", "prompt": PROMPT}
    runs: dict[str, Any] = {"run": "mine", "runs": ["mine"], "log_run": "mine"}
    runs |= {"int_corrupted": CORRUPTED} if page == "interventions" else {}
    return show(root / "runs", page=page_file(page), **sides, **runs)


def lacks(app: AppTest) -> set[str]:
    """The lines of a page that say that something is missing."""
    return {line for line in read(app).splitlines() if re.search("|".join(SIGNS), line)}


def test_the_lists_name_pages_and_makers_that_exist():
    assert set(MAY_LACK) <= set(page_names())
    assert {page for _, page in (*OTHERWISE, *MAY_SAY)} <= set(page_names())
    assert {maker for maker, _ in (*OTHERWISE, *MAY_SAY)} <= set(MAKERS)


@pytest.mark.parametrize(
    "root",
    ["loop", *(pytest.param(maker, marks=pytest.mark.slow) for maker in ("samples", "callback", "reward"))],
    indirect=True,
)
def test_every_page_shows_the_run_or_names_what_is_missing(root: Path, show: Show, request: pytest.FixtureRequest):
    maker, found = request.node.callspec.params["root"], {}
    assert open_run(root / "runs" / "mine").status == "finished"
    for page in page_names():
        app = opened(show, root, page)
        wrong = [problem(app, page, MAY_SAY.get((maker, page)) or INSTEAD.get(page))]
        said = set()
        for tab in every_tab(app):
            wrong += [str(error.value) for error in (*tab.exception, *tab.error)]
            drawn = {name: numbers(chart(tab, name)) for name in names(tab)}
            wrong += [f"{name} draws {array}" for name, array in drawn.items() if np.isinf(array).any()]
            wrong += [text for _, text in (*literal_backticks(tab), *not_numbers(tab))]
            said |= lacks(tab)
        expected = OTHERWISE.get((maker, page), MAY_LACK.get(page, set()))
        wrong += [f"does not say {each!r}" for each in expected if not any(re.search(each, line) for line in said)]
        wrong += [f"says {line!r}" for line in said if not any(re.search(each, line) for each in expected)]
        found[page] = [each for each in wrong if each]
    assert {page: wrong for page, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("root", ["samples"], indirect=True)
def test_rollouts_are_shown_token_by_token(root: Path, show: Show):
    app = show(root / "runs", page=page_file("training"), runs=["mine"], training_tab="Rollouts")
    assert set(re.findall("advantage|KL|entropy", str(chart(app, "rollout")))) == {"advantage", "KL", "entropy"}
    table = app.dataframe[0].value
    assert table[["reward", "advantage", "KL", "entropy"]].notna().all().all()


@pytest.mark.parametrize("root", ["reward"], indirect=True)
def test_rewards_are_shown_over_training_and_token_by_token(root: Path, show: Show):
    app = show(root / "runs", page=page_file("training"), runs=["mine"], training_tab="Rollouts")
    assert "score" in str(chart(app, "rollout"))
    app = opened(show, root, "rewards")
    drawn = chart(app, "pair-margins")["data"]
    run = open_run(root / "runs" / "mine")
    assert len(drawn) == 4
    assert list(values(drawn[0]["x"])) == run.captures().steps == [0, 10, 20, 21]
    assert all(np.isfinite(values(trace["y"])).all() for trace in drawn)
    assert values(drawn[0]["y"])[-1] > values(drawn[0]["y"])[0]  # it is trained on this pair
