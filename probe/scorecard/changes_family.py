"""Changes: whether the features that a method calls new are those that a copy of a model has alone.

The copy's states are the base's, turned a little, as a training moves all states. To them are added directions that the
base lacks, at tokens drawn at random, and directions that the base has, at the tokens of one word each. A difference of
the states shows both alike; only the base tells them apart.

Axes: N states of the corpus, F features, P directions that are new, G directions that have grown, d width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import expm
from scipy.optimize import linear_sum_assignment

from probe.errors import DataError
from probe.features.autoencoder import Autoencoder
from probe.features.fitting import FitSettings, fit
from probe.features.latent_scaling import scale_states
from probe.features.streamed_states import read_pieces
from probe.model.lm import LM
from probe.rows import Selection
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.feature_questions import BEFORE_LAST, read_states
from probe.scorecard.features_family import ACTIVE, BATCH, FEATURES, STEPS, batches
from probe.scorecard.method_record import method
from probe.ticks import Tick

PLANTED = 16
"""Number of directions that are new, and of those that have grown."""
SHARE = 0.005
"""Share of the tokens at which each new direction is added; words nearest to it give the grown ones."""
DRIFT = 0.1
"""Size of the turn: how far a state moves, as a share of its norm."""
STRENGTHS = {"strong": 1.0, "weak": 0.25}
"""Mean size of what is added, as a share of the mean norm of the states about their mean."""
FOUND = 0.7
"""Cosine from which a direction counts as found, in the evidence."""
GUESSES = 200
"""Number of random answers from which the expected score of a guess is computed."""
CHUNK = 4096
"""Number of tokens that are encoded at once."""


@dataclass(frozen=True)
class Pair:
    """States of a base and of a copy, and what was done to the copy."""

    base: np.ndarray
    """[N d] states of the base."""
    copy: np.ndarray
    """[N d] states of the copy at the same tokens."""
    new: np.ndarray
    """[P d] unit directions that the copy has alone."""
    grown: np.ndarray
    """[G d] unit directions that the base has too, as the copy has them."""
    chance: float = 0.0
    """Expected score of a random answer."""


def prepare(lm: LM, task: str, n: int, seed: int, tick: Tick) -> Pair:
    """Read states of n documents of the model's corpus, and plant directions into a copy of them."""
    block = max(0, lm.bridge.cfg.n_layers - BEFORE_LAST)
    documents, _ = read_pieces([lm], None, Selection(n, seed))
    states = read_states(lm, [each.ids for each in documents], block, tick)
    tokens = np.concatenate([each.ids[1:] for each in documents])
    return plant(torch.cat([each[1:] for each in states]).numpy(), tokens, STRENGTHS[task], seed)


def plant(base: np.ndarray, tokens: np.ndarray, strength: float, seed: int) -> Pair:
    """Return the states of a copy in which directions are new, and others have grown.

    Args:
        base: [N d] states.
        tokens: [N] token ids.
        strength: mean size of what is added, as a share of the mean norm of the states about their mean.
        seed: seed of the draws.
    """
    rng = np.random.default_rng([seed, 9])
    count, width = base.shape
    centred = base - base.mean(0)
    size = strength * float(np.linalg.norm(centred, axis=1).mean())
    turn = rng.normal(size=(width, width)) / np.sqrt(2 * width)
    turned = base @ expm(DRIFT * (turn - turn.T))
    new = rows_of_norm_1(rng.normal(size=(PLANTED, width)))
    words, counts = np.unique(tokens, return_counts=True)
    chosen = words[np.argsort(np.abs(np.log(counts / (SHARE * count))), kind="stable")[:PLANTED]]
    grown = rows_of_norm_1(np.stack([turned[tokens == word].mean(0) for word in chosen]) - turned.mean(0))
    where = [rng.random(count) < SHARE for _ in new] + [tokens == word for word in chosen]
    copy = turned.copy()
    for place, direction in zip(where, np.vstack([new, grown]), strict=True):
        copy[place] += size * rng.uniform(0.5, 1.5, (int(place.sum()), 1)) * direction
    chance = np.mean([score_of(random_directions(width, rng), new) for _ in range(GUESSES)])
    return Pair(base, copy.astype(base.dtype), new, grown, float(chance))


def rows_of_norm_1(rows: np.ndarray) -> np.ndarray:
    """Return rows divided by their norms; a row of zeros stays."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def random_directions(width: int, rng: np.random.Generator) -> np.ndarray:
    """Return directions [P d] drawn at random."""
    return rows_of_norm_1(rng.normal(size=(PLANTED, width)))


def cosines(directions: np.ndarray, planted: np.ndarray) -> np.ndarray:
    """Return the cosine [P], without sign, of each planted direction with its own of the given ones.

    Every direction stands for one planted direction at most, so that the sum is largest.
    """
    alike = np.abs(directions @ planted.T)
    rows, columns = linear_sum_assignment(-alike)
    found = np.zeros(len(planted))
    found[columns] = alike[rows, columns]
    return found


def score_of(directions: np.ndarray, planted: np.ndarray) -> float:
    """Return the mean cosine of planted directions with their own."""
    return float(cosines(directions, planted).mean())


def ask(problem: Pair, function: Callable[..., Any]) -> np.ndarray:
    """Ask for directions of the copy with a number each, and return those [P d] with the highest, of norm 1.

    Where there are fewer, the rest are 0.
    """
    answer = function(problem.base.copy(), problem.copy.copy(), FEATURES)
    if not isinstance(answer, tuple) or len(answer) != 2 or np.ndim(answer[1]) != 1:
        raise DataError(f"It returned {type(answer).__name__}; expected a pair: directions [F d], and [F] numbers.")
    size = len(answer[1])
    if size > FEATURES:
        raise DataError(f"It returned {size} features; at most {FEATURES} were wanted.")
    numbers = checked(answer[1], (size,), "one number for each feature, larger if it is more surely new")
    directions = checked(answer[0], (size, problem.copy.shape[1]), "one direction for each feature")
    first = np.argsort(-numbers, kind="stable")[:PLANTED]
    kept = np.zeros((PLANTED, directions.shape[1]))
    kept[: len(first)] = rows_of_norm_1(directions[first])
    return kept


def grade(problem: Pair, truth: str, answer: np.ndarray) -> Grade:
    """Compare the first directions with the new ones; the evidence counts new and grown ones among them."""
    new, grown = cosines(answer, problem.new), cosines(answer, problem.grown)
    also = {"found": float((new >= FOUND).sum()), "grown called new": float((grown >= FOUND).sum())}
    return Grade(float(new.mean()), also)


def chance(problem: Pair, truth: str) -> float:
    """Return the expected score of random directions."""
    return problem.chance


def random(problem: Pair, truth: str, rng: np.random.Generator) -> np.ndarray:
    """Return random directions."""
    return random_directions(problem.copy.shape[1], rng)


def oracle(problem: Pair, truth: str, rng: np.random.Generator) -> np.ndarray:
    """Return the new directions."""
    return problem.new


@method("changes", title="Components of the difference")
def difference_components(base: np.ndarray, copy: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Take the directions of largest variance of the difference, by variance."""
    from sklearn.decomposition import PCA

    model = PCA(min(features, *base.shape), random_state=0).fit(copy - base)
    return model.components_, model.explained_variance_


@method("changes", title="Sparse autoencoder of the difference")
def difference_autoencoder(base: np.ndarray, copy: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a BatchTopK autoencoder to the difference; a feature is newer, the larger its largest activation."""
    difference = copy - base
    model = fitted(difference[:, None], features)
    return model.W_dec[:, 0].numpy(), encoded(model, difference[:, None]).max(0)


@method("changes", title="Sparse autoencoders of both")
def two_autoencoders(base: np.ndarray, copy: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit an autoencoder to each; a feature is newer, the less like its nearest of the base it is."""
    first, second = (fitted(states[:, None], features) for states in (base, copy))
    alive = encoded(second, copy[:, None]).any(0)
    alike = (rows_of_norm_1(second.W_dec[:, 0].numpy()) @ rows_of_norm_1(first.W_dec[:, 0].numpy()).T).max(1)
    return second.W_dec[:, 0].numpy(), np.where(alive, 1 - alike, -1.0)


@method("changes", title="Crosscoder, by norms")
def crosscoder_norms(base: np.ndarray, copy: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a BatchTopK crosscoder; a feature is newer, the larger the share of its norm that the copy has."""
    directions, table = crosscoder(base, copy, features)
    return directions, np.where(table["density"] > 0, table["relative_norm"], -1.0)


@method("changes", title="Crosscoder, by latent scaling")
def crosscoder_scaling(base: np.ndarray, copy: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a crosscoder; a feature is newer, the less it explains of the base (Minder et al. 2025, arXiv 2504.02922)."""
    directions, table = crosscoder(base, copy, features)
    explained = table[["error_ratio", "reconstruction_ratio"]].abs().max(axis=1)
    own = (table["density"] > 0) & (table["relative_norm"] > 0.5)
    return directions, np.where(own, 1 - explained.clip(upper=1), -1.0)


def crosscoder(base: np.ndarray, copy: np.ndarray, features: int) -> tuple[np.ndarray, Any]:
    """Return the copy's directions [F d] of a crosscoder, and its table of latent scaling."""
    states = np.stack([base, copy], axis=1)
    model = fitted(states, features)
    return model.W_dec[:, 1].numpy(), scale_states(model, torch.from_numpy(states).float().split(CHUNK))


def fitted(states: np.ndarray, features: int) -> Autoencoder:
    """Return a BatchTopK autoencoder of states [N M d]."""
    return fit(batches(states), FitSettings(features, min(ACTIVE, features), STEPS, BATCH)).model


@torch.no_grad()
def encoded(model: Autoencoder, states: np.ndarray) -> np.ndarray:
    """Return activations [N F] of states [N M d]."""
    return torch.cat([model.encode(each) for each in torch.from_numpy(states).float().split(CHUNK)]).numpy()


TRUTHS = (
    Truth("strong", "large directions that the copy has alone", "cosine", task="strong"),
    Truth("weak", "small directions that the copy has alone", "cosine", task="weak"),
)
FAMILY = Family(
    name="changes",
    title="Changes",
    about="A comparison of two models' features names those that the second has alone.",
    receives="states [N d] of the base and of the copy at the same tokens, and the largest number of features F",
    returns="a pair: directions [F d] in the copy's states, and [F] numbers, larger for a feature more surely new",
    truths=TRUTHS,
    n=3600,
    baseline="difference_components",
    prepare=prepare,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle},
)
