"""Formats of numbers: with 95 % intervals, rates and their differences, sizes, durations."""

import math
import re

from probe.terms import DIFFERENCE, RATES


def format_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Format a number with its 95 % interval, such as `0.96 [0.94, 0.98]`, or without one the number alone."""
    if value is None or value != value:
        return "\u2014"
    if low is None or high is None or low != low or high != high:
        return f"{value:.3g}" if value >= 0 else f"\u2212{-value:.3g}"
    digits = 2 if max(abs(value), abs(low), abs(high)) < 100 else 0
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "\u2212")


def to_a_side(interval: tuple[float, float, float], above: str, below: str) -> str:
    """Describe a difference in words without its sign: `1.73 [1.62, 1.83] nats below`.

    Args:
        interval: value, lower and upper end.
        above: words after a positive number, such as `nats above`.
        below: words after a negative number.
    """
    value, low, high = interval
    return (
        f"{format_interval(value, low, high)} {above}"
        if value >= 0
        else f"{format_interval(-value, -high, -low)} {below}"
    )


def percent(value: float, low: float, high: float) -> str:
    """Format a share in percent: `96 % [94, 98]`; without an interval the share alone, without a share a dash.

    There are as many decimals, at most two, as are needed to show the width of the interval, and two if it is narrower
    than half a percentage point, such as `99.95 % [99.94, 99.96]`. If the ends are still equal the result is
    `99.95 % [\u00b10.01]`, and a share below 0.01 % or above 99.99 % is shown as a bound: `< 0.01 %`.
    """
    return _with_minus(_with_ends(value, low, high, "%", in_points=False))


def rate(value: float) -> str:
    """Format a share without an interval: whole percent, decimals near 0 and 1, `0 %` only for exactly 0."""
    return percent(value, math.nan, math.nan)


def _with_ends(value: float, low: float, high: float, unit: str, in_points: bool) -> str:
    """Format a share, or a difference of shares, in percent; see `percent`."""
    if value != value:
        return "\u2014"
    if low != low or high != high or low == high == value:
        size = abs(value)
        close = 0 < size < 1
        shown = (f"{100 * size:.{digits}f}" for digits in (0, 1, 2))
        text = next((each for each in shown if not close or 0 < float(each) < 100), None)
        if text is None:
            text = "0" if in_points and size < 0.5 else _bound(size)
        return f"{'-' if value < 0 else ''}{text} {unit}"
    for digits in (0, 1, 2):
        first, last = (f"{100 * end:.{digits}f}" for end in (low, high))
        if high - low >= 0.005 / 10**digits and first != last:
            return f"{100 * value:.{digits}f} {unit} [{first}, {last}]"
    two_digits = f"{100 * value:.2f}"
    if not in_points and 0 <= value <= 1 and float(two_digits) in (0, 100):
        return f"{_bound(value)} {unit}"
    return f"{two_digits} {unit} [\u00b10.01]"


def _with_minus(text: str) -> str:
    """Return numbers with the sign \u2212, and zero without a sign."""
    return re.sub(r"-(0(?:\.0+)?)(?![\d.])", r"\1", text).replace("-", "\u2212")


def _bound(share: float) -> str:
    """Format a share that two decimals cannot distinguish from 0 or 1 as a bound."""
    return "< 0.01" if share < 0.5 else "> 99.99"


def chance(probability: float) -> str:
    """Format the probability of one event, such as a token, with three digits: `96.3 %`, `0.0012 %`, `< 0.0001 %`."""
    return "> 99.9 %" if 0.9995 <= probability < 1 else in_percent(probability, 3)


def in_percent(value: float, digits: int = 2) -> str:
    """Format a ratio, such as a relative change, in percent with some digits: `140 %`, `0.0012 %`, `< 0.0001 %`."""
    if not math.isfinite(value):
        return "\u2014" if value != value else "\u221e"
    if 0 < abs(value) < 1e-6:
        return "< 0.0001 %"
    places = max(digits - 1 - math.floor(math.log10(abs(100 * value))), 0) if value else 0
    text = f"{100 * value:.{places}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def share_text(value: float) -> str:
    """Format a share of a gap, which may lie outside of 0 to 1, in whole percent; `unknown` for NaN."""
    text = "unknown" if value != value else f"{100 * value:.0f} %"
    return ("0 %" if text == "-0 %" else text).replace("-", "\u2212")


def signed(value: float) -> str:
    """Format a difference with its sign and two decimals: `+0.87`."""
    return f"{value:+.2f}".replace("-", "\u2212")


def in_unit(unit: str, value: float | None, low: float | None, high: float | None, *, sign: bool = False) -> str:
    """Format a number with its interval, in the standard format of its unit.

    Rates are in percent, differences of rates in percentage points, `+37 pp [29, 45]`; all others are plain numbers,
    with more decimals if they are small.

    Args:
        unit: unit, see `probe.terms`.
        value: the number.
        low: lower end of its interval, if there is one.
        high: upper end.
        sign: show a plus before positive numbers; differences of rates always have it.
    """
    ends = [math.nan if each is None else float(each) for each in (value, low, high)]
    if math.isnan(ends[0]):
        return "\u2014"
    if unit in (*RATES, DIFFERENCE):
        text = _with_ends(ends[0], ends[1], ends[2], "pp" if unit == DIFFERENCE else "%", unit == DIFFERENCE)
    else:
        largest = max(abs(each) for each in ends if not math.isnan(each))
        digits = 2 if largest >= 0.1 or largest == 0 else 3 if largest >= 0.01 else 4
        whole = digits == 2 or math.isnan(ends[1]) or math.isnan(ends[2])
        text = format_interval(*ends) if whole else "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*ends, d=digits)
    text = _with_minus(text)
    return f"+{text}" if ends[0] > 0 and (sign or unit == DIFFERENCE) else text


def shown_ends(unit: str, low: float, high: float) -> tuple[float, float]:
    """Clip the ends of a t interval for display: rates to 0 and 100 %, differences and correlations to -1 and 1."""
    bounds = {**dict.fromkeys(RATES, (0.0, 1.0)), DIFFERENCE: (-1.0, 1.0), "correlation": (-1.0, 1.0)}
    least, most = bounds.get(unit, (-math.inf, math.inf))
    return max(low, least), min(high, most)


def file_size(size: int) -> str:
    """Write a number of bytes in the decimal unit that fits: 512 B, 4.7 MB, 18 GB."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def duration(seconds: float, least: float = 1.0) -> str:
    """Format a duration, rounded to seconds, minutes or tenths of an hour; below a second to one digit.

    Args:
        seconds: the duration.
        least: shortest duration that is shown.
    """
    shown = max(seconds, least)
    if shown < 0.95:
        return f"{shown:.1g} s"
    if shown < 90:
        return f"{round(shown)} s"
    return f"{round(shown / 60)} min" if shown < 7200 else f"{shown / 3600:.1f} h"
