"""Verdict on each difference: changed, equivalent or undecided; and the minimum detectable effect.

    changed     the whole 95 % interval of the paired difference lies beyond the smallest effect that counts (a
                minimum-effect test, `probe.stats.beyond`), and the difference is significant after correction for its
                family (`probe.audit.swaps`)
    equivalent  the 90 % interval lies within the margin on both sides: two one-sided tests at 5 % (Schuirmann 1987, J.
                Pharmacokinetics and Biopharmaceutics 15:657)
    undecided   neither; also with fewer than `FEWEST` pairs
    unknown     there is no interval

Smallest effect and margin are shares; other units count from what they amount to (`probe.terms.smallest_effect`).

`mde` is the smallest true difference that is called changed in 80 of 100 repetitions with these pairs. It assumes the
variance of paired differences that the interval implies; for shares, the difference itself adds to it.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc, ndtr, ndtri

from probe import stats
from probe.audit.config import MARGIN, check_share
from probe.audit.swaps import LEVEL
from probe.terms import BOUNDED, DIFFERENCE, RATES, SMALLEST, smallest_effect

CHANGED, EQUIVALENT, UNDECIDED, UNKNOWN = "changed", "equivalent", "undecided", "unknown"
FEWEST = 10
"""Smallest number of pairs for a test; intervals of fewer are too narrow, so the difference is only shown."""
POWER = 0.8
INNER = 1 - 2 * LEVEL
"""Coverage of the interval that corresponds to two one-sided tests."""
BACK_AND_FORTH = (0.05, 0.15)
"""Shares of answers that change without a direction; most trained models lie between them. Used for planning."""
FEW = 200
"""Largest number of pairs for which the exact sign test also limits the power of a share, which moves in steps."""
MOST_ANSWERS = 100_000
"""Number of answers from which a row no longer counts as a share of answers."""
Z = 1.959963984540054
DIFFERENCES = ("difference", "difference_low", "difference_high")
INNER_ENDS = ("difference_low90", "difference_high90")
"""Columns of the 90 % interval, for two one-sided tests."""
ADDED = ["smallest", "margin", "mde", "cannot_show", "verdict"]
"""Columns computed from the others."""
SWAPS = ("p", "p_corrected", "critical")
"""Columns computed by `probe.audit.swaps`."""


def add_verdicts(rows: pd.DataFrame, smallest: float = SMALLEST, margin: float = MARGIN) -> pd.DataFrame:
    """Return the table with the columns smallest, margin, p, p_corrected, critical, mde, cannot_show and verdict.

    A table of an older version has no inner interval and no swaps. Then the 95 % interval has to lie within the margin,
    which is harder; p is the level at which the interval would reach 0 if the estimate were normal with the half width
    towards 0, corrected within its family by Holm's method (1979, Scandinavian J. Statistics 6:65).

    Args:
        rows: table with `DIFFERENCES`, base, aligned, unit and n; part and measure identify the family.
        smallest: smallest change of a rate that counts.
        margin: margin of a rate within which models are equivalent.

    Raises:
        ConfigError: one of them is not in [0, 1), or the margin is 0.
    """
    check_share("smallest effect", smallest, SMALLEST)
    check_share("margin", margin, MARGIN, least=1e-9)
    values = list(zip(rows["unit"], rows["base"], rows["aligned"], strict=True))
    sizes = {
        name: np.array([smallest_effect(str(unit), sides, share) for unit, *sides in values], dtype=float)
        for name, share in (("smallest", smallest), ("margin", margin))
    }
    found = rows.drop(columns=ADDED, errors="ignore").assign(**sizes)
    low, high = (found[name].to_numpy(dtype=float) for name in DIFFERENCES[1:])
    few = ~(np.isfinite(low) & np.isfinite(high)) | (found["n"].to_numpy(dtype=float) < FEWEST)
    if not {*SWAPS} <= {*found.columns}:
        inner = dict(zip(INNER_ENDS, (low, high), strict=True))
        found = found.assign(**inner, **approximate_tests(found, few))
    found = found.assign(**{name: found[name].mask(few) for name in ("p", "p_corrected")})
    inner_low, inner_high = (found[name].to_numpy(dtype=float) for name in INNER_ENDS)
    limits = found["margin"].to_numpy(dtype=float)
    within = (inner_low > -limits) & (inner_high < limits)
    changed = stats.beyond(low, high, sizes["smallest"]) & (found["p_corrected"].to_numpy(dtype=float) < LEVEL)
    verdict = np.select(
        [~(np.isfinite(low) & np.isfinite(high)), few, changed, within],
        [UNKNOWN, UNDECIDED, CHANGED, EQUIVALENT],
        UNDECIDED,
    )
    records = found.to_dict("records")
    return found.assign(
        mde=[row_mde(row) for row in records],
        cannot_show=[cannot_show(row) for row in records],
        verdict=verdict.astype(object),
    )


def approximate_tests(rows: pd.DataFrame, few: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Compute p, p_corrected and critical of stored intervals, by family; NaN for rows with `few` pairs."""
    gap, low, high = (rows[name].to_numpy(dtype=float) for name in DIFFERENCES)
    towards = np.maximum(np.where(gap > 0, gap - low, high - gap), 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        p = np.where(gap == 0, 1.0, 2 * ndtr(-Z * np.abs(gap) / towards))
    p = np.where(few, np.nan, p)
    corrected, critical = np.full(len(p), np.nan), np.full(len(p), np.nan)
    names = [name for name in ("part", "measure") if name in rows]
    codes = rows.groupby(names, sort=False).ngroup().to_numpy() if names else np.zeros(len(rows), dtype=int)
    for code in np.unique(codes):
        family = np.flatnonzero(codes == code)
        tested = family[~np.isnan(p[family])]
        m = len(tested)
        order = tested[np.argsort(p[tested], kind="stable")]
        corrected[order] = np.minimum(np.maximum.accumulate(p[order] * (m - np.arange(m))), 1.0)
        critical[family] = -ndtri(LEVEL / (2 * max(m, 1)))
    return {"p": p, "p_corrected": corrected, "critical": critical}


def row_mde(row: Mapping[Any, Any]) -> float:
    """Return the smallest difference that the pairs of a row detect with 80 % power, in its unit.

    NaN without an interval, and infinite if there are too few pairs to detect any difference within the unit's range.

    Args:
        row: unit, n, difference and its interval, smallest and critical.
    """
    low, high, gap, n = (float(row[name]) for name in ("difference_low", "difference_high", "difference", "n"))
    if not (math.isfinite(low) and math.isfinite(high)):
        return math.nan
    error = (high - low) / (2 * Z)
    variance = n * error * error
    critical = float(row["critical"])
    critical = Z if critical != critical else max(critical, Z)  # with few pairs, coarse swaps give less
    if n < FEWEST:
        return math.inf
    if counts_answers(row):
        back_and_forth = max(variance + gap * gap - abs(gap), 0.0)
        return mde(n, back_and_forth, float(row["smallest"]), critical, answers=True)
    size = mde(n, variance, float(row["smallest"]), critical)
    return math.inf if row["unit"] in BOUNDED and size > 1 + (row["unit"] == DIFFERENCE) else size


@lru_cache(maxsize=4096)
def mde(n: float, variance: float, smallest: float, critical: float = Z, answers: bool = False) -> float:
    """Compute the smallest difference that is called changed with 80 % power; infinite if there is none.

    Both tests must be passed: the interval beyond the smallest effect, whose half width is 1.96 standard errors, and
    the test by swaps, whose deviation is that of the paired differences around 0.

    Args:
        n: number of pairs.
        variance: variance of a paired difference around its mean; for right or wrong answers, the share that changes
            without a direction.
        smallest: smallest effect that counts.
        critical: number of standard deviations of the swapped differences that the observed one must exceed.
        answers: whether it is a difference of shares, whose variance grows with the difference.
    """
    power, most = float(ndtri(POWER)), 1.0 if answers else math.inf

    def found(size: float) -> bool:
        spread = variance + size - size * size if answers else variance
        null = variance + size if answers else variance + size * size
        error = math.sqrt(max(spread, 0.0) / n)
        enough = size >= max(smallest + Z * error, critical * math.sqrt(null / n)) + power * error
        few = answers and n <= FEW
        return enough and not (few and _sign_power(round(n), variance, size, critical) < POWER)

    high = 1.0 if answers else max(smallest, math.sqrt(variance / n), 1e-12)
    while not found(high):
        high *= 2
        if high > most or high > 1e9 * (smallest + math.sqrt(variance) + 1e-12):
            return math.inf
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def _sign_power(n: int, back_and_forth: float, size: float, critical: float) -> float:
    """Compute the exact power of the sign test for a difference of shares with so many paired answers."""
    differ = back_and_forth + size
    found = bdtrc(_by_chance(n, critical), np.arange(n + 1), (back_and_forth / 2 + size) / max(differ, 1e-12))
    return float((-np.diff(bdtrc(np.arange(-1, n + 1), n, min(differ, 1.0))) * found).sum())


@lru_cache(maxsize=256)
def _by_chance(n: int, critical: float) -> NDArray[np.int64]:
    """Return the probabilities of at most 0, 1, ... n changes in one direction by chance, without scipy.stats."""
    changed = np.arange(n + 1)
    return (bdtrc(np.minimum(changed, changed[:, None]), changed[:, None], 0.5) <= ndtr(-critical)).argmax(axis=1)


def planned_mde(n: int, smallest: float = SMALLEST, measures: int = 1) -> tuple[float, float]:
    """Return the smallest difference of a share that n questions will detect, for few and for many changing answers.

    Args:
        n: number of questions.
        smallest: smallest effect that counts.
        measures: number of measures in the family that is corrected for.
    """
    critical = float(-ndtri(LEVEL / (2 * measures)))
    few, many = (mde(n, share, smallest, critical, answers=True) for share in BACK_AND_FORTH)
    return few, many


def counts_answers(row: Mapping[Any, Any]) -> bool:
    """Return whether a row is a share of answers: its difference times the number of pairs is a whole number."""
    if row["unit"] != "share":
        return False
    changes = float(row["difference"]) * float(row["n"])
    return abs(changes) < MOST_ANSWERS and float(row["n"]) < MOST_ANSWERS and abs(changes - round(changes)) < 1e-6


def reach(row: Mapping[Any, Any]) -> tuple[float, float]:
    """Return how far below and above 0 the interval of a difference can lie, given the value of the base.

    Returns:
        The upper end of the interval if every answer became 0, and the lower end if every one became 1; without bounds
        (any unit but rates) minus infinity and infinity.
    """
    base, n = float(row["base"]), int(row["n"])
    if row["unit"] not in RATES or not math.isfinite(base) or n < 1:
        return -math.inf, math.inf
    if not counts_answers(row):
        return -base, 1 - base
    before = np.arange(n) < round(base * n)
    falls, rises = (stats.paired_proportions(np.full(n, end), before) for end in (0, 1))
    return falls.high, rises.low


def cannot_show(row: Mapping[Any, Any]) -> str:
    """Return the change of a row that could not be shown whatever the other model did: rise, fall, or empty.

    A base that always gives one answer has no headroom on that side.
    """
    fall, rise = reach(row)
    sides = (("rise", rise <= row["smallest"]), ("fall", fall >= -row["smallest"]))
    return " or ".join(name for name, missing in sides if missing)


def within(row: Mapping[Any, Any], margin: ArrayLike) -> bool:
    """Return whether two one-sided tests show that a row's difference lies within a margin, in the row's unit."""
    low, high = (float(row[name]) for name in INNER_ENDS)
    return bool(float(row["n"]) >= FEWEST and low > -np.asarray(margin) and high < np.asarray(margin))
