"""Early reading: what a model would answer if it stopped after a block.

The truth is an ablation. After block l the rest of the model is ablated: at the last token, what later blocks write is
replaced, by its mean over questions of the same kind (`means`), or by what they write there in another question of the
kind, h_l(x) + h_D(y) - h_l(y), for each of them in turn (`others`). The answer is *left* after l if the model's most
probable token stays so (for at least half of the other questions), after l and after every later block; the causal
block is the first such row. The second is the stricter one: the answer must win against what the rest writes about
another question. Lenses that read the answer before the causal block are early, lenses that read it after it late.
Without a world, questions and texts to fit on are those of `probe.scorecard.real_texts`.

Axes: N questions, R = D + 1 rows (the embedding and D blocks), d width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import probe.world
from probe.errors import DataError
from probe.logits.fitted_lens import FittedKind, fit_maps, lens_texts
from probe.logits.lens import kl
from probe.logits.readout import residual_names, unembed
from probe.model.lm import LM
from probe.model.text import encode
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.method_record import method
from probe.scorecard.real_texts import draw_texts
from probe.ticks import Tick

KINDS = (
    "fact",
    "opinion_true",
    "opinion_false",
    "context",
    "context_conflict",
    "sum_quick",
    "map",
    "repeat",
    "city",
    "two_hop",
)
"""Kinds of questions, in equal parts."""
ABLATIONS = ("means", "others")
REAL_TEXTS, REAL_SEED = 600, 1_000_000
"""Number of texts to fit on without a world, and what is added to the seed for them."""
LEFT = 0.5
"""Share of the other questions with which the answer must stay."""


@dataclass(frozen=True)
class Reading:
    """Questions of a model with their outputs and ablated outputs."""

    lm: LM
    ids: tuple[list[int], ...]
    """Token ids of each question."""
    texts: list[list[int]]
    """Texts on which a method may be fitted."""
    output: Tensor
    """[N V] log-probabilities of the model's output."""
    causal: Mapping[str, np.ndarray]
    """[N] first row after which the answer is left when the rest is ablated, by truth."""
    rows: int
    """Number of rows."""

    @property
    def top(self) -> np.ndarray:
        """[N] most probable token."""
        return self.output.argmax(-1).numpy()


@torch.no_grad()
def states_of(lm: LM, ids: tuple[list[int], ...], tick: Tick) -> Float[Tensor, "N R d"]:
    """Return the residual stream at the last token of every text."""
    names, found = residual_names(lm), []
    for at, each in enumerate(ids):
        _, cache = lm.run_with_cache([each], names)
        found.append(torch.stack([cache[name][0, -1] for name in names]).cpu())
        tick((at + 1) / len(ids))
    return torch.stack(found)


@torch.no_grad()
def stays(lm: LM, states: Float[Tensor, "N R d"], top: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Return whether the most probable token [N R] stays when the rest is ablated after each row, by truth."""
    last, answer = states[:, -1:], torch.from_numpy(top)
    held = {name: np.ones(states.shape[:2], dtype=bool) for name in ABLATIONS}
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        writes = last[own] - states[own]
        means = unembed(lm, (states[own] + writes.mean(0)).to(lm.device)).argmax(-1).cpu()
        held["means"][own] = (means == answer[own, None]).numpy()
        for at in own:
            others = writes[own != at]
            mixed = unembed(lm, (states[at] + others).to(lm.device)).argmax(-1).cpu()
            held["others"][at] = ((mixed == answer[at]).float().mean(0) >= LEFT).numpy()
    return held


def first_kept(right: np.ndarray) -> np.ndarray:
    """Return the first row [N] from which on all rows [N R] hold; the last row always does."""
    kept = np.logical_and.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    kept[:, -1] = True
    return kept.argmax(1)


def _questions(world: Any, n: int, seed: int) -> dict[str, str]:
    """Return questions of a world with their kinds, in equal parts."""
    kinds, found = [kind for kind in KINDS if kind in world.question_kinds], dict[str, str]()
    for kind in kinds:
        own = dict.fromkeys(item.prompt for item in world.questions(kind, -(-n // len(kinds)), seed))
        found |= dict.fromkeys(own, kind) if len(own) > 1 else {}
    return found


def reading_of(lm: LM, task: str, n: int, seed: int, tick: Tick) -> Reading:
    """Read questions of a world or of templates, and ablate the rest of the model after every row."""
    world = probe.world.of(lm)
    real = [] if world else draw_texts(lm.tokenizer, n, seed)
    found = _questions(world, n, seed) if world else {each.prompt: each.kind for each in real}
    ids = tuple(encode(lm.tokenizer, each) for each in found)
    states = states_of(lm, ids, tick)
    output = unembed(lm, states[:, -1].to(lm.device)).float().log_softmax(-1).detach().cpu()
    held = stays(lm, states, output.argmax(-1).numpy(), np.array(list(found.values())))
    causal = {name: first_kept(each) for name, each in held.items()}
    others = [] if world else draw_texts(lm.tokenizer, REAL_TEXTS, seed + REAL_SEED)
    texts = [encode(lm.tokenizer, each.prompt) for each in others if each.prompt not in found]
    return Reading(lm, ids, texts or lens_texts(lm, None)[0], output, causal, states.shape[1])


def ask(problem: Reading, function: Callable[..., Any]) -> Tensor:
    """Fit a method, and ask for the log-probabilities [N R V] of every question."""
    read = function(problem.lm, [list(each) for each in problem.texts])
    if not callable(read):
        raise DataError(f"It returned {type(read).__name__}; expected a function from token ids to [R V] logits.")
    shape = problem.rows, problem.output.shape[-1]
    what = "logits for the embedding and each block"
    rows = [checked(read(list(each)), shape, what) for each in problem.ids]
    return torch.from_numpy(np.stack(rows)).float().log_softmax(-1)


def agreement(said: np.ndarray, truth: np.ndarray) -> float:
    """Return the agreement of two lists of rows beyond chance: kappa with quadratic weights (Cohen 1968).

    It is NaN if both are the same constant.
    """
    expected = ((said[:, None] - truth[None]) ** 2).mean()
    return float("nan") if expected == 0 else float(1 - ((said - truth) ** 2).mean() / expected)


def grade(problem: Reading, truth: str, answer: Tensor) -> Grade:
    """Score the rows of all questions."""
    if truth in ABLATIONS:
        first = first_kept(answer.argmax(-1).numpy() == problem.top[:, None])
        apart = first - problem.causal[truth]
        also = {"same block": float((apart == 0).mean()), "blocks late": float(apart.mean())}
        return Grade(agreement(first, problem.causal[truth]), also)
    output, inner = outputs(problem), slice(0, -1)
    far = kl(output[:, inner], answer[:, inner]).mean()
    constant = kl(output[:, inner], uninformed(problem)[:, inner]).mean()
    return Grade(float(1 - far / constant), {"nats": float(far), "nats of the unigram": float(constant)})


def outputs(problem: Reading) -> Float[Tensor, "N R V"]:
    """Return the model's output for every row."""
    return problem.output[:, None].expand(-1, problem.rows, -1)


def uninformed(problem: Reading) -> Float[Tensor, "N R V"]:
    """Return the mean output for every row, the best answer that does not depend on the question."""
    return outputs(problem).exp().mean(0, keepdim=True).log().expand(len(problem.ids), -1, -1)


def chance(problem: Reading, truth: str) -> float:
    """Return 0: agreement is beyond chance, and distances are shares of the unigram's."""
    return 0.0


def random(problem: Reading, truth: str, rng: np.random.Generator) -> Tensor:
    """Return the unigram distribution, or answers that are right from a random row on."""
    if truth in ABLATIONS:
        return _right_from(problem, rng.integers(0, problem.rows, len(problem.ids)))
    return uninformed(problem)


def oracle(problem: Reading, truth: str, rng: np.random.Generator) -> Tensor:
    """Return the output, or answers that are right from the causal block on."""
    return _right_from(problem, problem.causal[truth]) if truth in ABLATIONS else outputs(problem)


def _right_from(problem: Reading, first: np.ndarray) -> Tensor:
    """Return log-probabilities [N R V] of which the most probable token is the answer from a row on."""
    rows = torch.zeros(len(problem.ids), problem.rows, problem.output.shape[-1])
    top, after = torch.from_numpy(problem.top), torch.arange(rows.shape[1])[None] >= torch.from_numpy(first)[:, None]
    wrong = (top + 1) % rows.shape[-1]
    rows.scatter_(-1, torch.where(after, top[:, None], wrong[:, None])[..., None], 5.0)
    return rows.log_softmax(-1)


def lens(lm: LM, map_rows: Callable[[Tensor], Tensor]) -> Callable[[list[int]], Tensor]:
    """Return a function from token ids to the logits [R V] of a lens at the last token."""

    @torch.no_grad()
    def read(ids: list[int]) -> Tensor:
        names = residual_names(lm)
        _, cache = lm.run_with_cache([ids], names)
        rows = torch.stack([cache[name][0, -1:] for name in names])
        return unembed(lm, torch.cat([map_rows(rows[:-1]), rows[-1:]]))[:, 0].float()

    return read


@method("early", title="Logit lens")
def logit_lens(lm: LM, texts: list[list[int]]) -> Callable[[list[int]], Tensor]:
    """Read every row by the model's own norm and unembedding (nostalgebraist 2020); nothing is fitted."""
    return lens(lm, lambda rows: rows)


def fitted(lm: LM, kind: FittedKind, texts: list[list[int]]) -> Callable[[list[int]], Tensor]:
    """Fit a lens to texts."""
    matrices, biases = fit_maps(lm, kind, texts)
    return lens(lm, lambda rows: (rows.float() @ matrices.mT + biases[:, None]).to(rows.dtype))


@method("early", title="Tuned lens")
def tuned_lens(lm: LM, texts: list[list[int]]) -> Callable[[list[int]], Tensor]:
    """Map every row to the output by the affine map that brings it nearest (Belrose et al. 2023, arXiv 2303.08112)."""
    return fitted(lm, "tuned", texts)


@method("early", title="Jacobian lens")
def jacobian_lens(lm: LM, texts: list[list[int]]) -> Callable[[list[int]], Tensor]:
    """Map every row by the mean Jacobian of the last one (transformer-lens); the embedding stays as it is."""
    return fitted(lm, "Jacobian", texts)


FAMILY = Family(
    name="early",
    title="Early reading",
    about="A lens says after every block what the model would answer if it stopped there.",
    receives="the LM and texts to fit on, a list of token ids each",
    returns="a function from the token ids of a question to logits [R V] at its last token, for the embedding and each"
    " block",
    truths=(
        Truth("means", "the block after which the rest may be replaced by its mean", "kappa"),
        Truth("others", "the block after which the rest may be that of another question", "kappa"),
        Truth("output", "the model's output", "share of KL"),
    ),
    n=160,
    baseline="logit_lens",
    prepare=reading_of,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle},
)
