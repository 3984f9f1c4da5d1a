"""Timing of two implementations in turn, A B A B ..., so that a machine's drift affects both equally."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A comparison: medians in seconds, and quartiles of the pairwise ratio B / A."""

    name: str
    a: str
    b: str
    seconds_a: float
    seconds_b: float
    ratio: float
    ratio_low: float
    ratio_high: float
    repeats: int
    target: str = ""
    share: float | None = None
    """Share of A's time that its matrix products take alone, where that was measured."""

    def cells(self) -> list[str]:
        """Return the cells of the row for a table."""
        return [
            self.name,
            f"{self.a}: {1e3 * self.seconds_a:.1f} ms",
            f"{self.b}: {1e3 * self.seconds_b:.1f} ms",
            f"{self.ratio:.3f} [{self.ratio_low:.3f}, {self.ratio_high:.3f}]",
            str(self.repeats),
            self.target,
            "" if self.share is None else f"{100 * self.share:.0f} %",
        ]


HEADER = ["measurement", "A", "B", "B / A, median [quartiles]", "pairs", "target", "A's matrix products alone"]


def seconds(work: Callable[[], object]) -> float:
    """Measure the wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], repeats: int = 15, warmup: int = 2) -> float:
    """Measure the median seconds of several calls."""
    return statistics.median([seconds(work) for _ in range(warmup + repeats)][warmup:])


def compare(
    name: str,
    a: tuple[str, Callable[[], object]],
    b: tuple[str, Callable[[], object]],
    *,
    repeats: int = 15,
    warmup: int = 2,
    target: str = "",
) -> Row:
    """Time `a` and `b` in turn and return medians and the quartiles of the pairwise ratio B / A."""
    for _ in range(warmup):
        a[1]()
        b[1]()
    times = [(seconds(a[1]), seconds(b[1])) for _ in range(repeats)]
    return summary(name, a[0], b[0], times, target)


def summary(name: str, a: str, b: str, times: Sequence[tuple[float, float]], target: str = "") -> Row:
    """Summarise pairs of seconds of `a` and `b` as a row."""
    ratios = [second / first for first, second in times]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Row(
        name,
        a,
        b,
        statistics.median(first for first, _ in times),
        statistics.median(second for _, second in times),
        middle,
        low,
        high,
        len(times),
        target,
    )
