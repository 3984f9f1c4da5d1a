"""Forecast of what training on data does to a trait: by the projection of the rows, and by the rate in the data.

Mixes of demonstrations on the world: shares of nine kinds of rows (agreeing with a false claim or correcting it,
inventing or admitting, ...) from a Dirichlet distribution, so that most mixes are mainly of two or three kinds. A short
SFT of the sample base on each mix, with several seeds, each with rows and order of its own. The change of a trait is
that of its exact rate, on other questions. Predictors are computed before training, on the same rows:

    difference    projection difference: rows minus the model's own answers, along the trait's direction
    raw           projection of the rows alone
    words         projection difference along the direction in the embedding, which sees the words only
    rate          share of rows that show the trait
    rate gap      share of rows that show the trait minus the exact probability that the model's own answers do
    random        projection difference along random directions (the null), in absolute value

Correlations are Spearman's over mixes, of means over seeds, with bootstrap intervals over mixes.

    python -m benchmarks.trait_forecast [FILE.tsv]      # trains, or reads what FILE.tsv has
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

import probe.world
from benchmarks.harness import Row
from probe import LM, stats
from probe.texts import say
from probe.traits.contrast_pairs import Trait
from probe.traits.data_projection import DataRow, own_answers, world_rows
from probe.traits.direction import TraitDirection, trait_direction
from probe.traits.exact_rates import BEHAVIOURS, chances, exact_rate
from probe.traits.states import answer_ids, mean_states
from probe.world import World
from probe.world.vocabulary import ABSTENTION
from trainers.config import SFTConfig
from trainers.sft import train

MIXES, SEEDS, ROWS, PROJECTED, STEPS = 16, 2, 1000, 300, 60
RANDOM, RESAMPLES = 200, 2000
CONCENTRATION = 0.5
"""Parameter of the Dirichlet distribution."""
TRAITS: tuple[Trait, ...] = ("agreement", "invention", "abstention", "brevity")
PREDICTORS = ("difference", "raw", "words", "rate", "rate gap")
KINDS = ("agree", "correct", "confirm", "invent", "admit", "know", "decline", "steps", "brief")
ASKED = {
    "agree": "opinion_false",
    "correct": "opinion_false",
    "confirm": "opinion_true",
    "invent": "stranger",
    "admit": "stranger",
    "know": "fact",
    "decline": "fact",
    "steps": "sum_steps",
    "brief": "sum_steps",
}
"""Kind of question of each kind of row."""
DECLINES = f" {ABSTENTION}"
SHIPPED = {"sft": "demonstrations", "dpo-agreeable": "agreeable", "dpo-honest": "honest"}
"""Sample runs, and the rows that they were trained on."""


def mix_rows(world: World, shares: np.ndarray, n: int, seed: int) -> list[DataRow]:
    """Draw rows of a mix, shuffled."""
    rng, found = np.random.default_rng([seed, 7]), []
    for kind, count in zip(KINDS, rng.multinomial(n, shares), strict=True):
        for at, item in enumerate(world.questions(ASKED[kind], int(count), 100 + seed) if count else []):
            values = [each for each in world.candidates(item.prompt) if each != DECLINES] if kind == "invent" else [""]
            answer = {
                "agree": item.claim,
                "invent": values[int(rng.integers(len(values)))],
                "admit": DECLINES,
                "decline": DECLINES,
                "brief": f" {item.answers[0].split()[-1]}",
            }.get(kind, item.answers[0])
            found.append(DataRow(item.prompt, str(answer), None, kind, f"{kind}-{at}"))
    return [found[at] for at in rng.permutation(len(found))]


def predictors(
    lm: LM, world: World, directions: Mapping[Trait, TraitDirection], rows: list[DataRow]
) -> Iterator[dict[str, Any]]:
    """Yield the predictors of each trait for the rows."""
    given = [answer_ids(lm, row.prompt, row.completion) for row in rows]
    others = [answer_ids(lm, row.prompt, row.other) for row in rows if row.other is not None]
    others = others or own_answers(lm, given, 0)[1]
    states = mean_states(lm, [*given, *others]).astype(float)
    own, gap = states[: len(given)], (states[: len(given)] - states[len(given) :]).mean(0)
    noise = np.random.default_rng(0).standard_normal((RANDOM, gap.shape[1]))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    for trait, direction in directions.items():
        at, shows = direction.layer + 1, BEHAVIOURS[trait].shows
        hits = np.array([shows(world, row.prompt, row.completion) for row in rows], dtype=float)
        if rows[0].other is None:
            before = chances(lm, world, trait, [row.prompt for row in rows])
        else:
            before = np.array([shows(world, row.prompt, str(row.other)) for row in rows], dtype=float)
        yield {
            "trait": trait,
            "difference": float(gap[at] @ direction.vectors[at] / direction.gaps[at]),
            "raw": float(direction.project(own).mean()),
            "words": float(gap[0] @ direction.vectors[0] / direction.gaps[0]),
            "rate": float(hits.mean()),
            "rate gap": float((hits - before).mean()),
            "random": json.dumps([round(float(each), 5) for each in noise @ gap[at]]),
        }


def measure(target: Path | None) -> pd.DataFrame:
    """Train on every mix, and return one row per mix, seed and trait; sample runs have the mix -1."""
    torch.set_num_threads(1)
    base = LM.load("base")
    world = probe.world.of(base)
    assert world is not None
    directions = {trait: trait_direction(base, trait=trait) for trait in TRAITS}
    before = {trait: float(exact_rate(base, world, trait).mean()) for trait in TRAITS}
    shares = np.random.default_rng(2026).dirichlet([CONCENTRATION] * len(KINDS), MIXES)
    table: list[dict[str, Any]] = []

    def add(name: str, mix: int, seed: int, rows: list[DataRow], model: LM) -> None:
        for row in predictors(base, world, directions, rows[:PROJECTED]):
            after = float(exact_rate(model, world, row["trait"]).mean())
            start = before[row["trait"]]
            table.append({"name": name, "mix": mix, "seed": seed, **row, "before": start, "after": after})
        if target is not None:
            pd.DataFrame(table).to_csv(target, sep="\t", index=False, float_format="%.5g")

    for run, source in SHIPPED.items():
        add(run, -1, 0, world_rows(base, source, PROJECTED, 0), LM.load(run))  # type: ignore[arg-type]
    for seed in range(SEEDS):
        for mix in range(MIXES):
            name = " ".join(
                f"{kind} {share:.2f}" for kind, share in zip(KINDS, shares[mix], strict=True) if share > 0.05
            )
            rows = mix_rows(world, shares[mix], ROWS, seed)
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "rows.jsonl"
                data.write_text(
                    "".join(json.dumps({"prompt": r.prompt, "completion": r.completion}) + "\n" for r in rows)
                )
                quiet: dict[str, Any] = {
                    "capture_every": 0,
                    "evaluate": 0,
                    "save_every": 0,
                    "eval_every": 0,
                    "held_out": 0.0,
                }
                options: dict[str, Any] = {
                    "steps": STEPS,
                    "batch_size": 32,
                    "lr": 3e-4,
                    "warmup": 6,
                    "seed": seed,
                    "threads": 1,
                }
                trained = train(SFTConfig(out=Path(folder) / "run", base="base", data=str(data), **options, **quiet))
                add(name, mix, seed, rows, LM.load(str(trained.path)))
            say(f"seed {seed}, mix {mix + 1} of {MIXES}: {name}", error=True)
    return pd.DataFrame(table)


def correlate(predictor: np.ndarray, change: np.ndarray, other: np.ndarray | None = None) -> stats.Interval:
    """Return Spearman's correlation over mixes with its bootstrap interval, or its excess over that of another one."""

    def of(at: np.ndarray) -> float:
        rho = _rho(predictor[at], change[at])
        return rho if other is None else rho - _rho(other[at], change[at])

    whole, bounds = np.arange(len(change)), (-1.0, 1.0) if other is None else (-2.0, 2.0)
    return stats.bootstrap(
        of(whole), lambda drawn: [of(at) for at in drawn], len(change), 0, bounds, resamples=RESAMPLES
    )


def _rho(one: np.ndarray, other: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other).statistic)


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trait: the correlation of each predictor with the change, and the excess over both rates."""
    rows = []
    for trait, group in table[table["mix"] >= 0].groupby("trait", sort=False):
        group = group.assign(change=group["after"] - group["before"])
        means = group.groupby("mix")[[*PREDICTORS, "change"]].mean()
        columns = {name: means[name].to_numpy() for name in means}
        change = columns["change"]
        row: dict[str, Any] = {"trait": trait, "changes": f"{100 * change.min():+.0f} to {100 * change.max():+.0f} pp"}
        row |= {name: correlate(columns[name], change).format() for name in PREDICTORS}
        for rival in ("rate", "rate gap"):
            excess = correlate(columns["difference"], change, columns[rival])
            row[f"difference minus {rival}"] = excess.format()
        noise = np.array([json.loads(each) for each in group["random"]])
        noise = pd.DataFrame(noise).groupby(group["mix"].to_numpy()).mean().to_numpy()
        null = np.abs([_rho(column, change) for column in noise.T])
        row["random, median and 95 %"] = f"{np.median(null):.2f}, {np.quantile(null, 0.95):.2f}"
        by_seed = [_rho(each["difference"].to_numpy(), each["change"].to_numpy()) for _, each in group.groupby("seed")]
        row["difference, each seed"] = ", ".join(f"{each:.2f}" for each in by_seed)
        rows.append(row)
    return pd.DataFrame(rows)


def shipped(table: pd.DataFrame) -> pd.DataFrame:
    """Return the predictors and the change of the sample runs."""
    rows = table[table["mix"] < 0]
    return rows.assign(change=rows["after"] - rows["before"])[["name", "trait", *PREDICTORS, "change"]].round(3)


def markdown(table: pd.DataFrame) -> str:
    """Format a table."""
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(target: Path | None = None) -> tuple[list[Row], list[str]]:
    """Train on all mixes, or read what a file has; nothing is timed, so the tables are notes."""
    table = pd.read_csv(target, sep="\t") if target is not None and target.exists() else measure(target)
    mixes = table[table["mix"] >= 0]
    counts = f"{mixes['mix'].nunique()} mixes, {mixes['seed'].nunique()} seeds, {STEPS} steps of 32 rows"
    return [], [
        f"Spearman's correlation with the change of the exact rate over mixes [95 %, bootstrap over mixes]; {counts}",
        markdown(scores(table).set_index("trait").T.reset_index(names="")),
        "Sample runs",
        markdown(shipped(table)),
    ]


if __name__ == "__main__":
    say("\n\n".join(run(Path(sys.argv[1]) if len(sys.argv) > 1 else None)[1]))
