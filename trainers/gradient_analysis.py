"""What each method makes of answers to one prompt: the tokens that a step pushes up or down, as an analysis (E25)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import probe.world
from probe.analyses.analysis_record import SHARED, Input, Prompt
from probe.analyses.catalogue import analysis
from probe.compare.side_by_side import require_writers
from probe.errors import DataError
from probe.logits.lens import require_same_tokens
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.rewards import analysable
from probe.rewards.answers import verifier_reward
from probe.rewards.frontiers import model_reward
from probe.rewards.token_effects import truth_and_claim
from probe.runs import list_runs
from trainers.gradient import SideBySide, side_by_side

EQUATION = (
    r"-\nabla \mathcal{L} = \sum_t w_t \nabla \log \pi(y_t \mid x, y_{<t}), \quad"
    r"w_t = -\frac{\partial \mathcal{L}}{\partial \log \pi(y_t \mid x, y_{<t})}"
)
VERIFIER, TYPED = "the world's verifier", "typed"
SAMPLES, OFFERED = 8, 3
"""Samples that are drawn where both models answer alike, and answers where none are given, at most."""
LENGTH = 12
"""Tokens of an answer that a model writes, at most."""
PASSES, LETTERS = 12, 4
"""How often each answer is read; and letters of a token, about."""


def sources_of_rewards(base: LM, aligned: LM) -> list[str]:
    """Return what can reward answers: the verifier of the models' world, its reward models among the runs, a person."""
    world = probe.world.of(base)
    own = None if world is None else world.hash
    judges = [
        run.name
        for run in list_runs()
        if run.method == "reward-model" and run.checkpoints() and (run.world or {}).get("hash") == own
    ]
    return [VERIFIER, *judges, TYPED] if world is not None else [TYPED, *judges]


def gradient_seconds(base: LM, aligned: LM, prompt: str, answers: str | None = None, **rest: Any) -> float:
    """Return the seconds that all methods take, about: both models are timed on a few tokens."""
    count = len(answers.splitlines()) if answers else OFFERED
    tokens = count * (len(prompt) / LETTERS + LENGTH)
    return PASSES * tokens * sum(map(seconds_a_token, (base, aligned)))


@analysis("compare", title="Gradient", equations=(EQUATION,), seconds=gradient_seconds, key="gradient")
def compare_gradients(
    base: LM,
    aligned: LM,
    prompt: Prompt,
    *,
    policy: Annotated[Literal["base", "aligned"], Input("Step of", key="gradient_policy")] = "base",
    answers: Annotated[
        str | Sequence[str] | None,
        Input(
            "Answers, one a line",
            key="gradient_answers",
            placeholder="the likeliest of both models, in a world truth and claim",
            lines=True,
            type=str | None,
        ),
    ] = None,
    reward: Annotated[
        str | Path | None,
        Input(
            "Reward",
            key="gradient_reward",
            placeholder="the world's verifier, or 1 0 ...",
            suggestions=sources_of_rewards,
            type=Path | None,
        ),
    ] = None,
    rewards: Annotated[
        str | Sequence[float] | None,
        Input("Rewards", key="gradient_rewards", placeholder="typed: 1 0 ...", type=str | None),
    ] = None,
    chat: Annotated[bool, replace(SHARED["chat"])] = False,
) -> SideBySide:
    """Measure which tokens of answers each method pushes up or down in a step, and how much.

    One gradient for all methods (E25): a token with w > 0 becomes more probable in a step, one with w < 0 less. Methods
    differ in w and in where the text comes from. Here all learn from the same answers, each with the end token:
    pretraining and SFT from the one with the highest reward, pretraining with its prompt; DPO has it with that of the
    lowest reward as a pair; RSFT, RLHF and RLVR have all answers as their samples. Options are those of `probe train
    METHOD` by default, the step is the first of a batch (the policy is the one that sampled), and RLHF's value head is
    a new one, which predicts 0. The reference is the base. Optimiser, learning rate and the clipping of the norm come
    after all this.

    Args:
        base: the reference.
        aligned: the other model; its chat template writes messages.
        prompt: what the answers follow.
        policy: the model that takes the step.
        answers: at least two, one a line (backslash and n are a new line within one); by default the likeliest of the
            aligned and the base model and, in a world, truth and claim; where they are alike, samples of the aligned
            model.
        reward: who rewards them: a reward model, `the world's verifier`, or `typed`; by default the rewards that are
            typed, else the verifier where the base has a world, else 1 for the first answer and 0 for the others.
        rewards: one number for each answer, in their order.
        chat: send the prompt as a user's message in the chat template of `aligned`.

    Raises:
        DataError: fewer than two answers, rewards that are alike or do not fit them, a model of one number, or other
            tokens.
    """
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    text = aligned.prompt_text([{"role": "user", "content": prompt}]) if chat else prompt
    given = answers.splitlines() if isinstance(answers, str) else answers
    lines = _propose(base, aligned, text) if given is None else given
    known = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(known) < 2:
        raise DataError("Give at least two answers, one a line, to see which of their tokens each method pushes.")
    texts = [("" if chat else " ") + line.replace("\\n", "\n") for line in known]
    numbers = _rewards(base, text, texts, None if reward is None else str(reward), rewards)
    names = {"base": base, "aligned": aligned}
    found = side_by_side(names[policy], text, texts, numbers, base)
    return replace(found, policy=policy, answers=tuple(known))


def _propose(base: LM, aligned: LM, prompt: str) -> list[str]:
    """Return different answers, a line each: the likeliest of both models, in a world truth and claim; else samples."""
    world = probe.world.of(base)
    texts = [lm.generate([prompt], max_new_tokens=LENGTH, temperature=0.0).text[0] for lm in (aligned, base)]
    texts += (truth_and_claim(world, prompt) or ()) if world else ()
    if len({text.strip() for text in texts}) < 2:
        texts += aligned.generate([prompt], n=SAMPLES, max_new_tokens=LENGTH, temperature=0.7, seed=0).text
    lines = list(dict.fromkeys(text.strip().replace("\n", "\\n") for text in texts if text.strip()))
    return lines[:OFFERED]


def _rewards(
    base: LM, prompt: str, answers: list[str], source: str | None, typed: str | Sequence[float] | None
) -> list[float]:
    """Return the rewards of answers, those that were typed or those of the verifier or of a reward model.

    Raises:
        DataError: another number of them, something that is no number, or a source that cannot reward this prompt.
    """
    world = probe.world.of(base)
    if source == TYPED or (source is None and (typed or world is None)):
        return _read(typed, len(answers))
    if source in (None, VERIFIER):
        if world is None:
            raise DataError("The base belongs to no world that verifies answers: name a reward model, or type rewards.")
        found: Sequence[float | None] = verifier_reward(world)([prompt] * len(answers), answers)
    else:
        found = model_reward(analysable(source, "reward"))([prompt] * len(answers), answers)
    known = [value for value in found if value is not None]
    if len(known) < len(answers):
        raise DataError(
            f"Not every answer has a reward by {source or VERIFIER}: choose another prompt, or type rewards."
        )
    return known


def _read(typed: str | Sequence[float] | None, count: int) -> list[float]:
    """Return typed rewards; 1 for the first answer and 0 for the others where nothing is typed."""
    if not typed:
        return [float(index == 0) for index in range(count)]
    words = typed.replace(",", " ").split() if isinstance(typed, str) else typed
    try:
        rewards = [float(each) for each in words]
    except ValueError:
        rewards = []
    if len(rewards) != count:
        raise DataError(
            f"`{typed}` was given as the rewards of {count} answers: give a number for each, such as `1 0`."
        )
    return rewards
