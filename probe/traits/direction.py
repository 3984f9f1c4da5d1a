"""Direction of a trait in the residual stream, and its test on prompts that it was not read from.

The direction is the difference of the mean states of answers that show the trait and of answers that lack it, on the
same prompts (response average of Chen et al. 2025, arXiv 2507.21509). Half of the prompts give the direction, a
quarter chooses the place, and the last quarter tests it. The null repeats this with the labels of each pair exchanged
at random, in the test too: with true labels there, a random direction would still lie along what all pairs share, and
separate them one way or the other.

Axes: N pairs, places = the embedding and L blocks, d width, R draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd

from probe import stats
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError, DataError
from probe.hallucination.confidence import auroc, aurocs
from probe.interventions.steered_answers import every_block
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.numbers import format_interval
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.rows import Selection
from probe.ticks import Tick, ignore
from probe.traits.contrast_pairs import Contrast, Trait, contrasts, pair_texts, read_contrasts, require_enough
from probe.traits.states import answer_ids, mean_states

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIRECTION = (
    r"v_l = \frac{\bar h_l^{+} - \bar h_l^{-}}{\lVert \bar h_l^{+} - \bar h_l^{-} \rVert}, \quad"
    r"\bar h_l^{\pm} = \frac{1}{N} \sum_i \frac{1}{|y_i^{\pm}|} \sum_{t \in y_i^{\pm}} h_l(x_i, y_{i, \le t}^{\pm})"
)
PAIRS, DRAWS = 128, 200
"""Default number of pairs, and number of draws of the null."""
HEIGHT = 330
"""Height of the figure in pixels."""
OWN = "own"
"""Name of a trait that is defined by pairs of one's own."""
Pairs = Annotated[
    "tuple[Sequence[str], Sequence[str]] | Sequence[Contrast] | Path | None",
    Input(
        "File of pairs",
        key="trait_pairs",
        folded="Pairs and block",
        placeholder="the built-in pairs of the trait",
        type=Path | None,
    ),
]
Which = Annotated[Trait, Input("Trait", key="trait")]
Count = Annotated[int, Input("Pairs", key="trait_n", within=(8, 2000), folded="Pairs and block")]
Layer = Annotated[
    int | None,
    Input("After block", key="trait_layer", within=every_block, placeholder="best", folded="Pairs and block"),
]
Seed = Annotated[int, Input("Seed", key="trait_seed", advanced=True)]


@dataclass(frozen=True)
class TraitDirection(Drawable):
    """Direction of a trait at every place of the residual stream, with its separation of held-out answers."""

    trait: str
    """Name of the trait."""
    vectors: np.ndarray
    """[places d] unit vectors, towards answers that show the trait; zeros where both means are equal."""
    lacks: np.ndarray
    """[places] mean projection of the answers without the trait."""
    gaps: np.ndarray
    """[places] difference of the two mean projections: one unit of the projections elsewhere."""
    layers: pd.DataFrame
    """One row per place: `layer` (-1 is the embedding), `auc` with `auc_low` and `auc_high` (95 %, over prompts of the
    test), `null_low`, `null_high` (95 % of the draws), `p` (share of draws with at least this AUC, the measured one
    counted), `separation` (difference of the means in standard deviations, on the prompts that choose the place),
    and `gap`.
    """
    layer: int
    """Chosen place: the block with the largest separation on the prompts that choose it, or the given one."""
    automatic: bool
    """Whether the place was chosen by the separation."""
    tested: int
    """Number of pairs of the test."""
    pairs: tuple[Contrast, ...]
    """Pairs that define the direction, choose the place and test it."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    notes = (
        "Block \u22121 is the embedding: what the words of the answers alone give away. A separation there says that"
        " the direction contains the words; only what goes beyond it is the model's own.",
    )

    @property
    def vector(self) -> np.ndarray:
        """[d] unit vector at the chosen place."""
        return np.asarray(self.vectors[self.layer + 1])

    def project(self, states: np.ndarray) -> np.ndarray:
        """Return the projections [N] of states [N places d] at the chosen place.

        0 is the mean of the answers that lack the trait, and 1 that of the answers that show it.
        """
        at = self.layer + 1
        return np.asarray((states[:, at].astype(float) @ self.vectors[at] - self.lacks[at]) / self.gaps[at])

    def row(self, layer: int) -> dict[str, Any]:
        """Return the row of a place."""
        return dict(self.layers.set_index("layer").loc[layer])

    @property
    def separates(self) -> bool:
        """Whether the AUC at the chosen place exceeds a half on held-out prompts, by its interval and by the null."""
        row = self.row(self.layer)
        return bool(row["auc_low"] > 0.5 and row["auc"] > row["null_high"])

    def auc(self, layer: int) -> str:
        """Return the AUC of a place with its interval, in words."""
        row = self.row(layer)
        return format_interval(row["auc"], row["auc_low"], row["auc_high"])

    def sentence(self) -> str:
        """State the separation at the chosen place, its null, and that of the words alone."""
        row, name = self.row(self.layer), self.looks[0].name
        chosen = ", the block that separates best on other prompts," if self.automatic else ""
        tells = "tells" if self.separates else "does not tell"
        return (
            f"After block {self.layer}{chosen} the direction of {self.trait} in {name} {tells} answers that show it"
            f" from answers that lack it: its AUC is {self.auc(self.layer)} on {self.tested} held-out pairs, and"
            f" exchanged labels give {row['null_low']:.2f} to {row['null_high']:.2f}. The embedding alone reaches"
            f" {self.auc(-1)}."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the separation by place, and the vectors in columns."""
        numbers = pd.DataFrame(self.vectors.T, columns=[f"layer_{at}" for at in self.layers["layer"]])
        return {"layers": self.layers, "vectors": numbers}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the pairs."""
        rows = [{"prompt": each.prompt, "shows the trait": each.shows, "lacks it": each.lacks} for each in self.pairs]
        return {"Pairs": pd.DataFrame(rows)}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the AUC on held-out prompts by place, with its null."""
        from probe.traits.figures import separation_by_layer

        title = f"How well the direction of {self.trait} separates held-out answers of {self.looks[0].name}"
        return {"layers": titled(separation_by_layer(self.layers, self.layer, self.looks[0].colour), title, HEIGHT)}


def pairs_of(lm: LM, trait: Trait, pairs: Any, n: int, seed: int) -> tuple[str, list[Contrast]]:
    """Return the name of a trait and its pairs: built in, of a file, of two lists of texts, or as given.

    Raises:
        ConfigError: the trait is unknown, or n is below 8.
        DataError: the pairs cannot be read, or there are too few.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; expected 8 or more pairs.")
    if pairs is None:
        name, found = str(trait), contrasts(lm, trait, n, seed)
    elif isinstance(pairs, Path):
        name, found = pairs.stem, list(read_contrasts(lm, pairs, Selection(n, seed)))
    elif isinstance(pairs, tuple) and len(pairs) == 2 and not isinstance(pairs[0], Contrast):
        name, found = OWN, pair_texts(pairs)
    else:
        name, found = OWN, list(pairs)
    require_enough(found)
    return name, found


def direction_seconds(
    lm: LM, trait: Trait = "invention", pairs: Any = None, n: int = PAIRS, seed: int = 0, **rest: Any
) -> float:
    """Estimate the seconds that reading all answers takes."""
    _, found = pairs_of(lm, trait, pairs, n, seed)
    return seconds_to_read(lm, sum(len(each.prompt) * 2 + len(each.shows + each.lacks) for each in found) / 4)


@analysis("traits", title="Direction", equations=(DIRECTION,), seconds=direction_seconds, key="trait")
def trait_direction(
    lm: LM,
    *,
    trait: Which = "invention",
    pairs: Pairs = None,
    n: Count = PAIRS,
    layer: Layer = None,
    seed: Seed = 0,
    tick: Tick = ignore,
) -> TraitDirection:
    """Find the direction of a trait in the residual stream, and test it on held-out prompts.

    Each pair has one prompt and two answers, of which one shows the trait. States are averaged over the tokens of an
    answer. The direction is the difference of the means over half of the prompts; a quarter chooses the block, by the
    difference of the means in standard deviations; the last quarter tests. The AUC is the probability that an answer
    with the trait projects higher than one without it, with a 95 % interval over prompts (a person of a world is never
    on both sides of the split). The null exchanges the labels of each pair at random, before the
    direction is read and in the test.

    Args:
        lm: the model.
        trait: built-in trait: invention about an unknown entity, agreement with a false claim, abstention from
            answering, or brevity.
        pairs: file of pairs that define a trait of your own: `shows` and `lacks` (or `chosen` and `rejected`), with
            `prompt`; in Python also two lists of texts.
        n: number of pairs.
        layer: block after which the direction is used; by default the one that separates best.
        seed: seed of the pairs, the split and the null.
        tick: progress.

    Raises:
        ConfigError: the trait is unknown, or the model lacks the block.
        DataError: the pairs cannot be read, are too few, or have equal means; the model writes no answers.
    """
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model writes no answers: use a language model.")
    depth = lm.bridge.cfg.n_layers
    if layer is not None and not -1 <= layer < depth:
        raise ConfigError(f"Block {layer} was requested in a model of {depth} blocks: give -1 to {depth - 1}.")
    name, found = pairs_of(lm, trait, pairs, n, seed)
    ids = [answer_ids(lm, each.prompt, answer) for each in found for answer in (each.shows, each.lacks)]
    states = mean_states(lm, ids, tick).astype(float)
    fit, choose, test = split_units([each.unit for each in found], seed)
    return _tested(name, found, states[0::2], states[1::2], (fit, choose, test), layer, seed)


def split_units(units: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs [n] of three parts, a half and two quarters of the units."""
    names = list(dict.fromkeys(units))
    order = np.random.default_rng(seed).permutation(len(names))
    cuts = len(names) // 2, len(names) // 2 + len(names) // 4
    part = np.empty(len(names), dtype=int)
    for number, chosen in enumerate(np.split(order, cuts)):
        part[chosen] = number
    of = part[[names.index(unit) for unit in units]]
    fit, choose, test = (np.flatnonzero(of == number) for number in range(3))
    return fit, choose, test


def _tested(
    name: str,
    pairs: Sequence[Contrast],
    shows: np.ndarray,
    lacks: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    layer: int | None,
    seed: int,
) -> TraitDirection:
    """Read the direction from the first part of the pairs, choose the place with the second and test with the third."""
    fit, choose, test = parts
    raw = (shows[fit] - lacks[fit]).mean(0)
    sizes = np.linalg.norm(raw, axis=-1)
    if not sizes.max() > 0:
        raise DataError("Answers with and without the trait have the same mean states: give answers that differ.")
    vectors = raw / np.where(sizes > 0, sizes, 1)[:, None]
    projected = [np.einsum("npd,pd->np", side, vectors) for side in (shows, lacks)]
    separation = _separation(*(side[choose] for side in projected))
    units = pd.Series([pairs[at].unit for at in test])
    rows = []
    signs = np.random.default_rng([seed, 1]).choice([-1, 1], (DRAWS, len(pairs)))
    for place in range(len(vectors)):
        interval = _auc(projected[0][test, place], projected[1][test, place], units, seed)
        directions = signs[:, fit] @ (shows[fit, place] - lacks[fit, place])
        null = _null(directions, signs[:, test], shows[test, place], lacks[test, place])
        low, high = np.quantile(null, stats.TAILS)
        far = null >= interval.value
        rows.append(
            {
                "layer": place - 1,
                **interval.row(name="auc"),
                "null_low": float(low),
                "null_high": float(high),
                "p": (1 + int(far.sum())) / (1 + DRAWS),
                "separation": float(separation[place]),
                "gap": float(sizes[place]),
            }
        )
    best = int(np.nanargmax(separation[1:])) if layer is None else layer
    if not sizes[best + 1] > 0:
        raise DataError(f"After block {best} both means are equal, so there is no direction: choose another block.")
    base = projected[1][fit].mean(0)
    return TraitDirection(
        trait=name,
        vectors=vectors,
        lacks=base,
        gaps=np.where(sizes > 0, sizes, np.nan),
        layers=pd.DataFrame(rows),
        layer=best,
        automatic=layer is None,
        tested=len(test),
        pairs=tuple(pairs),
    )


def _separation(shows: np.ndarray, lacks: np.ndarray) -> np.ndarray:
    """Return [places] differences of the mean projections in standard deviations; 0 without a spread."""
    spread = np.sqrt((shows.var(0) + lacks.var(0)) / 2)
    return np.asarray(np.divide(shows.mean(0) - lacks.mean(0), spread, out=np.zeros_like(spread), where=spread > 0))


def _auc(shows: np.ndarray, lacks: np.ndarray, units: pd.Series, seed: int) -> stats.Interval:
    """Return the AUC of N pairs with a bootstrap interval over their units."""
    score, label = np.concatenate([shows, lacks]), np.repeat([1, 0], len(shows))
    codes, names = pd.factorize(units)

    def of(drawn: np.ndarray) -> np.ndarray:
        counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn]).astype(float)
        return aurocs(score, label, np.tile(counts[:, codes], 2))

    return stats.bootstrap(auroc(score, label), of, len(names), seed, stats.SHARE)


def _null(vectors: np.ndarray, signs: np.ndarray, shows: np.ndarray, lacks: np.ndarray) -> np.ndarray:
    """Return the AUC [R] of N pairs along R vectors; where a sign [R N] is -1, a pair's labels are exchanged."""
    label = np.repeat([1, 0], len(shows))
    found = []
    for sign, ahead, behind in zip(signs, (shows @ vectors.T).T, (lacks @ vectors.T).T, strict=True):
        first, second = np.where(sign > 0, ahead, behind), np.where(sign > 0, behind, ahead)
        found.append(auroc(np.concatenate([first, second]), label))
    return np.array(found)
