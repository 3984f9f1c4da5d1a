"""The heads behind in-context learning as items and tables: which they are, what they carry, when they appeared."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe import stats
from probe.analyses.induction_ablation import (
    REFERENCE,
    ContextTexts,
    ablate_each,
    ablate_induction,
    chain_texts,
    induction_by_head,
    map_texts,
    repeat_texts,
)
from probe.analyses.induction_over_training import LEAST, PhaseChange, induction_over_training, phase_change, strongest
from probe.analyses.markov_distances import PREDICTORS, captured_distances, in_context_score
from probe.analyses.olsson import Repeats, segment_length
from probe.attention.scores import repeat_scores
from probe.model.heads import head_names
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.runs.reader import Run
    from probe.world import World

Number = tuple[str, *tuple[float, ...]]
"""Name, value, and where known the ends of the interval and n: what `probe.experiments.metrics.Given` takes."""
EACH = 48
"""Heads up to which each is also ablated alone."""
SHOWN = {"repeat": "repeat_induction", "markov": "chain_induction"}
"""Name of the best head's induction score on each kind of texts."""


def context_texts(lm: "LM", world: "World | None", repeats: Repeats | None, n: int, seed: int) -> list[ContextTexts]:
    """The texts on which heads are looked at and ablated: repeats, chains, maps, as far as the model knows them."""
    found = []
    if repeats is not None:
        found.append(repeat_texts(Repeats(repeats.rows[: n + REFERENCE], repeats.begin, repeats.size)))
    if world is not None and "markov" in world.config.mixture and (repeats is None or len(world.config.mixture) == 1):
        found.append(chain_texts(lm, world, n, seed))
    if world is not None and "map" in world.config.mixture and repeats is not None:
        found.append(map_texts(lm, world, n, seed))
    return found


def head_parts(
    lm: "LM", texts: Sequence[ContextTexts], heads: int, draws: int, seed: int, tick: Tick = ignore
) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame], list[Number]]:
    """Induction scores of every head, and the in-context loss without the best ones and without random ones.

    The heads are those with the highest induction score on the first kind of texts; on maps, where what follows a token
    is an arrow, they are chosen on the first kind too. The best head's score in the summary is measured on other texts
    than those it was chosen by.

    Args:
        lm: any model of tokens.
        texts: the kinds of texts, the first one with tokens that come back.
        heads: how many are ablated together.
        draws: random sets of as many others.
        seed: of the draws.
        tick: progress.
    """
    items: list[pd.DataFrame] = []
    given: list[Number] = []
    first = texts[0]
    scores, chance = induction_by_head(lm, first.reference, first.start)
    half = len(scores) // 2
    best = int(scores[:half].mean(0).argmax())
    name = SHOWN[first.name]
    held = scores[half:].reshape(len(scores) - half, -1)[:, best]
    given += [(name, *stats.bootstrap_mean(held, seed=seed, bounds=stats.SHARE), len(held)), (f"{name}_chance", chance)]
    mean = scores.mean(0)
    depth, width = mean.shape
    layer, head = (axis.ravel() for axis in np.indices(mean.shape))
    table = pd.DataFrame({"name": head_names(depth, width), "layer": layer, "head": head, "texts": first.name})
    table = table.assign(induction=mean.ravel(), chance=chance, scaled=((mean - chance) / (1 - chance)).ravel())
    random = repeat_scores(lm, length=segment_length(lm), batch=8, seed=seed)
    table = table.assign(**{key: value.ravel() for key, value in random.values.items()})
    for key in ("prefix_matching", "copying"):
        given += [(key, float(random.values[key].max())), (f"{key}_chance", random.chance[key])]
    tick(0.2)
    frames = []
    for index, each in enumerate(texts):
        step = part(tick, index, len(texts))
        found = ablate_induction(lm, each, mean, min(heads, mean.size // 2), draws, seed, step)
        rows = found.items()
        named = {column: f"{column}_{each.name}" for column in rows if str(column).startswith("ablation_")}
        prompts = [lm.tokenizer.decode(row) for row in each.rows]
        rows = rows.rename(columns=named).rename(columns={"before": "loss"}).drop(columns="text")
        rows["item"] = [f"ablation_{each.name}-{number}" for number in range(len(rows))]
        items.append(rows.assign(kind=f"ablation_{each.name}", prompt=prompts))
        frames.append(found.table().assign(before=float(found.before.mean())))
    if mean.size <= EACH:
        table["ablation"] = ablate_each(lm, first).ravel()
    tick(1.0)
    return items, {"heads": table, "ablation": pd.concat(frames, ignore_index=True)}, given


def training_parts(run: "Run", world: "World") -> tuple[dict[str, pd.DataFrame], list[Number], dict[str, Any]]:
    """Induction heads and in-context learning over the captured steps of a run, and its phase change.

    Only of a run that began with random weights: in others the heads are there from the start.

    Args:
        run: the run that the model belongs to.
        world: what it was trained on.

    Returns:
        Tables: `over_training` (step, kind of prompts, series, value, head): the induction score of the head that
        scores highest at the end (scaled: 0 for a head that looks everywhere alike), KL to each predictor of chains,
        the in-context score, and the held-out loss of that kind of documents; `heads_over_training` (step, kind, name,
        scaled, previous_token). The numbers of the phase change, where at least `LEAST`
        steps were captured. Facts: which head.
    """
    if run.parent is not None or run.config.get("base") is not None:
        return {}, [], {}
    heads = induction_over_training(run)
    if not len(heads) or heads["step"].nunique() < 2:
        return {}, [], {}
    distances = captured_distances(run, world)
    metrics = run.metrics()
    rows: list[pd.DataFrame] = []
    given: list[Number] = []
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
            known = score[score.index >= fair.min()] if len(fair) else score.iloc[:0]
            changed = _change(induction, known)
            if changed is not None and world.config.mixture.get("markov", 0) >= sum(world.config.mixture.values()):
                given += phase_given(changed)
                facts["phase_change"] = {"head": name, "width": changed.width, "windows": changed.n}
    seen = heads[heads["kind"].isin(["markov", "repeat"])]
    every = seen.groupby(["step", "kind", "name"])[["scaled", "previous_token"]].mean().reset_index()
    tables = {"over_training": pd.concat(rows, ignore_index=True)} if rows else {}
    return tables | {"heads_over_training": every}, given, facts


def phase_given(found: PhaseChange) -> list[Number]:
    """The numbers of a phase change for a summary."""
    half = found.width / 2
    return [
        ("phase_induction_step", found.induction_step, found.induction_step - half, found.induction_step + half),
        ("phase_loss_step", found.loss_step, found.loss_step - half, found.loss_step + half),
        ("phase_correlation", found.correlation, found.low, found.high, found.n),
    ]


def _change(induction: pd.Series, score: pd.Series) -> PhaseChange | None:
    """The phase change, if enough steps were captured."""
    if len(score) < LEAST:
        return None
    return phase_change(score.index.to_numpy(), induction[score.index].to_numpy(), score.to_numpy())


def _held_out(metrics: pd.DataFrame, kind: str, steps: "Sequence[int] | pd.Index") -> pd.Series:
    """The held-out loss of a kind of documents at the captured steps, on the line between evaluations."""
    column = f"loss/{kind}"
    if column not in metrics:
        return pd.Series(dtype=float)
    known = metrics[["step", column]].dropna()
    inside = [step for step in steps if len(known) and known["step"].min() <= step <= known["step"].max()]
    return pd.Series(np.interp(inside, known["step"], known[column]), index=inside, dtype=float)


def _series(kind: str, name: str, values: pd.Series, head: str = "") -> pd.DataFrame:
    return pd.DataFrame({"step": values.index, "kind": kind, "series": name, "value": values.to_numpy(), "head": head})
