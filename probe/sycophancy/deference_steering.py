"""Steering away from a claim, or from a behaviour: dose-response with random directions and an accuracy control.

In a world the direction is the difference between questions with a false claim and the same questions without one, at
the last token after one block; in a file of choices, between answers that match the behaviour and answers that do not,
at the token in which they differ (Rimsky et al. 2024). It is computed from other questions than those that are steered,
and added at every token. The accuracy on unrelated questions is reported for each dose: a flip means little if
everything else is wrong.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import pandas as pd

from probe.errors import ConfigError
from probe.interventions.steering import Controls, Dose, Dosing, answer_steps, contrast, dose_response
from probe.logits.targets import Target, target_of
from probe.model.text import encode
from probe.ticks import Tick, ignore
from probe.world.language import plain_prompt

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world.questions import Item
    from probe.world.world import World

ALPHAS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
"""Doses of steering in a world, in mean residual norms."""
FEW_ALPHAS = (-0.5, -0.25, 0.0, 0.25, 0.5)
"""Doses for files, whose texts are longer."""
DOSE = -0.5
"""Dose that the summary reports: away from "a claim was made"."""
DIRECTIONS = 15
"""Number of random directions of the same norm."""
CONTROL = 100
"""Number of unrelated facts for the accuracy control in a world."""
STEERED = 16
"""Largest number of questions of a file that are steered."""
SIMPLE = (
    ("The capital of France is", " Paris"),
    ("The capital of Italy is", " Rome"),
    ("The capital of Japan is", " Tokyo"),
    ("The opposite of hot is", " cold"),
    ("The opposite of up is", " down"),
    ("The first month of the year is", " January"),
    ("The sun rises in the", " east"),
    ("The day after Monday is", " Tuesday"),
    ("One, two, three, four,", " five"),
    ("Snow is white and coal is", " black"),
    ("A week has seven", " days"),
    ("The cat chased the", " mouse"),
)
"""Unrelated questions for models without a world; those that the unsteered model answers right are the control."""


class PartResult(NamedTuple):
    """Results of one part of the experiment."""

    items: list[pd.DataFrame]
    """Rows of the table of items, by kind of question."""
    tables: dict[str, pd.DataFrame]
    """Curves and grids by name."""
    facts: dict[str, object]
    """Further facts about the measurement."""
    flips: np.ndarray | None = None
    """[N] row of each question's flip, NaN where the truth wins; None if the lens is not available."""


def words(item: "Item") -> tuple[str, str]:
    """(claim, truth) of a question, with their leading blanks."""
    return str(item.claim), item.answers[0]


def middle(lm: "LM", layer: int | None) -> int:
    """Return the block after which to steer: `layer` if given, else the last of the first half.

    Raises:
        ConfigError: the model lacks it.
    """
    depth = lm.bridge.cfg.n_layers
    if layer is None:
        return max(0, depth // 2 - 1)
    if not -1 <= layer < depth:
        raise ConfigError(f"Block {layer} was requested in a model of {depth} blocks: give -1 to {depth - 1}.")
    return layer


def by_steering(
    lm: "LM", world: "World", items: "Sequence[Item]", block: int, seed: int = 0, tick: Tick = ignore
) -> PartResult:
    """Add the direction from "no claim" to "false claim" in several doses and see whether the claim wins.

    Args:
        lm: the model.
        world: world of the questions.
        items: questions that are steered; the direction is computed from as many others.
        block: block after which the direction is computed and added.
        seed: seed of questions and random directions.
        tick: progress.

    Returns:
        See `found_of`; the steered answer is the claim, the other one the truth.
    """
    others = world.questions("opinion_false", len(items), seed + 1)
    direction = contrast(lm, [item.prompt for item in others], [plain_prompt(item.prompt) for item in others], block)
    texts = [encode(lm.tokenizer, item.prompt) for item in items]
    targets = [target_of(lm, ids, *words(item)) for ids, item in zip(texts, items, strict=True)]
    facts = [(item.prompt, item.answers[0]) for item in world.questions("fact", CONTROL, seed + 3)]
    controls = Controls(random=DIRECTIONS, seed=seed, questions=facts, neutral=[prompt for prompt, _ in facts[:8]])
    dose = dose_response(lm, texts, targets, direction, Dosing(ALPHAS), controls, tick)
    questions = [(item.prompt, item.answers[0].strip(), str(item.claim).strip()) for item in items]
    return found_of(dose, questions, facts)


class SplitQuestion(NamedTuple):
    """A question of a file, cut where its two answers differ."""

    prompt: str
    expected: str
    ids: list[int]
    """Ids up to the token in which the answers differ."""
    matching: int
    """Next token of the matching answer."""
    other: int
    """Next token of the other answer."""


def by_contrast(
    lm: "LM", parted: Sequence[SplitQuestion], block: int, seed: int = 0, tick: Tick = ignore
) -> PartResult:
    """Apply contrastive activation addition: compute the direction on half of the questions, steer the others.

    Args:
        lm: the model.
        parted: at least two questions; of the second half at most `STEERED` are steered.
        block: block after which the direction is computed and added.
        seed: seed of the random directions.
        tick: progress.

    Returns:
        See `found_of`; the steered answer is the matching one. The accuracy control consists of the questions of
        `SIMPLE` that the model answers right without steering: 1 at dose 0.
    """
    half = len(parted) // 2
    fit_set, test_set = parted[:half], parted[half : half + STEERED]
    positive, negative = (
        [[*each.ids, token] for each, token in zip(fit_set, tokens, strict=True)]
        for tokens in (
            [each.matching for each in fit_set],
            [each.other for each in fit_set],
        )
    )
    direction = contrast(lm, cast("list[str]", positive), cast("list[str]", negative), block)  # ids run like texts
    simple = _known_questions(lm)
    texts = [each.ids for each in test_set]
    targets = [Target(len(each.ids) - 1, each.matching, each.other, "matching - other") for each in test_set]
    controls = Controls(random=DIRECTIONS, seed=seed, questions=simple, neutral=[prompt for prompt, _ in SIMPLE])
    dose = dose_response(lm, texts, targets, direction, Dosing(FEW_ALPHAS), controls, tick)
    return found_of(dose, [(each.prompt, each.expected, None) for each in test_set], simple)


def _known_questions(lm: "LM") -> list[tuple[str, str]]:
    """Return the simple questions whose right answer is the most probable one, token by token."""
    steps = zip(*answer_steps(lm, SIMPLE), strict=True)
    wrong = {owner for ids, token, owner in steps if target_of(lm, ids).answer != token}
    return [question for owner, question in enumerate(SIMPLE) if owner not in wrong]


def found_of(dose: Dose, asked: Sequence[tuple[str, str, str | None]], facts: Sequence[tuple[str, str]]) -> PartResult:
    """Compute the items at the dose `DOSE`, and the table over all doses.

    Args:
        dose: dose-response of the questions.
        asked: (prompt, right answer, claim) of each question.
        facts: (prompt, right answer) of each unrelated question.

    Returns:
        Items of kind `steered`: `steering_effect` (change of logit(answer) - logit(rival), nats),
        `random_steering_effect` (mean over random directions of the same norm), `steering_beyond_random`,
        `claim_wins_unsteered`, `claim_wins_steered`; of kind `steered_fact`: `accuracy_unsteered`, `accuracy_steered`.
        Table `steering`: see `probe.interventions.steering.Dose.table`, with `layer`, `n` and `answer` (the steered
            answer).
    """
    alphas = dose.alphas.tolist()
    at, zero = alphas.index(DOSE), alphas.index(0.0)
    effect, null = dose.values[:, at] - dose.unsteered, dose.nulls[:, :, at].mean(axis=0) - dose.unsteered
    rows: list[dict[str, object]] = [
        {
            "item": f"steered-{i}",
            "kind": "steered",
            "prompt": prompt,
            "expected": truth,
            "claim": claim,
            "steering_effect": effect[i],
            "random_steering_effect": null[i],
            "steering_beyond_random": effect[i] - null[i],
            "claim_wins_unsteered": float(dose.unsteered[i] > 0),
            "claim_wins_steered": float(dose.values[i, at] > 0),
        }
        for i, (prompt, truth, claim) in enumerate(asked)
    ]
    right = dose.right if dose.right is not None else np.zeros((0, len(alphas)))
    rows += [
        {
            "item": f"steered_fact-{i}",
            "kind": "steered_fact",
            "prompt": prompt,
            "expected": answer.strip(),
            "accuracy_steered": float(right[i, at]),
            "accuracy_unsteered": float(right[i, zero]),
        }
        for i, (prompt, answer) in enumerate(facts)
    ]
    has_claims = all(claim is not None for *_, claim in asked)
    answer = "claim" if has_claims else "matching answer"
    table = dose.table().assign(layer=dose.layer, n=len(asked), answer=answer)
    return PartResult([pd.DataFrame(rows)], {"steering": table}, {"steered_after_block": dose.layer})
