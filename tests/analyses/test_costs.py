"""Costs of analyses: all that run a model declare one, and it counts the tokens that the model really reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from probe.analyses.catalogue import analyses, find_analysis
from probe.autoregression.looking_back import JACOBIAN, THE_PROMPT
from probe.model import pace
from probe.model.lm import LM
from tests.models import random_lm

TEXT = "mira lives in oslo . tom lives in rome . mira lives in in oslo . where does tom live ?"


@pytest.fixture
def token_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second for each token, of small models too."""
    monkeypatch.setattr(pace, "QUICK", 0)
    monkeypatch.setattr(pace, "seconds_a_token", lambda lm: 1.0)


def model(seed: int = 0) -> LM:
    return random_lm(seed=seed, max_position_embeddings=256)


@contextmanager
def tokens_read() -> Iterator[list[int]]:
    """Count the tokens of every batch that any model embeds."""
    counts = list[int]()

    def count(module: nn.Module, given: Any, out: Any) -> None:
        if isinstance(module, nn.Embedding):
            counts.append(out.shape[0] * out.shape[1])

    handle = register_module_forward_hook(count)
    yield counts
    handle.remove()


def test_every_analysis_that_runs_a_model_declares_its_cost():
    """Those without models read captures; three read the run of a model."""
    without = {name for name, each in analyses().items() if each.models and each.seconds is None}
    assert without <= {"follow_rewards", "follow_pairs", "compare_trainings"}
    assert not [name for name, each in analyses().items() if not each.models and each.seconds is not None]


@pytest.mark.usefixtures("token_seconds")
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("read_attention", {}),
        ("read_attention", {"chat": False, "given": 5}),
        ("read_stages", {}),
        ("read_stages", {"head": "L1H2"}),
        ("score_heads", {"score": "induction"}),
        ("score_heads", {"score": "prefix_matching"}),
        ("repeat_scores", {"batch": 6}),
        ("compare_attention", {}),
        ("attention_rollout", {}),
        ("attention_rollout", {"weighted": True}),
        ("attribute_answer", {"answer": " rome", "against": " oslo"}),
        ("attribute_answer", {}),
        ("look_back", {"documents": THE_PROMPT}),
        ("look_back", {"documents": THE_PROMPT, "draws": 1, "longest": 4}),
    ],
)
def test_the_cost_is_that_of_the_tokens_that_are_read(name: str, inputs: dict[str, Any]):
    record = find_analysis(name)
    lms = [model(seed) for seed in range(len(record.models))]
    values = inputs | ({"prompt": TEXT} if "prompt" in record.inputs else {})
    record.run(*lms, **values)  # what is checked once for an architecture is checked here
    with tokens_read() as counts:
        record.run(*lms, **values)
    assert sum(counts) / 2 <= record.cost(*lms, **values) <= 2 * sum(counts)


@pytest.mark.usefixtures("token_seconds")
def test_a_lens_costs_its_unembedding_too():
    lm, other = model(), model(1)
    each = lm.model.get_output_embeddings().weight.numel() / lm.n_parameters
    length = len(lm.tokenizer(TEXT)["input_ids"])
    given = {"prompt": TEXT, "answer": " rome", "against": " oslo"}
    assert find_analysis("logit_lens").cost(lm, **given, columns=4) == pytest.approx(length + 4 * 3 * each)
    assert find_analysis("logit_lens").cost(lm, prompt=TEXT, columns=4) == pytest.approx(2 * length + 4 * 3 * each)
    both = find_analysis("compare_layers").cost(lm, other, prompt=TEXT, columns=4)
    assert both == pytest.approx(2 * (length + 4 * 3 * each))
    lenses = find_analysis("compare_lenses").cost(lm, other, prompt=TEXT, max_new_tokens=5, columns=4)
    assert lenses == pytest.approx(2 * (length + 5 + 9 * 3 * each))
    every = find_analysis("compare_layers").cost(lm, other, prompt=TEXT, columns=10**6)
    assert every == pytest.approx(2 * (length + length * 3 * each))


@pytest.mark.usefixtures("token_seconds")
def test_new_tokens_and_gradients_cost_more():
    lm = model()
    read = find_analysis("read_attention")
    more = read.cost(lm, prompt=TEXT, max_new_tokens=5) - read.cost(lm, prompt=TEXT)
    assert more == 5 * (1 + pace.WRITTEN)
    look = find_analysis("look_back")
    slopes, draws = (look.cost(lm, prompt=TEXT, measure=each) for each in (JACOBIAN, None))
    assert slopes > 1.5 * draws
    both = find_analysis("compare")
    some, few = (both.cost(lm, model(1), prompt=TEXT, max_new_tokens=count) for count in (5, 1))
    assert some - few == 2 * 4 * (2 + pace.WRITTEN)


def test_the_pace_is_measured_once_and_only_for_work_that_takes_time(monkeypatch: pytest.MonkeyPatch):
    lm, timed = random_lm(), list[LM]()
    monkeypatch.setattr(pace, "measure_pace", lambda lm, clock: timed.append(lm) or 0.5)
    assert pace.seconds_to_read(lm, 1000) == 0
    assert not timed
    many = 1 + pace.QUICK // lm.n_parameters
    assert pace.seconds_to_read(lm, many) == 0.5 * many
    assert pace.seconds_to_read(lm, 2 * many) == many
    assert timed == [lm]


def test_progress_is_told():
    for name in ("compare_layers", "compare_lenses", "compare_attention", "repeat_scores", "look_back"):
        record, shares = find_analysis(name), list[float]()
        lms = [model(seed) for seed in range(len(record.models))]
        values = {"prompt": TEXT} if "prompt" in record.inputs else {}
        record.run(*lms, tick=shares.append, **values)
        assert shares, name
        assert shares == sorted(shares), name
        assert 0 < shares[0] <= shares[-1] <= 1, name
