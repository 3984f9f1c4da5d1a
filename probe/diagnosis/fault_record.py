"""Record of a fault, and the registry of the faults by name: built in, from other packages, or from a file.

    @probe.fault(title="Reward stands still", needs=("reward",), remedy="Raise the learning rate.")
    def still_reward(reading):
        \"\"\"Find a reward whose last quarter equals its first tenth.\"\"\"
        series = reading.series("reward").coarse()
        ...
        return Sign(step, "reward", before, after, "The reward stays at 0.3.", severity=0.5)      # or None

    probe diagnose run --plugin still.py

The decorator returns the function unchanged. Packages add faults through the entry-point group `probe.faults`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TypeVar

from probe.diagnosis.run_reading import Reading
from probe.errors import ConfigError, ProbeError, suggest
from probe.plugins import BUILT_IN, NameTakenError, Registry, failure, include, origin_of, unless_taken
from probe.stats import Interval

MODULES = {
    "numbers_die": "probe.diagnosis.optimiser_faults",
    "nothing_is_trained": "probe.diagnosis.weight_faults",
    "rate_too_high": "probe.diagnosis.optimiser_faults",
    "sampler_is_not_trainer": "probe.diagnosis.sampler_faults",
    "wrong_reference": "probe.diagnosis.policy_faults",
    "entropy_collapse": "probe.diagnosis.policy_faults",
    "value_head_useless": "probe.diagnosis.policy_faults",
    "no_signal": "probe.diagnosis.reward_faults",
    "over_optimisation": "probe.diagnosis.reward_faults",
    "wrong_verifier": "probe.diagnosis.reward_faults",
    "reward_hacking": "probe.diagnosis.reward_faults",
    "length_exploitation": "probe.diagnosis.reward_faults",
    "loss_on_wrong_tokens": "probe.diagnosis.data_faults",
    "template_fault": "probe.diagnosis.template_faults",
    "leak": "probe.diagnosis.data_faults",
    "reward_shortcut": "probe.diagnosis.preference_faults",
    "flipped_labels": "probe.diagnosis.preference_faults",
    "likelihood_displacement": "probe.diagnosis.preference_faults",
    "memorising": "probe.diagnosis.optimiser_faults",
    "forgetting": "probe.diagnosis.optimiser_faults",
    "reward_falls": "probe.diagnosis.unnamed_faults",
    "sudden_change": "probe.diagnosis.unnamed_faults",
}
"""Module of each built-in fault; those that make all others meaningless come first."""
ANY = "any"
"""Value of an option that stands for every fault."""
OR = " or "
"""Separator of alternatives in `Fault.needs`."""
LEAST = 8
"""Default of the fewest values that a metric needs: a beginning, an end, and something between them."""


@dataclass(frozen=True)
class Sign:
    """Trace of a fault in the record of a run."""

    step: int
    """Step at which it began to show."""
    metric: str
    """Metric whose curve shows it; empty if the saved weights show it."""
    before: Interval
    """Level before it began, or the level that a sound run has."""
    after: Interval
    """Level since it began."""
    sentence: str
    """Evidence in one sentence."""
    severity: float
    """How much it damages, 0 to 1: 1 if nothing after it is of use; a number beyond is set to the nearer end."""
    also: tuple[str, ...] = ()
    """Further metrics that the figure shows."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "severity", min(1.0, max(0.0, self.severity)))


Find = Callable[[Reading], Sign | None]
F = TypeVar("F", bound=Find)


@dataclass(frozen=True)
class Fault:
    """Fault as the registry stores it."""

    name: str
    """Stable name: the name of its function."""
    title: str
    """Title shown to people."""
    find: Find
    """Function that returns the sign of the fault in a run, or None."""
    remedy: str
    """Remedy to try."""
    needs: tuple[str, ...]
    """Entries that a run must have: metrics, names of `probe.diagnosis.run_reading`, or alternatives: `a or b`."""
    methods: tuple[str, ...] = ()
    """Methods to which it applies; all if empty."""
    least: int = LEAST
    """Fewest values that each metric needs."""
    hides: tuple[str, ...] = ()
    """Faults that are not reported beside it, because they follow from it."""
    general: bool = False
    """Whether it is looked for only in a run in which no other fault was found."""
    at_once: bool = False
    """Whether it is an alarm at the first look that finds it: its evidence is a level that no sound training has."""
    origin: str = BUILT_IN
    """Source of the fault: built in, a distribution, or a file."""

    @property
    def about(self) -> str:
        """First line of the docstring of its function."""
        return (self.find.__doc__ or "").strip().partition("\n")[0]

    def applies(self, reading: Reading) -> bool:
        """Return whether a run of this method can have the fault."""
        return not self.methods or reading.method in self.methods

    def lacks(self, reading: Reading) -> tuple[str, ...]:
        """Return the entries of `needs` that a run does not have."""
        return tuple(each for each in self.needs if not any(reading.has(name, self.least) for name in each.split(OR)))

    def look(self, reading: Reading) -> Sign | None:
        """Return the sign of the fault in a run, or None.

        Raises:
            ProbeError: the function of a plugin failed.
        """
        try:
            return self.find(reading)
        except ProbeError:
            raise
        except Exception as error:
            if self.origin == BUILT_IN:
                raise
            raise failure(f"The fault `{self.name}`", error, self.find) from error


FAULTS: Registry[Fault] = Registry("fault", "probe.faults")


def fault(
    *,
    title: str,
    needs: Sequence[str],
    remedy: str,
    methods: Sequence[str] = (),
    least: int = LEAST,
    hides: Sequence[str] = (),
    general: bool = False,
    at_once: bool = False,
) -> Callable[[F], F]:
    """Register a function that finds a fault; see the module. The arguments are fields of `Fault`.

    Raises:
        ConfigError: nothing is needed, or the name is taken.
    """

    def decorate(function: F) -> F:
        name = function.__name__
        if not name.isidentifier() or isinstance(needs, str) or not needs:
            raise ConfigError(f"The fault `{name}` needs nothing: give `needs`, a tuple with at least one metric.")
        own = MODULES.get(name) == function.__module__
        origin = BUILT_IN if own else origin_of(function)
        rest = tuple(methods), least, tuple(hides), general, at_once, origin
        with unless_taken():
            if name in MODULES and not own:
                raise NameTakenError(f"A fault `{name}` exists already ({BUILT_IN}): choose another name.")
            FAULTS.put(name, Fault(name, title, function, remedy, tuple(needs), *rest), function, origin)
        return function

    return decorate


def faults() -> dict[str, Fault]:
    """Return every fault by name: built-in ones, those of installed packages, then those of this process."""
    for name, module in MODULES.items():
        include(("fault", module), f"The fault `{name}`", partial(import_module, module), BUILT_IN)
    order = {name: index for index, name in enumerate(MODULES)}
    return dict(sorted(FAULTS.all().items(), key=lambda pair: order.get(pair[0], len(order))))


def find_fault(name: str) -> Fault:
    """Find a fault by name.

    Raises:
        ConfigError: no fault has this name; similar names are listed.
    """
    known = faults()
    if name not in known:
        hint = suggest(name, known, "name one of these, or give its file with --plugin.")
        raise ConfigError(f"There is no fault `{name}`, only {', '.join(known)}: {hint}")
    return known[name]


def check_names(names: Iterable[str]) -> None:
    """Check the values of an option that takes names of faults, or `ANY`.

    Raises:
        ConfigError: no fault has such a name; similar names are listed.
    """
    for name in names:
        if name != ANY:
            find_fault(name)
