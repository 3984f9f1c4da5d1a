"""The analysis of token weights: which tokens of answers each method's step makes more or less probable (E25)."""

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
"""Number of samples drawn if both models give the same answer, and largest number of answers if none are given."""
LENGTH = 12
"""Largest number of tokens of an answer that a model writes."""
PASSES, LETTERS = 12, 4
"""Forward passes per answer, and characters per token, for the estimate of seconds."""


def sources_of_rewards(base: LM, aligned: LM) -> list[str]:
    """Return the sources of rewards: the verifier of the models' world, reward models of this world, typed rewards."""
    world = probe.world.of(base)
    own = None if world is None else world.hash
    judges = [
        run.name
        for run in list_runs()
        if run.method == "reward-model" and run.checkpoints() and (run.world or {}).get("hash") == own
    ]
    return [VERIFIER, *judges, TYPED] if world is not None else [TYPED, *judges]


def gradient_seconds(base: LM, aligned: LM, prompt: str, answers: str | None = None, **rest: Any) -> float:
    """Estimate the seconds that all methods take by timing both models on a few tokens."""
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
            "Answers, one per line",
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
    """Measure which tokens of answers each method makes more or less probable in a step, and by how much.

    One gradient for all methods (E25): a token with w > 0 becomes more probable in a step, one with w < 0 less. Methods
    differ in w and in the source of the text. Here all learn from the same answers, each with the end token:
    pretraining and SFT from the answer with the highest reward, pretraining together with the prompt; DPO from the pair
    of the answers with the highest and the lowest reward; RSFT, RLHF and RLVR from all answers as samples. Options are
    the defaults of `probe train METHOD`, the step is the first update after sampling (the policy is the one that
    sampled), and RLHF's value head is new and predicts 0. The reference is the base. Optimiser, learning rate and
    clipping of the norm are applied afterwards.

    Args:
        base: the reference.
        aligned: the other model; its chat template formats messages.
        prompt: text before the answers.
        policy: the model that takes the step.
        answers: at least two answers, one per line (a backslash and n stand for a line break within an answer); by
            default the most probable answers of both models and, in a world, truth and claim; if these are equal,
            samples of the aligned model.
        reward: source of the rewards: a reward model, `the world's verifier`, or `typed`; by default typed rewards if
            given, else the verifier if the base has a world, else 1 for the first answer and 0 for the others.
        rewards: one number for each answer, in their order.
        chat: send the prompt as a user's message in the chat template of `aligned`.

    Raises:
        DataError: there are fewer than two answers, the rewards are equal or do not match in number, a model has a
            scalar output, or the models have different tokens.
    """
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    text = aligned.prompt_text([{"role": "user", "content": prompt}]) if chat else prompt
    given = answers.splitlines() if isinstance(answers, str) else answers
    lines = _propose(base, aligned, text) if given is None else given
    known = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(known) < 2:
        raise DataError("Give at least two answers, one per line, to see which of their tokens each method pushes.")
    texts = [("" if chat else " ") + line.replace("\\n", "\n") for line in known]
    numbers = _rewards(base, text, texts, None if reward is None else str(reward), rewards)
    names = {"base": base, "aligned": aligned}
    found = side_by_side(names[policy], text, texts, numbers, base)
    return replace(found, policy=policy, answers=tuple(known))


def _propose(base: LM, aligned: LM, prompt: str) -> list[str]:
    """Return different answers: the most probable ones of both models, in a world truth and claim; else samples."""
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
    """Return the rewards of answers: typed, or by the verifier or a reward model.

    Raises:
        DataError: there is another number of rewards, one is not a number, or the source cannot reward answers to this
            prompt.
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
    """Parse typed rewards; without any return 1 for the first answer and 0 for the others."""
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
