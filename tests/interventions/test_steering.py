"""Steering: the direction from plain hidden states, the steered run from a hook of torch, the doses one by one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from probe import stats
from probe.errors import ConfigError, DataError
from probe.interventions.steered_answers import ALPHAS, steer_answers
from probe.interventions.steering import Controls, Direction, Dosing, contrast, dose_response, steered_logits
from probe.logits.targets import Target, target_of
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.numbers import signed
from tests.models import ARCHITECTURES, random_lm, random_reward_model

POSITIVE = ["mira lives in oslo", "tom lives in oslo .", "the cat"]
NEGATIVE = ["mira works in rome", "ana works in rome ."]
TEXTS = ["where does mira lives ?", "tom lives in", "where do the cat the dog does ?"]
BLOCKS: dict[str, Callable[[Any], Any]] = {
    "llama": lambda model: model.model.layers,
    "qwen3": lambda model: model.model.layers,
    "gpt2": lambda model: model.transformer.h,
    "gpt_neox": lambda model: model.gpt_neox.layers,
}


@torch.no_grad()
def hidden(lm: LM, text: str, layer: int) -> torch.Tensor:
    """[T d] the residual after a block, of transformers (whose last state is after the norm, so layer < D - 1)."""
    ids = torch.tensor([lm.tokenizer.encode(text)])
    return lm.model(ids, output_hidden_states=True).hidden_states[layer + 1][0]


@torch.no_grad()
def hooked(lm: LM, name: str, ids: list[int], vector: np.ndarray, last: bool) -> torch.Tensor:
    """[T V] logits of the plain model with a vector added after block 0 by a hook of torch."""

    def add(module: Any, inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        here = states.clone()
        here[:, -1 if last else slice(None)] += torch.as_tensor(vector).to(states)
        return (here, *output[1:]) if isinstance(output, tuple) else here

    handle = BLOCKS[name](lm.model)[0].register_forward_hook(add)
    logits = lm.logits([ids])[0]
    handle.remove()
    return logits


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("layer", [-1, 0])
def test_the_direction_is_the_difference_of_mean_states(name: str, layer: int):
    lm = random_lm(name)
    last = contrast(lm, POSITIVE, NEGATIVE, layer)
    means = [torch.stack([hidden(lm, text, layer)[-1] for text in texts]).mean(0) for texts in (POSITIVE, NEGATIVE)]
    np.testing.assert_allclose(last.vector, (means[0] - means[1]).numpy(), atol=1e-5, rtol=1e-4)
    norms = [hidden(lm, text, layer)[-1].norm().item() for text in POSITIVE + NEGATIVE]
    assert last.residual_norm == pytest.approx(np.mean(norms), rel=1e-5)
    whole = contrast(lm, POSITIVE, NEGATIVE, layer, at="all")
    means = [
        torch.stack([hidden(lm, text, layer)[1:].mean(0) for text in texts]).mean(0) for texts in (POSITIVE, NEGATIVE)
    ]
    np.testing.assert_allclose(whole.vector, (means[0] - means[1]).numpy(), atol=1e-5, rtol=1e-4)
    assert last.counts == (3, 2)
    assert np.linalg.norm(last.step("residual")) == pytest.approx(last.residual_norm)
    np.testing.assert_array_equal(last.step("difference"), last.vector)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("where", ["all", "last"])
def test_a_steered_run_is_what_a_hook_of_torch_makes(name: str, where: str):
    lm = random_lm(name)
    vector = np.random.default_rng(0).normal(size=32)
    ids = [lm.tokenizer.encode(text) for text in TEXTS]
    found = steered_logits(lm, ids, 0, vector, where)  # type: ignore[arg-type]
    ends = steered_logits(lm, ids, 0, vector, where, [len(text) - 1 for text in ids])  # type: ignore[arg-type]
    for at, text in enumerate(ids):
        expected = hooked(lm, name, text, vector, where == "last")
        torch.testing.assert_close(found[at, : len(text)], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ends[at, 0], expected[-1], atol=1e-4, rtol=1e-4)
        assert (expected - lm.logits([text])[0].detach()).abs().max() > 1e-2


def test_the_dose_response_one_by_one():
    lm = random_lm()
    direction = contrast(lm, POSITIVE, NEGATIVE, 0)
    ids = [lm.tokenizer.encode(text) for text in TEXTS]
    targets = [target_of(lm, text, "oslo", "rome") for text in ids]
    questions = [("mira lives in", lm.tokenizer.decode([token])) for token in (4, 5, likeliest(lm, "mira lives in"))]
    neutral = ["the dog is at the dog .", "one two"]
    found = dose_response(
        lm, TEXTS, targets, direction, Dosing((-0.5, 0.0, 1.0)), Controls(3, questions=questions, neutral=neutral)
    )
    assert found.values.shape == (3, 3)
    assert found.nulls.shape == (3, 3, 3)
    for dose, alpha in enumerate(found.alphas):
        step = alpha * direction.vector / np.linalg.norm(direction.vector) * direction.residual_norm
        for at, text in enumerate(ids):
            row = hooked(lm, "llama", text, step, last=False)[-1]
            expected = float(row[targets[at].answer] - row[targets[at].against])
            assert found.values[at, dose] == pytest.approx(expected, abs=1e-4)
        best = int(hooked(lm, "llama", lm.tokenizer.encode("mira lives in"), step, last=False)[-1].argmax())
        assert found.right is not None
        assert found.right[:, dose].tolist() == [best == token for token in (4, 5, likeliest(lm, "mira lives in"))]
        for at, text in enumerate(neutral):
            p = lm.logits(text)[0].detach().double().log_softmax(-1)
            q = hooked(lm, "llama", lm.tokenizer.encode(text), step, last=False).double().log_softmax(-1)
            expected = torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True).item()
            assert found.kl is not None
            assert found.kl[at, dose] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(found.values[:, 1], found.unsteered, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.nulls[:, :, 1], np.tile(found.unsteered, (3, 1)), atol=1e-5, rtol=1e-4)
    assert found.effect(2) == pytest.approx(float((found.values[:, 2] - found.unsteered).mean()))
    null = found.null_effects(2)
    assert found.z(2) == pytest.approx((found.effect(2) - null.mean()) / null.std(ddof=1))
    table = found.table()
    assert table["target"].tolist() == pytest.approx(found.values.mean(0).tolist())
    ends = table["target_low"].iloc[2], table["target_high"].iloc[2]
    assert ends == pytest.approx(stats.bootstrap_mean(found.values[:, 2])[1:], nan_ok=True)
    assert table["accuracy"].iloc[1] == pytest.approx(1 / 3)
    assert table["kl"].iloc[1] == pytest.approx(0, abs=1e-6)


def likeliest(lm: LM, text: str) -> int:
    return int(lm.logits(text)[0, -1].argmax())


def test_random_directions_are_as_long_and_repeat_with_their_seed(monkeypatch: pytest.MonkeyPatch):
    lm = random_lm()
    direction = contrast(lm, POSITIVE, NEGATIVE, 0)
    targets = [target_of(lm, lm.tokenizer.encode(text)) for text in TEXTS]
    added: list[float] = []
    inner = steered_logits

    def spy(lm: LM, texts: Any, layer: int, vector: Any, *rest: Any) -> torch.Tensor:
        added.extend(np.linalg.norm(vector, axis=-1))
        return inner(lm, texts, layer, vector, *rest)

    monkeypatch.setattr("probe.interventions.steering.steered_logits", spy)
    first = dose_response(lm, TEXTS, targets, direction, Dosing((0.5,), unit="difference"), Controls(4))
    assert added == pytest.approx(
        [0.0] * 3 + [0.5 * direction.norm] * 15
    )  # unsteered, then five vectors on three texts
    again = dose_response(lm, TEXTS, targets, direction, Dosing((0.5,), unit="difference"), Controls(4))
    np.testing.assert_array_equal(first.nulls, again.nulls)
    assert first.nulls.std(axis=0).min() > 1e-4


def test_a_direction_that_writes_an_answer_raises_it():
    """After the last block only norm and unembedding follow: adding an answer's own row must raise its logit."""
    lm = random_lm()
    token = lm.tokenizer.convert_tokens_to_ids("oslo")
    row = lm.model.get_output_embeddings().weight[token].detach().double().numpy()
    direction = Direction(1, row, 5.0, "last", (1, 1))
    targets = [target_of(lm, lm.tokenizer.encode(text), "oslo") for text in TEXTS]
    found = dose_response(lm, TEXTS, targets, direction, Dosing((-1, 0, 1), where="last"), Controls(20))
    assert (np.diff(found.values, axis=1) > 0).all()
    assert found.z(2) > 3
    assert found.effect(2) > np.abs(found.null_effects(2)).max()


def test_a_reward_model_is_steered_like_any_other():
    lm = reward_lm(random_reward_model())
    direction = contrast(lm, POSITIVE, NEGATIVE, 0)
    targets = [target_of(lm, lm.tokenizer.encode(text)) for text in TEXTS]
    found = dose_response(lm, TEXTS, targets, direction, Dosing((0, 1)), Controls(2))
    assert found.unsteered.tolist() == pytest.approx([lm.logits(text)[0, -1, 0].item() for text in TEXTS], abs=1e-5)
    assert "accuracy" not in found.table()
    with pytest.raises(DataError, match="no questions"):
        dose_response(lm, TEXTS, targets, direction, controls=Controls(neutral=["tom"]))


def of_another_width(lm: LM) -> Direction:
    return replace(contrast(lm, POSITIVE, NEGATIVE, 0), vector=np.ones(3))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lm: contrast(lm, [], NEGATIVE, 0), DataError, "got 0 and 2"),
        (lambda lm: contrast(lm, POSITIVE, NEGATIVE, 7), ConfigError, "give -1 to 1"),
        (lambda lm: contrast(lm, POSITIVE, NEGATIVE, 0, at="first"), ConfigError, "all or last"),
        (lambda lm: contrast(lm, POSITIVE, POSITIVE, 0).step(), DataError, "no direction"),
        (lambda lm: contrast(lm, POSITIVE, NEGATIVE, 0).step("mile"), ConfigError, "residual or difference"),
        (lambda lm: dose_response(lm, TEXTS, [Target(1, 2)], contrast(lm, POSITIVE, NEGATIVE, 0)), DataError, "1 targ"),
        (lambda lm: dose_response(lm, ["tom"], [Target(9, 2)], contrast(lm, POSITIVE, NEGATIVE, 0)), DataError, "9 of"),
        (lambda lm: dose_response(lm, ["tom"], [Target(0, 2)], of_another_width(lm)), DataError, "has 3 numbers"),
    ],
)
def test_mistakes_are_named(call: Callable, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        call(random_lm())


def test_steering_by_ones_own_texts_is_the_dose_response_of_their_direction():
    lm = random_lm()
    own = {"positive": "mira lives in oslo\ntom lives in oslo", "negative": "mira lives in rome", "texts": "ana works"}
    found = steer_answers(lm, "tom lives in", layer=0, answer="oslo", against="rome", random=3, **own)
    direction = contrast(lm, ["mira lives in oslo", "tom lives in oslo"], ["mira lives in rome"], 0)
    target = target_of(lm, "ana works", " oslo", " rome")
    plain = dose_response(lm, ["ana works"], [target], direction, Dosing(ALPHAS), Controls(3))
    np.testing.assert_allclose(found.dose.values, plain.values, atol=1e-5, rtol=1e-4)
    effect = plain.effect(ALPHAS.index(1.0))
    said = f"Steering model by +1.00 after block 0 moves the target by {signed(effect)} nats"
    assert found.sentence(1.0).startswith(said)
    assert found.label == "logit(oslo) \u2212 logit(rome)"
    assert "range of only 3 random directions" in found.notes[1]
    assert set(found.figures()) == {"dose", "steered"}
    own_step = direction.step("residual")
    ids = lm.tokenizer.encode("tom lives in")
    after = steered_logits(lm, [ids], 0, 0.25 * own_step)[0, -1].log_softmax(-1)
    shown = [lm.tokenizer.convert_tokens_to_ids(name) for name in found.answered.answers]
    np.testing.assert_allclose(found.answered.after[ALPHAS.index(0.25)], after[shown], atol=1e-4)
    before = lm.logits([ids])[0, -1].detach().log_softmax(-1)
    np.testing.assert_allclose(found.answered.before, before[shown], atol=1e-4)
    assert found.answered.random.shape == (len(ALPHAS), 15, len(shown))


def test_a_scalar_model_is_steered_without_controls():
    lm = reward_lm(random_reward_model())
    own = {"positive": "mira lives in oslo", "negative": "mira lives in rome", "texts": "ana lives in oslo"}
    found = steer_answers(lm, "tom lives in oslo", **own)
    assert found.answered is None
    assert found.label == "reward"
    assert "moves the reward by " in found.sentence()
    assert "nats" not in found.sentence()
    assert set(found.figures()) == {"dose"}
