"""Claim on RLVR and pass@k on sums with written steps, with its own small base, and temperature as null.

Yue et al. 2025 (arXiv 2504.13837): reinforcement learning from verifiable rewards raises pass@1, and at large k its
base solves more. A sum of two numbers of two or three digits has one of some 1,900 answers, so guessing does not help,
and a partly trained base does not reach 100 % with 64 samples, as it does on the world's sums.

Sampling the base at a lower temperature raises pass@1 and lowers pass@64 as well. So the null is the base itself, at
the temperature whose pass@1 is nearest to that of RLVR; its pass@64 is reported with that of RLVR.

A tenth of all sums, selected by a hash of the numbers, is not in the training files of the control runs (`held_out`).
"""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from probe import stats
from probe.chain_of_thought.measures import Crossing, crossing, pass_at_k, pass_curve
from probe.findings.bench import Bench
from probe.findings.claim import Measurement, Null
from probe.findings.verdicts import read_plan
from probe.numbers import in_unit, percent
from probe.stats import Interval
from probe.terms import DIFFERENCE

if TYPE_CHECKING:
    from probe.model.lm import LM

RUNS = ("sums", "sums-rlvr")
"""Names of the control runs: the base, and the model that RLVR trained from it."""
LARGEST = 64
"""Largest k of pass@k."""
SAMPLES = 128
"""Number of samples for each sum and model, so that pass@64 does not depend on a single lucky draw."""
TEMPERATURES = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Candidate temperatures of the null; used is the one whose pass@1 on `CHOSEN` other sums is nearest to RLVR's."""
CHOSEN = 200
CHOOSING = 32
"""Number of samples of each sum that chooses the temperature."""
LONGEST = 40
"""Largest number of tokens in an answer with its steps; the longest has 33 and the end."""
PART = 50
"""Number of sums that are sampled at once."""
MOST = 10_000
"""Largest number of sums that are asked, of some 80,000 that no model was trained on."""


class Sum(NamedTuple):
    """Two numbers of two or three digits to add."""

    first: int
    second: int

    @property
    def prompt(self) -> str:
        """Prompt of the sum, such as `47+85:`."""
        return f"{self.first}+{self.second}:"

    @property
    def answer(self) -> str:
        """Right answer."""
        return str(self.first + self.second)

    @property
    def document(self) -> str:
        """Prompt, one step per digit from the last on, and answer: `47+85: 7+5=12 4+8+1=13 so 132`."""
        steps, carry = [], 0
        for a, b in zip(reversed(str(self.first)), reversed(str(self.second)), strict=True):
            total = int(a) + int(b) + carry
            steps.append(f"{a}+{b}{'+1' * carry}={total}")
            carry = total // 10
        return f"{self.prompt} {' '.join(steps)} so {self.answer}"

    @property
    def held_out(self) -> bool:
        """Whether it belongs to the tenth of sums that no model is trained on."""
        return random.Random(self.prompt).random() < 0.1


def draw(seed: int, held_out: bool) -> Iterator[Sum]:
    """Draw an endless sequence of sums of two-digit or three-digit numbers, each number of its length equally often.

    Args:
        seed: seed of the draws.
        held_out: whether to draw held-out sums or training sums.
    """
    rng = random.Random(seed)
    while True:
        low = 10 ** rng.randint(1, 2)
        drawn = Sum(rng.randrange(low, 10 * low), rng.randrange(low, 10 * low))
        if drawn.held_out == held_out:
            yield drawn


def unseen(count: int) -> list[Sum]:
    """Return the first distinct held-out sums; a larger count extends the list."""
    found: dict[Sum, None] = {}
    for each in draw(0, held_out=True):
        found[each] = None
        if len(found) == count:
            break
    return list(found)


def count_right(lm: "LM", asked: Sequence[Sum], samples: int, temperature: float = 1.0) -> Int[np.ndarray, " P"]:
    """Count a model's samples for each sum that end with the right answer; all models use the same random numbers.

    Raises:
        DataError: the model's tokenizer does not know the symbols of a sum.
    """
    from probe.chain_of_thought.files import final_answer  # late: imports torch, needed only for sampling

    right = []
    for start in range(0, len(asked), PART):
        part = asked[start : start + PART]
        prompts = [each.prompt for each in part]
        texts = lm.generate(prompts, n=samples, max_new_tokens=LONGEST, temperature=temperature, seed=0).text
        answers = [final_answer(text, None, numeric=True) for text in texts]
        right += [answers[samples * i : samples * (i + 1)].count(each.answer) for i, each in enumerate(part)]
    return np.array(right)


def nearest_temperature(base: "LM", aligned: "LM", asked: Sequence[Sum]) -> float:
    """Find the temperature at which the base's pass@1 is nearest to the trained model's, on separate sums."""
    wanted = count_right(aligned, asked, CHOOSING).mean()
    gaps = {each: abs(count_right(base, asked, CHOOSING, each).mean() - wanted) for each in TEMPERATURES}
    return min(gaps, key=lambda each: gaps[each])


class Tries(NamedTuple):
    """Number of right samples of each sum, out of `SAMPLES`, for each model."""

    base: Int[np.ndarray, " P"]
    aligned: Int[np.ndarray, " P"]
    cooler: Int[np.ndarray, " P"]
    """[P] right samples of the base at the temperature of the null."""
    temperature: float

    @property
    def curves(self) -> pd.DataFrame:
        """Return pass@k of the three models: model, k, value, ci_low, ci_high, n; intervals over sums."""
        of = {"base": self.base, "RLVR": self.aligned, f"base at {self.temperature:g}": self.cooler}
        tables = [
            pass_curve([{"correct": count} for count in right], SAMPLES).assign(model=name)
            for name, right in of.items()
        ]
        table = pd.concat(tables, ignore_index=True)
        return table[table["k"] <= LARGEST]


def solved(right: Int[np.ndarray, " P"], k: int) -> Float[np.ndarray, " P"]:
    """Return pass@k of each sum."""
    return pass_at_k(right, SAMPLES, k)


def overtaken(other: Int[np.ndarray, " P"], base: Int[np.ndarray, " P"]) -> tuple[Interval, Interval, Interval]:
    """Return the smaller of the gain in pass@1 and the loss in pass@64 against the base, and both, paired over sums.

    Both must occur, so the bounds are the smaller ones of both intervals (an intersection-union test).

    Args:
        other: right samples of each sum from the model that is compared.
        base: right samples of each sum from the base.
    """
    gain = stats.bootstrap_mean(solved(other, 1) - solved(base, 1), bounds=stats.GAIN)
    loss = stats.bootstrap_mean(solved(base, LARGEST) - solved(other, LARGEST), bounds=stats.GAIN)
    return Interval(*(min(pair) for pair in zip(gain, loss, strict=True))), gain, loss


_KEPT: WeakKeyDictionary[Bench, Tries] = WeakKeyDictionary()


def tries(bench: Bench) -> Tries:
    """Sample the base, the trained model, and the base at the null's temperature; the bench caches the counts.

    Raises:
        RunError: a control run is missing.
        DataError: a model does not know the symbols of a sum.
    """
    if bench not in _KEPT:
        base, aligned = (bench.model(bench.control(name)) for name in RUNS)
        n = min(bench.n or read_plan().claims["reasoning"].n, MOST)
        asked = unseen(n + CHOSEN)
        temperature = nearest_temperature(base, aligned, asked[n:])
        right = (count_right(base, asked[:n], SAMPLES), count_right(aligned, asked[:n], SAMPLES))
        _KEPT[bench] = Tries(*right, count_right(base, asked[:n], SAMPLES, temperature), temperature)
    return _KEPT[bench]


def reasoning(bench: Bench) -> Measurement:
    """Measure the smaller of the gain in pass@1 and the loss in pass@64 through RLVR."""
    found = tries(bench)
    effect, gain, loss = overtaken(found.aligned, found.base)
    more = stats.bootstrap_mean(solved(found.aligned, LARGEST) - solved(found.cooler, LARGEST), bounds=stats.GAIN)
    where = crossing(found.aligned, found.base, SAMPLES, largest=LARGEST)
    ones, many = ([_share(right, k) for right in found[:3]] for k in (1, LARGEST))
    sentence = (
        f"On sums that neither was trained on RLVR takes pass@1 from {ones[0]} to {ones[1]}"
        f" ({in_unit(DIFFERENCE, *gain, sign=True)}) and pass@{LARGEST} from {many[0]} to {many[1]}"
        f" ({in_unit(DIFFERENCE, -loss.value, -loss.high, -loss.low, sign=True)});"
        f" {in_words(where, ahead=gain.value > 0)}. The base alone at temperature"
        f" {found.temperature:g} has {ones[2]} and {many[2]}: RLVR reaches"
        f" {in_unit(DIFFERENCE, *more, sign=True)} against it with {LARGEST} samples."
    )
    return Measurement(effect, len(found.base), sentence)


def _share(right: Int[np.ndarray, " P"], k: int) -> str:
    return percent(*stats.bootstrap_mean(solved(right, k), bounds=stats.SHARE))


def in_words(found: Crossing, ahead: bool) -> str:
    """Say where the base overtakes, such as `the base overtakes it at k = 17 [9, 40]`.

    Args:
        found: crossing of the two curves.
        ahead: whether the trained model is better at k = 1.
    """
    if not ahead:
        return "the base is not behind at k = 1, so there is nothing to overtake"
    resamples = f"in {100 * found.share:.0f} % of resamples"
    if not np.isfinite(found.k):
        return f"the base overtakes it nowhere up to k = {LARGEST} ({resamples} it does)"
    ends = f" [{found.low:.0f}, {found.high:.0f}]" if np.isfinite(found.low) else ""
    return f"the base overtakes it at k = {found.k:.0f}{ends} ({resamples})"


def reasoning_null(benches: Sequence[Bench]) -> Null:
    """Measure the base at a lower temperature instead of the model that RLVR trained."""
    found = [tries(bench) for bench in benches]
    effects = [overtaken(each.cooler, each.base)[0] for each in found]
    at = ", ".join(f"{each.temperature:g}" for each in found)
    return Null.of(read_plan().claims["reasoning"], effects, f"the base at the temperature nearest in pass@1 ({at})")
