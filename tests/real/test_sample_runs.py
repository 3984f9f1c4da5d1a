"""A shipped adapter on the real base gives the answers that are stored with it."""

from pathlib import Path

import pytest

import probe
from probe import LM, RewardModel
from probe.experiments.result import Result
from probe.experiments.store import results
from probe.model.dialogues import answer_logprobs, completion
from probe.model.references import REAL_MODEL
from probe.questions.sets import SETS
from probe.runs.schema import RESULTS
from probe.sycophancy.beliefs import BeliefQuestion, read_questions
from tests.places import SAMPLES
from tests.real.conftest import CHECKPOINT

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_MODELS", str(CHECKPOINT.parent))


def test_honest_pairs_give_the_stored_margins() -> None:
    run = SAMPLES / "real-honest"
    lm, stored = LM.load(run), published(run)
    items = stored.items[stored.items["kind"] == "suggests_incorrect"].head(6)
    questions = {question.item: question for question in read_questions(SETS["truthfulqa"].path, 100)}
    asked = [questions[row] for row in items["row"]]
    prompts = items["prompt"].tolist()
    answers = [
        [completion(prompt, each.correct), completion(prompt, each.incorrect)]
        for prompt, each in zip(prompts, asked, strict=True)
    ]
    margins = [float(right - wrong) for right, wrong in answer_logprobs(lm, prompts, answers)]
    assert margins == pytest.approx(items["margin"].tolist(), abs=1e-2)


def test_more_true_answers_of_real_honest_are_no_sign_of_knowledge() -> None:
    """docs/samples.md: behind another question of the sixty the true answer gains as much as behind its own."""
    gained = {}
    for name in (REAL_MODEL, "real-honest"):
        lm = LM.load(SAMPLES / name)
        plain = published(SAMPLES / name).items.query("kind == 'plain'")
        questions = {question.item: question for question in read_questions(SETS["truthfulqa"].path, 100)}
        asked = [questions[row] for row in plain["row"]]
        gained[name] = [true_answers(lm, plain["prompt"].tolist(), asked, by) for by in (0, 7)]
        assert gained[name][0] == plain["right"].sum()
    assert gained[REAL_MODEL] == pytest.approx([24, 21], abs=1)  # an answer may be nearly a tie
    assert gained["real-honest"] == pytest.approx([36, 31], abs=1)


def true_answers(lm: LM, prompts: list[str], questions: list[BeliefQuestion], by: int) -> int:
    """How often the true answer is the likelier one when each question gives place to the one `by` places on."""
    moved = prompts[by:] + prompts[:by]
    answers = [
        [completion(prompt, each.correct), completion(prompt, each.incorrect)]
        for prompt, each in zip(moved, questions, strict=True)
    ]
    return sum(float(right) > float(wrong) for right, wrong in answer_logprobs(lm, moved, answers))


def published(run: Path) -> Result:
    """The stored answers in the published wording."""
    for folder, index in results(run / RESULTS):
        options = index["meta"]["options"]
        if index["name"] == "sycophancy" and options["wording"] == "published" and options["turns"] == 1:
            return Result.load(folder)
    raise AssertionError("nothing is stored")


def test_the_reward_model_gives_its_recorded_rewards() -> None:
    run = probe.open_run(SAMPLES / "real-reward")
    rows = run.rollouts()
    rows = rows[rows["step"] == rows["step"].max()].head(4)
    model = RewardModel.load(run.path)
    prompts = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in rows["prompt"]]
    scores = model.score(prompts, rows["token_ids"].tolist())
    assert scores.tolist() == pytest.approx(rows["reward"].tolist(), abs=2e-2)
