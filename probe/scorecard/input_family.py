"""Input attribution: how much each token of a text speaks for one answer against another.

The truth is exact: every word is replaced by every other word of its kind in the world (at most `MOST`, drawn at random
if there are more), and the change of the answers' log-odds is averaged. Marks of dialogues have no alternatives, so
they are not scored. Without a world, texts and kinds are those of `probe.scorecard.real_texts`.

Axes: T tokens, B texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

import probe.world
from probe.attention.reading import read_asked
from probe.attention.tracing import rollout
from probe.circuits.part_scores import START, slopes_between
from probe.errors import DataError
from probe.interventions.patching import gradients
from probe.logits.targets import Target, value
from probe.model.lm import LM
from probe.model.text import encode
from probe.scorecard import real_texts
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.method_record import method
from probe.ticks import Tick
from probe.world.vocabulary import words_by_kind

KINDS = ("fact", "opinion_false", "context_conflict", "two_hop")
"""Kinds of questions, in equal parts."""
MOST = 24
"""Largest number of alternatives of a word."""
POINTS, OFF = (32, 128), 0.5
"""Numbers of points of integrated gradients, and distance in nats of their sum from the exact difference beyond
which the next number is taken."""
LEAST = 3
"""Smallest number of scored tokens of a text."""
AT_ONCE = 512
"""Number of texts in one forward pass."""


@dataclass(frozen=True)
class Read:
    """Text whose tokens are attributed."""

    ids: list[int]
    """[T] tokens; the answer is due after the last one."""
    answers: tuple[int, int]
    """Tokens of the two answers."""
    effects: np.ndarray
    """[T] mean change of log-odds of the first answer when the token is replaced, with the sign turned: positive if the
    token speaks for the first answer; NaN without alternatives."""
    sizes: np.ndarray
    """[T] mean absolute change; NaN without alternatives."""

    @property
    def scored(self) -> np.ndarray:
        """Numbers of the tokens with alternatives."""
        return np.flatnonzero(np.isfinite(self.effects))


@dataclass(frozen=True)
class Texts:
    """Texts of one model."""

    lm: LM
    reads: tuple[Read, ...]


def rival(world: Any, item: Any, rng: np.random.Generator) -> str:
    """Return the answer to compare the true one with: the claim, what was learned, or another one at random."""
    learned = item.meta.get("learned")
    named = item.claim or (f" {learned}" if learned else None)
    if named and named != item.answers[0]:
        return str(named)
    others = [each for each in world.candidates(item.prompt) if each.split()[0] != item.answers[0].split()[0]]
    same = [each for each in others if len(each.split()) == 1] or others
    return str(same[int(rng.integers(len(same)))])


@torch.no_grad()
def log_odds(lm: LM, rows: Sequence[list[int]], answers: tuple[int, int]) -> np.ndarray:
    """Return the log-odds [B] of two answers after texts of equal length."""
    found = []
    for start in range(0, len(rows), AT_ONCE):
        last = lm.logits([list(each) for each in rows[start : start + AT_ONCE]])[:, -1].double()
        found.append((last[:, answers[0]] - last[:, answers[1]]).cpu().numpy())
    return np.concatenate(found)


def _questions(world: Any, n: int, seed: int) -> list[Any]:
    """Return questions of a world, all kinds in equal parts."""
    kinds = [kind for kind in KINDS if kind in world.question_kinds]
    return [item for kind in kinds for item in world.questions(kind, -(-n // len(KINDS)), seed)]


def texts_of(lm: LM, task: str, n: int, seed: int, tick: Tick) -> Texts:
    """Draw questions, and replace every word of each by its alternatives.

    Raises:
        DataError: no text has enough words with alternatives.
    """
    world = probe.world.of(lm)
    rng = np.random.default_rng([seed, 5])
    groups = words_by_kind().values() if world else real_texts.replacements(lm.tokenizer)
    codes = [[encode(lm.tokenizer, f" {word}")[-1] for word in words] for words in groups]
    kinds, most = {code: own for own in codes for code in own}, MOST if world else real_texts.MOST
    items: list[Any] = _questions(world, n, seed) if world else real_texts.draw_texts(lm.tokenizer, n, seed)
    reads = []
    for at, item in enumerate(items):
        ids = encode(lm.tokenizer, item.prompt)
        other = rival(world, item, rng) if world else item.answers[1]
        first, second = (encode(lm.tokenizer, each)[-1] for each in (item.answers[0], other))
        rows, owners = list[list[int]](), list[int]()
        for place, token in enumerate(ids):
            others = [each for each in kinds.get(token, []) if each != token]
            for other in rng.permutation(others)[:most].tolist():
                rows.append([*ids[:place], int(other), *ids[place + 1 :]])
                owners.append(place)
        if len(set(owners)) < LEAST or first == second:
            continue
        values = log_odds(lm, [ids, *rows], (first, second))
        changes, owner = values[0] - values[1:], np.array(owners)
        effects, sizes = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
        for place in set(owners):
            effects[place], sizes[place] = changes[owner == place].mean(), np.abs(changes[owner == place]).mean()
        reads.append(Read(ids, (first, second), effects, sizes))
        tick((at + 1) / len(items))
    if not reads:
        raise DataError("No text has enough words with alternatives: give a model of a world or of English.")
    return Texts(lm, tuple(reads))


Numbers = list[np.ndarray]


def ask(problem: Texts, function: Callable[..., Any]) -> Numbers:
    """Ask a method for one number per token of every text."""
    return [
        checked(
            function(problem.lm, list(each.ids), len(each.ids) - 1, each.answers),
            (len(each.ids),),
            "one number a token",
        )
        for each in problem.reads
    ]


def correlation(said: np.ndarray, truth: np.ndarray) -> float:
    """Return the rank correlation of two lists; 0 if the first is constant."""
    return 0.0 if np.ptp(said) < 1e-12 else float(stats.spearmanr(said, truth)[0])


def grade(problem: Texts, truth: str, answer: Numbers) -> Grade:
    """Score the numbers of every text on the tokens with alternatives, and average over texts."""
    found = []
    for read, numbers in zip(problem.reads, answer, strict=True):
        own = read.scored
        if truth == "support":
            found.append(correlation(numbers[own], read.effects[own]))
        elif truth == "importance":
            found.append(correlation(np.abs(numbers[own]), read.sizes[own]))
        else:
            found.append(float(np.abs(numbers[own]).argmax() == read.sizes[own].argmax()))
    return Grade(float(np.nanmean(found)), {"texts": len(found)})


def chance(problem: Texts, truth: str) -> float:
    """Return the expected score of random numbers."""
    return float(np.mean([1 / len(each.scored) for each in problem.reads])) if truth == "top" else 0.0


def random(problem: Texts, truth: str, rng: np.random.Generator) -> Numbers:
    """Draw the numbers at random."""
    return [rng.normal(size=len(each.ids)) for each in problem.reads]


def oracle(problem: Texts, truth: str, rng: np.random.Generator) -> Numbers:
    """Return the exact changes."""
    return [np.nan_to_num(each.effects if truth == "support" else each.sizes) for each in problem.reads]


def nearness(problem: Texts, truth: str, rng: np.random.Generator) -> Numbers:
    """Give the later token the larger number, without the model."""
    return [np.arange(1.0, len(each.ids) + 1) for each in problem.reads]


def target(position: int, answers: tuple[int, int]) -> Target:
    """Return the log-odds of two answers as a target."""
    return Target(position, *answers)


def mean_embedding(lm: LM) -> torch.Tensor:
    """Return the mean embedding [d] of the vocabulary."""
    return lm.model.get_input_embeddings().weight.detach().mean(0)


@method("input", title="Gradient x input")
def gradient_x_input(lm: LM, ids: list[int], position: int, answers: tuple[int, int]) -> torch.Tensor:
    """Multiply the gradient of the log-odds by each token's embedding."""
    _, own, slopes = gradients(lm, ids, [START], target(position, answers))
    return (own[START] * slopes[START]).sum(-1)


@method("input", title="Integrated gradients")
def integrated_gradients(lm: LM, ids: list[int], position: int, answers: tuple[int, int]) -> torch.Tensor:
    """Integrate the gradient from the mean embedding (Sundararajan et al. 2017, arXiv 1703.01365)."""
    goal, start = target(position, answers), mean_embedding(lm)
    whole, own, _ = gradients(lm, ids, [START], goal)
    with torch.no_grad(), lm.hooks([(START, lambda tensor, hook: start.to(tensor).expand_as(tensor))]):
        none = float(value(lm.logits([ids]), goal)[0])
    found = torch.zeros(len(ids))
    for count in POINTS:
        points = [(step + 0.5) / count for step in range(count)]
        slopes = [slopes_between(lm, ids, start, goal, [START], share)[START] for share in points]
        found = ((own[START] - start).double() * torch.stack(slopes).mean(0)).sum(-1)
        if abs(float(found.sum()) - (whole - none)) < OFF:
            break
    return found


@method("input", title="Leave one out")
@torch.no_grad()
def leave_one_out(lm: LM, ids: list[int], position: int, answers: tuple[int, int]) -> np.ndarray:
    """Delete each token but the last in turn, and see what the log-odds lose."""
    goal = target(len(ids) - 1, answers)
    whole = float(value(lm.logits([ids]), goal)[0])
    shorter = [[*ids[:at], *ids[at + 1 :]] for at in range(len(ids) - 1)]
    return np.append(whole - log_odds(lm, shorter, answers), 0.0)


@method("input", title="Attention")
def attention(lm: LM, ids: list[int], position: int, answers: tuple[int, int]) -> np.ndarray:
    """Average what the position attends to over all heads and blocks."""
    return np.asarray(read_asked(lm, ids).pattern[:, :, position].mean((0, 1)))


@method("input", title="Attention rollout")
def attention_rollout(lm: LM, ids: list[int], position: int, answers: tuple[int, int]) -> np.ndarray:
    """Follow attention through all blocks (Abnar and Zuidema 2020)."""
    return np.asarray(rollout(read_asked(lm, ids))[-1, position])


FAMILY = Family(
    name="input",
    title="Input attribution",
    about="Each token of a text gets a number that says how much it speaks for one answer against another.",
    receives="the LM, the token ids [T] of a text, the position after which the answer is due, and the tokens of the"
    " two answers",
    returns="one number for each token [T], positive if it speaks for the first answer",
    truths=(
        Truth("support", "which words speak for the answer", "rank correlation"),
        Truth("importance", "which words matter", "rank correlation"),
        Truth("top", "the word that matters most", "share of texts"),
    ),
    n=80,
    baseline="nearness",
    prepare=texts_of,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle, "nearness": nearness},
    titles={"nearness": "Nearness to the answer"},
)
