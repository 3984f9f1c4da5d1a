"""The spec of a sweep: a TOML file or a dictionary that becomes a graph of tasks, each a command of `probe`.

`EXAMPLE` is one. Options are those of the command line. The name of an entry, in an option that takes a model or in
`of`, stands for the run that the entry produces. An entry without `seeds` takes those of the entries that it names.
"""

import datetime
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from probe.errors import AmbiguousNameError, ConfigError, ModelError, ProbeError, suggest
from probe.options import option, words
from probe.runs.addresses import is_url
from probe.runs.directories import is_path
from probe.sweep.trust import MOST_VALUES, check_count, check_out, uses
from probe.untrusted import MB, parse_toml, read_file

EXAMPLE = """\
out = "runs/betas"

[[train]]
name = "base"
method = "pretrain"
seeds = [0, 1, 2]
options = {steps = 300}

[[train]]
name = "dpo"
method = "dpo"
options = {base = "base", steps = 100}     # the run of the entry `base` with the same seed
grid = {beta = [0.1, 0.3], annotator = ["agreeable", "honest"]}

[[experiment]]
name = "sycophancy"
of = ["base", "dpo"]
options = {n = 100, baseline = "base"}
"""
Kind = Literal["train", "experiment"]
NAME = re.compile(r"\w[\w.+=-]*")
"""Pattern of an entry's name; it is a valid folder name on every system."""
MODELS: Mapping[str, tuple[str, ...]] = {"train": ("base", "reward"), "experiment": ("baseline", "also")}
"""Options that take a model, by kind of entry."""
TAKEN = {"train": ("out", "resume", "seed"), "experiment": ("model", "out", "json", "again")}
"""Options that the sweep sets itself."""
NOT_HERE = {
    "seed": "give `seeds` instead",
    "plugin": "name the file on the command line, `probe sweep SPEC --plugin FILE.py`",
    "check": "leave it out",
    "help": "leave it out",
}
"""Advice for each option that a spec may not set."""
OPTION = re.compile(r"[a-z]\w*(\.\w+)*", re.ASCII | re.IGNORECASE)
TOP = ("out", "store", "train", "experiment")
KEYS = {
    "train": ("name", "method", "seeds", "options", "grid", "each", "cpus", "gpus", "retries"),
    "experiment": ("name", "experiment", "of", "options", "grid", "each", "cpus", "gpus", "retries"),
}


@dataclass(frozen=True)
class Task:
    """A command of a sweep: a training or an experiment."""

    name: str
    """Name of the task, unique in the sweep; for a training also the name of its run."""
    entry: str
    """Entry of the spec that it belongs to."""
    kind: Kind
    run: Path
    """Run that a training produces, or that an experiment measures."""
    words: tuple[str, ...]
    """Command line without `probe`."""
    recipe: Mapping[str, Any] = field(hash=False)
    """Options that its result depends on; runs of the sweep are given by name, so that the folder may move."""
    needs: tuple[str, ...] = ()
    """Names of the tasks that must be finished before it starts."""
    reads: tuple[Path, ...] = ()
    """Runs that these tasks produce."""
    cpus: float = 1.0
    """CPUs that it reserves; it computes with as many threads, at least one."""
    gpus: float | None = None
    """GPUs that it reserves, possibly a fraction; None means one if the machine has any."""
    retries: int = 2
    """Number of restarts after its process or its machine was lost."""


@dataclass(frozen=True)
class Spec:
    """A whole sweep."""

    out: Path
    """Folder of the runs."""
    tasks: tuple[Task, ...]
    """Tasks, each after the tasks that it needs."""
    store: str | None = None
    """Address of a folder in a store that the runs are copied to."""
    plugins: tuple[str, ...] = ()
    """Python files that every task loads; they cannot be named in a spec."""

    @property
    def uses(self) -> str:
        """One sentence on the code that its tasks run and the addresses that they reach; empty where there is none."""
        return uses([task.recipe for task in self.tasks], self.plugins, self.store)


@dataclass
class _Entry:
    """An entry (table) of the spec."""

    kind: Kind
    table: Mapping[str, Any]
    variants: "list[_Variant]"
    seeds: list[int] | None
    tasks: list[Task] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.table["name"]

    @property
    def least(self) -> int:
        """Smallest number of tasks that the entry can produce."""
        return len(self.variants) * len(self.seeds or [None])

    def refuse(self, what: str) -> ConfigError:
        return ConfigError(f"The entry `{self.name}` of the sweep {what}")


class _Entries(dict[str, _Entry]):
    """Entries by name."""

    @cached_property
    def by_ref(self) -> dict[str, int]:
        """Index of the first [[train]] entry for each name that it can be referred to by."""
        places: dict[str, int] = {}
        for place, entry in enumerate(self.values()):
            for name in _names(entry) if entry.kind == "train" else ():
                places.setdefault(name, place)
        return places


@dataclass(frozen=True)
class _Variant:
    """One combination of a grid."""

    name: str
    """Name of the entry followed by the options that vary."""
    subject: str
    """Name of the method or experiment."""
    options: Mapping[str, Any]


def read_spec(
    spec: str | Path | Mapping[str, Any], *, out: str | Path | None = None, plugins: Sequence[str | Path] = ()
) -> Spec:
    """Read the tasks of a spec without starting, writing or importing anything that it names.

    Args:
        spec: a TOML file, or its content as a dictionary.
        out: folder of the runs; by default the spec's.
        plugins: Python files that every task loads.

    Raises:
        ConfigError: a key is unknown, a value is invalid, entries refer to each other in a circle or to an unknown
            entry, two tasks would write one run, there are too many tasks, or the `out` of a file is not allowed
            (`check_out`).
    """
    file = None if isinstance(spec, Mapping) else Path(os.path.expanduser(spec))
    table = spec if isinstance(spec, Mapping) else _load(Path(os.path.expanduser(spec)))
    _check_keys(table, TOP, "The sweep")
    named = table.get("out") if out is None else out
    if not isinstance(named, str | Path) or not str(named) or "\0" in str(named):
        raise ConfigError('The sweep needs `out`, the folder that its runs go to: add out = "runs/NAME".')
    folder = Path(os.path.expanduser(named))
    if file is not None and out is None:
        check_out(folder, file)
    kinds: tuple[Kind, ...] = ("train", "experiment")
    entries: list[_Entry] = []
    least = 0
    for kind in kinds:
        for each in _tables(table, kind):
            entries.append(_entry(kind, each, least))
            least += entries[-1].least
    if not entries:
        raise ConfigError("The sweep has no entries: add [[train]] or [[experiment]].")
    by_name = _Entries()
    for entry in entries:
        if entry.name in by_name:
            raise ConfigError(f"Two entries of the sweep are called `{entry.name}`: give each a name of its own.")
        by_name[entry.name] = entry
    loads = tuple(f"--plugin={plugin}" for plugin in plugins)
    tasks: dict[str, Task] = {}
    for entry in _in_order(by_name):
        make = _trainings if entry.kind == "train" else _experiments
        for made in make(entry, by_name, folder):
            task = replace(made, words=(*made.words, *loads)) if loads else made
            check_count(len(tasks) + 1)
            clash = tasks.setdefault(task.name.lower(), task)
            if clash is not task:
                raise ConfigError(
                    f"The entries `{clash.entry}` and `{task.entry}` of the sweep both make `{task.name}`: give the"
                    " entries names, or the grids values, that differ in more than punctuation."
                )
            entry.tasks.append(task)
    return Spec(folder, tuple(tasks.values()), _store(table), tuple(map(str, plugins)))


def _store(table: Mapping[str, Any]) -> str | None:
    store = table.get("store")
    if store is not None and not is_url(store):
        raise ConfigError(f"The sweep has the store {store!r}: give an address, such as s3://bucket/runs/betas.")
    return store


def check_commands(spec: Spec) -> None:
    """Check the options of all tasks with their commands, in this process and without running any.

    Raises:
        ConfigError: a task has invalid options; the message names the task.
    """
    from probe.cli import commands

    known, seen = commands(), set()
    for task in spec.tasks:
        varies = ("seed", "model", *MODELS[task.kind])  # any run and any seed will do
        same = json.dumps([task.entry, {name: each for name, each in task.recipe.items() if name not in varies}])
        if same in seen:
            continue
        seen.add(same)
        try:
            known[task.kind].load()([*task.words[1:], "--check"])
        except ProbeError as error:
            raise ConfigError(f"The task `{task.name}` of the sweep cannot run: {error}") from error


def _load(path: Path) -> Mapping[str, Any]:
    try:
        return parse_toml(read_file(path, MB))
    except OSError as error:
        raise ConfigError(f"The spec `{path}` cannot be read ({error.strerror}): give a TOML file.") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"The spec `{path}` is not valid TOML ({error}): correct it there.") from error


def _check_keys(table: Mapping[str, Any], known: Sequence[str], whose: str) -> None:
    for key in table:
        if key not in known:
            remedy = suggest(str(key), known, f"the keys are {', '.join(known)}.")
            raise ConfigError(f"{whose} has an unknown key `{key}`: {remedy}")


def _tables(table: Mapping[str, Any], kind: Kind) -> list[Mapping[str, Any]]:
    tables = table.get(kind, [])
    if not isinstance(tables, list) or not all(isinstance(each, Mapping) for each in tables):
        raise ConfigError(f"`{kind}` of the sweep is not a list of tables: write [[{kind}]] above each entry.")
    return tables


def _entry(kind: Kind, table: Mapping[str, Any], before: int) -> _Entry:
    """Make an entry and check it in isolation; `before` is the number of tasks of the entries before it.

    Raises:
        ConfigError: a key is unknown, a value is invalid, or there are too many tasks.
    """
    name = table.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"An entry [[{kind}]] of the sweep has the name {name!r}: give it a `name` of letters, digits and . _ + = -"
        )
    entry = _Entry(kind, table, [], None)
    _check_keys(table, KEYS[kind], f"The entry `{name}` of the sweep")
    subject = table.get("method") if kind == "train" else table.get("experiment", name)
    given = subject if isinstance(subject, list) else [subject]
    subjects = [each for each in given if isinstance(each, str) and not each.startswith("-")]
    if not subjects or len(subjects) < len(given):
        raise entry.refuse(f"has the {'method' if kind == 'train' else 'experiment'} {subject!r}: name one.")
    if kind == "experiment":
        of = table.get("of")
        if not isinstance(of, list) or not of or not all(isinstance(each, str) for each in of):
            raise entry.refuse(f"has `of` {of!r}: list the entries whose models it measures.")
    _check_resources(entry)
    entry.seeds = _seeds(entry)
    entry.variants = list(_variants(entry, subjects, before))
    return entry


def _check_resources(entry: _Entry) -> None:
    for key, kinds, least in (("cpus", (int, float), 0), ("gpus", (int, float), 0), ("retries", (int,), 0)):
        value = entry.table.get(key, least)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < 1e6:
            expected = "a whole number" if kinds == (int,) else "a number"
            raise entry.refuse(f"has {key} {value!r}: give {expected} from 0.")
        if key == "gpus" and value > 1 and value != int(value):
            raise entry.refuse(f"has gpus {value!r}: give a part of one GPU, or whole ones.")


def _seeds(entry: _Entry) -> list[int] | None:
    seeds = entry.table.get("seeds")
    if seeds is None:
        return None
    is_list = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not is_list or not seeds or len(set(seeds)) < len(seeds):
        raise entry.refuse(f"has the seeds {seeds!r}: give a list of different whole numbers from 0.")
    return seeds


def _variants(entry: _Entry, subjects: Sequence[str], before: int) -> Iterator[_Variant]:
    """Yield the variants of an entry: the product of its methods, its list `each` and its grid."""
    options = dict(_flat(entry, "options", entry.table.get("options", {})))
    each = entry.table.get("each", [{}])
    if not isinstance(each, list) or not each or not all(isinstance(one, Mapping) for one in each):
        raise entry.refuse("has an `each` that is not a list of tables: write each = [{beta = 0.1}, {beta = 0.3}].")
    grid = dict(_flat(entry, "grid", entry.table.get("grid", {})))
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise entry.refuse(f"has a grid over `{name}` of {values!r}: give a list of values, [{values!r}] for one.")
    sizes = [len(subjects), len(each), len(entry.seeds or [None]), *map(len, grid.values())]
    check_count(before + math.prod(sizes))
    for subject, one, values in itertools.product(subjects, each, itertools.product(*grid.values())):
        varied = dict(_flat(entry, "each", one)) | dict(zip(grid, values, strict=True))
        both = [name for name in varied if name in options or (name in one and name in grid)]
        if both:
            raise entry.refuse(f"gives `{both[0]}` twice: leave it out of one of options, each and grid.")
        parts = [subject] if len(subjects) > 1 else []
        parts += [_label(name, value) for name, value in varied.items()]
        yield _Variant("-".join([entry.name, *parts]), subject, options | varied)


def _flat(entry: _Entry, where: str, table: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield options by name with underscores; those of nested tables with dots."""
    if not isinstance(table, Mapping):
        raise entry.refuse(f"has `{where}` {table!r}: give a table of options, as in {where} = {{steps = 100}}.")
    for key, value in table.items():
        name = prefix + str(key).removeprefix("--").replace("-", "_")
        if isinstance(value, Mapping):
            yield from _flat(entry, where, value, f"{name}.")
            continue
        if name in TAKEN[entry.kind] or name in NOT_HERE:
            remedy = NOT_HERE.get(name, "leave it out")
            raise entry.refuse(f"sets the option `{name}`, which a spec does not set: {remedy}.")
        if not OPTION.fullmatch(name):
            raise entry.refuse(
                f"has an option {name!r}: name one of letters, digits and _, as in {where} = {{lr = 1}}."
            )
        if where != "grid" and isinstance(value, list | tuple) and len(value) > MOST_VALUES:
            raise entry.refuse(f"gives `{name}` {len(value):,} values: give at most {MOST_VALUES:,}.")
        value = list(value) if isinstance(value, tuple) else os.fspath(value) if isinstance(value, Path) else value
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, datetime.date | datetime.time | Mapping) or each is None:
                raise entry.refuse(f"gives `{name}` as {each!r}: give text, a number, true, false or a list of these.")
        yield name, value


def _label(name: str, value: Any) -> str:
    """Return the part of a run's name for a value of a grid: a text alone, a number after its option."""
    short = name.rpartition(".")[2].replace("_", "-")
    if isinstance(value, bool):
        return short if value else f"no-{short}"
    values = value if isinstance(value, list) else [value]
    text = re.sub(r"[^\w.+=-]+", "_", "+".join(map(str, values)))
    return text if all(isinstance(each, str) for each in values) else short + text


def _in_order(entries: _Entries) -> list[_Entry]:
    """Sort the entries so that each comes after the entries that it names.

    Raises:
        ConfigError: the entries name each other in a circle.
    """
    graph = {name: {_named(ref, entries).name for ref in _refs(entry, entries)} for name, entry in entries.items()}
    try:
        return [entries[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        circle = " -> ".join(f"`{name}`" for name in reversed(error.args[1]))
        raise ConfigError(f"Entries of the sweep need each other in a circle ({circle}): break it.") from error


def _refs(entry: _Entry, entries: _Entries) -> Iterator[str]:
    """Yield the references of an entry that name other entries, in `of` and in options that take a model.

    Raises:
        ConfigError: a reference names neither an entry nor a known model.
    """
    for ref in entry.table.get("of", []):
        if _find_entry(ref, entries) is None:
            raise _unknown(entry, "of", ref, entries)
        yield ref
    for variant in entry.variants:
        for name in MODELS[entry.kind]:
            for ref in _listed(variant.options.get(name)):
                if _find_entry(ref, entries) is not None:
                    yield ref
                elif name != "reward" and not _is_known(str(ref)):  # a reward may be any name that a plugin brings
                    raise _unknown(entry, name, ref, entries)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_known(ref: str) -> bool:
    """Return whether a reference may be a model outside the sweep; hub ids are checked only when they are loaded."""
    from probe.model.references import look_up

    if is_path(ref):
        return True
    try:
        look_up(ref)
    except AmbiguousNameError:
        raise
    except ModelError:
        return False
    return True


def _unknown(entry: _Entry, name: str, ref: Any, entries: _Entries) -> ConfigError:
    known = [each for other in entries.values() if other.kind == "train" for each in _names(other)]
    remedy = suggest(str(ref), known, f"the entries are {', '.join(known[:12]) or 'none'}.")
    return entry.refuse(f"has `{name}` {ref!r}, which is neither an entry [[train]] nor a model here: {remedy}")


def _names(entry: _Entry) -> list[str]:
    """Return all names of an entry: its own, and those of its variants."""
    return list(dict.fromkeys([entry.name, *(variant.name for variant in entry.variants)]))


def _split(ref: Any) -> tuple[str, str]:
    """Split a reference into a name and the `@STEP` of a checkpoint, which may be empty."""
    name, sign, step = str(ref).rpartition("@")
    return (name, f"@{step}") if sign and step.isdecimal() else (str(ref), "")


def _find_entry(ref: Any, entries: _Entries) -> _Entry | None:
    """Find the training entry that a reference names: by the name of the entry, of a variant, or of a run."""
    name, _ = _split(ref)
    places = [entries.by_ref.get(each) for each in (name, re.sub(r"-seed\d+$", "", name))]
    found = [place for place in places if place is not None]
    return list(entries.values())[min(found)] if found else None


def _seed_of(name: str, variant: str) -> int | None:
    """Return the seed in the name of a run, if the run belongs to the variant."""
    match = re.fullmatch(re.escape(variant) + r"-seed(\d+)", name)
    return int(match[1]) if match else None


def _named(ref: Any, entries: _Entries) -> _Entry:
    entry = _find_entry(ref, entries)
    assert entry is not None  # `_refs` returns no others
    return entry


def _runs(ref: str, owner: _Entry) -> list[Task]:
    """Return the tasks of an entry that a reference stands for: all, those of a variant, or one."""
    name, _ = _split(ref)
    if name == owner.name:
        return owner.tasks
    return [task for task in owner.tasks if task.name == name or _seed_of(task.name, name) is not None]


def _one_run(entry: _Entry, name: str, ref: str, seed: int | None, entries: _Entries) -> Task:
    """Return the run that a reference in an option stands for: the run of the same seed.

    Raises:
        ConfigError: several runs, or none, have that seed.
    """
    owner = _named(ref, entries)
    tasks = _runs(ref, owner)
    if len(tasks) > 1 and seed is not None:
        tasks = [task for task in tasks if task.recipe.get("seed") == seed]
    if len(tasks) == 1:
        return tasks[0]
    if not tasks:
        raise entry.refuse(f"has `{name}` {ref!r}, which has no run with seed {seed}: give both the same seeds.")
    names = ", ".join(f"`{task.name.removesuffix(f'-seed{seed}')}`" for task in tasks[:6])
    raise entry.refuse(f"has `{name}` {ref!r}, which stands for {len(tasks)} runs: name one of {names}.")


@dataclass(frozen=True)
class _Model:
    """A run of the sweep, or one of its checkpoints, that a command uses as a model."""

    task: Task
    step: str = ""
    """Checkpoint as `@STEP`, or empty."""

    @property
    def name(self) -> str:
        return self.task.name + self.step

    @property
    def path(self) -> str:
        return f"{self.task.run}{self.step}"


def _filled(
    entry: _Entry, variant: _Variant, seed: int | None, entries: _Entries, own: _Model | None = None
) -> tuple[dict[str, Any], dict[str, Any], list[_Model]]:
    """Return a command's options with runs as paths, its options with runs by name, and the runs it depends on."""
    options, recipe, models = dict(variant.options), dict(variant.options), []
    for name in MODELS[entry.kind]:
        pairs: list[tuple[Any, Any]] = []
        for ref in _listed(options.get(name)):
            if _find_entry(ref, entries) is None:
                pairs.append((ref, ref))
                continue
            model = _Model(_one_run(entry, name, ref, seed, entries), _split(ref)[1])
            if model != own:  # a model is not compared with itself
                models.append(model)
                pairs.append((model.path, model.name))
        for index, target in enumerate((options, recipe)):
            if name in target:
                values = [pair[index] for pair in pairs]
                target[name] = values if isinstance(target[name], list) else next(iter(values), None)
                if not values:
                    del target[name]
    return options, recipe, models


def _words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return options as words of a command line."""
    return tuple(words({option(name): value for name, value in options.items()}, joined=True))


def _resources(entry: _Entry) -> dict[str, Any]:
    return {key: entry.table[key] for key in ("cpus", "gpus", "retries") if key in entry.table}


def _trainings(entry: _Entry, entries: _Entries, out: Path) -> Iterator[Task]:
    """Yield the tasks of an entry [[train]]."""
    for variant in entry.variants:
        for seed in _seeds_of(entry, entries):
            name = variant.name if seed is None else f"{variant.name}-seed{seed}"
            options, recipe, models = _filled(entry, variant, seed, entries)
            given = {} if seed is None else {"seed": seed}
            run = out / name
            yield Task(
                name,
                entry.name,
                "train",
                run,
                ("train", variant.subject, f"--out={run}", *_words(options | given)),
                {"method": variant.subject} | recipe | given,
                tuple(dict.fromkeys(model.task.name for model in models)),
                tuple(dict.fromkeys(model.task.run for model in models)),
                **_resources(entry),
            )


def _seeds_of(entry: _Entry, entries: _Entries) -> Sequence[int | None]:
    """Return the seeds of an entry, given or taken from the entries that it names.

    Raises:
        ConfigError: these entries have different seeds.
    """
    if entry.seeds is not None:
        return entry.seeds
    seeds: dict[str, list[int]] = {}
    for ref in _refs(entry, entries):
        owner = _named(ref, entries)
        if owner.seeds is not None and not any(_seed_of(_split(ref)[0], each) is not None for each in _names(owner)):
            seeds[owner.name] = owner.seeds
    if any(set(each) != set(next(iter(seeds.values()))) for each in seeds.values()):
        raise entry.refuse(f"names {' and '.join(f'`{name}`' for name in seeds)}, whose seeds differ: give it `seeds`.")
    entry.seeds = next(iter(seeds.values()), None)
    return entry.seeds or [None]


def _experiments(entry: _Entry, entries: _Entries, out: Path) -> Iterator[Task]:
    """Yield the tasks of an entry [[experiment]]: each variant on each run of `of`, on the baselines first.

    Results of a baseline are stored, so that the other tasks reuse them.
    """
    of: list[_Model] = []
    for ref in dict.fromkeys(entry.table["of"]):
        tasks, step = _of(entry, ref, entries), _split(ref)[1]
        check_count((len(of) + len(tasks)) * len(entry.variants))
        of += [_Model(task, step) for task in tasks]
    for variant in entry.variants:
        parts = {model: _filled(entry, variant, model.task.recipe.get("seed"), entries, model) for model in of}
        alone = {name: value for name, value in variant.options.items() if name not in MODELS[entry.kind]}
        for _, _, models in list(parts.values()):
            parts |= {model: (alone, alone, []) for model in models if model not in parts}
        for model, (options, recipe, beside) in sorted(parts.items(), key=lambda part: len(part[1][2])):
            first = [f"{variant.name}-{each.name}" for each in beside if not parts[each][2]]
            runs = [model.task, *(each.task for each in beside)]
            yield Task(
                f"{variant.name}-{model.name}",
                entry.name,
                "experiment",
                model.task.run,
                ("experiment", variant.subject, f"--model={model.path}", *_words(options), "--json"),
                {"experiment": variant.subject, "model": model.name} | recipe,
                tuple(dict.fromkeys([*(task.name for task in runs), *first])),
                tuple(dict.fromkeys(task.run for task in runs)),
                **_resources(entry),
            )


def _of(entry: _Entry, ref: str, entries: _Entries) -> list[Task]:
    """Return the runs that an experiment measures.

    Raises:
        ConfigError: no run has that name.
    """
    tasks = _runs(ref, _named(ref, entries))
    if not tasks:
        raise entry.refuse(f"has `of` {ref!r}, of which the sweep makes no run: name an entry, or a run of one.")
    return tasks
