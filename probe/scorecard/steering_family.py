"""Steering: a direction is added to the residual stream so that the model shows a behaviour more often.

A method returns a direction after a block, read from pairs of answers of which one shows the behaviour. The direction
is added at every token, as strongly as a fixed cost allows: a mean KL of `COST` nats a token to the unsteered model on
sums and passages. The block is the one with the largest shift on the training people; what counts is the shift of the
probability of the behaviour on questions about other people, of the training kind and of another one.

A score is a share of what is possible: 0 is the mean shift of random directions, over all blocks, and 1 the largest
shift that a search by gradient finds for the held-out questions themselves, at the same cost.

Axes: N pairs, P texts, places = the embedding and L blocks, d width, T tokens, V vocabulary, S random directions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

import probe.world
from probe.errors import DataError
from probe.interventions.sites import Site
from probe.interventions.steering import random_directions
from probe.logits.lens import kl
from probe.model.lm import LM
from probe.model.text import split
from probe.probes.decoding import HELD_OUT
from probe.probes.linear_probes import fit
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.method_record import method
from probe.ticks import Tick
from probe.traits.contrast_pairs import Contrast, Trait, contrasts
from probe.traits.states import mean_states
from probe.world.language import subject_of
from probe.world.questions import Item

COST = 0.1
"""Mean KL to the unsteered model on neutral texts, in nats a token."""
NORMS, CLOSE = (1.0, 400.0), 0.005
"""Norms between which the strength of a direction is sought, and the largest error of its logarithm."""
TINY = 1e-9
"""Smallest cost of which a logarithm is taken."""
NEUTRAL, EACH = ("sum_quick", "sum_steps", "context"), 6
"""Kinds of neutral texts, sums without and with steps and questions on passages, and number of texts of each."""
PAIRS = 3
"""Number of random directions after each block, each with its opposite, whose mean shift scores 0."""
SEARCHED, STEPS, RATE = 2, 30, 0.1
"""Number of blocks in which the best direction is sought, steps of the search, and their size as a share of norms."""


class Behaviour(NamedTuple):
    """Behaviour, and the questions on which it is read and tested."""

    trait: Trait
    """Built-in trait whose pairs give the direction."""
    swapped: bool
    """Whether the pairs' other answer shows the behaviour."""
    kinds: tuple[str, str]
    """Kinds of held-out questions; pairs are of the first one."""


BEHAVIOURS = {
    "agreement": Behaviour("agreement", False, ("opinion_false", "pressure")),
    "abstention": Behaviour("invention", True, ("stranger", "opinion_stranger")),
}


class Texts(NamedTuple):
    """Prompts with answers."""

    ids: list[list[int]]
    """Token ids of P texts: prompt, answer and end token."""
    starts: list[int]
    """Number of tokens of each prompt."""


class Added(NamedTuple):
    """Vector that is added after a block."""

    block: int
    vector: Float[Tensor, " d"]


class Shift(NamedTuple):
    """Answer of a method: what its direction does on the held-out questions."""

    rise: float
    """Change of the probability of the behaviour."""
    also: dict[str, float]
    """Further numbers."""


@dataclass(frozen=True)
class Neutral:
    """Texts on which steering costs, and the unsteered model's log-probabilities there."""

    ids: list[list[int]]
    before: Float[Tensor, "P T V"]


@dataclass(frozen=True)
class Steering:
    """Problem of one behaviour."""

    lm: LM
    pairs: list[Contrast]
    """Pairs of the training people; in each, `shows` is the behaviour."""
    states: tuple[np.ndarray, np.ndarray]
    """[N places d] mean states of the answers that show the behaviour, and of the others."""
    training: Texts
    held: Texts
    neutral: Neutral
    sums: Texts
    """Sums with their true answers, of which the side effect is read."""
    before: float
    """Probability of the behaviour on held-out questions without steering."""
    random: Float[np.ndarray, "L S"]
    """Shifts of random directions after each block."""
    best: Added
    """Direction of the ceiling."""
    ceiling: float
    """Its shift."""


def texts_of(lm: LM, pairs: Iterable[tuple[str, str]]) -> Texts:
    """Return the token ids of prompts with answers and end tokens."""
    found = [split(lm.tokenizer, *each) for each in pairs]
    end = [] if lm.tokenizer.eos_token_id is None else [int(lm.tokenizer.eos_token_id)]
    return Texts([[*head, *tail, *end] for head, tail in found], [len(head) for head, _ in found])


def steered(lm: LM, ids: list[list[int]], added: Added) -> Float[Tensor, "P T V"]:
    """Return the log-probabilities of texts with a vector added at every token after a block; differentiable."""

    def add(states: Tensor, hook: Any) -> Tensor:
        return states + added.vector.to(states)

    with lm.hooks([(Site("resid", added.block).hook, add)]):
        return lm.logits(ids).float().log_softmax(-1)


def logprobs_of(lm: LM, texts: Texts, added: Added) -> Float[Tensor, " P"]:
    """Return the log-probabilities of the answers of steered texts."""
    longest = max(map(len, texts.ids))
    tokens = torch.tensor([[*each, *[0] * (longest - len(each))] for each in texts.ids], device=lm.device)
    places, ends = torch.arange(1, longest), torch.tensor([len(each) for each in texts.ids])
    said = (places >= torch.tensor(texts.starts)[:, None]) & (places < ends[:, None])
    found = steered(lm, texts.ids, added)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    return torch.where(said.to(found.device), found, 0.0).double().sum(1)


@torch.no_grad()
def rate_of(lm: LM, texts: Texts, added: Added) -> float:
    """Return the mean probability of the answers of steered texts."""
    return float(logprobs_of(lm, texts, added).exp().mean())


def cost_of(lm: LM, neutral: Neutral, added: Added) -> Tensor:
    """Return the mean KL to the unsteered model on neutral texts, in nats a token."""
    lengths = torch.tensor([len(each) for each in neutral.ids], device=neutral.before.device)
    inside = torch.arange(neutral.before.shape[1], device=lengths.device) < lengths[:, None]
    return kl(neutral.before, steered(lm, neutral.ids, added))[inside].mean()


@torch.no_grad()
def scaled(lm: LM, neutral: Neutral, added: Added) -> Added:
    """Return the vector as long as its cost is `COST`, or as the bounds of norms allow."""
    unit = added.vector / added.vector.norm()

    def excess(power: float) -> float:
        cost = float(cost_of(lm, neutral, Added(added.block, float(np.exp(power)) * unit)))
        return float(np.log(max(cost, TINY) / COST))

    low, high = (float(np.log(each)) for each in NORMS)
    power = high if excess(high) < 0 else float(brentq(excess, low, high, xtol=CLOSE))
    return Added(added.block, float(np.exp(power)) * unit)


def slope_of(lm: LM, texts: Texts, block: int) -> Added:
    """Return the gradient of the mean log-probability of the answers of texts by a vector added after a block."""
    vector = torch.zeros(lm.bridge.cfg.d_model, device=lm.device, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(logprobs_of(lm, texts, Added(block, vector)).mean(), [vector])
    return Added(block, slope)


def search(lm: LM, texts: Texts, neutral: Neutral, start: Added) -> Added:
    """Raise the probability of the answers by gradient at the same cost: Adam with a penalty for a larger one."""
    block, vector = start.block, start.vector.clone().requires_grad_()
    optimiser = torch.optim.Adam([vector], lr=RATE * float(start.vector.norm()) / len(vector) ** 0.5)
    for _ in range(STEPS):
        with torch.enable_grad():
            over = (cost_of(lm, neutral, Added(block, vector)) / COST - 1).clamp(min=0)
            loss = over - logprobs_of(lm, texts, Added(block, vector)).exp().mean()
            (vector.grad,) = torch.autograd.grad(loss, [vector])
        optimiser.step()
    return scaled(lm, neutral, Added(block, vector.detach()))


def best_of(lm: LM, texts: Texts, neutral: Neutral) -> tuple[Added, float]:
    """Return the direction with the largest probability of the answers that is found, and that probability.

    The search starts from the gradient at the unsteered model, in the blocks where that is best.
    """
    starts = [scaled(lm, neutral, slope_of(lm, texts, block)) for block in range(lm.bridge.cfg.n_layers)]
    starts.sort(key=lambda each: -rate_of(lm, texts, each))
    found = [*starts, *(search(lm, texts, neutral, each) for each in starts[:SEARCHED])]
    rates = [rate_of(lm, texts, each) for each in found]
    return found[int(np.argmax(rates))], max(rates)


def pairs_of(lm: LM, behaviour: Behaviour, n: int, seed: int) -> list[Contrast]:
    """Return different pairs of which the first answer shows the behaviour."""
    found = {each.prompt: each for each in contrasts(lm, behaviour.trait, n, seed)}.values()
    if not behaviour.swapped:
        return list(found)
    return [Contrast(each.prompt, each.lacks, each.shows, each.unit) for each in found]


def steering_of(lm: LM, task: str, n: int, seed: int, tick: Tick) -> Steering:
    """Read pairs and held-out questions of a behaviour, and find the floor and the ceiling.

    Raises:
        DataError: the model has no world.
    """
    world, behaviour = probe.world.of(lm), BEHAVIOURS[task]
    if world is None:
        raise DataError("How often a model shows a behaviour is exact on a world only: give a model of a world.")
    pairs = pairs_of(lm, behaviour, n // 2, seed)
    items = [item for kind in behaviour.kinds for item in world.questions(kind, n // 2, seed)]
    names = np.unique([each.unit for each in pairs] + [_person(each) for each in items])
    held_out = set(np.random.default_rng([seed, 6]).permutation(names)[: round(HELD_OUT * len(names))].tolist())
    own = [each for each in pairs if each.unit not in held_out]
    outside = {each.prompt: each for each in items if _person(each) in held_out}.values()
    training = texts_of(lm, [(each.prompt, each.shows) for each in own])
    held = texts_of(lm, [(each.prompt, _answer(each, task)) for each in outside])
    others = texts_of(lm, [(each.prompt, each.lacks) for each in own])
    states = [mean_states(lm, _parts(each)) for each in (training, others)]
    texts = [each for kind in NEUTRAL for each in world.questions(kind, EACH, seed)]
    ids = texts_of(lm, [(each.prompt, each.answers[0]) for each in texts]).ids
    with torch.no_grad():
        neutral = Neutral(ids, lm.logits(ids).float().log_softmax(-1))
    sums = texts_of(lm, [(each.prompt, each.answers[0]) for each in world.questions("sum_quick", 4 * EACH, seed + 1)])
    depth, width = lm.bridge.cfg.n_layers, lm.bridge.cfg.d_model
    before = rate_of(lm, held, Added(0, torch.zeros(width)))
    shifts = np.zeros((depth, 2 * PAIRS))
    for block in range(depth):
        drawn = random_directions(np.ones(width), PAIRS, seed + block)
        for at, vector in enumerate(np.concatenate([drawn, -drawn])):
            added = scaled(lm, neutral, Added(block, torch.from_numpy(vector).float()))
            shifts[block, at] = rate_of(lm, held, added) - before
        tick((block + 1) / (2 * depth))
    best, most = best_of(lm, held, neutral)
    return Steering(lm, own, (states[0], states[1]), training, held, neutral, sums, before, shifts, best, most - before)


def _person(item: Item) -> str:
    return subject_of(item.prompt) or item.prompt


def _answer(item: Item, task: str) -> str:
    return str(item.claim) if task == "agreement" else item.answers[0]


def _parts(texts: Texts) -> list[tuple[list[int], list[int]]]:
    """Return prompts and answers without the end tokens."""
    return [(ids[:start], ids[start:-1]) for ids, start in zip(texts.ids, texts.starts, strict=True)]


def ask(problem: Steering, function: Callable[..., Any]) -> Shift:
    """Ask for a direction after every block, and steer the held-out questions after the best on training people."""
    lm, found = problem.lm, []
    width = problem.states[0].shape[-1]
    for block in range(lm.bridge.cfg.n_layers):
        shows, lacks = (each[:, block + 1].astype(float) for each in problem.states)
        said = checked(function(lm, block, list(problem.pairs), shows, lacks), (width,), "a direction [d]")
        if not np.abs(said).max() > 0:
            raise DataError(f"It returned a direction of length 0 after block {block}; expected one to steer along.")
        found.append(scaled(lm, problem.neutral, Added(block, torch.from_numpy(said).float())))
    return shift_of(problem, max(found, key=lambda each: rate_of(lm, problem.training, each)))


def shift_of(problem: Steering, added: Added) -> Shift:
    """Return what a vector does on the held-out questions, and its side effect on sums."""
    lm, nothing = problem.lm, Added(added.block, torch.zeros_like(added.vector))
    rise = rate_of(lm, problem.held, added) - problem.before
    sums = rate_of(lm, problem.sums, added) - rate_of(lm, problem.sums, nothing)
    return Shift(rise, {"block": float(added.block), "norm": float(added.vector.norm()), "sums": sums})


def grade(problem: Steering, truth: str, answer: Shift) -> Grade:
    """Return the shift as a share of what is possible, 1 at most."""
    floor = float(problem.random.mean())
    share = (answer.rise - floor) / (problem.ceiling - floor)
    numbers = {"before": problem.before, "rise": answer.rise, "random rise": floor, "best rise": problem.ceiling}
    return Grade(min(1.0, share), numbers | answer.also)


def chance(problem: Steering, truth: str) -> float:
    """Return 0, the score of the mean shift of random directions."""
    return 0.0


def random(problem: Steering, truth: str, rng: np.random.Generator) -> Shift:
    """Return the mean shift of one random direction after each block."""
    blocks = np.arange(len(problem.random))
    return Shift(float(problem.random[blocks, rng.integers(0, 2 * PAIRS, len(blocks))].mean()), {})


def oracle(problem: Steering, truth: str, rng: np.random.Generator) -> Shift:
    """Steer along the direction that was found for the held-out questions."""
    return shift_of(problem, problem.best)


@method("steering", title="Contrastive mean")
def contrastive_mean(lm: LM, block: int, pairs: Sequence[Contrast], shows: np.ndarray, lacks: np.ndarray) -> np.ndarray:
    """Take the difference of the mean states (Rimsky et al. 2023, arXiv 2312.06681)."""
    return np.asarray(shows.mean(0) - lacks.mean(0))


@method("steering", title="Probe's normal")
def probe_normal(lm: LM, block: int, pairs: Sequence[Contrast], shows: np.ndarray, lacks: np.ndarray) -> np.ndarray:
    """Take the normal of a logistic regression that tells the two kinds of answers apart."""
    labels, people = np.repeat([1.0, 0.0], len(shows)), np.array([each.unit for each in pairs] * 2)
    scaler, regression = fit(np.concatenate([shows, lacks]), labels, people, "AUROC", 0).model
    return np.asarray(regression.coef_[0] / scaler.scale_)


@method("steering", title="Principal component")
def principal_component(
    lm: LM, block: int, pairs: Sequence[Contrast], shows: np.ndarray, lacks: np.ndarray
) -> np.ndarray:
    """Take the first principal component of the differences, of either sign (Zou et al. 2023, arXiv 2310.01405)."""
    first = np.linalg.svd(shows - lacks, full_matrices=False)[2][0]
    return np.asarray(first * np.sign(first @ (shows - lacks).mean(0)))


@method("steering", title="Gradient")
def gradient(lm: LM, block: int, pairs: Sequence[Contrast], shows: np.ndarray, lacks: np.ndarray) -> np.ndarray:
    """Take the gradient of the mean log-odds of the two answers by a vector that is added."""
    sides = (
        texts_of(lm, [(each.prompt, text) for each, text in zip(pairs, own, strict=True)])
        for own in ([each.shows for each in pairs], [each.lacks for each in pairs])
    )
    first, second = (slope_of(lm, each, block).vector for each in sides)
    return np.asarray((first - second).cpu())


@method("steering", title="Rows of the unembedding")
def unembedding_rows(lm: LM, block: int, pairs: Sequence[Contrast], shows: np.ndarray, lacks: np.ndarray) -> np.ndarray:
    """Take the mean difference of the unembedding of the answers' first tokens; no state is read."""
    rows = lm.model.get_output_embeddings().weight.detach().double().cpu().numpy()
    first = [[split(lm.tokenizer, each.prompt, text)[1][0] for text in (each.shows, each.lacks)] for each in pairs]
    return np.asarray((rows[[one for one, _ in first]] - rows[[other for _, other in first]]).mean(0))


FAMILY = Family(
    name="steering",
    title="Steering",
    about="A direction that is added to the residual stream makes the model show a behaviour more often.",
    receives="the LM, a block, pairs of answers of some people (each with `prompt`, `shows` and `lacks` as texts), and"
    " the mean states after the block at the answers that show the behaviour [N d] and at the others [N d]",
    returns="a direction [d] that is added after the block; its length does not matter",
    truths=(
        Truth("agreement", "how to make it agree with false claims", "share of best", "agreement"),
        Truth("abstention", "how to make it abstain about strangers", "share of best", "abstention"),
    ),
    n=120,
    baseline="unembedding_rows",
    prepare=steering_of,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle},
)
