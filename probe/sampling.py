"""How a token is drawn: temperature, top-k, top-p, min-p, and chance by counting.

Chance does not come from a generator's state: the number for a token is a hash of the seed, the prompt, the sample's
index and the step. So a seed reproduces, a sample does not depend on the batch around it, and two models that sample
the same prompt with the same seed differ only where their distributions do.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn from the logits: temperature, then top-k, top-p and min-p."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token."""
    top_k: int | None = None
    """Keep the k most probable tokens."""
    top_p: float | None = None
    """Keep the smallest set of most probable tokens whose mass reaches p."""
    min_p: float | None = None
    """Keep the tokens with at least this share of the most probable one's probability."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"The temperature {self.temperature} is not possible: give 0 (greedy) or a positive number."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k} would leave no token: give 1 or more, or leave it out.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p} is not a share of probability: give a number above 0 and up to 1.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p = {self.min_p} is not a share of probability: give a number from 0 to 1.")

    def draw(self, probabilities: Float[Tensor, "N V"], chance: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
        """One token a row by inverting the cumulative distribution at `chance` in [0, 1)."""
        if self.temperature == 0:
            return probabilities.argmax(-1)
        total = self.truncated(probabilities).cumsum(-1, dtype=torch.float64)
        found = torch.searchsorted(total, (chance * total[:, -1])[:, None], right=True)[:, 0]
        return found.clamp(max=total.shape[-1] - 1)  # beyond the last where the model gives NaN

    def truncated(self, probabilities: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """The probabilities with the tokens that top-k, top-p and min-p leave out set to 0; not normalised."""
        if self.top_k is not None and self.top_k < probabilities.shape[-1]:
            least = probabilities.topk(self.top_k, dim=-1)
            probabilities = torch.zeros_like(probabilities).scatter(-1, least.indices, least.values)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered
            ordered = ordered.masked_fill(before >= self.top_p * ordered.sum(-1, keepdim=True), 0)
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        if self.min_p is not None:
            most = probabilities.amax(-1, keepdim=True)
            probabilities = probabilities.masked_fill(probabilities < self.min_p * most, 0)
        return probabilities


def draws(seed: int | Sequence[int], prompts: Sequence[Sequence[int]], n: int, steps: int) -> np.ndarray:
    """Uniform numbers [N, steps] in [0, 1) that depend on seed, prompt, sample index and step, and on nothing else.

    A hash of the prompt and the seed (its own, if there is one for each) starts a row; splitmix64 (Steele, Lea and
    Flood 2014) counts on from it. Samples of a prompt that occurs again with its seed go on counting.
    """
    before: Counter[str] = Counter()
    starts, firsts = [], []
    seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
    for ids, own in zip(prompts, seeds, strict=True):
        name = f"{own}:{tuple(int(token) for token in ids)}"
        firsts.append(before[name] * n)
        before[name] += 1
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        starts.append(int.from_bytes(digest, "little"))
    sample = np.asarray(firsts, dtype=np.uint64)[:, None] + np.arange(n, dtype=np.uint64)
    rows = _splitmix(np.asarray(starts, dtype=np.uint64)[:, None] + _splitmix(sample)).reshape(-1, 1)
    numbers = _splitmix(rows + np.arange(steps, dtype=np.uint64))
    return (numbers >> np.uint64(16)) * 2.0**-48


def _splitmix(state: np.ndarray) -> np.ndarray:
    state = state * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
