"""Published claims and their findings: results over trainings, the null control, and the verdict of the plan.

A claim is a published sentence. Its effect is one number; `probe.findings.verdicts` defines the threshold, the
direction, and what would refute the sentence. A null control is a setting without the effect: the claim is tested on it
as often as possible, and the rate at which it "holds" there is reported with the finding. Results on the tuned seeds
are reported separately from the held-out ones, which determine the verdict.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from probe.findings.bench import COMMAND, Bench
from probe.findings.verdicts import Terms, Verdict, holm, p_of_interval, p_over_trainings, read_plan, verdict
from probe.numbers import in_unit, percent, shown_ends
from probe.seeds.t_intervals import OverTrainings, mean_over_trainings
from probe.stats import Interval, wilson
from probe.terms import UNSAID


@dataclass(frozen=True)
class Measurement:
    """Result of a claim's function on one training."""

    effect: Interval
    """Effect of the claim with its 95 % interval over answers."""
    n: int
    """Number of items behind the effect."""
    said: str
    """Sentence with the numbers, including those that speak against the claim."""


@dataclass(frozen=True)
class Null:
    """Rate at which a claim holds on its null control."""

    holds: int = 0
    """Number of repetitions in which the interval lies beyond the threshold."""
    repetitions: int = 0
    """Number of repetitions; 0 if the null could not be measured."""
    said: str = ""
    """Description of what replaced the claim's runs, or why there was no null."""

    @classmethod
    def of(cls, terms: Terms, effects: Sequence[Interval], said: str) -> "Null":
        """Count the repetitions in which a claim with these terms holds.

        Args:
            terms: terms of the claim.
            effects: effect of each repetition, with its interval.
            said: description of the repetitions.
        """
        return cls(sum(terms.beyond(effect) for effect in effects), len(effects), said)

    def __add__(self, other: "Null") -> "Null":
        said = "; ".join(each for each in (self.said, other.said) if each)
        return Null(self.holds + other.holds, self.repetitions + other.repetitions, said)

    @property
    def rate(self) -> Interval | None:
        """Share of repetitions in which the claim holds, with Wilson's interval; None without repetitions."""
        return wilson(self.holds, self.repetitions) if self.repetitions else None

    @property
    def words(self) -> str:
        """Text such as `holds in 0 of 25 repetitions of its null`."""
        if not self.repetitions:
            return "null not measured"
        return f"holds in {self.holds} of {self.repetitions} repetitions of its null"


Measure = Callable[[Bench], Measurement]
Nulls = Callable[[Sequence[Bench]], Null]
Test = Callable[[Sequence[Bench]], float]


@dataclass(frozen=True)
class Claim:
    """Published claim with the functions that measure it."""

    name: str
    """Short stable name, as in `probe findings --only`."""
    sentence: str
    """Sentence of the claim."""
    source: str
    """Publication, with the number of the preprint."""
    effect: str
    """Description of the effect."""
    runs: tuple[str, ...]
    """Names of the sample runs that it needs, the model first; empty if it is measured on control runs alone."""
    page: str
    """Dashboard page that shows it, such as `sycophancy` or `rewards`."""
    measure: Measure
    """Function that measures the claim on one training."""
    null: Nulls
    """Function that measures the null control on the benches of all trainings."""
    controls: tuple[str, ...] = ()
    """Names of the control runs that it is measured on; each of their seeds is a training."""
    test: Test | None = None
    """Function that returns a p-value over all trainings, if it is not that of their mean."""
    version: int = 1
    """Version; increase it when equal runs would give another finding."""
    unit: str = ""
    """Unit of the effect (`probe.terms`)."""

    @property
    def terms(self) -> Terms:
        """Terms of the claim in the plan."""
        return read_plan().claims[self.name]

    @property
    def remedy(self) -> str:
        """Instruction that makes the missing control runs; empty if there are none."""
        names = ", ".join(f"`{name}`" for name in self.controls)
        return names and f"It is measured on {names}, which do not come with Probe: `{COMMAND}` makes them."

    def benches(self, bench: Bench) -> list[Bench]:
        """Return a bench for each training on which the claim can be measured.

        These are the named runs followed by their seeds, or the seeds of its control runs if it has any.
        """
        if self.controls:
            return bench.control_seeds(self.controls)
        return [bench, *bench.further(self.runs)]


@dataclass(frozen=True)
class Replication:
    """Result of a claim on one training."""

    seed: int
    value: float
    ci_low: float
    ci_high: float
    n: int
    said: str
    """Sentence with the numbers."""

    @property
    def effect(self) -> Interval:
        """Effect with its interval over answers."""
        return Interval(self.value, self.ci_low, self.ci_high)


@dataclass(frozen=True)
class Finding:
    """Result of a claim; without trainings if it could not be measured."""

    name: str
    sentence: str
    source: str
    effect: str
    page: str
    runs: tuple[str, ...]
    unit: str = ""
    said: str = ""
    """Sentence with the numbers of the first training, or the reason why there are none."""
    trainings: Mapping[str, Replication] = field(default_factory=dict)
    """Results by the first training that each descends from; the named runs have the empty name and come first."""
    null: Null = Null()
    p: float = math.nan
    """Two-sided p-value for an effect equal to the threshold, over the trainings that decide, before correction."""
    plan: str = ""
    """Hash of the plan under which it was measured."""
    p_holm: float = math.nan
    """p-value after Holm's correction over all claims; see `judge`."""
    verdict: Verdict = "not measured"

    @classmethod
    def of(cls, claim: Claim, said: str = "", **found: Any) -> "Finding":
        """Build the finding of a claim from its trainings, or with the reason why there are none."""
        facts = {
            each: getattr(claim, each) for each in ("name", "sentence", "source", "effect", "page", "runs", "unit")
        }
        return cls(**facts, said=said, **found)

    @property
    def first(self) -> Replication | None:
        """Training whose interval over answers is shown: the named runs, or the first control runs."""
        return next(iter(self.trainings.values()), None)

    @property
    def held_out(self) -> list[Replication]:
        """Trainings of seeds on which no recipe was tuned."""
        return [each for each in self.trainings.values() if each.seed not in read_plan().tuned]

    @property
    def deciding(self) -> list[Replication]:
        """Trainings that determine the verdict: the held-out ones if there are at least two, otherwise all."""
        return self.held_out if len(self.held_out) > 1 else list(self.trainings.values())

    @property
    def mean(self) -> OverTrainings:
        """Mean effect over the trainings that decide."""
        return mean_over_trainings([each.value for each in self.deciding])

    @property
    def interval(self) -> Interval:
        """Effect with the interval to show: over the trainings that decide, or over answers if there is only one."""
        if len(self.deciding) > 1:
            return Interval(self.mean.value, *shown_ends(self.unit, *self.mean[1:3]))
        return self.first.effect if self.first else Interval(math.nan, math.nan, math.nan)

    @property
    def held(self) -> int:
        """Number of deciding trainings whose interval over answers lies beyond the threshold."""
        return sum(read_plan().claims[self.name].beyond(each.effect) for each in self.deciding)

    @property
    def number(self) -> str:
        """First training's effect with its interval over answers, formatted in its unit."""
        return "" if self.first is None else self._in_unit(*self.first.effect)

    @property
    def threshold(self) -> str:
        """Threshold and direction in words."""
        terms = read_plan().claims[self.name]
        return f"{terms.direction} {self._in_unit(terms.threshold)}"

    @property
    def over_trainings(self) -> str:
        """Sentence with the mean over the trainings that decide, or a note that there is only one training."""
        if self.first is None:
            return ""
        count = len(self.deciding)
        if count < 2:
            tuned = ", on which the recipe was chosen" if not self.held_out else ""
            return f"One training (seed {self.first.seed}{tuned}): nothing is known of others."
        held = "all" if self.held == count else f"{self.held} of them"
        out = "held-out " if self.deciding == self.held_out else ""
        return f"Over {count} {out}trainings {self.mean_number}; beyond the threshold in {held}."

    @property
    def mean_number(self) -> str:
        """Effect over the trainings that decide (or over answers for a single one), formatted in its unit."""
        if len(self.deciding) < 2:
            return self.number
        return self._in_unit(*self.interval)

    def _in_unit(self, value: float, low: float | None = None, high: float | None = None) -> str:
        text = in_unit(self.unit, value, low, high, sign=True)
        return text if self.unit in UNSAID else f"{text} {self.unit}"

    @property
    def why(self) -> str:
        """Sentence with the reason why it is undecided; empty if it is decided."""
        if self.verdict != "undecided":
            return ""
        if not self.p_holm <= read_plan().level:
            p = "" if math.isnan(self.p_holm) else f" (p = {self.p_holm:.2g} after Holm's correction)"
            return f"Undecided: chance is not excluded{p}."
        if not self.held_out:
            return "Undecided: the recipe was chosen on its only training."
        return f"Undecided: its null {'holds as well' if self.null.repetitions else 'was not measured'}."

    @property
    def against_null(self) -> str:
        """Sentence with the rate at which it holds on its null."""
        rate, words = self.null.rate, self.null.words
        share = "" if rate is None else f" ({percent(*rate)})"
        return (
            f"It {words}{share}: {self.null.said}." if rate else f"{words.capitalize()}: {self.null.said or 'unknown'}."
        )


def p_value(claim: Claim, finding: Finding, benches: Sequence[Bench]) -> float:
    """Return p over the trainings that decide: from the claim's own test, the mean's t test, or a single training.

    Args:
        claim: claim to test.
        finding: finding with its trainings.
        benches: benches of the trainings that decide.
    """
    if claim.test is not None:
        return claim.test(benches)
    values, threshold = [each.value for each in finding.deciding], claim.terms.threshold
    if len(values) > 1:
        return p_over_trainings(values, threshold)
    return p_of_interval(finding.deciding[0].effect, threshold)


def judge(findings: Mapping[str, Finding]) -> dict[str, Finding]:
    """Return findings by name with their verdicts, after Holm's correction over all claims of the plan.

    Args:
        findings: known findings; missing claims count as hypotheses without evidence.
    """
    plan = read_plan()
    measured = {name: each for name, each in findings.items() if each.trainings}
    adjusted = holm({name: each.p for name, each in measured.items()}, len(plan.claims))
    judged = dict(findings)
    for name, each in measured.items():
        null = each.null.holds, each.null.repetitions
        said = verdict(plan.claims[name], each.mean.value, adjusted[name], null, plan, held_out=bool(each.held_out))
        judged[name] = replace(each, p_holm=adjusted[name], verdict=said)
    return judged


COLUMNS = (
    *("name", "sentence", "source", "effect", "value", "ci_low", "ci_high", "n", "seed"),
    *("verdict", "holds", "why", "said"),
    *("page", "runs", "mean", "mean_low", "mean_high", "trainings", "held", "held_out", "seeds"),
    *("population", "comparison", "refuted_by", "threshold", "direction", "p", "p_holm"),
    *("null", "null_rate", "null_holds", "null_repetitions", "plan"),
)


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return one row per claim: the claim, its criterion, its result, and the rate on its null.

    Returns:
        name, sentence, source, effect; value, ci_low, ci_high, n, seed of the first training, over answers; verdict,
        holds (None if nothing was measured) and why, if it is undecided; said, page, runs; over the trainings that
        decide mean, mean_low, mean_high, trainings, held (the number of them in which it holds), held_out (whether no
        recipe was tuned on them); seeds (the value of each training); population, comparison, refuted_by, threshold and
        direction of the plan; p and p_holm; null (its description), null_rate, null_holds, null_repetitions; plan
        (hash).
    """
    rows = []
    for each in findings:
        terms, first, rate = read_plan().claims[each.name], each.first, each.null.rate
        row: dict[str, Any] = {name: getattr(each, name) for name in ("name", "sentence", "source", "effect", "page")}
        row |= {name: getattr(first, name, None) for name in ("value", "ci_low", "ci_high", "n", "seed")}
        row |= {"verdict": each.verdict, "why": each.why, "holds": None if first is None else each.verdict == "holds"}
        row |= {"said": each.said, "runs": " ".join(each.runs), "held": each.held, "p": each.p, "p_holm": each.p_holm}
        row |= dict(zip(("mean", "mean_low", "mean_high", "trainings"), each.mean, strict=True))
        row |= {"held_out": len(each.held_out) > 1, "plan": each.plan}
        row["seeds"] = " ".join(f"{one.seed}:{one.value:.4g}" for one in each.trainings.values())
        row |= {name: value for name, value in asdict(terms).items() if name not in ("n", "null")}
        row |= {"null": terms.null, "null_rate": None if rate is None else rate.value}
        row |= {"null_holds": each.null.holds, "null_repetitions": each.null.repetitions}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))
