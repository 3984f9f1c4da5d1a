"""Items and tables of a world's in-context learning: maps, functions, chains, repeats, labels, vectors.

Only tasks of the corpus are asked about: a world with only chains has no maps.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe import stats
from probe.in_context.chains import (
    PREDICTORS,
    Repeats,
    chain_distances,
    chains,
    corpus_losses,
    repeat_losses,
    world_rows,
)
from probe.in_context.pairs import KINDS, map_label_ablation, pair_curves
from probe.in_context.vectors import function_vectors
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World

LAST = {"map": "map_accuracy", "function": "function_accuracy", "function_new": "function_accuracy_new"}
"""Columns of the answers after all examples, as `probe.rewards.evaluation` names them for sampled answers."""
LABELLED = ("map", "function")


def is_taught(world: "World", kind: str) -> bool:
    """Return whether the corpus has documents of a kind of question."""
    return "function" in world.config.mixture if kind.startswith("function") else kind in world.config.mixture


def pair_items(lm: "LM", world: "World", kind: str, n: int, seed: int) -> pd.DataFrame:
    """Return the items of `pair_curves`, one per document and number of examples; the last have columns `LAST`."""
    curves = pair_curves(lm, world, kind, n, seed)
    last = curves["examples"] == curves["examples"].max()
    sequence = [f"{kind}-{document}" for document in curves["document"]]
    names = [f"{name}-{k}" for name, k in zip(sequence, curves["examples"], strict=True)]
    curves = curves.assign(item=names, kind=kind, sequence=sequence)
    curves[LAST[kind]] = curves["p_true"].where(last)
    bayes = "bayes_p_true" if kind == "map" else "pool_p_true"
    curves[f"{LAST[kind]}_bayes"] = curves[bayes].where(last)
    if kind == "map":
        curves["map_accuracy_counting"] = curves["counting_p_true"].where(last)
    return curves.drop(columns="document")


def chain_items(table: pd.DataFrame, world: "World", n: int, seed: int) -> pd.DataFrame:
    """Return one row per chain from `chain_distances`: means over positions, and chain_kl_NAME for the distances."""
    columns = ["loss", "order", *(f"kl_{name}" for name in PREDICTORS), *(f"ideal_{name}" for name in PREDICTORS)]
    means = table.groupby("chain")[[*columns, "counting"]].mean()
    means = means.rename(columns={f"kl_{name}": f"chain_kl_{name}" for name in PREDICTORS})
    means = means.rename(columns={f"ideal_{name}": f"chain_ideal_{name}" for name in PREDICTORS})
    texts = [chain.text for chain in chains(world, n, seed)]
    names = [f"markov-{index}" for index in means.index]
    return means.assign(item=names, kind="markov", prompt=texts).reset_index(drop=True)


def repeat_items(lm: "LM", repeats: Repeats) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per text (olsson_repeat, loss_early, loss_late), and the losses by token of the segment."""
    losses = repeat_losses(lm, repeats)
    means = losses.groupby("text")[["early", "late"]].mean()
    items = pd.DataFrame(
        {
            "item": [f"repeat-{index}" for index in means.index],
            "kind": "repeat",
            "prompt": [lm.tokenizer.decode(repeats.rows[index]) for index in means.index],
            "loss_early": means["early"].to_numpy(),
            "loss_late": means["late"].to_numpy(),
            "olsson_repeat": (means["late"] - means["early"]).to_numpy(),
        }
    )
    curves = [
        average_by(losses.rename(columns={when: "loss"}), ["token"], "loss").assign(when=when)
        for when in ("early", "late")
    ]
    return items, pd.concat(curves, ignore_index=True)


def corpus_items(lm: "LM", rows: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Return one row per row of a corpus: olsson_corpus, loss_early, loss_late."""
    losses = corpus_losses(lm, rows)
    return pd.DataFrame(
        {
            "item": [f"corpus-{index}" for index in losses["text"]],
            "kind": "corpus",
            "prompt": [lm.tokenizer.decode(rows[index]) for index in losses["text"]],
            "loss_early": losses["early"],
            "loss_late": losses["late"],
            "olsson_corpus": losses["late"] - losses["early"],
        }
    )


def label_items(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a label ablation as items."""
    names = [f"labels_{mode}-{number}" for mode, number in zip(found["labels"], found["question"], strict=True)]
    return found.assign(item=names, kind="labels").drop(columns="question")


def curve_table(items: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy (probability of the true answer) and loss by number of examples, with the Bayes predictors'.

    One row per kind and number of examples: accuracy, ci_low, ci_high, loss, loss_low, loss_high, n; bayes_accuracy and
    bayes_loss of the Bayes predictor (for functions: over the pool), all_accuracy and all_loss over all tasks,
    counting_accuracy and counting_loss of a predictor that counts the labels of a map; the loss is NaN if that
    predictor gives the true answer probability 0.
    """
    frames = []
    for kind, rows in items.groupby("kind", sort=False):
        table = average_by(rows, ["examples"], "p_true").rename(columns={"value": "accuracy"})
        losses = average_by(rows, ["examples"], "loss")
        table = table.assign(loss=losses["value"], loss_low=losses["ci_low"], loss_high=losses["ci_high"], kind=kind)
        best = "bayes_p_true" if kind == "map" else "pool_p_true"
        for name, column in (("bayes", best), ("all", "all_p_true"), ("counting", "counting_p_true")):
            if column in rows and rows[column].notna().any():
                by = rows.groupby("examples")[column]
                with np.errstate(divide="ignore"):
                    loss = by.apply(lambda values: float(-np.log(values).mean()))
                table[f"{name}_accuracy"] = by.mean().to_numpy()
                table[f"{name}_loss"] = loss.replace(np.inf, np.nan).to_numpy()
        frames.append(table)
    return pd.concat(frames, ignore_index=True)


def chain_tables(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return from `chain_distances` the rows of `curve_table` by states seen (kind markov), and distances by position.

    Losses are expected ones under the Bayes predictive, so they do not depend on the luck of the observed states.

    The second table has position, predictor, value, ci_low, ci_high, n and ideal (of the Bayes predictor itself).
    """
    losses = average_by(table, ["position"], "loss_bayes").rename(columns={"position": "examples", "value": "loss"})
    losses = losses.rename(columns={"ci_low": "loss_low", "ci_high": "loss_high"}).assign(kind="markov")
    best = (table["loss_bayes"] - table["kl_bayes"]).groupby(table["position"]).mean().to_numpy()
    losses["bayes_loss"] = best
    losses["counting_loss"] = best + table.groupby("position")["counting"].mean().to_numpy()
    frames = []
    for name in PREDICTORS:
        curve = average_by(table, ["position"], f"kl_{name}").assign(predictor=name)
        curve["ideal"] = table.groupby("position")[f"ideal_{name}"].mean().to_numpy()
        frames.append(curve)
    return losses, pd.concat(frames, ignore_index=True)


def pool_table(items: pd.DataFrame, world: "World") -> pd.DataFrame:
    """Return KL to the Bayes predictive over the pool and over all tasks, for functions of the pool and new ones.

    One row per kind and predictor: pool_size, modulus, tasks (number of all tasks), kind, predictor (pool or all),
    value (mean over documents of the mean over numbers of examples, nats), ci_low, ci_high, n.
    """
    rows = []
    p = world.config.modulus
    for kind in ("function", "function_new"):
        group = items[items["kind"] == kind]
        for name in ("pool", "all"):
            if not len(group):
                continue
            means = group.groupby("sequence")[f"kl_{name}"].mean()
            row = {"pool_size": world.config.pool, "modulus": p, "tasks": p * (p - 1), "kind": kind, "predictor": name}
            rows.append(row | stats.bootstrap_mean(means, bounds=stats.NOT_NEGATIVE).row(len(means)))
    return pd.DataFrame(rows)


def average_by(rows: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Average a column by groups, with its bootstrap interval: the groups' columns, value, ci_low, ci_high, n."""
    means = []
    for key, values in rows.groupby(list(by))[column]:
        finite = values.dropna().to_numpy(dtype=float)
        means.append([*key, *stats.bootstrap_mean(finite, resamples=1000), len(finite)])
    return pd.DataFrame(means, columns=[*by, "value", "ci_low", "ci_high", "n"])


def world_parts(
    lm: "LM", world: "World", n: int, length: int, seed: int, tick: Tick = ignore
) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame], dict[str, Any]]:
    """Return items, tables and facts of all that the world's corpus teaches, except heads and training.

    Args:
        lm: a model with the world's tokenizer.
        world: the world that asks the questions.
        n: number of documents of each kind; half as many chains and rows of the corpus.
        length: tokens per row of the corpus in training.
        seed: random seed.
        tick: progress.
    """
    items: list[pd.DataFrame] = []
    tables: dict[str, pd.DataFrame] = {}
    facts: dict[str, Any] = {}
    kinds = [kind for kind in KINDS if is_taught(world, kind) and kind in world.question_kinds]
    steps: list[Callable[[], None]] = []

    def pairs() -> None:
        curves = pd.concat([pair_items(lm, world, kind, n, seed) for kind in kinds], ignore_index=True)
        items.append(curves)
        tables["curve"] = curve_table(curves)
        if (curves["kind"] == "function").any():
            tables["pool"] = pool_table(curves, world)

    def markov() -> None:
        table = chain_distances(lm, world, max(2, n // 2), seed)
        items.append(chain_items(table, world, max(2, n // 2), seed))
        losses, tables["distances"] = chain_tables(table)
        tables["curve"] = pd.concat([tables[name] for name in ("curve",) if name in tables] + [losses])

    def labels() -> None:
        kind = next(kind for kind in LABELLED if is_taught(world, kind))
        rows = label_items(map_label_ablation(lm, world, n, seed, kind))
        items.append(rows)
        tables["labels"] = label_table(rows)

    def vectors() -> None:
        kind = next(kind for kind in LABELLED if is_taught(world, kind))
        if kind == "function" and len(world.pool) < 2:
            return
        share = part(tick, len(steps) - 2, len(steps))
        result = function_vectors(lm, world, kind, n=min(16, max(4, n // 16)), seed=seed, tick=share)
        names = [f"vector-{index}" for index in range(len(result.items))]
        items.append(result.items.assign(item=names, kind="vector"))
        tables["vectors"] = result.blocks
        facts["function_vector_heads"] = result.heads

    steps += [pairs] if kinds else []
    steps += [markov] if is_taught(world, "markov") else []
    steps += [labels, vectors] if any(is_taught(world, kind) for kind in LABELLED) else []
    steps.append(lambda: items.append(corpus_items(lm, world_rows(lm, world, max(2, n // 2), length, seed))))
    for index, step in enumerate(steps):
        step()
        tick((index + 1) / len(steps))
    return items, tables, facts


def label_table(items: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by labels of the examples: labels, accuracy, ci_low, ci_high (Wilson), n; `shown` if known."""
    rows = []
    for mode, group in items.groupby("labels", sort=False):
        value, low, high = stats.wilson(int(group["right"].sum()), len(group))
        row = {"labels": mode, "accuracy": value, "ci_low": low, "ci_high": high, "n": len(group)}
        rows.append(row | ({"shown": float(group["shown"].mean())} if "shown" in group else {}))
    return pd.DataFrame(rows)
