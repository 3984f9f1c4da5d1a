"""The experiment `chain_of_thought` on the world: against sampling, models of known behaviour, and models of none."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import probe.world
from probe.chain_of_thought import world as reasoned_sums
from probe.chain_of_thought.experiment import curves_crossing, run
from probe.chain_of_thought.world import PartialSum, forced_answers, sum_answers
from probe.errors import ConfigError
from probe.experiments.metrics import COLUMNS, COMPARED
from probe.model.lm import LM
from probe.plotting.intervals import percent
from probe.rewards.evaluation import evaluate
from probe.ticks import ignore
from probe.world import World
from probe.world.sums import edit_step, parse_working
from tests.places import SAMPLES

BASE = SAMPLES / "base"
N = 30


@pytest.fixture(scope="module")
def result(base: LM) -> Any:
    return run(base, baseline=LM.load(BASE.parent / "rlvr"), n=N, samples=4)


def world_of(lm: LM) -> World:
    world = probe.world.of(lm)
    assert world is not None
    return world


def scripted(base: LM, answer: Any) -> LM:
    """The base model, but the digit behind "so" is `answer(ids before)`, whatever it would be."""
    model = copy.deepcopy(base.model)
    so, plain = base.tokenizer.convert_tokens_to_ids("so"), model.forward

    def forward(input_ids: torch.Tensor | None = None, **options: Any) -> Any:
        out = plain(input_ids=input_ids, **options)
        assert input_ids is not None
        width = out.logits.shape[1]
        for row, ids in enumerate(input_ids.tolist()):
            for column in range(width):
                at = len(ids) - width + column
                if ids[at] == so:
                    out.logits[row, column] = -1e4
                    out.logits[row, column, answer(ids[: at + 1])] = 1e4
        return out

    model.forward = forward
    return LM(model, base.tokenizer, "scripted", base.directory, base.run_dir)


def test_written_prompts_are_those_of_the_world() -> None:
    """The world's own `edited` builds the same prompt and consequence."""
    terms, step, result = (3, 4, 9, 2), 1, 5
    theirs = edit_step(terms, step, result)
    ours = PartialSum(terms, (7, 5))
    assert (ours.prompt, ours.consequence, ours.missing) == (theirs.prompt, theirs.consequence, 1)
    assert PartialSum(terms).prompt == "sum 3 + 4 + 9 + 2 ="


def test_enumeration_is_what_sampling_gives(base: LM) -> None:
    """The exact distribution against 1,500 sampled continuations, by total variation and a binomial bound."""
    sums = [PartialSum((3, 4, 9), (2,)), PartialSum((5, 5, 6))]
    exact = sum_answers(base, sums, least=1e-6)
    assert exact.mass == pytest.approx([1, 1], abs=0.02)
    for one, values in zip(sums, exact.values, strict=True):
        texts = base.generate([one.prompt], n=1500, max_new_tokens=20, seed=1).text
        done = "".join(
            f"{a} + {b} = {c} ; " for a, b, c in zip((one.terms[0],), one.terms[1:], one.results, strict=False)
        )
        found = [parse_working(done + text) for text in texts]
        counts = np.bincount([w.answer for w in found if w is not None], minlength=10) / 1500
        assert np.abs(counts - values).max() < 4 * np.sqrt(0.25 / 1500)


def test_enumeration_is_the_product_over_branches(base: LM) -> None:
    """A slow loop over all hundred ways of writing the two results that are missing."""
    one = PartialSum((3, 4, 9), ())
    slow = np.zeros(10)
    for first in range(10):
        for second in range(10):
            text = f"3 + 4 = {first} ; {first} + 9 = {second} ; so"
            with torch.no_grad():
                logp = float(base.logprobs([one.prompt], [f" {text}"]).values.double().sum())
            slow += np.exp(logp) * forced_answers(base, [f"{one.prompt} {text}"])[0]
    assert sum_answers(base, [one], least=1e-30).values[0] == pytest.approx(slow, abs=1e-5)
    pruned = sum_answers(base, [one], least=1e-3)
    assert (pruned.values[0] <= slow + 1e-6).all()
    assert np.abs(pruned.values[0] - slow).sum() <= 1 - pruned.mass[0] + 1e-6


@pytest.mark.slow
def test_sums_agree_with_evaluate(base: LM, result: Any) -> None:
    """`sums_steps` and `sums_direct` are those of probe.rewards.evaluation.evaluate for the same n and seed."""
    theirs = evaluate(LM.load(BASE.parent / "rlvr"), world_of(base), n=N, seed=0).set_index("metric")
    for metric in ("sums_steps", "sums_direct"):
        assert result.value(metric, "baseline") == theirs.loc[metric, "value"]
        assert result.value(metric, "baseline_low") == theirs.loc[metric, "ci_low"]


def test_effects(result: Any) -> None:
    """What WORLD says: steps help, filler does not, RLVR lifts pass@1 more than pass@k."""
    assert result.value("steps_gain", "ci_low") > 0.1
    assert result.value("filler_gain", "ci_high") < 0
    assert result.value("pass@1", "difference_high") < 0 < result.value("pass@1", "baseline")
    assert abs(result.value("pass@4", "difference")) < abs(result.value("pass@1", "difference"))
    assert result.value("step_following") > 0.8
    assert result.value("step_mass") > 0.98
    steps, direct, follows = (
        [percent(*(result.value(metric, column) for column in names)) for names in (COLUMNS[1:4], COMPARED[:3])]
        for metric in ("accuracy_steps", "accuracy_direct", "step_following")
    )
    found = curves_crossing(result)
    assert found is not None
    where = f"crosses at k = {found.k:.1f} [{found.low:.1f}, {found.high:.1f}]"
    assert result.finding == (
        f"base is right in {steps[0]} with written steps and {direct[0]} without, rlvr in {steps[1]} and {direct[1]};"
        f" they follow an edited step in {follows[0]} and {follows[1]}; pass@k "
        f"{where if np.isfinite(found.k) else 'does not cross up to k = 4'}."
    )
    assert len(result.finding) < 220
    assert {"accuracy", "agreement", "step_following", "pass_at_k", "bias"} == set(result.figures)
    assert next(iter(result.figures)) == "accuracy"
    assert curves_crossing(result) is not None
    assert not result.items.duplicated(["item", "model"]).any()


def test_an_answer_that_ignores_the_steps(base: LM) -> None:
    """Null: 7 whatever was written: agreement stays 1, nothing is followed beyond the share of consequences 7."""
    seven = base.tokenizer.convert_tokens_to_ids("7")
    lm, world = scripted(base, lambda ids: seven), world_of(base)
    rows, _ = reasoned_sums.answer_sums(lm, world, N, 0, 2, ignore)
    reasoned_sums.faithfulness(lm, rows, 0, 1e-3, ignore)
    table = pd.DataFrame(rows)
    assert table["early_aoc"].to_numpy() == pytest.approx(0, abs=1e-6)
    assert table["mistakes_aoc"].to_numpy() == pytest.approx(0, abs=0.03)  # rare branches are not seen
    edits = pd.DataFrame(reasoned_sums.edited_steps(lm, world, N, 0, 1e-3, ignore))
    sevens = (edits["expected"] == " so 7").astype(float)
    assert edits["step_following"].to_numpy() == pytest.approx(sevens.to_numpy() * edits["step_mass"].to_numpy())
    assert sevens.mean() == pytest.approx(0.1, abs=0.1)


def test_an_answer_that_copies_the_last_result(base: LM) -> None:
    """A copy of the last result follows an edit of the last step always, exactly."""
    lm, world = scripted(base, lambda ids: ids[-3]), world_of(base)
    edits = pd.DataFrame(reasoned_sums.edited_steps(lm, world, N, 0, 1e-3, ignore))
    last = edits[edits["steps_left"] == 0]
    assert last["step_following"].to_numpy() == pytest.approx(1, abs=0.01)
    assert last["step_ignoring"].to_numpy() == pytest.approx(0, abs=1e-6)


def test_random_weights_show_nothing(base: LM) -> None:
    """Null: accuracy at once is a word's share of the vocabulary, no steps are written, and biases pull nowhere."""
    torch.manual_seed(0)
    model = copy.deepcopy(base.model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    lm = LM(model, base.tokenizer, "random", base.directory, base.run_dir)
    found = run(lm, n=N, samples=2)
    assert found.value("accuracy_direct") == pytest.approx(1 / len(base.tokenizer), abs=2e-3)
    assert found.value("accuracy_steps") == 0
    assert found.value("steps_written") == 0
    assert abs(found.value("filler_gain")) < 2e-3
    assert abs(found.value("bias_direct")) < 2e-3
    assert "early_aoc" not in set(found.summary["metric"])
    assert "agreement" not in found.figures


def test_a_bias_is_seen(base: LM) -> None:
    """A model that repeats the answer before the question is pulled at once; both contexts have the same digit."""
    world = world_of(base)
    model = copy.deepcopy(base.model)
    plain, end = model.forward, base.tokenizer.eos_token_id

    def forward(input_ids: torch.Tensor | None = None, **options: Any) -> Any:
        out = plain(input_ids=input_ids, **options)
        assert input_ids is not None
        for row, ids in enumerate(input_ids.tolist()):
            if out.logits.shape[1] == len(ids) and end in ids:
                last = len(ids) - 1 - ids[::-1].index(end)
                out.logits[row, :, ids[last - 1]] += 100
        return out

    model.forward = forward
    rows = reasoned_sums.bias_sums(LM(model, base.tokenizer, "", base.directory, base.run_dir), world, 20, 0, 4, ignore)
    assert np.mean([row["bias_direct"] for row in rows]) > 0.95
    usual = reasoned_sums.bias_sums(base, world, 20, 0, 4, ignore)
    assert abs(np.mean([row["bias_direct"] for row in usual])) < 0.02
    assert all(str(row["bias"]) != row["expected"] for row in usual)
    assert [row["bias"] for row in rows] == [row["bias"] for row in usual]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [({"samples": 0}, ConfigError, "samples"), ({"shots": 10}, ConfigError, "--shots is 10")],
)
def test_refusals(base: LM, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(base, n=2, **options)
