"""One intervention with its null controls: an effect is shown only next to the effects of equally large changes.

Two nulls are drawn with every effect. *Other sites*: as many sites of the same kind (other heads; the other tokens at
the same block; other blocks where the site is all tokens) receive their activations in the same source. *Random
directions*: the chosen sites change by the same norm, token by token, in random directions.

Axes: T tokens, A answers, N draws of a null.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import DataError
from probe.interventions.sites import Activations, Edit, Site, check, grid, layers_of, observe, sweep
from probe.logits.targets import Target, require_text, value
from probe.model.lm import LM
from probe.model.text import pieces
from probe.plotting.notebook import Drawable
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

DRAWS = 15
"""Number of draws of a null: with 15 draws the smallest p-value is 1/16; with three it would be 1/4, which shows
nothing."""
DIRECTIONS = "random directions"
OTHERS = {"head": "other heads", "token": "other tokens", "block": "other blocks"}
"""Name of the null of other sites, by kind of the alternatives."""


@dataclass(frozen=True)
class NullEffects:
    """Effects of interventions of equal size that carry no information."""

    name: str
    """Name of the null."""
    effects: np.ndarray
    """[N] changes of the target in nats."""
    logprobs: np.ndarray
    """[N A] log-probability of each answer in nats."""
    sites: list[str]
    """[N] sites of each draw."""

    def z(self, effect: float) -> float:
        """Return how many of the null's standard deviations an effect lies from its mean; NaN without spread."""
        spread = float(self.effects.std(ddof=1)) if len(self.effects) > 1 else 0.0
        return (effect - float(self.effects.mean())) / spread if spread > 0 else float("nan")

    def share_below(self, effect: float) -> float:
        """Return the share of the null's effects with a smaller absolute value than `effect`; NaN without draws."""
        return float((np.abs(self.effects) < abs(effect)).mean()) if len(self.effects) else float("nan")

    def p_value(self, effect: float) -> float:
        """Return the two-sided Monte Carlo p-value (1 + draws at least as large) / (1 + N) (Phipson, Smyth 2010)."""
        return float((1 + (np.abs(self.effects) >= abs(effect)).sum()) / (1 + len(self.effects)))


@dataclass(frozen=True)
class InterventionEffect(Drawable):
    """The effect of one intervention on the target and the answers, with its nulls."""

    sites: list[Site]
    """Sites that were changed together."""
    target: Target
    """Quantity that is measured."""
    tokens: list[str]
    """[T] readable tokens of the text that was run."""
    answers: list[str]
    """[A] readable answers; empty for a scalar model."""
    value_before: float
    """Target without the intervention in nats."""
    value_after: float
    """Target with it in nats; the mean over draws if the source has several."""
    before: np.ndarray
    """[A] log-probability of each answer without the intervention."""
    after: np.ndarray
    """[A] log-probability of each answer with it; the log of the mean probability if the source has several draws."""
    nulls: list[NullEffects]
    """Nulls: other sites and random directions."""

    @property
    def effect(self) -> float:
        """Target with the intervention minus without, in nats."""
        return self.value_after - self.value_before

    def table(self) -> pd.DataFrame:
        """Return one row per run (before, after, or a null's name): run, sites, target, effect, p of each answer."""
        names = ", ".join(place(site, self.tokens) for site in self.sites)
        rows = [("before", "", 0.0, self.before), ("after", names, self.effect, self.after)]
        rows += [
            (null.name, label, float(effect), logprobs)
            for null in self.nulls
            for label, effect, logprobs in zip(null.sites, null.effects, null.logprobs, strict=True)
        ]
        frame = pd.DataFrame(
            [(run, label, self.value_before + effect, effect) for run, label, effect, _ in rows],
            columns=["run", "sites", "target", "effect"],
        )
        for column, answer in enumerate(self.answers):
            frame[f"p({answer})"] = [float(np.exp(logprobs[column])) for *_, logprobs in rows]
        return frame

    def figure(self) -> "go.Figure":
        """Draw the effect and the effects of its nulls."""
        from probe.interventions.figures import effect_and_nulls
        from probe.plotting.theme import METHODS

        nulls = [(null.name, null.effects) for null in self.nulls]
        return effect_and_nulls(self.effect, nulls, label=f"effect on {self.target.name}, nats", colour=METHODS["dpo"])


def place(site: Site, tokens: Sequence[str]) -> str:
    """Describe a site in words: `L2H1 at paris [7]`, `residual after L1 at every token`."""
    where = "every token" if site.position is None else f"{tokens[site.position].strip('·')} [{site.position}]"
    return f"{site.name} at {where}"


def edits(sites: Sequence[Site], source: Activations) -> list[Edit]:
    """Return edits that give the sites their activations in a source."""
    return [Edit(site, source[site.hook][site.index]) for site in sites]


@torch.no_grad()
def intervene(
    lm: LM,
    ids: Sequence[int],
    sites: Sequence[Site],
    sources: Sequence[Activations],
    target: Target,
    answers: Sequence[int] = (),
    draws: int = DRAWS,
    seed: int = 0,
    tick: Tick = ignore,
) -> InterventionEffect:
    """Replace the activations at `sites` by those of a source, and draw both nulls.

    Args:
        lm: the model.
        ids: token ids of the text that is run.
        sites: one or more sites of one kind, changed together.
        sources: activations [T ...] of every hook point of that kind: of another text (patching), or a reference
            (`probe.interventions.patching.sources`); several are draws that are averaged.
        target: quantity to measure.
        answers: tokens whose probabilities are read too.
        draws: maximum number N of draws of each null; there may be fewer other sites.
        seed: random seed of the draws.
        tick: progress.

    Raises:
        DataError: no site was given.
        ConfigError: the model lacks a site.
    """
    if not sites or not sources:
        raise DataError("An intervention needs at least one site and one source: give both.")
    check(lm, sites, len(ids))
    require_text(target, ids)
    rng = np.random.default_rng(seed)
    kinds = sorted({site.kind for site in sites})
    logits, base = observe(lm, ids, [layer.hook for kind in kinds for layer in _layers(lm, kind)])
    others = _other_sites(lm, sites, base, sources[0], len(ids), draws, rng)
    rotations = [_random_edits(sites, base, sources[draw % len(sources)], rng) for draw in range(draws)]
    rows = [edits(sites, source) for source in sources]
    rows += [edits(group, sources[draw % len(sources)]) for draw, group in enumerate(others)]
    outputs = sweep(lm, ids, rows + rotations, target, answers, tick)
    values, logprobs = outputs.values.double().numpy(), outputs.logprobs.double().numpy()
    columns = list(answers) if lm.readout == "tokens" else []
    baseline = float(value(logits, target))
    before = logits[0, target.position].log_softmax(-1)[columns].double().cpu().numpy()
    first, second = len(sources), len(sources) + len(others)
    names = pieces(lm.tokenizer, ids)
    own = ", ".join(place(site, names) for site in sites)
    places = [", ".join(place(site, names) for site in group) for group in others]
    effects = values - baseline
    return InterventionEffect(
        sites=list(sites),
        target=target,
        tokens=names,
        answers=pieces(lm.tokenizer, list(answers)) if lm.readout == "tokens" else [],
        value_before=baseline,
        value_after=float(values[:first].mean()),
        before=before,
        after=np.log(np.exp(logprobs[:first]).mean(0)),
        nulls=[
            NullEffects(others_name(sites[0]), effects[first:second], logprobs[first:second], places),
            NullEffects(DIRECTIONS, effects[second:], logprobs[second:], [own] * len(rotations)),
        ],
    )


def alternatives(lm: LM, site: Site, length: int) -> list[Site]:
    """Return the alternatives to a site: other heads, other tokens, or other blocks."""
    if site.kind == "head":
        sites = [other for row in grid(lm, "head", length, site.position) for other in row]
    elif site.position is not None:
        sites = [Site(site.kind, site.layer, None, token) for token in range(length)]
    else:
        sites = _layers(lm, site.kind)
    return [other for other in sites if other != site]


def others_name(site: Site) -> str:
    """Return the name of a site's alternatives, such as `other heads`."""
    return OTHERS["head" if site.kind == "head" else "block" if site.position is None else "token"]


def random_change(change: Float[Tensor, "... d"], rng: np.random.Generator) -> Float[Tensor, "... d"]:
    """Return a random change with the same norm at every token, in directions uniform on the sphere."""
    noise = torch.from_numpy(rng.standard_normal(tuple(change.shape))).to(change)
    return noise / noise.norm(dim=-1, keepdim=True) * change.norm(dim=-1, keepdim=True)


def _layers(lm: LM, kind: str) -> list[Site]:
    """Return the sites of every layer at all tokens; for heads only the first head, which names the hook point."""
    return [Site(kind, layer, 0 if kind == "head" else None) for layer in layers_of(lm, kind)]  # type: ignore[arg-type]


def _random_edits(
    sites: Sequence[Site], base: Activations, source: Activations, rng: np.random.Generator
) -> list[Edit]:
    """Return edits of the sites in random directions, with the norm of the source's change."""
    rotations = []
    for site in sites:
        state = base[site.hook][site.index]
        rotations.append(Edit(site, state + random_change(source[site.hook][site.index] - state, rng)))
    return rotations


def _other_sites(
    lm: LM,
    sites: Sequence[Site],
    base: Activations,
    source: Activations,
    length: int,
    draws: int,
    rng: np.random.Generator,
) -> list[list[Site]]:
    """Return sets of as many other sites; sites where the source equals the base are left out."""
    pool = sorted(
        {other for site in sites for other in alternatives(lm, site, length)} - set(sites),
        key=lambda site: (site.layer, site.head or 0, site.position or 0),
    )
    pool = [site for site in pool if _differs(base[site.hook][site.index], source[site.hook][site.index])]
    if len(pool) < len(sites):
        return []
    if len(sites) == 1:
        picks = pool if len(pool) <= draws else [pool[at] for at in sorted(rng.permutation(len(pool))[:draws])]
        return [[site] for site in picks]
    return [[pool[at] for at in rng.permutation(len(pool))[: len(sites)]] for _ in range(draws)]


def _differs(a: Tensor, b: Tensor) -> bool:
    return not torch.allclose(a.float(), b.float().expand_as(a), rtol=1e-5, atol=1e-6)


def normalise(values: np.ndarray | float, corrupted: float, clean: float) -> np.ndarray:
    """Rescale the target so that the corrupted run is 0 and the clean run 1; NaN if the two are equal."""
    gap = clean - corrupted
    return (np.asarray(values) - corrupted) / (gap if abs(gap) > 1e-6 else np.nan)
