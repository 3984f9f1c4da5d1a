"""Overoptimisation of a proxy reward: the fits of Gao, Schulman and Hilton 2022 (arXiv 2210.10760) against d.

With d = sqrt(KL(pi || pi_ref)), rewards counted from the reference's,

    R_bon(d) = d (a - b d)            best of N
    R_rl(d)  = d (a - b log d)        reinforcement learning

are linear in a and b: plain least squares. Where b > 0 the curve has a peak, beyond which more optimisation of the
proxy costs gold reward: d* = a / (2 b) with R* = a^2 / (4 b), and d* = exp(a / b - 1) with R* = b d*.

    points = field.best_of_n("proxy")  # probe.analyses.reward_frontier; N = 1 is the reference at d = 0
    fit(points["d"], points["gold"], "bon").peak

Intervals come from the bootstrap of residuals (scaled by their leverage), which takes those for independent: along one
training they are not, and on exact points they are misfit and no noise. Read them as how well the form is determined.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from probe.analyses.answers import Array
from probe.errors import ConfigError, DataError
from probe.stats import Interval

Form = Literal["bon", "rl"]
FORMS: dict[Form, str] = {"bon": "d (a \u2212 b d)", "rl": "d (a \u2212 b log d)"}
"""How the fits are written."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Fit:
    """One form fitted to points."""

    form: Form
    a: Interval
    """Reward gained per unit of d at the start (bon), at d = 1 (rl)."""
    b: Interval
    """How fast that falls."""
    peak: Interval
    """d*, the distance of most reward; infinite where b <= 0, so that there is none."""
    top: Interval
    """R*, the reward there above the reference's; infinite where there is no peak."""
    origin: float
    """Reward of the reference, which the curve starts from."""
    rmse: float
    """Root mean square of the residuals."""
    r2: float
    """Share of the variation around the reference's reward that the form explains."""
    d: Array
    """[n] the points that were fitted."""
    reward: Array
    """[n] their rewards."""

    @property
    def seen(self) -> bool:
        """Whether the peak lies among the points, and is no extrapolation to where there are none."""
        return bool(self.d.min() <= self.peak.value <= self.d.max())

    def predict(self, d: ArrayLike) -> Array:
        """The fitted reward at distances d."""
        return self.origin + _design(np.asarray(d, dtype=float), self.form) @ np.array([self.a.value, self.b.value])

    def row(self) -> dict[str, float | str | bool]:
        """One line of a table: form, a, b, peak, top, each with _low and _high; rmse, r2, n, seen."""
        row: dict[str, float | str | bool] = {"form": self.form}
        for name, interval in (("a", self.a), ("b", self.b), ("peak", self.peak), ("top", self.top)):
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return row | {"rmse": self.rmse, "r2": self.r2, "n": len(self.d), "seen": self.seen}


def fit(
    d: ArrayLike,
    reward: ArrayLike,
    form: Form,
    origin: float | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Fit:
    """Fit a form by least squares.

    Args:
        d: [n] square root of the KL to the reference; points at 0 carry nothing but the origin.
        reward: [n].
        form: "bon" or "rl".
        origin: reward of the reference; default: that of the points at d = 0.
        level: coverage of the intervals.
        resamples: bootstrap draws.
        seed: the same seed gives the same intervals.

    Raises:
        ConfigError: another form.
        DataError: lists that do not fit, a negative or missing number, no origin, or fewer than three points.
    """
    if form not in FORMS:
        raise ConfigError(f"The form {form!r} is not known: choose one of {', '.join(FORMS)}.")
    x, y = np.asarray(d, dtype=float), np.asarray(reward, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all() and (x >= 0).all()):
        raise DataError(f"A fit needs distances from 0 on and as many finite rewards; got {x.shape} and {y.shape}.")
    if origin is None:
        if not (x == 0).any():
            raise DataError("No point lies at d = 0, so the reference's reward is unknown: give it as `origin`.")
        origin = float(y[x == 0].mean())
    x, y = x[x > 0], y[x > 0] - origin
    if len(x) < 3 or len(np.unique(x)) < 2:
        raise DataError(f"Two numbers cannot be fitted to {len(x)} points beyond the reference: give 3 or more.")
    design = _design(x, form)
    solve = np.linalg.pinv(design)
    best = solve @ y
    residual = y - design @ best
    leverage = np.clip((design * solve.T).sum(1), 0, 1 - 1e-9)
    scaled = residual / np.sqrt(1 - leverage)
    drawn = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    draws = (design @ best + (scaled - scaled.mean())[drawn]) @ solve.T
    peaks, tops = _peak(draws[:, 0], draws[:, 1], form)
    at, top = (float(value[0]) for value in _peak(best[:1], best[1:], form))
    tails = (1 - level) / 2, (1 + level) / 2

    def interval(value: float, values: Array) -> Interval:
        low, high = np.quantile(values, tails, method="inverted_cdf")  # no mixing of finite and infinite
        return Interval(float(value), float(low), float(high))

    return Fit(
        form=form,
        a=interval(best[0], draws[:, 0]),
        b=interval(best[1], draws[:, 1]),
        peak=interval(at, peaks),
        top=interval(top, tops),
        origin=origin,
        rmse=float(np.sqrt((residual**2).mean())),
        r2=float(1 - (residual**2).sum() / (y**2).sum()) if y.any() else float("nan"),
        d=x,
        reward=y + origin,
    )


def _design(d: Array, form: Form) -> Array:
    """[n 2] what a and b are multiplied by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = d * d if form == "bon" else np.where(d > 0, d * np.log(d), 0.0)
    return np.stack([d, -bend], axis=-1)


def _peak(a: Array, b: Array, form: Form) -> tuple[Array, Array]:
    """Distance and reward of the maximum; infinite where the curve only rises, 0 where it only falls."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if form == "bon":
            at, top = np.maximum(a, 0) / (2 * b), np.maximum(a, 0) ** 2 / (4 * b)
        else:
            at = np.exp(a / b - 1)
            top = b * at
    return np.where(b > 0, at, np.inf), np.where(b > 0, top, np.inf)
