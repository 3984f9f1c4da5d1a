"""Numbers as a person reads them: with their 95 % interval, rates in percent, differences of rates in points."""

import math
import re

from probe.terms import DIFFERENCE, RATES


def format_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A number with its 95 % interval, such as `0.96 [0.94, 0.98]`; only the number where there is no interval."""
    if value is None or value != value:
        return "\u2014"
    if low is None or high is None or low != low or high != high:
        return f"{value:.3g}"
    digits = 2 if max(abs(value), abs(low), abs(high)) < 100 else 0
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(value: float, low: float, high: float) -> str:
    """A share in words: `96 % [94, 98]`; only the share where there is no interval, a dash where there is neither.

    Where the interval is narrower than half a percentage point there are decimals, such as `99.95 % [99.94, 99.96]`.
    """
    if value != value:
        return "\u2014"
    if low != low or high != high:
        return f"{100 * value:.0f} %"
    digits = 0 if high == low else next((digits for digits in (0, 1) if high - low >= 0.005 / 10**digits), 2)
    digits = digits if max(abs(value), abs(low), abs(high)) >= 0.00005 else 0  # else zeros behind the point say nothing
    return f"{100 * value:.{digits}f} % [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def chance(probability: float) -> str:
    """The probability of one event, such as a token, with three digits however small it is: `96.3 %`, `0.0012 %`."""
    return f"{100 * probability:.3g} %"


def signed(value: float) -> str:
    """A difference with its sign and two digits behind the point: `+0.87`."""
    return f"{value:+.2f}".replace("-", "\u2212")


def in_unit(unit: str, value: float | None, low: float | None, high: float | None, *, sign: bool = False) -> str:
    """A number with its interval as its unit is shown everywhere.

    Rates are in percent, differences of rates in percentage points, `+37 pp [29, 45]`; all others are numbers, with
    more digits where all of it is small.

    Args:
        unit: see `probe.terms`.
        value: the number.
        low: lower end of its interval, if there is one.
        high: the upper one.
        sign: show a plus before what is above zero; differences of rates have it always.
    """
    ends = [math.nan if each is None else float(each) for each in (value, low, high)]
    if math.isnan(ends[0]):
        return "\u2014"
    if unit in (*RATES, DIFFERENCE):
        text = percent(*ends)
        text = text.replace("%", "pp") if unit == DIFFERENCE else text
    else:
        largest = max(abs(each) for each in ends if not math.isnan(each))
        digits = 2 if largest >= 0.1 or largest == 0 else 3 if largest >= 0.01 else 4
        whole = digits == 2 or math.isnan(ends[1]) or math.isnan(ends[2])
        text = format_interval(*ends) if whole else "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*ends, d=digits)
    text = re.sub(r"-(0(?:\.0+)?)(?![\d.])", r"\1", text).replace("-", "\u2212")
    return f"+{text}" if ends[0] > 0 and (sign or unit == DIFFERENCE) else text


def shown_ends(unit: str, low: float, high: float) -> tuple[float, float]:
    """The ends of a t interval as they are shown: of rates between 0 and 100 %, of their differences within 100 pp."""
    bounds = {**dict.fromkeys(RATES, (0.0, 1.0)), DIFFERENCE: (-1.0, 1.0)}
    least, most = bounds.get(unit, (-math.inf, math.inf))
    return max(low, least), min(high, most)
