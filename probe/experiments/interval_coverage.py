"""Simulated coverage of intervals over items.

`python -m probe.experiments.interval_coverage` repeats the simulation. Each case is a kind of data in the experiments:
items that share a person, long-tailed values, rare events. The interval methods are `items` and `percentile`, which
were used before; `units` (`probe.stats.unit_share`, and `bootstrap_means` of units), `studentised` (`bootstrap_means`)
and `wilson`, which are used now; `t` and `bca` are alternatives. The nominal coverage is 95 %. The results are in
`interval_coverage.tsv` next to this file, and in docs/metrics.md.
"""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from probe import stats, texts
from probe.stats import GAIN, SHARE, Bounds

Floats = NDArray[np.float64]
SIMULATIONS = 2000
"""Number of simulations; with it, a coverage of 95 % is known to within 1 percentage point."""
RESAMPLES = 1000
_BLOCK = 250  # simulations at once
FILE = "interval_coverage.tsv"
USED = ("units", "studentised", "wilson")
"""Interval methods in use."""


@dataclass(frozen=True)
class Case:
    """Kind of data with a number of units."""

    name: str
    """Name in words."""
    n: int
    """Number of units."""
    draw: Callable[[np.random.Generator, int, int], Floats]
    """Function (generator, simulations S, n) -> [S N] values of N items."""
    truth: float
    """True mean of the distribution."""
    bounds: Bounds | None = None
    """Range of a value."""
    items: int = 1
    """Mean number of items per unit; above 1 the number varies, as with questions about people."""


@dataclass(frozen=True)
class Simulation:
    """Simulation of the intervals of one method: their coverage and width."""

    case: str
    n: int
    way: str
    covered: float
    """Share of the intervals that contain the truth."""
    width: float
    """Median width of the intervals."""
    none: float
    """Share of the simulations without an interval; they count neither for coverage nor for width."""


def sizes(case: Case) -> NDArray[np.int64]:
    """Draw [n] numbers of items of each unit, at least one each."""
    if case.items == 1:
        return np.ones(case.n, dtype=np.int64)
    rng = np.random.default_rng(case.n)
    return 1 + rng.multinomial(case.n * (case.items - 1), np.full(case.n, 1 / case.n))


def _share(p: float) -> Callable[[np.random.Generator, int, int], Floats]:
    return lambda rng, s, n: (rng.random((s, n)) < p).astype(float)


def _change(up: float, down: float) -> Callable[[np.random.Generator, int, int], Floats]:
    def draw(rng: np.random.Generator, s: int, n: int) -> Floats:
        u = rng.random((s, n))
        return (u < up) * 1.0 - ((u >= up) & (u < up + down)) * 1.0

    return draw


def _rare_mistakes(p: float) -> Callable[[np.random.Generator, int, int], Floats]:
    """Draw exact probabilities: 0.8 on average for a share p of the questions, 0.02 for the others."""

    def draw(rng: np.random.Generator, s: int, n: int) -> Floats:
        return np.where(rng.random((s, n)) < p, rng.beta(8, 2, (s, n)), rng.beta(0.3, 14.7, (s, n)))

    return draw


def _of_people(p: float, alike: float, n: int, items: int, exact: bool = False) -> Case:
    """Draw answers to questions about n people, each right with the person's probability (beta-binomial).

    Args:
        p: mean probability.
        alike: intraclass correlation of a person's answers.
        n: number of people.
        items: number of questions per person.
        exact: whether the values are probabilities instead of answers, one per question, distributed around the
            person's.
    """
    case = Case("", n, _share(p), p, SHARE, items)
    owner = np.repeat(np.arange(n), sizes(case))
    a, b = p * (1 / alike - 1), (1 - p) * (1 / alike - 1)

    def draw(rng: np.random.Generator, s: int, _: int) -> Floats:
        own = np.clip(rng.beta(a, b, (s, n)), 1e-9, 1 - 1e-9)[:, owner]
        return rng.beta(20 * own, 20 * (1 - own)) if exact else (rng.random(own.shape) < own).astype(float)

    what = "chances" if exact else "answers"
    return Case(f"{what} about people, mean {p}, likeness {alike}", n, draw, p, SHARE, items)


def cases() -> list[Case]:
    """Return all simulated cases."""
    found = [_of_people(p, alike, n, 400 // n) for n in (10, 40, 64) for p in (0.05, 0.3, 0.6) for alike in (0.3, 0.8)]
    found += [_of_people(p, alike, n, 400 // n, exact=True) for n in (40, 64) for p in (0.05, 0.6) for alike in (0.3,)]
    for n in (5, 8, 10, 20, 30, 60):
        found += [
            Case("normal values", n, lambda rng, s, n: rng.normal(size=(s, n)), 0.0),
            Case("lognormal values", n, lambda rng, s, n: rng.lognormal(size=(s, n)), float(np.exp(0.5))),
        ]
    for n in (10, 20, 30, 40, 60, 200):
        found += [Case(f"shares of {p}", n, _share(p), p, SHARE) for p in (0.02, 0.05, 0.1)]
        found += [Case(f"changes, {u} up and {d} down", n, _change(u, d), u - d, GAIN) for u, d in ((0.05, 0.02),)]
        found.append(Case("rare mistakes of 0.05", n, _rare_mistakes(0.05), 0.05 * 0.8 + 0.95 * 0.02, SHARE))
    return found


def simulate(case: Case, simulations: int = SIMULATIONS, seed: int = 0) -> list[Simulation]:
    """Simulate a case and return the coverage of each interval method."""
    found: dict[str, list[Floats]] = {}
    rng = np.random.default_rng([seed, case.n, *case.name.encode()])
    for start in range(0, simulations, _BLOCK):
        for way, ends in _ways(case, case.draw(rng, min(_BLOCK, simulations - start), case.n), seed).items():
            found.setdefault(way, []).append(ends)
    rows = []
    for way, blocks in found.items():
        low, high = np.concatenate(blocks, axis=1)
        known = np.isfinite(low) & np.isfinite(high)
        held = (low[known] <= case.truth + 1e-12) & (high[known] >= case.truth - 1e-12)
        width = float(np.median((high - low)[known])) if known.any() else float("nan")
        share = float(held.mean()) if known.any() else float("nan")
        rows.append(
            Simulation(case.name, case.n, way, round(share, 4), round(width, 4), round(1 - float(known.mean()), 4))
        )
    return rows


def _ways(case: Case, values: Floats, seed: int) -> Mapping[str, Floats]:
    """Compute {method: [2 S] bounds} for values [S N]."""
    binary = case.bounds == SHARE and np.isin(values, (0, 1)).all()
    if case.items > 1:
        owner = np.repeat(np.arange(case.n), sizes(case))
        before = [stats.wilson(int(row.sum()), len(row)) for row in values] if binary else None
        if binary:
            after = [stats.unit_share(row, owner) for row in values]
        else:
            after = stats.bootstrap_means(list(values), seed=seed, bounds=[case.bounds] * len(values), units=owner)
        return {"items": _ends(before) if before else _percentile(values, seed), "units": _ends(after)}
    ours = stats.bootstrap_means(list(values), seed=seed, bounds=[case.bounds] * len(values))
    ways = {"percentile": _percentile(values, seed), "t": _student(values), "bca": _bca(values, seed)}
    if binary:
        return ways | {"wilson": _ends(stats.wilson(int(row.sum()), len(row)) for row in values)}
    return ways | {"studentised": _ends(ours)}


def _ends(intervals: Iterable[stats.Interval]) -> Floats:
    return np.array([[each.low, each.high] for each in intervals]).T


def _resampled(values: Floats, seed: int) -> Floats:
    """Compute [S R] means of resamples."""
    n = values.shape[1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return values @ counts.T / n


def _percentile(values: Floats, seed: int) -> Floats:
    return np.asarray(np.quantile(_resampled(values, seed), stats.TAILS, axis=1))


def _student(values: Floats) -> Floats:
    n, mean = values.shape[1], values.mean(axis=1)
    half = stdtrit(n - 1, stats.TAILS[1]) * values.std(axis=1, ddof=1) / np.sqrt(n)
    return np.array([mean - half, mean + half])


def _bca(values: Floats, seed: int) -> Floats:
    """Compute bias-corrected and accelerated intervals (Efron 1987, J. American Statistical Association 82:171)."""
    mean, drawn = values.mean(axis=1), np.sort(_resampled(values, seed), axis=1)
    gaps = values - mean[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = np.nan_to_num((gaps**3).sum(axis=1) / (6 * (gaps**2).sum(axis=1) ** 1.5))
    below = (drawn < mean[:, None]).mean(axis=1) + 0.5 * (drawn == mean[:, None]).mean(axis=1)
    bias = ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    ends = []
    for tail in stats.TAILS:
        z = bias + ndtri(tail)
        at = np.clip(ndtr(bias + z / (1 - skew * z)), 0, 1) * (RESAMPLES - 1)
        low = np.floor(at).astype(int)
        rows, part = np.arange(len(mean)), at - low
        ends.append(drawn[rows, low] * (1 - part) + drawn[rows, np.minimum(low + 1, RESAMPLES - 1)] * part)
    return np.array(ends)


def simulated() -> list[Simulation]:
    """Read the coverages of `interval_coverage.tsv`."""
    with (files("probe.experiments") / FILE).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    numbers = ("covered", "width", "none")
    return [Simulation(row["case"], int(row["n"]), row["way"], *(float(row[name]) for name in numbers)) for row in rows]


def table(rows: Iterable[Simulation]) -> str:
    """Return the coverages as a Markdown table: one line per case and number of units, one column per method.

    The columns are the method used before, the current one, t and BCa.
    """
    by_case: dict[tuple[str, int], dict[str, Simulation]] = {}
    for row in rows:
        by_case.setdefault((row.case, row.n), {})[row.way] = row
    lines = ["| data | units | before | now | t | BCa |", "| --- | --- | --- | --- | --- | --- |"]
    for (case, n), ways in by_case.items():
        before = next(row for way, row in ways.items() if way in ("items", "percentile"))
        now = next(row for way, row in ways.items() if way in USED)
        none = f" (none in {now.none:.0%})" if now.none >= 0.005 else ""
        told = "no interval" if now.none > 0.995 else f"{100 * now.covered:.0f} %{none}"
        others = [f"{100 * ways[way].covered:.0f} %" if way in ways else "" for way in ("t", "bca")]
        lines.append(f"| {case} | {n} | {100 * before.covered:.0f} % | {told} | {' | '.join(others)} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate all cases, write `interval_coverage.tsv` and print the table."""
    rows = [row for case in cases() for row in simulate(case)]
    names = ("case", "n", "way", "covered", "width", "none")
    lines = [names, *(tuple(str(getattr(row, name)) for name in names) for row in rows)]
    text = "".join("\t".join(line) + "\n" for line in lines)
    Path(__file__).with_name(FILE).write_text(text, encoding="utf-8")
    texts.say(table(rows))


if __name__ == "__main__":
    main()
