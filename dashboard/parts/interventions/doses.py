"""What steering on the Interventions page computes: the texts, the doses, and the prompt at one of them."""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

from dashboard.parts.interventions.source import REFERENCE, Question, spaced
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import numpy as np

    from probe.interventions.steering import Dose
    from probe.model.lm import LM
    from probe.world.questions import Item

POSITIVE = ("I love this film.", "What a wonderful day it was.", "The meal was delicious.", "She is happy and kind.")
NEGATIVE = ("I hate this film.", "What a terrible day it was.", "The meal was disgusting.", "She is angry and cruel.")
STEERED = ("I think the movie was", "The food in this place is", "My day has been", "The people here are")
ANSWERS = (" good", " bad")
QUESTIONS = (
    ("The capital of France is", " Paris"),
    ("The capital of Italy is", " Rome"),
    ("The opposite of hot is", " cold"),
    ("The first month of the year is", " January"),
    ("The sun rises in the", " east"),
    ("Two days after Monday comes", " Wednesday"),
)
# Questions of the world from which a direction is read, and those that are steered.
WORLD_TEXTS = 20


@dataclass(frozen=True)
class Dosing:
    """How one steers."""

    layer: int
    where: str
    unit: str
    alphas: tuple[float, ...]
    positive: tuple[str, ...] = ()
    """Texts with the property; empty takes the world's or built-in ones, as do the next two."""
    negative: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    answer: str = ""
    against: str = ""


def dose(lm: "LM", dosing: Dosing, random: int, tick: Tick = ignore) -> "Dose":
    """The dose-response of steering, with its controls."""
    from probe.interventions.steering import Unit, Where, contrast, dose_response
    from probe.logits.lens import target_of
    from probe.model.text import encode

    texts, answers, questions, neutral = steered(lm, dosing)
    positive, negative = sides(lm, dosing)
    direction = contrast(lm, positive, negative, dosing.layer)
    ids = [encode(lm.tokenizer, text) for text in texts]
    targets = [target_of(lm, row, *pair) for row, pair in zip(ids, answers, strict=True)]
    scalar = lm.readout != "tokens"
    return dose_response(
        lm,
        ids,
        targets,
        direction,
        dosing.alphas,
        cast("Unit", dosing.unit),
        cast("Where", dosing.where),
        random=random,
        questions=[] if scalar else questions,
        neutral=[] if scalar else neutral,
        tick=tick,
    )


def sides(lm: "LM", dosing: Dosing) -> tuple[list[str], list[str]]:
    """The texts between which the direction lies: typed, the world's questions with and without a false claim, or
    pleasant and unpleasant sentences."""
    from probe.rewards.evaluation import plain_prompt

    if dosing.positive and dosing.negative:
        return list(dosing.positive), list(dosing.negative)
    items = claims(lm, 1)
    if not items:
        return list(POSITIVE), list(NEGATIVE)
    return [item.prompt for item in items], [plain_prompt(item.prompt) for item in items]


def steered(
    lm: "LM", dosing: Dosing
) -> tuple[list[str], list[tuple[str, str | None]], list[tuple[str, str]], list[str]]:
    """(texts that are steered, their answers, unrelated questions, neutral texts)."""
    from probe.world import of

    world, items = of(lm), claims(lm, 2)
    if not items or world is None:
        questions, neutral = list(QUESTIONS), list(REFERENCE[:4])
    else:
        questions = [(item.prompt, item.answers[0]) for item in world.questions("fact", 32, 3)]
        neutral = [document.text for document in islice(world.documents(seed=4), 8)]
    if dosing.texts or not items:
        answers = spaced(dosing.answer) or ANSWERS[0], spaced(dosing.against) or ANSWERS[1]
        texts = list(dosing.texts or STEERED)
        return texts, [answers] * len(texts), questions, neutral
    pairs: list[tuple[str, str | None]] = [(str(item.claim), item.answers[0]) for item in items]
    ends = [f" {claim.strip()} <end>" if lm.readout != "tokens" else "" for claim, _ in pairs]
    return [item.prompt + end for item, end in zip(items, ends, strict=True)], pairs, questions, neutral


def claims(lm: "LM", seed: int) -> "list[Item]":
    """Questions with a false claim of the world that the model was trained on; none where it has no world."""
    from probe.world import of

    world = of(lm)
    return world.questions("opinion_false", WORLD_TEXTS, seed) if world is not None else []


def steered_answers(
    lm: "LM", question: Question, dosing: Dosing, alpha: float, draws: int
) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """([A] log-probability of each answer to the prompt before, after steering by `alpha`, [N A] with random ones)."""
    import numpy as np

    from probe.interventions.steering import Unit, Where, contrast, steered_logits

    direction = contrast(lm, *sides(lm, dosing), dosing.layer)
    step = alpha * direction.step(cast("Unit", dosing.unit))
    noise = np.random.default_rng(0).standard_normal((draws, step.size))
    noise *= np.linalg.norm(step) / np.linalg.norm(noise, axis=1, keepdims=True)
    rows = []
    for vector in (0 * step, step, *noise):
        logits = steered_logits(
            lm, [question.clean], dosing.layer, vector, cast("Where", dosing.where), [len(question.clean) - 1]
        )
        rows.append(logits[0, 0].log_softmax(-1)[list(question.columns)].cpu().numpy())
    return rows[0], rows[1], np.array(rows[2:]).reshape(draws, -1)
