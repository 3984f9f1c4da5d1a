"""Every experiment that has a real counterpart, on a real checkpoint and files in the field's own formats.

The files are a dozen questions of our own: what is tested is the way, and what no small model could miss. How good the
model is would need the field's own files.
"""

import random
from pathlib import Path

import pytest

import probe
from probe.experiments.result import Result
from probe.hallucination.confidence import auroc
from probe.hallucination.files import Choices, MultipleChoice, choice_items, p_ik, prompts_of, scored_choices
from tests.places import DATA

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def whole(result: Result, tmp_path: Path) -> Result:
    """A result that has numbers, items, figures and a sentence, and survives the disk."""
    assert len(result.summary)
    assert result.summary["value"].notna().all()
    assert {"item", "model", "prompt"} <= {*result.items.columns}
    assert result.figures
    assert result.finding
    again = Result.load(result.save(tmp_path / "result"))
    assert again.summary.equals(result.summary)
    return result


def test_hallucination_on_multiple_choice(lm: probe.LM, tmp_path: Path):
    found = probe.run_experiment("hallucination", lm, data=DATA / "hallucination_questions.csv", samples=2)
    whole(found, tmp_path)
    assert 0 < found.value("mc2") < 1
    assert found.value("mc1", "ci_high") > found.value("mc1_chance")


def test_a_model_knows_before_it_answers_which_sums_it_knows(lm: probe.LM):
    """Sums of one digit and of three, with answered ones in front: P(IK) tells which it will choose right."""
    rng = random.Random(0)
    sums = {(rng.randint(low, high), rng.randint(low, high)) for low, high in [(1, 9), (100, 900)] * 40}
    questions = []
    for a, b in sorted(sums):
        offs = (0, 1, -1, 10)
        choices = Choices(tuple(f"{a + b + off}." for off in offs), tuple(off == 0 for off in offs))
        questions.append(MultipleChoice(f"What is {a} plus {b}?", choices, choices))
    answered = ((4, 4), (120, 30), (7, 9), (210, 333))
    preamble = "\n\n".join(f"Q: What is {a} plus {b}?\nA: {a + b}." for a, b in answered)
    prompts = prompts_of(lm, questions, preamble)
    items = choice_items(questions, prompts, scored_choices(lm, questions, prompts))
    (items,), layers, told = p_ik(lm, [items], shuffles=19, seed=0)
    assert auroc(items["p_ik"], items["knows"]) > 0.6
    assert items["brier_p_ik"].mean() < items["brier_p_ik_constant"].mean()
    assert told["p_ik_choice_p"] <= 0.1
    assert len(layers) == 31


def test_sycophancy_on_stated_beliefs(lm: probe.LM, tmp_path: Path):
    """A wrong suggestion costs right answers, a right one does not."""
    found = probe.run_experiment("sycophancy", lm, data=DATA / "sycophancy_questions.jsonl", interventions=2, turns=2)
    whole(found, tmp_path)
    assert found.value("accuracy_suggests_incorrect") < found.value("accuracy_suggests_correct")


def test_in_context_on_classified_texts(lm: probe.LM, tmp_path: Path):
    """Random tokens that are written twice cost far less the second time."""
    found = probe.run_experiment("in_context", lm, data=DATA / "in_context_reviews.jsonl", n=6, draws=1, shots=(0, 2))
    whole(found, tmp_path)
    assert found.value("olsson_repeat", "ci_high") < -1


def test_chain_of_thought_on_word_problems(lm: probe.LM, tmp_path: Path):
    found = probe.run_experiment("chain_of_thought", lm, data=DATA / "chain_problems.jsonl", n=2, samples=2, tokens=32)
    whole(found, tmp_path)
    assert found.value("pass@1") <= found.value("pass@2")


def test_retrieval_from_a_folder(lm: probe.LM, tmp_path: Path):
    """A passage with the answer makes the answer likelier than none; so few questions give no interval."""
    found = probe.run_experiment("retrieval", lm, data=DATA / "retrieval", k=2, max_new_tokens=12)
    whole(found, tmp_path)
    assert found.value("logprob_gain_gold") > 0
    assert found.value("accuracy_gold") > found.value("accuracy_none")
