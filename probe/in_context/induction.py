"""Induction heads: their scores, their formation in training, and the in-context loss without them.

A head's induction score on a text is the attention weight from a repeated token to the tokens that followed its earlier
occurrences, averaged over repeated tokens (prefix matching; Olsson et al. 2022). Where few different tokens repeat, as
in a Markov chain, a head with uniform attention already scores high: `chance` is its score, and `scaled` = (score -
chance) / (1 - chance) is 0 for uniform attention and 1 for a head that attends only to those tokens.

Captures hold the attention of every head at every captured step, on fixed prompts, so scores are known over training.
The phase change is when induction heads form and the in-context loss drops.

Axes: N texts, D blocks, H heads, T tokens, S captured steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe import stats
from probe.attention.scores import followers, repeat_scores
from probe.errors import ConfigError, DataError
from probe.in_context.chains import (
    PREDICTORS,
    Repeats,
    captured_distances,
    chains,
    in_context_score,
    segment_length,
    token_losses,
)
from probe.in_context.pairs import pair_documents
from probe.interventions.patching import Means, means
from probe.model.heads import head_names
from probe.model.text import encode
from probe.runs import captured
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.runs.reader import Run
    from probe.world import World

QUERIES = 3
"""Minimum number of repeated tokens in a prompt for an induction score."""
LEAST = 10
"""Minimum number of captured steps for a phase change."""
WINDOW = 3
"""Number of captures over which an increment is taken; increments between single captures are too noisy."""


class PhaseChange(NamedTuple):
    """Phase change: when induction rises fastest, when the in-context loss falls fastest, and their correlation."""

    induction_step: float
    """Middle of the window in which the induction score rises fastest."""
    loss_step: float
    """Middle of the window in which the loss falls fastest."""
    width: float
    """Length in steps of the wider of the two windows: the precision of the two steps."""
    rise: float
    """Rise of the induction score from the first capture to the last one."""
    drop: float
    """Fall of the loss from the first capture to the last one."""
    correlation: float
    """Pearson correlation over windows of the rise of induction and the fall of the loss."""
    low: float
    """Lower end of its 95 % interval by Fisher's z, with the effective number of windows (they overlap)."""
    high: float
    """Upper end of its 95 % interval."""
    n: int
    """Number of windows; they overlap."""


def induction_score(
    pattern: Float[np.ndarray, "... R T"], ids: Int[np.ndarray, " T"], start: int = 0
) -> tuple[Float[np.ndarray, "..."], float, int]:
    """Return (score, chance, tokens counted) of attention patterns on one text; NaN if no token repeats.

    Args:
        pattern: attention weights; rows are the last R queries.
        ids: token ids of the text.
        start: first token that counts as a query and as a key; the opening of a text does not belong to the repeats.
    """
    first = len(ids) - pattern.shape[-2]
    target = followers(ids)[first:]
    target[:, : start + 1] = False
    queries = np.arange(first, len(ids)) >= start
    queries &= target.any(-1)
    count = int(queries.sum())
    if not count:
        return np.full(pattern.shape[:-2], np.nan), float("nan"), 0
    rows, matches = pattern[..., queries, :], target[queries]
    even = matches.sum(-1) / (first + np.flatnonzero(queries) + 1)
    return (rows * matches).sum(-1).mean(-1), float(even.mean()), count


def induction_over_training(run: "Run") -> pd.DataFrame:
    """Score the induction of every head at every captured step of a run, on each captured prompt with repeated tokens.

    Args:
        run: a run with captures.

    Returns:
        One row per step, prompt and head: step, prompt, kind, name, layer, head, score, chance, scaled, previous_token
        (attention weight on the preceding token, mean over tokens), queries. The table is empty if no prompt has
        `QUERIES` repeated tokens.

    Raises:
        RunError: a capture is damaged.
    """
    captures = run.captures()
    prompts = captures.prompts
    frames = []
    for step in captures.steps:
        tensors = captures.load(step)
        for index, prompt in enumerate(prompts if captured.has_attention(tensors) else ()):
            pattern = captured.attention(tensors, index, prompt).astype(np.float64)
            start = _opening(prompt.text, prompt.length)
            score, chance, queries = induction_score(pattern, np.asarray(prompt.token_ids), start)
            if queries < QUERIES:
                continue
            layer, head = (axis.ravel() for axis in np.indices(score.shape))
            previous = np.diagonal(pattern, prompt.length - pattern.shape[2] - 1, -2, -1).mean(-1)
            row = {"step": step, "prompt": index, "kind": prompt.kind or "text", "name": head_names(*score.shape)}
            row |= {"layer": layer, "head": head, "score": score.ravel(), "chance": chance}
            row |= {"scaled": (score.ravel() - chance) / (1 - chance), "previous_token": previous.ravel()}
            frames.append(pd.DataFrame(row | {"queries": queries}).dropna(subset="score"))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def strongest(table: pd.DataFrame, kind: str) -> tuple[str, pd.Series]:
    """Return the head with the highest scaled score at the last step on prompts of a kind, and its score by step.

    Args:
        table: result of `induction_over_training`.
        kind: kind of the prompts; their scores are averaged.

    Raises:
        DataError: there is no such prompt.
    """
    rows = table[table["kind"] == kind] if len(table) else table
    if not len(rows):
        raise DataError(f"No captured prompt of kind {kind!r} repeats tokens: capture one that does.")
    means = rows.groupby(["step", "name"])["scaled"].mean().unstack()
    name = str(means.iloc[-1].idxmax())
    return name, means[name]


def phase_change(
    steps: "Sequence[float] | np.ndarray",
    induction: "Sequence[float] | np.ndarray",
    loss: "Sequence[float] | np.ndarray",
) -> PhaseChange:
    """Find the fastest change of two curves over training, and correlate their increments.

    Args:
        steps: [S] captured steps in order; leave out those at which the model still learns the set of tokens.
        induction: [S] induction score.
        loss: [S] in-context loss or score; falling means learning.

    Raises:
        DataError: fewer than `WINDOW` + 2 steps, or curves of different lengths.
    """
    at, up, down = (np.asarray(values, dtype=float) for values in (steps, induction, loss))
    if not len(at) == len(up) == len(down) or len(at) < WINDOW + 2:
        raise DataError(
            f"The curves of a phase change have {len(at)}, {len(up)} and {len(down)} captured steps; expected"
            f" {WINDOW + 2} or more, equally many in all."
        )
    rises, falls, widths = up[WINDOW:] - up[:-WINDOW], down[:-WINDOW] - down[WINDOW:], at[WINDOW:] - at[:-WINDOW]
    first, second = int((rises / widths).argmax()), int((falls / widths).argmax())
    correlation = _correlation(rises, falls)
    low, high = _fisher(correlation, len(rises))
    middle = (at[WINDOW:] + at[:-WINDOW]) / 2
    return PhaseChange(
        induction_step=float(middle[first]),
        loss_step=float(middle[second]),
        width=float(max(widths[first], widths[second])),
        rise=float(up[-1] - up[0]),
        drop=float(down[0] - down[-1]),
        correlation=correlation,
        low=low,
        high=high,
        n=len(rises),
    )


def _fisher(r: float, n: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a correlation of `n` overlapping increments (Fisher's z).

    Increments over w = `WINDOW` steps overlap and are correlated: n of them are worth n 3 w / (2 w^2 + 1) independent
    ones if the two curves are independent random walks (Bartlett 1935).
    """
    size = n * 3 * WINDOW / (2 * WINDOW**2 + 1)
    if not np.isfinite(r) or size <= 3.5:
        return float("nan"), float("nan")
    z, half = np.arctanh(np.clip(r, -0.9999, 0.9999)), 1.959964 / np.sqrt(size - 3)
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation; NaN if one of the variables is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else float("nan")


def _opening(text: str, length: int) -> int:
    """Return the number of tokens before the repeated part of a world's text: beginning token and heading."""
    words = text.split()
    heading = 3 if words[:1] == ["chain"] else 1 if words[:1] == ["repeat"] else 0
    return max(0, length - len(words) + heading)


Head = tuple[int, int]
"""Block and head, both from 0."""
REFERENCE = 24
"""Number of texts over which mean activations are taken."""
LATE = 1 / 3
"""Share of a chain's states that count as late."""


@dataclass(frozen=True)
class ContextTexts:
    """Texts, with the tokens whose loss only the context can lower."""

    name: str
    """Kind of the texts: `repeat`, `markov` or `map`."""
    rows: list[list[int]]
    """N texts as token ids."""
    places: list[list[int]]
    """[N] positions of those tokens in each text."""
    reference: list[list[int]]
    """Other texts of the kind, used for mean activations and for the choice of heads."""
    start: int = 0
    """Number of tokens in the opening of a text, which does not belong to the repeats."""


def repeat_texts(repeats: Repeats) -> ContextTexts:
    """Return random tokens written twice; all but the first of the second copy count. The last texts give the means."""
    first = repeats.begin + repeats.size
    rows = repeats.rows[:-REFERENCE]
    places = list(range(first + 1, first + repeats.size))
    return ContextTexts("repeat", rows, [places] * len(rows), repeats.rows[-REFERENCE:], repeats.begin)


def chain_texts(lm: "LM", world: "World", n: int = 50, seed: int = 0) -> ContextTexts:
    """Draw new Markov chains as texts; the last third of their states counts."""
    drawn_chains = chains(world, n + REFERENCE, seed + 1_000_003)
    rows = [encode(lm.tokenizer, chain.text) for chain in drawn_chains]
    late = int(world.config.chain * LATE)
    places = [list(range(len(row) - late, len(row))) for row in rows]
    return ContextTexts("markov", rows[:n], places[:n], rows[n:], len(encode(lm.tokenizer, drawn_chains[0].opening)))


def map_texts(lm: "LM", world: "World", n: int = 50, seed: int = 0) -> ContextTexts:
    """Draw maps as texts; only the label of the last pair counts, whose key occurred before."""
    documents = pair_documents(world, "map", n + REFERENCE, seed + 1_000_003)
    rows = [
        encode(lm.tokenizer, f"{document.prompt(len(document.pairs) - 1)} {document.pairs[-1][1]}")
        for document in documents
    ]
    return ContextTexts("map", rows[:n], [[len(row) - 1] for row in rows[:n]], rows[n:])


@torch.no_grad()
def induction_by_head(lm: "LM", rows: Sequence[Sequence[int]], start: int = 0) -> tuple[np.ndarray, float]:
    """Return the induction score [N D H] of every head on every text, and the chance score (see `induction_score`).

    Texts without a repeated token are left out.

    Raises:
        DataError: no text is left.
    """
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(lm.bridge.cfg.n_layers)]
    scores, chances = [], []
    for row in rows:
        _, cache = lm.run_with_cache([list(row)], names)
        pattern = torch.cat([cache[name] for name in names]).double().cpu().numpy()
        score, chance, count = induction_score(pattern, np.asarray(row), start)
        if count:
            scores.append(score)
            chances.append(chance)
    if not scores:
        raise DataError("No text repeats a token, so induction cannot be measured: give texts with repeated tokens.")
    return np.stack(scores), float(np.mean(chances))


@torch.no_grad()
def context_loss(lm: "LM", texts: ContextTexts, heads: Sequence[Head] = (), filling: Means | None = None) -> np.ndarray:
    """Return the mean loss [N] in nats at the tokens that count, with the given heads ablated.

    Args:
        lm: any model of tokens.
        texts: the texts.
        heads: (block, head) of each ablated head; none for the unchanged model.
        filling: values that replace the heads' outputs; zeros without it.
    """
    if not heads:
        losses = token_losses(lm, texts.rows)
    else:
        by_block: dict[int, list[int]] = {}
        for block, head in heads:
            by_block.setdefault(block, []).append(head)
        names = {block: f"blocks.{block}.attn.hook_z" for block in by_block}
        hooks = [(names[block], _filler(names[block], group, filling)) for block, group in by_block.items()]
        with lm.hooks(hooks):
            losses = token_losses(lm, texts.rows)
    return np.array([loss[np.array(places) - 1].mean() for loss, places in zip(losses, texts.places, strict=True)])


def _filler(name: str, heads: Sequence[int], filling: Means | None) -> Any:
    def fn(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        for head in heads:
            if filling is None:
                z[:, :, head] = 0
            else:
                z[:, :, head] = filling.rest[name][head].to(z)
                z[:, 0, head] = filling.first[name][head].to(z)
        return z

    return fn


@dataclass(frozen=True)
class InductionAblation:
    """Losses on one kind of texts with all heads, without the top heads, and without random heads."""

    name: str
    """Kind of the texts."""
    heads: list[str]
    """Top heads, ablated together."""
    before: np.ndarray
    """[N] in-context loss in nats, without ablation."""
    top: np.ndarray
    """[N] in-context loss in nats without the top heads."""
    random: np.ndarray
    """[R N] in-context loss in nats without as many random other heads, for each draw."""
    sets: list[str]
    """[R] random heads of each draw."""

    def items(self) -> pd.DataFrame:
        """Return the in-context loss of each text and its rise under ablation, one row per text.

        The columns are text, before, ablation_induction and ablation_random (rise of the loss; of random heads the mean
        over draws) and ablation_gap, their difference; nats.
        """
        top, other = self.top - self.before, self.random.mean(0) - self.before
        columns = {"text": np.arange(len(self.before)), "before": self.before}
        return pd.DataFrame(
            columns | {"ablation_induction": top, "ablation_random": other, "ablation_gap": top - other}
        )

    def table(self) -> pd.DataFrame:
        """Return one row per set of heads: texts, group (induction or random), heads, loss and effect (rise); nats."""
        rows = [("induction", ", ".join(self.heads), self.top.mean())]
        rows += [("random", names, values.mean()) for names, values in zip(self.sets, self.random, strict=True)]
        table = pd.DataFrame(rows, columns=["group", "heads", "loss"])
        return table.assign(texts=self.name, effect=table["loss"] - self.before.mean())


def ablate_induction(
    lm: "LM",
    texts: ContextTexts,
    scores: np.ndarray,
    k: int = 2,
    draws: int = 6,
    seed: int = 0,
    tick: Tick = ignore,
) -> InductionAblation:
    """Measure the in-context loss without the k heads of the highest scores, and without sets of k random others.

    The heads are ablated together, at every token (mean ablation: their outputs are replaced by their mean outputs on
    texts of the same kind). The in-context loss is measured where only the context helps: on the second copy of random
    tokens, on the late states of a Markov chain, on the query of a map whose key occurred before.

    Args:
        lm: any model of tokens.
        texts: texts on which the in-context loss is measured.
        scores: [D H] scores by which heads are chosen, such as prefix matching.
        k: number of heads.
        draws: number of random sets of other heads.
        seed: random seed of these sets.
        tick: progress.

    Raises:
        ConfigError: the model has fewer than 2 k heads.
    """
    if k < 1 or 2 * k > scores.size:
        raise ConfigError(f"Ablation of {k} of {scores.size} heads was requested: give 1 to {scores.size // 2}.")
    order = np.argsort(-scores.ravel(), kind="stable").tolist()
    names, width = head_names(*scores.shape), scores.shape[1]
    rng = np.random.default_rng(seed)
    groups = [order[:k], *(sorted(rng.choice(order[k:], k, replace=False).tolist()) for _ in range(draws))]
    blocks = [f"blocks.{block}.attn.hook_z" for block in range(scores.shape[0])]
    filling = means(lm, texts.reference, blocks)
    before, losses = context_loss(lm, texts), []
    for index, group in enumerate(groups):
        losses.append(context_loss(lm, texts, [divmod(at, width) for at in group], filling))
        part(tick, index, len(groups))(1.0)
    labels = [[names[at] for at in group] for group in groups]
    return InductionAblation(
        texts.name, labels[0], before, losses[0], np.stack(losses[1:]), [", ".join(each) for each in labels[1:]]
    )


def ablate_each(lm: "LM", texts: ContextTexts) -> np.ndarray:
    """Return the rise [D H] of the mean in-context loss in nats when each head is ablated alone (mean ablation)."""
    depth, heads = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    filling = means(lm, texts.reference, [f"blocks.{block}.attn.hook_z" for block in range(depth)])
    before = context_loss(lm, texts).mean()
    increases = np.empty((depth, heads))
    for block, head in np.ndindex(depth, heads):
        increases[block, head] = context_loss(lm, texts, [(block, head)], filling).mean() - before
    return increases


Number = tuple[str, *tuple[float, ...]]
"""Name, value and, if known, the ends of the interval and n: the arguments of `probe.experiments.metrics.Given`."""
EACH = 48
"""Maximum number of heads for which each head is also ablated alone."""
SHOWN = {"repeat": "repeat_induction", "markov": "chain_induction"}
"""Kind of texts to the name of its metric: the best head's induction score."""


def context_texts(lm: "LM", world: "World | None", repeats: Repeats | None, n: int, seed: int) -> list[ContextTexts]:
    """Return the texts on which heads are scored and ablated: repeats, chains and maps, if the model knows them."""
    collection = []
    if repeats is not None:
        collection.append(repeat_texts(Repeats(repeats.rows[: n + REFERENCE], repeats.begin, repeats.size)))
    if world is not None and "markov" in world.config.mixture and (repeats is None or len(world.config.mixture) == 1):
        collection.append(chain_texts(lm, world, n, seed))
    if world is not None and "map" in world.config.mixture and repeats is not None:
        collection.append(map_texts(lm, world, n, seed))
    return collection


def head_parts(
    lm: "LM", texts: Sequence[ContextTexts], heads: int, draws: int, seed: int, tick: Tick = ignore
) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame], list[Number]]:
    """Score every head's induction; measure the in-context loss without the best heads and without random ones.

    The best heads are those with the highest induction score on the first kind of texts. This holds for maps too, where
    an arrow follows every key. The best head's score in the summary is measured on other texts than those on which it
    was chosen.

    Args:
        lm: any model of tokens.
        texts: kinds of texts; the first one has repeated tokens.
        heads: number of heads to ablate together.
        draws: number of random sets of as many other heads.
        seed: random seed of the draws.
        tick: progress.
    """
    items: list[pd.DataFrame] = []
    numbers: list[Number] = []
    first = texts[0]
    scores, chance = induction_by_head(lm, first.reference, first.start)
    half = len(scores) // 2
    best = int(scores[:half].mean(0).argmax())
    name = SHOWN[first.name]
    test_half = scores[half:].reshape(len(scores) - half, -1)[:, best]
    score = stats.bootstrap_mean(test_half, seed=seed, bounds=stats.SHARE)
    numbers += [(name, *score, len(test_half)), (f"{name}_chance", chance)]
    mean = scores.mean(0)
    depth, width = mean.shape
    layer, head = (axis.ravel() for axis in np.indices(mean.shape))
    table = pd.DataFrame({"name": head_names(depth, width), "layer": layer, "head": head, "texts": first.name})
    table = table.assign(induction=mean.ravel(), chance=chance, scaled=((mean - chance) / (1 - chance)).ravel())
    random = repeat_scores(lm, length=segment_length(lm), batch=8, seed=seed)
    table = table.assign(**{key: value.ravel() for key, value in random.values.items()})
    for key in ("prefix_matching", "copying"):
        numbers += [(key, float(random.values[key].max())), (f"{key}_chance", random.chance[key])]
    tick(0.2)
    frames = []
    for index, each in enumerate(texts):
        step = part(tick, index, len(texts))
        ablation = ablate_induction(lm, each, mean, min(heads, mean.size // 2), draws, seed, step)
        rows = ablation.items()
        new_names = {column: f"{column}_{each.name}" for column in rows if str(column).startswith("ablation_")}
        prompts = [lm.tokenizer.decode(row) for row in each.rows]
        rows = rows.rename(columns=new_names).rename(columns={"before": "loss"}).drop(columns="text")
        rows["item"] = [f"ablation_{each.name}-{number}" for number in range(len(rows))]
        items.append(rows.assign(kind=f"ablation_{each.name}", prompt=prompts))
        frames.append(ablation.table().assign(before=float(ablation.before.mean())))
    if mean.size <= EACH:
        table["ablation"] = ablate_each(lm, first).ravel()
    tick(1.0)
    return items, {"heads": table, "ablation": pd.concat(frames, ignore_index=True)}, numbers


def training_parts(run: "Run", world: "World") -> tuple[dict[str, pd.DataFrame], list[Number], dict[str, Any]]:
    """Return induction heads and in-context learning over the captured steps of a run, and the phase change.

    This applies only to a run that started from random weights: other runs have the heads from the start.

    Args:
        run: the run that the model belongs to.
        world: the world that it was trained on.

    Returns:
        Tables: `over_training` (step, kind of prompts, series, value, head): the induction score of the head with the
        highest score at the end (scaled: 0 for uniform attention), KL to each predictor of chains, the in-context
        score, and the held-out loss of that kind of documents; `heads_over_training` (step, kind, name, scaled,
        previous_token). The numbers of the phase change, if at least `LEAST` steps were captured. Facts: the head.
    """
    if run.parent is not None or run.config.get("base") is not None:
        return {}, [], {}
    heads = induction_over_training(run)
    if not len(heads) or heads["step"].nunique() < 2:
        return {}, [], {}
    distances = captured_distances(run, world)
    metrics = run.metrics()
    rows: list[pd.DataFrame] = []
    numbers: list[Number] = []
    facts: dict[str, Any] = {}
    for kind in [kind for kind in ("markov", "repeat") if (heads["kind"] == kind).any()]:
        name, induction = strongest(heads, kind)
        rows.append(_series(kind, "induction", induction, name))
        loss = _held_out(metrics, kind, induction.index)
        if len(loss):
            rows.append(_series(kind, "loss", loss))
        if kind == "markov" and len(distances):
            means = distances.groupby("step")[[f"kl_{each}" for each in PREDICTORS] + ["loss_bayes"]].mean()
            rows += [_series(kind, f"kl_{each}", means[f"kl_{each}"]) for each in PREDICTORS]
            ideal = distances.groupby("step")["counting"].mean()
            rows.append(_series(kind, "counting", ideal))
            score = in_context_score(distances)
            rows.append(_series(kind, "in_context_score", score))
            fair = means.index[means["loss_bayes"] <= np.log(world.config.states)]
            fair_score = score[score.index >= fair.min()] if len(fair) else score.iloc[:0]
            change = _change(induction, fair_score)
            if change is not None and world.config.mixture.get("markov", 0) >= sum(world.config.mixture.values()):
                numbers += phase_given(change)
                facts["phase_change"] = {"head": name, "width": change.width, "windows": change.n}
    subset = heads[heads["kind"].isin(["markov", "repeat"])]
    every = subset.groupby(["step", "kind", "name"])[["scaled", "previous_token"]].mean().reset_index()
    tables = {"over_training": pd.concat(rows, ignore_index=True)} if rows else {}
    return tables | {"heads_over_training": every}, numbers, facts


def phase_given(found: PhaseChange) -> list[Number]:
    """Return the numbers of a phase change for the summary."""
    half = found.width / 2
    return [
        ("phase_induction_step", found.induction_step, found.induction_step - half, found.induction_step + half),
        ("phase_loss_step", found.loss_step, found.loss_step - half, found.loss_step + half),
        ("phase_correlation", found.correlation, found.low, found.high, found.n),
    ]


def _change(induction: pd.Series, score: pd.Series) -> PhaseChange | None:
    """Return the phase change, or None if too few steps were captured."""
    if len(score) < LEAST:
        return None
    return phase_change(score.index.to_numpy(), induction[score.index].to_numpy(), score.to_numpy())


def _held_out(metrics: pd.DataFrame, kind: str, steps: "Sequence[int] | pd.Index") -> pd.Series:
    """Return the held-out loss of a kind of documents at the captured steps, interpolated between evaluations."""
    column = f"loss/{kind}"
    if column not in metrics:
        return pd.Series(dtype=float)
    losses = metrics[["step", column]].dropna()
    inside = [step for step in steps if len(losses) and losses["step"].min() <= step <= losses["step"].max()]
    return pd.Series(np.interp(inside, losses["step"], losses[column]), index=inside, dtype=float)


def _series(kind: str, name: str, values: pd.Series, head: str = "") -> pd.DataFrame:
    return pd.DataFrame({"step": values.index, "kind": kind, "series": name, "value": values.to_numpy(), "head": head})
