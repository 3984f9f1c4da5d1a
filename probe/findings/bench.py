"""Runs on which claims are tested: by name, by further seeds, and control runs that do not come with Probe.

A `Bench` provides the runs that claims are measured on: models are loaded once, results of experiments are stored or
newly computed. If these runs have further seeds (`probe.seeds`), each pipeline is a separate bench. Control runs
(`probe samples --controls`) start from a common base or have their own; each of their seeds is a bench too.
"""

import re
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import DataError, RunError
from probe.runs.directories import find
from probe.runs.reader import Run, list_runs, open_run
from probe.runs.schema import RunWarning
from probe.seeds.grouping import Group, groups
from probe.ticks import Tick

if TYPE_CHECKING:
    from probe.experiments.result import Result
    from probe.model.lm import LM
    from probe.rewards.frontiers import Field
    from probe.world.world import World

BASE = "base"
COMMAND = "probe samples --controls --seeds 5 --out controls"
"""Command that makes the control runs."""
REMEDY = f"it does not come with Probe; `{COMMAND}` makes it, and `probe findings --controls controls` reads it."
"""Advice for a control run that is missing."""
_SEED = re.compile(r"-seed(\d{1,4})")


class Bench:
    """Runs by name, in one folder or in the folders of runs."""

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        n: int | None = None,
        again: bool = False,
        tick: Tick | None = None,
        controls: str | Path | None = None,
    ) -> None:
        """Store the location of the runs, and the options.

        Args:
            root: folder of the runs; the default folders of runs if not given.
            n: number of questions of each kind in experiments; their own defaults if not given.
            again: whether to run experiments even if their results are stored.
            tick: function called with the share of an experiment that is done.
            controls: folder of the control runs; the folder of the other runs by default.
        """
        self.root = None if root is None else Path(root).expanduser()
        self.controls = self.root if controls is None else Path(controls).expanduser()
        self.n, self.again, self.tick = n, again, tick
        self.origin = ""
        """First training of the seeds that replace the named runs (`probe.seeds.Group.lines`), or the seed of the
        control runs, such as `seed3`; otherwise empty.
        """
        self.field: Field | None = None
        """Questions on which policies and rewards are compared, once computed."""
        self._models: dict[str, LM] = {}
        self._fresh: set[tuple[Any, ...]] = set()

    def run(self, name: str) -> Run:
        """Return the run with a name, or its seed that descends from `origin`.

        Raises:
            RunError: there is no such run.
        """
        if not self.origin or self.origin.startswith("seed"):
            return self._named(name)
        try:
            return self._seeds(name)[self.origin]
        except KeyError:
            raise RunError(f"`{name}` has no seed that descends from the training {self.origin[:8]}.") from None

    def further(self, names: Sequence[str]) -> list["Bench"]:
        """Return a bench for each further pipeline, by seed: runs of these names from another first training.

        Runs whose seeds share one base have none, since only their last step was trained again.
        """
        try:
            seeds = [self._seeds(name) for name in names]
        except RunError:  # a run is missing or broken
            return []
        named = self._named(names[0]).path.resolve()
        return [
            self._with(origin)
            for origin, run in seeds[0].items()
            if run.path.resolve() != named and all(origin in each for each in seeds[1:])
        ]

    def control_seeds(self, names: Sequence[str]) -> list["Bench"]:
        """Return a bench for each seed that has all control runs of these names."""
        seeds = [set(self._control_runs.get(name, {})) for name in names]
        return [self._with(f"seed{seed}") for seed in sorted(set.intersection(*seeds))] if seeds else []

    def control(self, name: str) -> Run:
        """Return the control run with a name and the seed of the bench.

        Raises:
            RunError: there is no such run; the message has the command that makes it.
        """
        seed = int(self.origin.removeprefix("seed")) if self.origin.startswith("seed") else 0
        try:
            return self._control_runs[name][seed]
        except KeyError:
            raise RunError(f"There is no run `{name}` of seed {seed}: {REMEDY}") from None

    def seed(self, name: str) -> int:
        """Return the seed of the bench's training."""
        return int(self.origin.removeprefix("seed")) if self.origin.startswith("seed") else self.run(name).seed

    def _with(self, origin: str) -> "Bench":
        other = Bench(self.root, n=self.n, again=self.again, tick=self.tick, controls=self.controls)
        other.origin, other._groups, other._control_runs = origin, self._groups, self._control_runs
        if origin.startswith("seed"):
            other._models = self._models  # the same as the named runs
        return other

    def _named(self, name: str) -> Run:
        return open_run(name) if self.root is None else Run(find(name, [self.root]))

    def _seeds(self, name: str) -> dict[str, Run]:
        """Return the seeds of a named run by the first training that each descends from."""
        path = self._named(name).path.resolve()
        group = next((each for each in self._groups if any(run.path.resolve() == path for run in each.runs)), None)
        seeds: dict[str, Run] = {}
        for line, run in zip(group.lines, group.runs, strict=True) if group else ():
            seeds.setdefault(line[0], run)
        return seeds

    @cached_property
    def _groups(self) -> list[Group]:
        return groups(_readable(self.root))

    @cached_property
    def _control_runs(self) -> dict[str, dict[int, Run]]:
        """Return the finished control runs by name and seed, as `probe samples --controls` names them."""
        found: dict[str, dict[int, Run]] = {}
        for run in _readable(self.controls):
            if run.status == "finished":
                ending = _SEED.search(run.name)
                name = run.name[: ending.start()] if ending and ending.end() == len(run.name) else run.name
                found.setdefault(name, {})[int(ending[1]) if ending and name != run.name else 0] = run
        return found

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return the names without a run; an unreadable run counts as present."""
        absent = []
        for name in names:
            try:
                find(name, None if self.root is None else [self.root])
            except RunError:
                absent.append(name)
        return absent

    def lm(self, name: str) -> "LM":
        """Load the model of a run; a reward model becomes one whose logit is the reward."""
        return self.model(self.run(name))

    def model(self, run: Run) -> "LM":
        """Return the model of a run; it is loaded once."""
        key = str(run.path)
        if key not in self._models:
            from probe.model.rewards import analysable

            self._models[key] = analysable(key)
        return self._models[key]

    @cached_property
    def world(self) -> "World":
        """World of the base model.

        Raises:
            RunError: it has none.
        """
        from probe.world import of

        world = of(self.run(BASE))
        if world is None:
            raise RunError(f"The run `{BASE}` has no world, so nothing is known to be true: name the sample runs.")
        return world

    def result(self, experiment: str, name: str, **options: Any) -> "Result":
        """Return the result of an experiment on a run; a stored one is used even if the run has no weights.

        Raises:
            RunError: the run has neither weights nor a stored result.
        """
        from probe.experiments.registry import find_experiment
        from probe.experiments.store import obtain

        if not options and not self.run(name).checkpoints():
            return self._stored(experiment, name)
        options = options if self.n is None else {"n": self.n, **options}
        key = (experiment, name, tuple(sorted(options.items())))
        again = self.again and key not in self._fresh
        result = obtain(find_experiment(experiment), self.lm(name), again=again, tick=self.tick, **options)
        self._fresh.add(key)
        return result

    def _stored(self, experiment: str, name: str) -> "Result":
        from probe.experiments.result import Result
        from probe.seeds.joined_results import find_results

        run = self.run(name)
        group = next(each for each in self._groups if any(one.path == run.path for one in each.runs))
        try:
            return Result.load(find_results(group.of([run]), experiment).folders[0])
        except DataError as error:
            raise RunError(f"`{run.name}` has no weights, and no stored result of `{experiment}`: {error}") from None


def _readable(root: Path | None) -> list[Run]:
    """List the readable runs of a folder.

    Claims ignore the others; *Runs* and `probe doctor` name them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        return list_runs(root)
