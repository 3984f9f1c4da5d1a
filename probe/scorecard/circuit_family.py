"""Circuits: how much each head and MLP carries an answer, against the exact effect of every small subset of them.

A question has a counterpart with as many tokens that asks for another answer. Ablated parts get their activations in
it, at every token, and all effects are shares f of what the ablation of all parts takes from the answer
(`probe.circuits`). Every set of at most `LARGEST` parts is kept alone, and every such set is ablated alone. The exact
effect of a part is the mean change of f by the part over all sets of a size, averaged over sizes: of up to two others
kept, and of up to two others ablated. It is a Shapley value (Shapley 1953) without the sizes in the middle.

A set of k parts is near the whole model by 1 - |1 - f| (at least 0), f the share that it keeps alone (faithfulness),
or the share that goes when it is ablated (completeness at K = C of Wang et al. 2022, arXiv 2211.00593). A set is
minimal as far as the part that it needs least is needed: by the largest fall of f when the part leaves the set, or
what is left of the set without some of the others (minimality of the same paper, but only falls count: a part that
speaks against the answer is not needed). The score of a method is the sum over k of these values of its first k
parts, divided by that of the best set of each size.

Axes: P parts, R sets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

import probe.world
from probe.circuits import part_scores
from probe.circuits.edge_effects import estimate_edges
from probe.circuits.part_scores import KINDS, START, integrated
from probe.circuits.subsets import Subsets, greedy, mask_of, parts_of
from probe.errors import DataError
from probe.interventions.patching import Filling, sources
from probe.interventions.requested_change import Change
from probe.interventions.sites import hooks_of, observe
from probe.logits.targets import Target
from probe.model.lm import LM
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.input_family import correlation
from probe.scorecard.method_record import method
from probe.ticks import Tick, ignore, part

QUESTIONS = ("fact", "opinion_false", "context_conflict", "repeat")
"""Kinds of questions, in equal parts: a fact, a false claim, a passage that contradicts, a pattern in the context."""
LARGEST = 3
"""Largest size of which every set is kept alone, and ablated alone."""
LEAST = 1.0
"""Smallest change of the answer in nats by the ablation of all parts."""
Pair = tuple[int, int]


def subsets_of(lm: LM, ids: list[int], other: list[int], answers: Pair) -> Subsets:
    """Return the subsets of parts for two answers after the last token, ablated by the activations of another text."""
    source = observe(lm, other, [*hooks_of(lm, KINDS), START])[1]
    return Subsets(lm, ids, source, Target(len(ids) - 1, *answers))


@dataclass(frozen=True)
class Sets:
    """Shares f of every set of at most `LARGEST` parts."""

    inside: Bool[np.ndarray, "R P"]
    """Whether a part is in the set."""
    shares: Float[np.ndarray, " R"]
    minimal: bool = False
    """Whether sets are judged by the need of their parts, and not by how near they are to the whole model."""

    @cached_property
    def values(self) -> dict[int, float]:
        """Nearness to the whole model, or need of the part that is needed least, by mask, from 0 to 1."""
        masks = [mask_of(np.flatnonzero(row).tolist()) for row in self.inside]
        if self.minimal:
            return least_needs(dict(zip(masks, self.shares.tolist(), strict=True)))
        near = np.clip(1 - np.abs(1 - self.shares), 0, 1)
        return dict(zip(masks, near.tolist(), strict=True))

    def of_size(self, size: int) -> dict[int, float]:
        """Return the values of the sets of a size."""
        return {mask: value for mask, value in self.values.items() if mask.bit_count() == size}

    def best(self) -> list[int]:
        """Return the mask of the best set of each size, from 1."""
        found = [self.of_size(size) for size in range(1, LARGEST + 1)]
        return [max(each, key=each.__getitem__) for each in found]

    def score(self, masks: list[int]) -> float:
        """Return the summed values of a set of each size, as a share of those of the best ones."""
        return sum(self.values[each] for each in masks) / sum(self.values[each] for each in self.best())

    def expected(self) -> float:
        """Return the expected score of the first parts of a random order."""
        means = [np.mean(list(self.of_size(size).values())) for size in range(1, LARGEST + 1)]
        return float(sum(means)) / sum(self.values[each] for each in self.best())

    def gains(self) -> Float[np.ndarray, " P"]:
        """Return the mean change of f by a part that joins a set, over all sets of a size, averaged over sizes."""
        sizes, rows = self.inside.sum(1), []
        for size in range(LARGEST):
            joined, apart = self.inside & (sizes == size + 1)[:, None], ~self.inside & (sizes == size)[:, None]
            rows.append(self.shares @ joined / joined.sum(0) - self.shares @ apart / apart.sum(0))
        return np.asarray(np.mean(rows, axis=0))


def least_needs(shares: Mapping[int, float]) -> dict[int, float]:
    """Return for each set the need of the part that it needs least, from 0 to 1, from the shares of all its subsets."""
    needs = dict.fromkeys(shares, 1.0)
    for whole in shares:
        for at in range(whole.bit_length()):
            if whole >> at & 1:
                rest, falls = whole & ~(1 << at), list[float]()
                some = rest
                while True:
                    falls.append(shares[some | 1 << at] - shares[some])
                    if not some:
                        break
                    some = some - 1 & rest
                needs[whole] = min(needs[whole], max(0.0, *falls))
    return needs


@dataclass(frozen=True)
class CircuitQuestion:
    """Text whose answer the parts carry."""

    ids: list[int]
    """Tokens; the answer is due after the last one."""
    other: list[int]
    """As many tokens of the text with another answer."""
    answers: Pair
    """Tokens of the two answers."""
    sets: Mapping[str, Sets]
    """All small sets: kept alone (`faithfulness`, `minimality`) and ablated alone (`completeness`)."""

    @cached_property
    def effects(self) -> Float[np.ndarray, " P"]:
        """Exact effect of each part, as a share of that of all parts."""
        return (self.sets["faithfulness"].gains() + self.sets["completeness"].gains()) / 2


@dataclass(frozen=True)
class CircuitQuestions:
    """Questions of one model."""

    lm: LM
    questions: tuple[CircuitQuestion, ...]


def every_set(subsets: Subsets, tick: Tick = ignore) -> dict[str, Sets]:
    """Run every small set of parts, kept alone and ablated alone."""
    count = len(subsets.parts)
    chosen = [each for size in range(LARGEST + 1) for each in combinations(range(count), size)]
    inside = np.array([[at in each for at in range(count)] for each in map(set, chosen)])
    masks = [mask_of(each) for each in chosen]
    kept = subsets.shares(masks, part(tick, 0, 2))
    left = subsets.shares([subsets.every & ~each for each in masks], part(tick, 1, 2))
    return {
        "faithfulness": Sets(inside, kept),
        "completeness": Sets(inside, 1 - left),
        "minimality": Sets(inside, kept, minimal=True),
    }


def questions_of(lm: LM, task: str, n: int, seed: int, tick: Tick) -> CircuitQuestions:
    """Draw questions with their counterparts, and run every small set of parts for each.

    Raises:
        DataError: the model has no world, or its parts carry none of the answers.
    """
    world = probe.world.of(lm)
    if world is None:
        raise DataError("Counterparts of questions are known on a world only: give a model of a world.")
    kinds = [kind for kind in QUESTIONS if kind in world.question_kinds]
    items = [item for kind in kinds for item in world.questions(kind, -(-n // len(kinds)), seed)]
    found = []
    for at, item in enumerate(items):
        asked = Change(prompt=item.prompt, how="noise").question(lm)
        if asked.corrupted is None or asked.target.against is None:
            continue
        ids, other, answers = list(asked.clean), list(asked.corrupted), (asked.target.answer, asked.target.against)
        subsets = subsets_of(lm, ids, other, answers)
        if subsets.gap >= LEAST:
            found.append(CircuitQuestion(ids, other, answers, every_set(subsets, part(tick, at, len(items)))))
    if not found:
        raise DataError("The heads and MLPs of this model carry none of the answers: give a trained model of a world.")
    return CircuitQuestions(lm, tuple(found))


class Ranked(NamedTuple):
    """Answer about one question."""

    numbers: Float[np.ndarray, " P"]
    masks: list[int]
    """Set of each size, from 1."""


def ranked(numbers: np.ndarray) -> Ranked:
    """Return numbers with the sets of the parts with the largest ones."""
    order = np.argsort(-numbers, kind="stable").tolist()
    return Ranked(numbers, [mask_of(order[:size]) for size in range(1, LARGEST + 1)])


def ask(problem: CircuitQuestions, function: Callable[..., Any]) -> list[Ranked]:
    """Ask a method for one number per part and question."""
    what = "one number for each head and MLP, block by block"
    return [
        ranked(
            checked(function(problem.lm, list(each.ids), list(each.other), each.answers), (len(each.effects),), what)
        )
        for each in problem.questions
    ]


def grade(problem: CircuitQuestions, truth: str, answer: list[Ranked]) -> Grade:
    """Score the numbers or the sets of every question, and average over questions."""
    pairs = list(zip(problem.questions, answer, strict=True))
    also = {"questions": float(len(pairs))}
    if truth == "effect":
        return Grade(float(np.mean([correlation(said.numbers, each.effects) for each, said in pairs])), also)
    same = np.mean([said.masks[-1] == each.sets[truth].best()[-1] for each, said in pairs])
    score = np.mean([each.sets[truth].score(said.masks) for each, said in pairs])
    return Grade(float(score), also | {f"best set of {LARGEST}": float(same)})


def chance(problem: CircuitQuestions, truth: str) -> float:
    """Return the expected score of random numbers: the first k parts of a random order are any set of k."""
    return 0.0 if truth == "effect" else float(np.mean([each.sets[truth].expected() for each in problem.questions]))


def random(problem: CircuitQuestions, truth: str, rng: np.random.Generator) -> list[Ranked]:
    """Draw the numbers at random."""
    return [ranked(rng.normal(size=len(each.effects))) for each in problem.questions]


def oracle(problem: CircuitQuestions, truth: str, rng: np.random.Generator) -> list[Ranked]:
    """Return the exact effects, and the best set of each size."""
    return [
        ranked(each.effects) if truth == "effect" else Ranked(each.effects, each.sets[truth].best())
        for each in problem.questions
    ]


def later(problem: CircuitQuestions, truth: str, rng: np.random.Generator) -> list[Ranked]:
    """Give later parts the larger number, without the model."""
    return [ranked(np.arange(float(len(each.effects)))) for each in problem.questions]


@method("circuits", title="Patching (removed alone)")
def removed_alone(lm: LM, ids: list[int], other: list[int], answers: Pair) -> np.ndarray:
    """Ablate each part alone, and see what the answer loses."""
    return part_scores.removed(subsets_of(lm, ids, other, answers))


@method("circuits", title="Patching (restored alone)")
def restored_alone(lm: LM, ids: list[int], other: list[int], answers: Pair) -> np.ndarray:
    """Keep each part alone while all others are ablated, and see what the answer gains."""
    return part_scores.restored(subsets_of(lm, ids, other, answers))


@method("circuits", title="Greedy search")
def greedy_search(lm: LM, ids: list[int], other: list[int], answers: Pair) -> np.ndarray:
    """Add the part that brings faithfulness nearest to 1, again and again; earlier ones get larger numbers."""
    return -np.argsort(greedy(subsets_of(lm, ids, other, answers))).astype(float)


@method("circuits", title="Attribution patching")
def attribution_patching(lm: LM, ids: list[int], other: list[int], answers: Pair) -> np.ndarray:
    """Multiply the gradient by the difference of the two texts' activations (Nanda 2023)."""
    return part_scores.attribution(subsets_of(lm, ids, other, answers))


@method("circuits", title="Gradient x activation")
def gradient_x_activation(lm: LM, ids: list[int], other: list[int], answers: Pair) -> np.ndarray:
    """Multiply the gradient by the activation, without the other text."""
    (zeros,) = sources(lm, ids, hooks_of(lm, KINDS), Filling("zero"))
    return part_scores.attribution(Subsets(lm, ids, zeros, Target(len(ids) - 1, *answers)))


@method("circuits", title="Integrated gradients")
def path_gradients(lm: LM, ids: list[int], other: list[int], answers: Pair) -> np.ndarray:
    """Average the gradient over embeddings between the two texts (Hanna et al. 2024, arXiv 2403.17806)."""
    subsets = subsets_of(lm, ids, other, answers)
    return integrated(lm, ids, subsets.source, subsets.target, subsets.parts)


@method("circuits", title="Direct attribution")
def direct_attribution(lm: LM, ids: list[int], other: list[int], answers: Pair) -> np.ndarray:
    """Take what each part writes into the logits, without what later parts make of it."""
    return part_scores.direct(subsets_of(lm, ids, other, answers))


@method("circuits", title="Edge attribution")
def edge_attribution(lm: LM, ids: list[int], other: list[int], answers: Pair) -> np.ndarray:
    """Sum the absolute estimates of the edges that leave a part (Syed et al. 2023, arXiv 2310.10348)."""
    sums = dict.fromkeys([(site.layer, site.head) for site in parts_of(lm)], 0.0)
    for edge, effect in estimate_edges(lm, ids, other, Target(len(ids) - 1, *answers)).items():
        if edge.writer.layer is not None:
            sums[edge.writer.layer, edge.writer.head] += abs(effect)
    return np.array(list(sums.values()))


FAMILY = Family(
    name="circuits",
    title="Circuits",
    about="Each head and MLP gets a number that says how much it carries an answer.",
    receives="the LM, the token ids of a text after which an answer is due, those of another text of the same length"
    " that asks for another answer, and the tokens of the two answers",
    returns="one number for each head and MLP [P], block by block with the heads first (L0H0, L0H1, ..., L0 MLP, L1H0,"
    " ...), positive if the part speaks for the first answer",
    truths=(
        Truth("effect", "how much each part carries", "rank correlation"),
        Truth("faithfulness", "few parts that keep the answer alone", "share of the best sets"),
        Truth("completeness", "few parts without which the answer goes", "share of the best sets"),
        Truth("minimality", "few parts of which none is superfluous", "share of the best sets"),
    ),
    n=24,
    baseline="later",
    prepare=questions_of,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle, "later": later},
    titles={"later": "Later parts first"},
)
