"""Activation difference at the first tokens of texts, read through the lens, and steering by it (Minder et al. 2025).

A model trained on narrow data changes on unrelated texts too, from the first tokens on ("Narrow finetuning leaves
clearly readable traces in activation differences"). Both models read unrelated texts. For each of the first k positions
j and each block l

    delta_lj = mean over texts of h_aligned - h_base    in the residual stream after block l

goes through the base's final norm and unembedding as if it were a residual (the norm removes its length). A token's
score is its logit minus the mean over the vocabulary, in nats; tokens with the largest scores are promoted, those with
the smallest suppressed. Position 0 is reported separately: many models have an attention sink there, with unusually
large residuals.

Nulls. *Random signs*: the sign of each text's difference is randomised (up to 64 groups of texts), so that the part
shared by texts averages out and only their variation is left. Its lens also has a largest score; at the scale of
delta's norm, it is below `null` in 95 % of the draws. *Halves*: texts are split in two, and both halves must rank a
token equally high.

Steering adds alpha times delta, scaled to the mean norm of a residual, at every token, while a behaviour is measured
and texts are continued. Random directions of the same norm are the control (`probe.interventions.steering`).

Axes: N texts, G groups of them, L layers (0 is the embedding, l + 1 block l), k positions, d width, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import probe.world
from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.compare.behaviour import Behaviour, behaviour_of, pairs_input, seconds_once
from probe.compare.corpus_shift import CHUNK, GROUPS, SPLITS, Text, read_texts, sign_limit
from probe.compare.side_by_side import require_writers
from probe.compare.weights import model_names
from probe.compare.worlds import shared_world
from probe.errors import ConfigError, DataError
from probe.interventions.controls import DIRECTIONS, DRAWS, NullEffects
from probe.interventions.sites import Site
from probe.interventions.steering import Direction, random_directions
from probe.logits.lens import require_same_tokens
from probe.logits.readout import residual_names, unembed
from probe.model.heads import check_count
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.text import encode, pieces
from probe.numbers import in_percent, in_unit
from probe.plotting.notebook import Drawable, titled
from probe.questions.sets import right_answers
from probe.rows import Selection
from probe.stats import Interval
from probe.terms import DIFFERENCE, RATES
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

BATCH = 64
"""Number of texts read at once; of each only the first k tokens."""
K, TEXTS = 5, 128
"""Default numbers of first tokens and of texts."""
TIMED, LENSES = 32, 302
"""Number of vectors whose lens is timed, and number read per position for the nulls."""
HOOKED = 3.0
"""Time for the pairs with an added direction, divided by that without: prompts are then run again for each answer."""
DOSES, NEW_TOKENS = (-0.5, -0.25, 0.25, 0.5), 24
"""Alphas of steering, and number of tokens of a continuation."""
IN_A_WORLD, REAL = (24, DOSES), (8, DOSES[1:3])
"""Default numbers of pairs of answers and alphas of steering, for small models of a world and for other models."""
DIFFERENCE_LENS = (
    r"\delta_{lj} = \frac{1}{N}\sum_n h^{\mathrm{aligned}}_{lj}(x_n) - h^{\mathrm{base}}_{lj}(x_n), \quad"
    r"\mathrm{score}(v) = z_v - \frac{1}{V}\sum_u z_u, \quad z = W_{\mathrm{out}}\,\mathrm{norm}(\delta_{lj})"
)
STEERED = r"h_t^l \mathrel{+}= \alpha \, \bar{n}_l \, \delta_{lj} / \lVert \delta_{lj} \rVert"
SIGNS = {"promoted": 1.0, "suppressed": -1.0}
TOKENS = ("layer", "position", "direction", "rank", "token", "id", "score", "same_rank", "null", "beyond_null")
"""Columns of `FirstTokens.tokens`."""


@dataclass(frozen=True)
class FirstTokens(Drawable):
    """Activation difference of two models at the first tokens of texts."""

    names: tuple[str, str]
    """Names of base and aligned model."""
    texts: int
    """Number of texts N."""
    read: tuple[int, ...]
    """Blocks whose tokens were read, in ascending order; -1 is the embedding."""
    vectors: np.ndarray
    """[L k d] mean differences, single precision."""
    residual_norms: np.ndarray
    """[L k] mean norm of the base's residual."""
    layers: pd.DataFrame
    """Table with one row per layer and position: `layer` (-1 is the embedding), `position`, `texts` (long enough),
    `norm` of the mean difference, `relative` to the mean norm of the base's residual there, `null` (95 % of random
    signs, in the unit of `relative`), `p` of the norm against them, `common` (share of the mean squared difference that
    all texts share: norm squared divided by the mean of the squared norms).
    """
    tokens: pd.DataFrame
    """Table with one row for each top token of a direction: `layer`, `position`, `direction` (promoted, suppressed),
    `rank`, `token`, `id`, `score` (nats), `same_rank` (share of splits in which both halves rank it equally high),
    `null` (largest score of any token under random signs, 95 %), and `beyond_null`.
    """

    @property
    def middle(self) -> int:
        """Last block of the first half, or the first of those whose tokens were read."""
        wanted = middle_block(len(self.vectors) - 1)
        return wanted if wanted in self.read else self.read[0]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return a table with one row per token (`tokens`), and one with one row per layer and position (`layers`)."""
        return {"first-tokens": self.tokens, "first-layers": self.layers}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return nothing: the figures show everything."""
        return {}

    def figures(self) -> "dict[str, go.Figure]":
        """Return the map of norms, and the tokens that the lens reads after the requested block."""
        title = f"Mean difference {self.names[1]} \u2212 {self.names[0]} at the first tokens of {self.texts} texts"
        return {"first-tokens": titled(self.figure(), title)}

    def figure(self, layer: int | None = None) -> "go.Figure":
        """Draw the norm of the difference by layer and position, and the tokens that it promotes after a block.

        Args:
            layer: one of the blocks whose tokens were read; by default `middle`.
        """
        from probe.compare.figures import first_token_maps

        layer = self.middle if layer is None else layer
        rows = self.tokens[self.tokens["layer"] == layer]
        if layer not in self.read:
            known = ", ".join(map(str, self.read))
            raise ConfigError(f"The tokens after block {layer} were not read: give one of {known}.")
        return first_token_maps(self.layers, rows, layer)

    def largest(self, layer: int) -> int:
        """Return the position after the first with the largest relative difference after a block.

        Positions beyond random signs have priority: a single text with an attention sink in only one of the models can
        have a larger difference than all others together.
        """
        own = self.layers[self.layers["layer"] == layer]
        later = own[own["position"] > 0] if len(own) > 1 else own
        beyond = later[later["relative"] > later["null"]]
        later = beyond if len(beyond) else later
        return int(later["position"].iloc[int(later["relative"].argmax())]) if len(later) else 0

    def direction(self, layer: int | None = None, position: int | None = None) -> Direction:
        """Return the difference as a direction for steering, in units of the mean residual after position 0.

        Args:
            layer: index of the block; by default `middle`.
            position: position of the difference; by default that of `largest`.

        Raises:
            ConfigError: the layer or position was not read.
        """
        layer = self.middle if layer is None else layer
        depth, k, _ = self.vectors.shape
        position = self.largest(layer) if position is None else position
        if not (-1 <= layer < depth - 1 and 0 <= position < k):
            raise ConfigError(
                f"Block {layer} and position {position} were requested: give -1 to {depth - 2}, and 0 to {k - 1}."
            )
        norm = float(self.residual_norms[layer + 1, min(1, k - 1) :].mean())
        return Direction(layer, self.vectors[layer + 1, position].astype(float), norm, "all", (self.texts, self.texts))

    def sentence(self) -> str:
        """State the finding in words."""
        base, aligned = self.names
        layer = self.middle
        sizes = self.layers[self.layers["layer"] == layer]
        top = sizes[sizes["position"] == self.largest(layer)].iloc[0]
        first = sizes[sizes["position"] == 0].iloc[0]
        parts = [
            f"After block {layer} the mean difference {aligned} \u2212 {base} over {self.texts} texts is"
            f" {in_percent(top['relative'])} of the residual at token {top['position']:.0f} (random signs"
            f" {in_percent(top['null'])}), {in_percent(first['relative'])} at token 0"
        ]
        own = self.tokens[(self.tokens["layer"] == layer) & (self.tokens["position"] == top["position"])]
        clear = own[own["beyond_null"] & (own["same_rank"] >= 0.5)]
        for direction, verb in (("promoted", "promotes"), ("suppressed", "suppresses")):
            rows = clear[clear["direction"] == direction].head(3)
            words = ", ".join(
                f"\u201c{token}\u201d ({in_unit('nats', score, None, None, sign=True)} nats)"
                for token, score in zip(rows["token"], rows["score"], strict=True)
            )
            if words:
                parts.append(f"its logit lens there {verb} {words}")
        if clear.empty:
            parts.append("its logit lens there has no token beyond random signs")
        return "; ".join(parts) + "."


@dataclass(frozen=True)
class Steering(Drawable):
    """Behaviour while a direction is added at every token, compared with random directions of the same norm."""

    title: str
    """Title of the behaviour."""
    unit: str
    """Unit of its values."""
    layer: int
    """Block after which the direction is added."""
    before: Interval
    """Behaviour without the direction."""
    doses: pd.DataFrame
    """Table with one row per alpha: `alpha`, `value`, `effect` with its bounds (over the same items), `random_low`,
    `random_mean`, `random_high`, `random` (number of random directions), `p` (two-sided, limited by their number).
    """
    texts: pd.DataFrame
    """Table with one row per alpha and prompt: `alpha`, `prompt`, `text` (greedy)."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return a table with one row per alpha (`doses`), and one with one row per alpha and prompt (`texts`)."""
        return {"steering": self.doses, "steering-texts": self.texts}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the continuations; nothing if no prompt was given."""
        shown = self.texts[["alpha", "text"]].rename(columns={"text": "the base continues the prompt"})
        return {"Continuations": shown} if len(shown) else {}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the change of the behaviour against alpha, and the changes along random directions."""
        from probe.compare.figures import steering_curve

        return {"first-steering": titled(steering_curve(self.doses, self.unit), self.title)}

    def sentence(self) -> str:
        """State the finding in words."""
        unit = DIFFERENCE if self.unit in RATES else self.unit
        suffix = " nats" if self.unit == "nats" else ""
        row = self.doses.iloc[int(self.doses["effect"].abs().argmax())]
        effect = in_unit(unit, row["effect"], row["effect_low"], row["effect_high"], sign=True) + suffix
        text = f"{self.title}: alpha {row['alpha']:g} after block {self.layer} changes it most ({effect}"
        if row["random"]:
            ends = [in_unit(unit, row[f"random_{end}"], None, None, sign=True) for end in ("low", "high")]
            text += (
                f"; {row['random']:.0f} random directions of the same norm {ends[0]} to {ends[1]}{suffix}, p ="
                f" {row['p']:.2g}"
            )
        return text + ")."


def middle_block(depth: int) -> int:
    """Return the last block of the first half."""
    return max((depth - 1) // 2, 0)


def plain_texts(lm: LM, n: int = 128) -> list[str]:
    """Return plain texts: documents of a model's world that ask nothing; without a world, the problems of `gsm8k`."""
    world = probe.world.of(lm)
    if world is None:
        return [problem for problem, _ in right_answers("gsm8k")][:n]
    plain = (text for document in world.documents(0) if "<user>" not in (text := document.text))
    return [text for text, _ in zip(plain, range(n), strict=False)]


Block = Annotated[
    int | Sequence[int] | None,
    Input(
        "Block",
        key="first_block",
        choices=lambda base, aligned: list(range(-1, base.bridge.cfg.n_layers)),
        first=lambda base, aligned: middle_block(base.bridge.cfg.n_layers),
        labels=lambda block: "embedding" if block < 0 else f"block {block}",
        type=int | None,
    ),
]
"""Block whose tokens are read (-1 is the embedding), in Python several; the middle one by default."""
Texts = Annotated[
    Sequence[str | Text] | str | Path | None,
    Input(
        "File of unrelated texts",
        key="first_file",
        placeholder="documents of their world, or problems of GSM8K",
        type=Path | None,
    ),
]
"""Texts, or a file of them; by default plain texts of the models' world, or problems of GSM8K."""


def first_tokens_seconds(base: LM, aligned: LM, texts: Any, k: int, layers: Any, top: int, seed: int, n: int) -> float:
    """Estimate the seconds that the comparison takes, from a timing of a few tokens and lenses."""
    require_writers(base, aligned)
    reading = n * k * sum(seconds_a_token(lm) for lm in (base, aligned))
    vectors = torch.randn(TIMED, base.bridge.cfg.d_model, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    lens_scores(base, vectors)
    return 1.0 + 2 * reading + 2 * k * LENSES * (time.perf_counter() - start) / TIMED


def texts_of(base: LM, aligned: LM, texts: Sequence[str | Text] | str | Path | None, n: int) -> Sequence[str | Text]:
    """Return the given texts, those of a file, or plain ones that both models can read."""
    if texts is None:
        shared_world(base, aligned, "texts")
        return plain_texts(base, n)
    return read_texts(texts, selection=Selection(n)) if isinstance(texts, str | Path) else texts


@analysis(
    "compare",
    title="First tokens",
    equations=(DIFFERENCE_LENS,),
    seconds=first_tokens_seconds,
    key="first",
)
@torch.no_grad()
def compare_first_tokens(
    base: LM,
    aligned: LM,
    texts: Texts = None,
    k: Annotated[int, Input(advanced=True)] = K,
    layers: Block = None,
    top: Annotated[int, Input(advanced=True)] = 5,
    seed: Annotated[int, Input(advanced=True)] = 0,
    tick: Tick = ignore,
    n: Annotated[int, Input("Texts")] = TEXTS,
) -> FirstTokens:
    """Read the mean activation difference of two models at the first tokens of unrelated texts, through the lens.

    Both models read texts unrelated to the training; only the first tokens of each count (Minder et al. 2025). The mean
    difference of their residual streams goes through the base's final norm and unembedding as if it were a residual. A
    star marks scores larger than those of any token in 95 % of 100 draws with a random sign for each text's difference:
    marked tokens are shared by the texts; whether they reveal the topic of the training is for the reader to judge. In
    many models, residuals at position 0 are unusually large.

    Args:
        base: the model compared against; its final norm and unembedding are the lens.
        aligned: the other model, with the same number of blocks, width and tokens.
        texts: texts unrelated to the training of `aligned`, or a file of them, whose prompts are read unchanged; by
            default documents of the models' world, or problems of GSM8K.
        k: number of tokens read of each text.
        layers: block whose tokens are read (-1 is the embedding), in Python several; by default the middle one. Norms
            are reported for all.
        top: number of tokens for each direction.
        seed: seed of signs and halves.
        tick: function called with the share of the work done.
        n: number of texts read from a file or a world.

    Raises:
        DataError: there are no texts, a model has a scalar output, or tokenizers, depth or width differ.
        ConfigError: `k` or `top` below 1, or a block that the models lack.
    """
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    check_count(k)
    check_count(top)
    sizes = [(lm.bridge.cfg.n_layers, lm.bridge.cfg.d_model) for lm in (base, aligned)]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"The models have {sizes[0][0]} and {sizes[1][0]} blocks of width {sizes[0][1]} and {sizes[1][1]}, so "
            "their residuals cannot be subtracted: choose two models of the same size."
        )
    depth = sizes[0][0]
    layers = [layers] if isinstance(layers, int) else layers
    chosen = [middle_block(depth)] if layers is None else list(dict.fromkeys(layers))
    wrong = [layer for layer in chosen if not -1 <= layer < depth]
    if wrong or not chosen:
        given = f"Block {wrong[0]} was" if wrong else "No block was"
        raise ConfigError(f"{given} requested in a model of {depth} blocks: give some of -1 to {depth - 1}.")
    ids = [_first_ids(aligned, text, k) for text in texts_of(base, aligned, texts, n)]
    if not ids:
        raise DataError("No text was given, so there is nothing to read: give at least one.")
    groups = np.random.default_rng(seed).permutation(len(ids)) % min(GROUPS, len(ids))
    sums = torch.zeros(int(groups.max()) + 1, depth + 1, k, sizes[0][1])
    counts, norms, squares = torch.zeros(len(sums), k), torch.zeros(depth + 1, k), torch.zeros(depth + 1, k)
    done = 0
    for rows in _by_length(ids):
        batch = [ids[row] for row in rows]
        states = [_residuals(lm, batch) for lm in (base, aligned)]  # [B L t d]
        change, length = states[1] - states[0], len(batch[0])
        at = torch.as_tensor(groups[rows])
        sums[:, :, :length].index_add_(0, at, change)
        counts[:, :length].index_add_(0, at, torch.ones(len(rows), length))
        norms[:, :length] += states[0].norm(dim=-1).sum(0)
        squares[:, :length] += change.square().sum(-1).sum(0)
        tick(0.5 * (done := done + len(rows)) / len(ids))
    total = counts.sum(0)
    k = int((total > 0).sum())
    sums, counts, total = sums[:, :, :k], counts[:, :k], total[:k]
    vectors, norms, squares = sums.sum(0) / total[:, None], norms[:, :k] / total, squares[:, :k] / total
    signs, halves = _draws(len(sums), seed)
    table, rows_of = [], list[dict[str, Any]]()
    for layer in range(-1, depth):
        for j in range(k):
            own = sums[:, layer + 1, j]  # [G d]
            flipped = (signs @ own) / total[j]
            size, null = float(vectors[layer + 1, j].norm()), flipped.norm(dim=-1).numpy()
            scale = float(norms[layer + 1, j])
            mean_square = float(squares[layer + 1, j])
            table.append(
                {"layer": layer, "position": j, "texts": int(total[j]), "norm": size}
                | {"relative": size / scale, "null": sign_limit(null, size) / scale}
                | {"p": float((1 + (null >= size).sum()) / (1 + len(null)))}
                | {"common": size**2 / mean_square if mean_square else float("nan")}
            )
            if layer in chosen:
                halved = [(mask @ own) / (mask @ counts[:, j]).clamp(min=1)[:, None] for mask in (halves, 1 - halves)]
                about = {"layer": layer, "position": j}
                rows_of += [about | row for row in _read(base, vectors[layer + 1, j], flipped, halved, top)]
        tick(0.5 + 0.5 * (layer + 2) / (depth + 1))
    tokens = pd.DataFrame(rows_of, columns=[*TOKENS[:4], *TOKENS[5:]])
    tokens.insert(4, "token", pieces(aligned.tokenizer, tokens["id"].tolist()))
    return FirstTokens(
        model_names(base, aligned),
        len(ids),
        tuple(sorted(chosen)),
        vectors.numpy(),
        norms.numpy(),
        pd.DataFrame(table),
        tokens,
    )


def _first_ids(lm: LM, text: str | Text, k: int) -> list[int]:
    """Return the ids of the first k tokens of a text.

    Raises:
        DataError: the text has no tokens, or words that the tokenizer does not know.
    """
    if isinstance(text, Text):
        text = lm.prompt_text(text.content) + (text.completion or "")
    ids = encode(lm.tokenizer, text)[:k]
    if not ids:
        raise DataError("A text has no tokens: give at least one word.")
    return ids


def _by_length(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Group the indices of texts by length, at most `BATCH` in a group."""
    for length in sorted({len(each) for each in ids}):
        rows = [row for row, each in enumerate(ids) if len(each) == length]
        for start in range(0, len(rows), BATCH):
            yield rows[start : start + BATCH]


def _residuals(lm: LM, ids: list[list[int]]) -> Float[Tensor, "B L t d"]:
    names = residual_names(lm)
    _, cache = lm.run_with_cache(ids, names)
    return torch.stack([cache[name] for name in names], dim=1).float().cpu()


def _draws(groups: int, seed: int) -> tuple[Float[Tensor, "S G"], Float[Tensor, "S G"]]:
    """Draw random signs, and random halves as ones and zeros."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (SPLITS, groups))
    halves = np.argsort(rng.random((SPLITS, groups)), axis=1) < groups // 2
    return torch.tensor(signs, dtype=torch.float32), torch.tensor(halves, dtype=torch.float32)


def lens_scores(lm: LM, vectors: Float[Tensor, "... d"]) -> Float[Tensor, "... V"]:
    """Compute logits of vectors as residuals, minus those of the zero vector and the mean over the vocabulary, in nats.

    The logits of the zero vector contain the biases of the norm and the unembedding.
    """
    logits, nothing = (unembed(lm, each.to(lm.device, lm.dtype)).float() for each in (vectors, 0 * vectors))
    scores = logits - nothing
    return (scores - scores.mean(-1, keepdim=True)).cpu()


def _read(
    lm: LM,
    vector: Float[Tensor, " d"],
    flipped: Float[Tensor, "S d"],
    halved: Sequence[Float[Tensor, "S d"]],
    top: int,
) -> Iterator[dict[str, Any]]:
    """Yield the tokens that a vector promotes and suppresses most, with their nulls."""
    scores = lens_scores(lm, vector)
    size, count = float(vector.norm()), min(top, len(scores))
    if not size:
        return
    ends = {"promoted": scores.topk(count).indices, "suppressed": (-scores).topk(count).indices}
    largest, both = [], dict.fromkeys(ends, torch.zeros(count))
    for turned, *pair in zip(*(each.split(max(1, CHUNK // len(scores))) for each in (flipped, *halved)), strict=True):
        largest.append(lens_scores(lm, turned).abs().amax(-1) * turned.norm(dim=-1) / size)
        sides = [lens_scores(lm, half) for half in pair]
        for name, sign in SIGNS.items():
            listed = [(ends[name][:, None] == (sign * side).topk(count).indices[:, None]).any(-1) for side in sides]
            both[name] = both[name] + (listed[0] & listed[1]).sum(0)
    null = sign_limit(torch.cat(largest).numpy(), float(scores.abs().max()))
    for name, ids in ends.items():
        for rank, (token, shared) in enumerate(zip(ids.tolist(), both[name].tolist(), strict=True), start=1):
            score = float(scores[token])
            if SIGNS[name] * score > 0:
                yield (
                    {"direction": name, "rank": rank, "id": token, "score": score}
                    | {"same_rank": shared / len(flipped), "null": null, "beyond_null": abs(score) > null}
                )


@torch.no_grad()
def steer(
    lm: LM,
    direction: Direction,
    behaviour: Behaviour,
    alphas: Sequence[float] = DOSES,
    random: int = DRAWS,
    prompts: Sequence[str] = (),
    seed: int = 0,
    tick: Tick = ignore,
) -> Steering:
    """Measure a behaviour, and continue prompts, while a direction is added at every token.

    Args:
        lm: model to steer, the base or the aligned one.
        direction: direction to add (see `FirstTokens.direction`); alpha = 1 adds a vector with the mean norm of a
            residual.
        behaviour: behaviour to measure (`probe.compare.behaviour`).
        alphas: multiples of the direction to add.
        random: number of random directions of the same norm, for each alpha.
        prompts: texts that are continued greedily at each alpha and at 0.
        seed: seed of the directions and of the intervals.
        tick: function called with the share of the work done.

    Raises:
        DataError: the direction is zero or has another width.
        ConfigError: there is no alpha, or one is 0.
    """
    if not alphas or 0 in alphas:
        raise ConfigError("Steering needs doses other than 0, because all are compared with 0: give at least one.")
    step, width = direction.step(), lm.bridge.cfg.d_model
    if step.size != width:
        raise DataError(
            f"The direction has {step.size} numbers and the residual stream {width}: read the direction from this"
            " model."
        )
    noise = random_directions(step, random, seed)
    name = Site("resid", direction.layer).hook

    def add(vector: np.ndarray) -> Any:
        change = torch.as_tensor(vector)
        return lm.hooks([(name, lambda states, hook: states + change.to(states))])

    def measure(vector: np.ndarray) -> pd.DataFrame:
        with add(vector):
            return behaviour.measure(lm)

    first = measure(0 * step)
    rows, texts, done = [], [], 0
    for alpha in alphas:
        items = measure(alpha * step)
        effect = behaviour.change(items, first, seed)
        drawn = []
        for vector in noise:
            drawn.append(behaviour.change(measure(alpha * vector), first, seed).value)
            tick((done := done + 1) / (len(alphas) * random))
        null = NullEffects(DIRECTIONS, np.array(drawn), np.empty((random, 0)), [])
        ends = (min(drawn), float(np.mean(drawn)), max(drawn)) if drawn else (np.nan,) * 3
        rows.append(
            {"alpha": float(alpha), "value": behaviour.value(items, seed).value, **effect.row(name="effect")}
            | dict(zip(("random_low", "random_mean", "random_high"), ends, strict=True))
            | {"random": random, "p": null.p_value(effect.value) if drawn else float("nan")}
        )
    for alpha in sorted({0.0, *alphas}) if prompts else ():
        with add(alpha * step):
            written = lm.generate(list(prompts), max_new_tokens=NEW_TOKENS, temperature=0.0, seed=seed).text
        texts += [
            {"alpha": alpha, "prompt": prompt, "text": text} for prompt, text in zip(prompts, written, strict=True)
        ]
    tick(1.0)
    return Steering(
        behaviour.title,
        behaviour.unit,
        direction.layer,
        behaviour.value(first, seed),
        pd.DataFrame(rows).sort_values("alpha", ignore_index=True),
        pd.DataFrame(texts, columns=["alpha", "prompt", "text"]),
    )


def usual_pairs(base: LM, aligned: LM) -> int:
    """Return the default number of pairs of answers that measure the effect of steering."""
    return (REAL if probe.world.of(base) is None else IN_A_WORLD)[0]


def steering_seconds(base: LM, aligned: LM, prompt: str, behaviour: Any, count: int, **rest: Any) -> float:
    """Estimate the seconds that steering takes, from a timing of the pairs."""
    doses = (REAL if probe.world.of(base) is None else IN_A_WORLD)[1]
    return HOOKED * seconds_once(base, behaviour, count) * len(doses) * (1 + DRAWS)


@analysis(
    "compare",
    title="Steering the base by it",
    equations=(STEERED,),
    seconds=steering_seconds,
    key="first",
)
def steer_by_first_tokens(
    base: LM,
    aligned: LM,
    prompt: Prompt = "",
    *,
    behaviour: Annotated[
        Behaviour | str | Path | None,
        pairs_input("first_pairs"),
    ] = None,
    position: Annotated[
        int | None, Input("Difference at token", nothing="where it is largest", choices=lambda *lms: range(K))
    ] = None,
    texts: Texts = None,
    layers: Block = None,
    n: Annotated[int, Input("Texts")] = TEXTS,
    count: Annotated[int | None, Input("Pairs", first=usual_pairs, advanced=True)] = None,
    tick: Tick = ignore,
) -> Steering:
    """Measure which answers the base prefers while the activation difference is added at every token.

    Alpha times the difference, scaled to the mean norm of a residual, is added at every token of the base. Random
    directions of the same norm are the control, and the prompt is continued at each alpha.

    Args:
        base: model to steer.
        aligned: the other model.
        prompt: text for the base to continue; nothing if empty.
        behaviour: file of pairs (`prompt`, `chosen`, `rejected`) for which the preference for `chosen` is measured; by
            default that for a user's false claim over the truth. In Python also a `Behaviour`.
        position: position of the difference; by default where it is largest.
        texts: as in `compare_first_tokens`.
        layers: block after which it is read and added; by default the middle one.
        n: number of texts read from a file or a world.
        count: number of pairs of answers; by default 24 in a world, 8 without one.
        tick: function called with the share of the work done.

    Raises:
        ProbeError: see `compare_first_tokens` and `steer`.
    """
    if behaviour is None:
        shared_world(base, aligned, "pairs of answers")
    layer = layers if isinstance(layers, int) or layers is None else layers[0]
    found = compare_first_tokens(base, aligned, texts, layers=layer, n=n)
    doses = (REAL if probe.world.of(base) is None else IN_A_WORLD)[1]
    pairs = behaviour_of(base, behaviour, usual_pairs(base, aligned) if count is None else count)
    prompts = [base.prompt_text(prompt)] if prompt.strip() else []
    return steer(base, found.direction(layer, position), pairs, doses, DRAWS, prompts, tick=tick)
