"""One intervention, and what as large a change elsewhere does: an effect is shown with its null controls or not at all.

Two nulls are drawn with every effect. *Other sites*: as many sites of the same kind (other heads; the other tokens at
the same block; other blocks where the site is all tokens) receive what they have in the same source. *Random
directions*: the chosen sites move as far as they did, token by token, in directions drawn at random.

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
"""Draws of a null: as many let a p-value be as small as 1/16; with three it is never below 1/4, which shows nothing."""
DIRECTIONS = "random directions"
OTHERS = {"head": "other heads", "token": "other tokens", "block": "other blocks"}
"""Names of the nulls: the first of them, and what the other sites are."""


@dataclass(frozen=True)
class Null:
    """Effects of interventions that are as large and know nothing."""

    name: str
    """Which null."""
    effects: np.ndarray
    """[N] changes of the target in nats."""
    logprobs: np.ndarray
    """[N A] log-probability of each answer in nats."""
    sites: list[str]
    """[N] where each draw intervened."""

    def z(self, effect: float) -> float:
        """Distance of an effect from the null's mean in its standard deviations; NaN where the null has no spread."""
        spread = float(self.effects.std(ddof=1)) if len(self.effects) > 1 else 0.0
        return (effect - float(self.effects.mean())) / spread if spread > 0 else float("nan")

    def share_below(self, effect: float) -> float:
        """Share of the null's effects that are smaller in size than `effect`; NaN without draws."""
        return float((np.abs(self.effects) < abs(effect)).mean()) if len(self.effects) else float("nan")

    def p_value(self, effect: float) -> float:
        """(1 + draws at least as large in size) / (1 + N): the two-sided Monte Carlo p-value (Phipson, Smyth 2010)."""
        return float((1 + (np.abs(self.effects) >= abs(effect)).sum()) / (1 + len(self.effects)))


@dataclass(frozen=True)
class Outcome(Drawable):
    """The effect of one intervention on the target and the answers, with its nulls."""

    sites: list[Site]
    """The sites that were changed together."""
    target: Target
    """What is measured."""
    tokens: list[str]
    """[T] the text that was run."""
    answers: list[str]
    """[A] readable answers; empty for a scalar model."""
    value_before: float
    """The target without the intervention in nats."""
    value_after: float
    """With it; the mean over draws where the source has several."""
    before: np.ndarray
    """[A] log-probability of each answer without the intervention."""
    after: np.ndarray
    """[A] with it; the log of the mean probability where the source has several draws."""
    nulls: list[Null]
    """Other sites and random directions."""

    @property
    def effect(self) -> float:
        """Target with the intervention minus without, in nats."""
        return self.value_after - self.value_before

    def table(self) -> pd.DataFrame:
        """One row a run: run (before, after, or a null's name), sites, target, effect, and p of each answer."""
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
        """Draw the effect and those of its nulls."""
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
) -> Outcome:
    """Replace the activations at `sites` by those of a source, and draw both nulls.

    Args:
        lm: the model.
        ids: the text that is run.
        sites: one or more sites of one kind, changed together.
        sources: activations [T ...] of every hook point of that kind: of another text (patching), or a reference
            (`probe.interventions.patching.sources`); several are draws that are averaged.
        target: what is measured.
        answers: tokens whose probabilities are read too.
        draws: N of each null, at most: there may be fewer other sites.
        seed: of the draws.
        tick: progress.

    Raises:
        DataError: no site was given.
        ConfigError: a site that the model lacks.
    """
    if not sites or not sources:
        raise DataError("An intervention needs at least one site and one source: give them.")
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
    return Outcome(
        sites=list(sites),
        target=target,
        tokens=names,
        answers=pieces(lm.tokenizer, list(answers)) if lm.readout == "tokens" else [],
        value_before=baseline,
        value_after=float(values[:first].mean()),
        before=before,
        after=np.log(np.exp(logprobs[:first]).mean(0)),
        nulls=[
            Null(others_name(sites[0]), effects[first:second], logprobs[first:second], places),
            Null(DIRECTIONS, effects[second:], logprobs[second:], [own] * len(rotations)),
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
    """Return a random change of the same norm at every token, its direction drawn uniformly from the sphere."""
    noise = torch.from_numpy(rng.standard_normal(tuple(change.shape))).to(change)
    return noise / noise.norm(dim=-1, keepdim=True) * change.norm(dim=-1, keepdim=True)


def _layers(lm: LM, kind: str) -> list[Site]:
    """Sites of every layer at all tokens; for heads their first one, which names the hook point."""
    return [Site(kind, layer, 0 if kind == "head" else None) for layer in layers_of(lm, kind)]  # type: ignore[arg-type]


def _random_edits(
    sites: Sequence[Site], base: Activations, source: Activations, rng: np.random.Generator
) -> list[Edit]:
    """Edits of the sites with the norm of the source's change, in random directions."""
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
    """Return sets of as many other sites; sites where the source is equal to the base are left out."""
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
    """Rescale the target so that the corrupted run is 0 and the clean run 1; NaN where the two agree."""
    gap = clean - corrupted
    return (np.asarray(values) - corrupted) / (gap if abs(gap) > 1e-6 else np.nan)
