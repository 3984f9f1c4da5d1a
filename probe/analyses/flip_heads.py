"""The heads that carry a claim into the answer: patching and removal of every head, each with its controls.

A clean text and a claimed one differ in one word: what the user claims is true in one and false in the other. The
target is logit(truth) - logit(claim) after the last token. Patching puts a head's output in the clean text, at every
token, into the claimed one: its share of the gap between the two is 1 if that head alone brings the true answer back.
Removal puts a head's mean output over reference texts there. Every head is done, so that for the one that is chosen all
the others are a null, and beside each patch go changes as large in random directions (METRICS, sycophancy; Wang et al.
2022; Heimersheim and Nanda 2024).

A head is chosen on one half of the texts and reported on the other: the best of many is else too good.

Axes: N pairs of texts, L blocks, H heads, R random draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probe.analyses.ablation import Means, means
from probe.analyses.controls import edits, random_change
from probe.analyses.patching import Pair, pair_of
from probe.analyses.sites import Edit, Site, grid, hooks_of, observe, sweep
from probe.analyses.targets import Target, target_of, value
from probe.errors import DataError
from probe.lm import LM
from probe.ticks import Tick, ignore


class Twins(NamedTuple):
    """A question with a true and with a false claim."""

    clean: str
    """The user claims the truth."""
    claimed: str
    """The user claims something else; as many tokens."""
    truth: str
    """With its blank."""
    claim: str
    """With its blank."""


@dataclass(frozen=True)
class HeadPatching:
    """The target of N claimed texts with each head patched from the clean ones."""

    gaps: np.ndarray
    """[N] target of the clean text minus that of the claimed one, in nats."""
    effects: np.ndarray
    """[N L H] change of the target in the claimed text by patching one head, in nats."""
    random: np.ndarray
    """[N L H] the same along random directions as long at every token, averaged over the R draws."""

    def share(self, rows: slice | np.ndarray = slice(None), random: bool = False) -> np.ndarray:
        """[L H] summed effect over summed gap of some pairs; NaN where there is no gap."""
        gap, found = self.gaps[rows].sum(), (self.random if random else self.effects)[rows].sum(axis=0)
        return found / gap if abs(gap) > 1e-6 else np.full(found.shape, np.nan)

    def strongest(self, rows: slice | np.ndarray = slice(None)) -> tuple[int, int]:
        """(block, head) whose patch changes the target of some pairs most towards the truth."""
        total = self.effects[rows].sum(axis=0)
        layer, head = np.unravel_index(int(total.argmax()), total.shape)
        return int(layer), int(head)


@torch.no_grad()
def patch_heads(lm: LM, twins: Sequence[Twins], draws: int = 2, seed: int = 0, tick: Tick = ignore) -> HeadPatching:
    """Patch every head of every pair.

    Args:
        lm: the model.
        twins: N pairs.
        draws: R random directions for each head of each pair.
        seed: of these.
        tick: progress.

    Raises:
        DataError: no pair, or a pair of different lengths.
        ModelError: the architecture cannot be hooked.
    """
    if not twins:
        raise DataError("No pair of a clean and a claimed text was given: give at least one.")
    rng = np.random.default_rng(seed)
    sites = [site for row in grid(lm, "head", 1) for site in row]
    shape = (lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads)
    gaps, effects, random = [], [], []
    for done, twin in enumerate(twins):
        pair = pair_of(lm, twin.clean, twin.claimed)
        target = target_of(lm, pair.corrupted, twin.truth, twin.claim)
        gap, own, others = patch_some(lm, pair, target, sites, draws, rng)
        gaps.append(gap)
        effects.append(own.reshape(shape))
        random.append(others.reshape(shape))
        tick((done + 1) / len(twins))
    return HeadPatching(np.array(gaps), np.array(effects), np.array(random))


@torch.no_grad()
def patch_some(
    lm: LM, pair: Pair, target: Target, sites: Sequence[Site], draws: int, rng: np.random.Generator
) -> tuple[float, np.ndarray, np.ndarray]:
    """(gap, [S] effects of patching S heads of a pair one by one, [S] the same along random directions), in nats."""
    names = hooks_of(lm, ["head"])
    logits, source = observe(lm, pair.clean, names)
    _, base = observe(lm, pair.corrupted, names)
    rows = [[], *(edits([site], source) for site in sites)]
    for _ in range(draws):
        for site in sites:
            here = base[site.hook][site.index]
            rows.append([Edit(site, here + random_change(source[site.hook][site.index] - here, rng))])
    read = sweep(lm, pair.corrupted, rows, target).values.double().numpy()
    moved = read[1:].reshape(1 + draws, len(sites)) - read[0]
    random = moved[1:].mean(axis=0) if draws else np.full(len(sites), np.nan)
    return float(value(logits, target)[0]) - float(read[0]), moved[0], random


@dataclass(frozen=True)
class HeadRemoval:
    """Each head alone replaced by its mean over reference texts."""

    before: np.ndarray
    """[N] the target of each text in nats."""
    after: np.ndarray
    """[N L H] with one head removed."""
    right: np.ndarray
    """[Q L H] whether each unrelated question is still answered right (its answer is the likeliest token)."""
    right_before: np.ndarray
    """[Q] the same with all heads."""


@torch.no_grad()
def remove_heads(
    lm: LM,
    texts: Sequence[Sequence[int]],
    targets: Sequence[Target],
    questions: Sequence[tuple[Sequence[int], int]],
    reference: Sequence[Sequence[int]],
    tick: Tick = ignore,
) -> HeadRemoval:
    """Remove every head from texts, and from questions that have nothing to do with them.

    Args:
        lm: the model.
        texts: ids of N texts.
        targets: what is measured in each.
        questions: (ids, token of the right answer) of Q unrelated questions: the accuracy control.
        reference: ids of texts over which a head's output is averaged; their first tokens stand for first tokens.
        tick: progress.

    Raises:
        DataError: no text or no reference.
        ModelError: the architecture cannot be hooked.
    """
    if not texts or len(texts) != len(targets):
        raise DataError(f"{len(texts)} texts have {len(targets)} targets: give at least one text, a target for each.")
    mean = means(lm, reference, hooks_of(lm, ["head"]))
    asked, right = [ids for ids, _ in questions], np.array([answer for _, answer in questions])
    depth, heads = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    after = np.empty((len(texts), depth, heads))
    kept = np.empty((len(asked), depth, heads), dtype=bool)
    for number in range(depth * heads):
        site = Site("head", number // heads, number % heads)
        with lm.hooks([(site.hook, _replacing(mean, site))]):
            after[:, site.layer, site.head] = _values(lm, texts, targets)
            kept[:, site.layer, site.head] = _best(lm, asked) == right
        tick((number + 1) / (depth * heads))
    return HeadRemoval(_values(lm, texts, targets), after, kept, _best(lm, asked) == right)


def _replacing(mean: Means, site: Site) -> Any:
    """A hook that puts a head's mean output at every token, that of first tokens at the first."""

    def replace(tensor: Tensor, hook: Any) -> Tensor:
        tensor = tensor.clone()
        tensor[:, :, site.head] = mean.rest[site.hook][site.head].to(tensor)
        tensor[:, 0, site.head] = mean.first[site.hook][site.head].to(tensor)
        return tensor

    return replace


def _values(lm: LM, texts: Sequence[Sequence[int]], targets: Sequence[Target]) -> np.ndarray:
    logits = lm.logits([list(text) for text in texts]).float()
    found = []
    for row, target in zip(logits, targets, strict=True):
        found.append(float(value(row[None], target)[0]))
    return np.array(found)


def _best(lm: LM, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """[Q] the likeliest token after each text."""
    if not texts:
        return np.zeros(0, dtype=int)
    logits = lm.logits([list(text) for text in texts])
    ends = torch.tensor([len(text) - 1 for text in texts])
    return logits[torch.arange(len(texts)), ends].argmax(-1).cpu().numpy()
