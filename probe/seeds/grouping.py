"""Grouping of runs that differ only by their seed, from what run.json records.

The recipe of a run is its method, the options that its training depends on, its data by content, and the recipes of its
base, its reference model and its reward model. Runs of one recipe are a group. Names of runs and folders do not matter.

Five seeds of DPO from one base show how DPO varies, not how pretraining and DPO together vary. So a group records the
training steps in which its members differ, and the model that they share before these.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from probe.runs.ancestry import RELATIONS, RunIndex, split_step
from probe.runs.directories import find
from probe.runs.reader import Run, list_runs

SEEDS = frozenset({"seed", "data_seed"})
"""Options in which members of a group may differ."""
ASIDE = SEEDS | {
    *("out", "output_dir", "logging_dir", "run_name", "resume", "device", "threads", "track", "strict"),
    *("save_every", "log_every", "eval_every", "capture_every", "rollouts_every", "rollouts_kept", "rollouts", "thin"),
    *("probe_prompts", "evaluate"),
    *("capture_parts", "capture_layers", "capture_heads", "capture_tokens", "capture_budget"),
}
"""Options without effect on the trained weights: where the training runs, what it stores and measures."""
WITHOUT: Mapping[str, Any] = {"weights_dtype": "float32"}
"""Values of options that older runs did not record; every other missing option counts as None, 0 or empty."""
MODELS = frozenset({"base", "reward", "data"})
"""Options that name models and files, which are compared by content."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only by their seed; a run without a counterpart is a group of one."""

    runs: tuple[Run, ...]
    """Members, sorted by seed; copies of one training count once."""
    units: tuple[str, ...]
    """Key of each member's independent training: equal for members that share a training of the first step that
    differs."""
    methods: tuple[str, ...]
    """Methods of the training steps in which the members differ, in order."""
    shared: str = ""
    """Name of the model that all members start from, such as `base`; empty if they share no training."""
    lines: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """Identities of each member's ancestors and of itself, the oldest first."""
    copies: tuple[Run, ...] = ()
    """Runs that repeat the training of a member."""

    @property
    def first(self) -> Run:
        """The member with the lowest seed; its name selects the group."""
        return self.runs[0]

    @property
    def method(self) -> str:
        """The method of the last training step."""
        return self.first.method

    @property
    def count(self) -> int:
        """The number of independent trainings."""
        return len(set(self.units))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the members."""
        return tuple(run.seed for run in self.runs)

    @property
    def name(self) -> str:
        """The part that the names of all members share, else the name of the first member."""
        return common_name([run.name for run in self.runs])

    def of(self, runs: Iterable[Run]) -> "Group":
        """Return the group restricted to some of its members."""
        kept = {run.path for run in runs}
        rows = [row for row in zip(self.runs, self.units, self.lines, strict=True) if row[0].path in kept]
        members, units, lines = (tuple(column) for column in zip(*rows, strict=True))
        return replace(self, runs=members, units=units, lines=lines, copies=())

    @property
    def about(self) -> str:
        """A description of what differs between the members, such as `5 seeds of dpo from one base (base)`."""
        steps, many = " and ".join(self.methods), f"{len(self.runs)} seeds"
        if len(self.runs) == 1:
            return f"one seed of {self.method}"
        if self.shared:
            text = f"{many} of {steps} from one base ({self.shared})"
        else:
            text = f"{many} of {steps}" if len(self.methods) == 1 else f"{many} of the whole pipeline ({steps})"
        return text if self.count == len(self.runs) else f"{text}, {self.count} of them independent"


def groups(runs: Iterable[Run] | None = None) -> list[Group]:
    """Return all runs in groups that differ by seed only, in the order of their first runs.

    Args:
        runs: runs to group; by default all runs in the run directories (`probe.list_runs`).
    """
    known = list(list_runs() if runs is None else runs)
    lineage, members = _Lineage(known), dict[str, list[Run]]()
    for run in known:
        members.setdefault(lineage.recipe(run), []).append(run)
    return [lineage.group(each) for each in members.values()]


def group_of(ref: Run | str, runs: Iterable[Run] | None = None) -> Group:
    """Return the group that a run belongs to.

    Args:
        ref: a run, its name or its directory.
        runs: see `groups`; the run itself may be missing.

    Raises:
        RunError: there is no such run.
    """
    run = ref if isinstance(ref, Run) else Run(find(ref))
    known = list(list_runs() if runs is None else runs)
    if all(each.path.resolve() != run.path.resolve() for each in known):
        known.append(run)
    lineage = _Lineage(known)
    own = next(each for each in known if each.path.resolve() == run.path.resolve())
    return lineage.group([each for each in known if lineage.recipe(each) == lineage.recipe(own)])


def pair(first: Group, second: Group) -> list[tuple[str, list[Run], list[Run]]]:
    """Pair the members of two groups that share a training or a seed, and name what they share.

    Members are paired if they come from the same training of the first step: a member and the base it started from, or
    two members of one base. If all members of both groups start from one base, members of equal seed are paired; if the
    second group is that base, it is paired with every member.
    """
    ours, theirs = _by_unit(first), _by_unit(second)
    if common := [unit for unit in ours if unit in theirs]:
        return [(unit, ours[unit], theirs[unit]) for unit in common]
    if len(second.runs) == 1 and all(theirs.keys() & set(line) for line in first.lines):
        return [(unit, runs, list(second.runs)) for unit, runs in ours.items()]
    if not _base(first) or _base(first) != _base(second):
        return []
    seeds = [seed for seed in dict.fromkeys(first.seeds) if seed in second.seeds]
    sides = [{seed: [r for r in each.runs if r.seed == seed] for seed in seeds} for each in (first, second)]
    return [(f"seed {seed}", sides[0][seed], sides[1][seed]) for seed in seeds]


def common_name(names: list[str]) -> str:
    """Return the words that all names share, in the order of the first name; the whole first name if there are none."""
    if len(set(names)) == 1:
        return names[0]
    words = [re.split(r"([-_. ])", name) for name in names]
    common = set(words[0][::2]).intersection(*(each[::2] for each in words[1:]))
    text = ""
    for word, gap in zip(words[0][::2], ["", *words[0][1::2]], strict=True):
        text += (gap if text else "") + word if word in common else ""
    return text or names[0]


def _by_unit(group: Group) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {}
    for unit, run in zip(group.units, group.runs, strict=True):
        runs.setdefault(unit, []).append(run)
    return runs


def _base(group: Group) -> str:
    """Return the identity of the model that all members start from; empty if there is none."""
    level = len(group.lines[0]) - len(group.methods)
    return group.lines[0][level - 1] if group.shared else ""


class _Lineage:
    """Recipes and trainings of runs that refer to each other."""

    def __init__(self, runs: list[Run]) -> None:
        self._index = RunIndex(runs)
        self._known: dict[tuple[str, bool], str] = {}
        self._weights: dict[str, str] = {}  # runs with equal weights count as one training
        for run in runs:
            base = self._parent(run)
            if base is not None and (weights := _weights_of_base(run)):
                self._weights.setdefault(weights, self._identity(base, seeds=True))

    def recipe(self, run: Run) -> str:
        """Return the recipe of a run: a text that is equal for runs that differ by seed only."""
        return self._identity(run, seeds=False)

    def line(self, run: Run) -> tuple[str, ...]:
        """Return the identities of a run's ancestors and of the run, the oldest first."""
        line, seen = [self._identity(run, seeds=True)], {str(run.path)}
        while run.parent:
            parent = self._parent(run)
            weights = _weights_of_base(run)
            own = self._identity(parent, seeds=True) if parent else _plain(run.parent)
            line.append(self._weights.get(weights, own if parent else weights or own))
            if parent is None or str(parent.path) in seen:
                break
            run = parent
            seen.add(str(run.path))
        return tuple(reversed(line))

    def group(self, runs: list[Run]) -> Group:
        """Return runs of one recipe as a group."""
        runs = sorted(runs, key=lambda run: (run.seed, not run.checkpoints(), run.created, str(run.path)))
        kept: dict[str, Run] = {}
        copies = tuple(run for run in runs if kept.setdefault(self.line(run)[-1], run) is not run)
        members = list(kept.values())
        lines = [self.line(run) for run in members]
        depth = min(map(len, lines))
        apart = (level for level in range(depth) if len({line[level] for line in lines}) > 1)
        level = next(apart, depth - 1)
        methods, names = self._steps(members[0])
        shared = names[level - 1] if level else ""
        units = tuple(line[level] for line in lines)
        return Group(tuple(members), units, methods[level:], shared, tuple(lines), copies)

    def _steps(self, run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return methods and names of a run's ancestors and of the run, the oldest first."""
        methods, names, seen = [run.method], [run.name], {str(run.path)}
        while run.parent:
            parent = self._parent(run)
            methods.append(parent.method if parent else "")
            names.append(parent.name if parent else _plain(run.parent))
            if parent is None or str(parent.path) in seen:
                break
            run = parent
            seen.add(str(run.path))
        return tuple(reversed(methods)), tuple(reversed(names))

    def _parent(self, run: Run) -> Run | None:
        return self._index.find(run.parent, run) if run.parent else None

    def _identity(self, run: Run, *, seeds: bool) -> str:
        """Return the identity of a run's recipe, or with `seeds` that of its training; circular references are cut."""
        key = str(run.path), seeds
        if key not in self._known:
            self._known[key] = ""  # recipe of the run
            self._known[key] = hashlib.sha256(json.dumps(self._facts(run, seeds), sort_keys=True).encode()).hexdigest()
        return self._known[key]

    def _facts(self, run: Run, seeds: bool) -> dict[str, Any]:
        data = run.meta.get("data") or {}
        facts: dict[str, Any] = {
            "method": run.method,
            "config": {
                name: value
                for name, value in run.config.items()
                if name not in ASIDE | MODELS and value and value != WITHOUT.get(name)
            },
            "data": [data.get("hash") or run.config.get("data"), data.get("annotator")],
            "world": (run.world or {}).get("hash"),
            "rewards": [
                self._model(spec, run, seeds, (data.get("rewards") or {}).get(str(spec)))
                for spec in _as_list(run.config.get("reward"))
            ],
        }
        for relation in RELATIONS:
            ref = run.meta.get(relation)
            weights = None if relation == "reward_model" else _weights_of_base(run)
            facts[relation] = self._model(ref, run, seeds, weights) if ref else None
        return facts | ({"seeds": [run.seed, *(run.config.get(name) for name in sorted(SEEDS))]} if seeds else {})

    def _model(self, ref: Any, run: Run, seeds: bool, content: Any) -> Any:
        """Return the identity of a model that a run names; outside the runs, that of its content, if known."""
        source = self._index.find(ref, run) if isinstance(ref, str) else None
        if source is None:
            return [content] if content else _plain(ref) if isinstance(ref, str) else ref
        return [self._identity(source, seeds=seeds), split_step(str(ref))[1]]


def _weights_of_base(run: Run) -> str:
    """Return the hash of the weights that a training started from, if the run records it."""
    data = run.meta.get("data") or {}
    return str(data.get("reference") or data.get("base") or "")


def _plain(ref: str) -> str:
    """Return the name of a model that is not among the runs; for a path, its last part."""
    return PurePath(split_step(ref)[0]).name or ref


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
