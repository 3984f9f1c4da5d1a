"""The runs that claims are measured on: models loaded once, results of experiments from the store or made anew."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import RunError
from probe.runs.reader import Run, open_run
from probe.runs.roots import find
from probe.ticks import Tick

if TYPE_CHECKING:
    from probe.experiments.result import Result
    from probe.model.lm import LM
    from probe.world.world import World

BASE = "base"


class Bench:
    """Runs by name, in one folder or in the run roots."""

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        n: int | None = None,
        again: bool = False,
        tick: Tick | None = None,
    ) -> None:
        """Say where the runs are.

        Args:
            root: folder that holds them; default: the run roots.
            n: questions of each kind in experiments; None for their own defaults.
            again: run experiments even if their results are stored.
            tick: called with the share of an experiment that is done.
        """
        self.root = None if root is None else Path(root).expanduser()
        self.n, self.again, self.tick = n, again, tick
        self._models: dict[str, LM] = {}
        self._fresh: set[tuple[Any, ...]] = set()

    def run(self, name: str) -> Run:
        """The run of a name.

        Raises:
            RunError: there is none.
        """
        return open_run(name) if self.root is None else Run(find(name, [self.root]))

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """The names that no run has; a run that cannot be read is there."""
        absent = []
        for name in names:
            try:
                find(name, None if self.root is None else [self.root])
            except RunError:
                absent.append(name)
        return absent

    def lm(self, name: str) -> "LM":
        """The model of a run; a reward model as one whose logit is the reward."""
        if name not in self._models:
            from probe.model.rewards import analysable

            self._models[name] = analysable(str(self.run(name).path))
        return self._models[name]

    @cached_property
    def world(self) -> "World":
        """The world of the base model.

        Raises:
            RunError: it has none.
        """
        from probe.world import of

        world = of(self.run(BASE))
        if world is None:
            raise RunError(f"The run `{BASE}` has no world, so nothing is known to be true: name the sample runs.")
        return world

    def result(self, experiment: str, name: str, baseline: str | None = None, **options: Any) -> "Result":
        """What an experiment found on a run, beside a baseline if one is named; stored results are read."""
        from probe.experiments.registry import find_experiment
        from probe.experiments.store import obtain

        options = options if self.n is None else {"n": self.n, **options}
        key = (experiment, name, baseline, tuple(sorted(options.items())))
        other = self.lm(baseline) if baseline else None
        again = self.again and key not in self._fresh
        found = obtain(find_experiment(experiment), self.lm(name), other, again=again, tick=self.tick, **options)
        self._fresh.add(key)
        return found
