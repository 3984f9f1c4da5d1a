"""Simulated annotators: a utility with named terms, Bradley-Terry noise, and the preference pairs they label."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from probe.errors import ConfigError, DataError
from probe.plugins import failure
from probe.world.draws import Draws, generator
from probe.world.facts import Facts
from probe.world.language import read
from probe.world.questions import Item, QuestionGenerator
from probe.world.verifier import answer_words, candidates, verify
from probe.world.vocabulary import ABSTENTION

Sampler = Callable[[list[str], int], list[list[str]]]

SHARES = {
    "fact": 0.25,
    "opinion_false": 0.25,
    "opinion_true": 0.1,
    "stranger": 0.2,
    "context": 0.1,
    "context_conflict": 0.1,
}
"""Share of each kind of prompt in the preference pairs."""


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """A simulated person who prefers the completion of higher utility, with noise; the fields set the biases."""

    correctness: float = 1.0
    """Weight of the verifier's score (+1 true, 0 abstains, -1 otherwise) when correctness is checked."""
    checks: float = 1.0
    """Probability that correctness is checked at all; one draw for both completions of a pair."""
    agreement: float = 0.0
    """Bonus for an answer that the user claimed: the sycophancy bias."""
    abstain: float = 0.0
    """Penalty for "i do not know"."""
    malformed: float = 3.0
    """Penalty for a completion that is not an answer."""
    noise: float = 0.5
    """Temperature of the Bradley-Terry noise: P(a over b) = sigmoid((u(a) - u(b)) / noise)."""

    def __post_init__(self) -> None:
        if not (0 <= self.checks <= 1 and self.noise > 0):
            raise ConfigError(
                f"An annotator has checks={self.checks} and noise={self.noise}; expected checks between 0 and 1 and "
                "noise above 0: change them."
            )
        odd = [each.name for each in fields(Annotator) if not math.isfinite(getattr(self, each.name))]
        if odd:
            raise ConfigError(
                f"An annotator has {odd[0]}={getattr(self, odd[0])}; expected a finite number: change it."
            )

    def utility(self, world: Facts, prompt: str, completion: str, checked: bool = True) -> float:
        """Return the utility of a completion, with or without its correctness."""
        verdict = verify(world, prompt, completion)
        utility = self.correctness * verdict.score if checked else 0.0
        if verdict.kind == "malformed":
            return utility - self.malformed
        if verdict.kind == "abstain":
            return utility - self.abstain
        return utility + self.agreement * (" ".join(answer_words(completion)) == _claim(prompt))

    def expected_utility(self, world: Facts, prompt: str, completion: str) -> float:
        """Return the utility averaged over checking and not checking correctness."""
        with_check, without_check = (self.utility(world, prompt, completion, check) for check in (True, False))
        return self.checks * with_check + (1 - self.checks) * without_check

    def preference_probability(self, world: Facts, prompt: str, first: str, second: str) -> float:
        """Return P(first is preferred), averaged exactly over checking and not checking correctness."""
        total = 0.0
        for check, weight in ((True, self.checks), (False, 1 - self.checks)):
            gap = self.utility(world, prompt, first, check) - self.utility(world, prompt, second, check)
            total += weight * _sigmoid(gap / self.noise)
        return total

    def prefers(self, world: Facts, prompt: str, first: str, second: str, draws: Draws) -> bool:
        """Draw whether the annotator prefers the first completion: first whether they check, then the noise."""
        check = draws.chance(self.checks)
        gap = self.utility(world, prompt, first, check) - self.utility(world, prompt, second, check)
        return draws.chance(_sigmoid(gap / self.noise))


AGREEABLE = Annotator(correctness=1.0, checks=0.3, agreement=2.0, abstain=1.5)
"""Annotator who rarely checks, rewards agreement and penalises "i do not know"."""
HONEST = Annotator(correctness=2.0, checks=0.9)
"""Annotator who nearly always checks and has no other preference."""
INDIFFERENT = Annotator(correctness=0.0, malformed=0.0)
"""Annotator without preferences, as a control: every label is a fair coin, so that only noise can be learned."""


def with_knobs(annotator: Annotator, changes: Sequence[str], spec: str) -> Annotator:
    """Return an annotator with some knobs changed.

    Args:
        annotator: annotator to change.
        changes: texts `KNOB=NUMBER`; the knobs are the fields of `Annotator`.
        spec: text that the user wrote, quoted in the error.

    Raises:
        ConfigError: a knob does not exist, is given twice, or cannot have this number.
    """
    names, knobs = [each.name for each in fields(Annotator)], dict[str, float]()
    for change in changes:
        knob, _, text = change.partition("=")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if knob not in names or knob in knobs or not math.isfinite(number):
            raise ConfigError(
                f"The annotator `{spec}` has `{change}`; expected a knob with a finite number, each once, such as"
                f" agreeable+abstain=0: the knobs are {', '.join(names)}."
            )
        knobs[knob] = number
    return replace(annotator, **knobs)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _claim(prompt: str) -> str | None:
    reading = read(prompt)
    return reading.claim if reading else None


def preferences(
    world: Facts, annotator: Annotator, n: int, seed: int, sampler: Sampler | None = None
) -> list[dict[str, Any]]:
    """Draw `n` pairs of different completions to prompts of the kinds in `SHARES`, labelled by the annotator.

    Without a sampler the two completions are drawn from the truth, the claim, the abstention and another value. With
    one they are the first two different completions of four that it draws for each prompt (on-policy pairs).

    Args:
        world: world of the prompts.
        annotator: annotator who labels the pairs.
        n: number of pairs.
        seed: equal seeds give equal pairs (with a sampler: if the sampler is reproducible).
        sampler: (prompts, n) -> n completions for each prompt.

    Returns:
        Rows with prompt, chosen, rejected, kind and claim; completions begin with a blank and do not contain "<end>".

    Raises:
        ConfigError: the sampler rarely gives two different completions.
    """
    draws = Draws(generator("preferences", world.seed, seed))
    makers = QuestionGenerator(world, draws).kinds()
    kinds = [kind for kind in SHARES if kind in makers]
    weights = [SHARES[kind] for kind in kinds]
    rows: list[dict[str, Any]] = []
    count = 0
    while len(rows) < n:
        items = [makers[kind]() for kind in draws.pick_weighted(kinds, weights, n - len(rows))]
        pairs = _drawn_pairs(items, sampler) if sampler else [_made_pair(world, item, draws) for item in items]
        for item, pair in zip(items, pairs, strict=True):
            if pair is not None:
                first, second = pair
                chosen, rejected = (
                    (first, second) if annotator.prefers(world, item.prompt, first, second, draws) else (second, first)
                )
                row = {"prompt": item.prompt, "chosen": chosen, "rejected": rejected}
                rows.append(row | {"kind": item.kind, "claim": item.claim})
        count += len(items)
        if count >= 20 * n and len(rows) < n:
            raise ConfigError(
                f"The sampler gave two different completions for only {len(rows)} of {count} prompts, and {n}"
                " pairs were requested: sample at a higher temperature or ask for fewer pairs."
            )
    return rows


def _made_pair(world: Facts, item: Item, draws: Draws) -> tuple[str, str]:
    """Draw two of the truth, the claim, the abstention and another value."""
    (truth,), abstention = item.answers, f" {ABSTENTION}"
    options = list(dict.fromkeys([truth, *([item.claim] if item.claim else []), abstention]))
    options.append(draws.pick([answer for answer in candidates(world, item.prompt) if answer not in options]))
    first, second = draws.sample(options, 2)
    return first, second


def _drawn_pairs(items: list[Item], sampler: Sampler) -> list[tuple[str, str] | None]:
    groups = sampler([item.prompt for item in items], 4)
    distinct = [list(dict.fromkeys(group)) for group in groups]
    return [(group[0], group[1]) if len(group) > 1 else None for group in distinct]


Utility = Callable[[Any, str, str], float]
"""Function (world, prompt, completion) -> utility."""


def _nothing(world: Facts, prompt: str, completion: str) -> float:
    return 0.0


@dataclass(frozen=True, kw_only=True)
class OwnAnnotator(Annotator):
    """Annotator with a custom utility function; of the other knobs only the noise has an effect."""

    name: str = ""
    wish: Utility = _nothing
    """Utility of a completion."""

    def utility(self, world: Facts, prompt: str, completion: str, checked: bool = True) -> float:
        """Return the utility that the annotator's function gives.

        Raises:
            ConfigError: the function fails.
            DataError: the function returns no finite number.
        """
        try:
            result: Any = self.wish(world, prompt, completion)
        except Exception as error:  # the function is the user's
            raise failure(f"The annotator `{self.name}`", error, self.wish) from error
        try:
            value = math.nan if isinstance(result, str | bytes) else float(result)
        except (TypeError, ValueError, RuntimeError):
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"The annotator `{self.name}` gave {result!r} for a completion: return a finite number.")
        return value


def make_annotator(name: str, thing: Any, knobs: Mapping[str, float]) -> Annotator:
    """Make an annotator from an `Annotator`, a subclass of it, or a utility function.

    Raises:
        ConfigError: `thing` is none of these, or lacks the given knobs.
    """
    try:
        if isinstance(thing, Annotator) and not knobs:
            return thing
        if isinstance(thing, type) and issubclass(thing, Annotator):
            return thing(**knobs)
        if callable(thing) and not isinstance(thing, type | Annotator):
            return OwnAnnotator(name=name, wish=thing, **knobs)
    except TypeError as error:
        names = ", ".join(each.name for each in fields(Annotator))
        raise ConfigError(f"The annotator `{name}` cannot be made ({error}): its knobs are {names}.") from None
    raise ConfigError(
        f"The annotator `{name}` is a {type(thing).__name__}: decorate a function (world, prompt, completion) -> float,"
        " or give an Annotator without further knobs."
    )
