"""The sample runs as a sweep: data, trainings, experiments, and tables of the results.

With Ray as many runs are made at once as there are CPUs; finished runs are kept, interrupted ones are resumed. A
finished run is thinned for shipping (`--thin`), and experiments and analyses compute the results that pages show
immediately.
"""

import dataclasses
import itertools
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import probe
from probe import texts
from probe.commands.progress import say
from probe.commands.sweep import run_and_show
from probe.errors import ConfigError, ProbeError
from probe.experiments.metrics import EXPECTED, PROMPT
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import metrics_of
from probe.experiments.store import results
from probe.model.references import REAL_MODEL
from probe.numbers import in_unit
from probe.options import changed, describe, option, words
from probe.runs import list_runs
from probe.runs.schema import CAPTURES, CHECKPOINTS, RESULTS, ROLLOUTS
from probe.seeds import Group, groups, headline
from probe.seeds.t_intervals import OverTrainings
from probe.sweep.journal import Sweep, is_sweep, read_sweep
from probe.sweep.spec import MODELS as NAMES_MODEL
from probe.sweep.spec import Spec, Task
from probe.terms import term
from trainers.config import TrainConfig
from trainers.samples import control_runs, factorial_samples, real_samples, stored_analyses
from trainers.samples.recipes import RECIPES, Asked, Recipe, SamplesConfig

TEXTS = (PROMPT, EXPECTED, "answer", "question")
"""Text columns of items."""
MODELS = ("accuracy", "deferral", "invention", "abstention", "gold_reward", "kl")
"""Metrics of the table of language models."""
REWARD_MODELS = (
    "eval_accuracy",
    "agreement_preferred",
    "agreement_probability",
    "agreement_probability_annotator",
    "eval_ece",
)
"""Metrics of the table of reward models."""


def make(config: SamplesConfig) -> int:
    """Make the sample runs as a sweep, measure them, and return the exit status.

    Raises:
        ProbeError: a run cannot be made.
        ConfigError: --only names a run of another kind.
    """
    base = config.base or (REAL_MODEL if config.real else "base")
    recipes: Mapping[Any, Recipe] = RECIPES
    if config.real:
        recipes = real_samples.recipes(base)
    elif config.controls:
        recipes = control_runs.recipes(base)
    elif config.factorial:
        recipes = factorial_samples.recipes()
    odd = [name for name in config.only if name not in recipes]
    if odd:
        kinds = "--real, --controls or --factorial"
        other_kind = f"add {kinds}" if recipes is RECIPES else f"leave {kinds} out"
        raise ConfigError(f"--only {' '.join(odd)} is not one of {', '.join(recipes)}: {other_kind}.")
    names = [name for name in recipes if (name in config.only if config.only else name != real_samples.ASIDE)]
    model = real_samples.prepare(config.out, base) if config.real else None
    if config.controls and any(name in control_runs.RUNS for name in names):
        control_runs.write_data(config.out)
    tasks = list(plan(config, {name: recipes[name] for name in names}))
    if model and config.experiments:
        tasks += measuring(model, real_samples.ASKED)
    if tasks and (status := run_and_show(Spec(config.out, tuple(tasks)))):
        return status
    if not config.real:
        for seed, name in itertools.product(range(1, config.seeds), names) if config.slim else ():
            slim(config.out / at_seed(name, seed))
        if config.experiments and recipes is RECIPES:
            stored_analyses.store(config.out, stored_analyses.WORLD)
        if not config.controls:
            texts.say((factorial_samples.tables if config.factorial else tables)(config.out))
        return 0
    for name in names:
        real_samples.make_portable(config.out / name)
    if config.experiments:
        stored_analyses.store(config.out, stored_analyses.REAL._replace(base=Path(base).name))
    for columns in (real_samples.AGREEMENT, real_samples.SHOWN, real_samples.CONTROLS):
        texts.say(real_samples.table(config.out, base, columns))
    return 0


def plan(config: SamplesConfig, recipes: Mapping[str, Recipe]) -> Iterator[Task]:
    """Yield the trainings and experiments of the sample runs; skip trainings that were finished outside a sweep."""
    sweep = read_sweep(config.out) if is_sweep(config.out) else Sweep(config.out)
    if config.force and sweep.live:
        raise ConfigError(
            f"The sample runs in `{config.out}` are being made: let that end before --force makes them again."
        )
    planned: set[Path] = set()
    for seed, (name, recipe) in itertools.product(range(config.seeds), recipes.items()):
        settings = with_seed(scale_steps(recipe.config(config.out), config.steps_scale, config.threads), seed)
        run = settings.out
        if config.force:
            shutil.rmtree(run, ignore_errors=True)
        if run.name not in sweep.made and _is_finished(run):
            say(f"{run.name}: finished already, kept as it is (--force makes it again)")
        else:
            planned.add(run)
            yield training(dataclasses.replace(settings, thin=recipe.captures), name, recipe.method, planned)
        if config.experiments and (run in planned or probe.open_run(run).checkpoints()):
            yield from measuring(run, recipe.asked, needs=(run.name,) if run in planned else ())


def training(config: TrainConfig, name: str, method: str, planned: Collection[Path]) -> Task:
    """Make the task of a training, whose command has all options that are not defaults.

    The task runs after the tasks of `planned` that its options name.
    """
    flags = changed(config.to_dict(), describe(type(config)))
    named = [getattr(config, each, None) or () for each in NAMES_MODEL["train"]]
    models = [Path(each) for value in named for each in ([value] if isinstance(value, str) else value)]
    reads = tuple(each for each in models if each in planned)
    recipe = {flag[2:].replace("-", "_"): value for flag, value in flags.items() if flag != "--out"}
    recipe |= {"method": method}
    command = ("train", method, *words(flags))
    needs = tuple(each.name for each in reads)
    return Task(config.out.name, name, "train", config.out, command, recipe, needs, reads, cpus=config.threads)


def slim(directory: Path) -> None:
    """Reduce a run to its record, curves and results; items lose their texts and keep six digits."""
    for name in (CHECKPOINTS, CAPTURES):
        shutil.rmtree(directory / name, ignore_errors=True)
    (directory / ROLLOUTS).unlink(missing_ok=True)
    for folder, index in results(directory / RESULTS):
        result, experiment = Result.load(folder), find_experiment(index["name"])
        read = {
            name for each in metrics_of(experiment, result.items) for name in (*each.columns, *each.where, each.unit)
        }
        texts = {*TEXTS} - read - ({PROMPT, EXPECTED} if experiment.across_worlds else set())
        items = result.items[[name for name in result.items if name not in texts]].map(_shorten)
        tables = {name: table.map(_shorten) for name, table in result.tables.items()}
        Result(result.name, result.summary, items, tables, meta=result.meta).save(folder)


def _shorten(value: Any) -> Any:
    """Round a float to six significant digits; return any other value as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def measuring(run: Path, asked: Iterable[Asked], needs: tuple[str, ...] = ()) -> Iterator[Task]:
    """Yield the tasks of a run's experiments."""
    for title, options in asked:
        name = "-".join([title, *(each for each in options.values() if isinstance(each, str)), run.name])
        command = (
            "experiment",
            title,
            "--model",
            str(run),
            *words({option(k): v for k, v in options.items()}),
            "--json",
        )
        yield Task(name, title, "experiment", run, command, {"model": run.name, **options}, needs, (run,))


def tables(folder: Path) -> str:
    """Return the results of the sample runs in a folder as Markdown tables: values with 95 % intervals.

    Intervals are over trainings if there are several seeds, else over answers.
    """
    order: list[str] = list(RECIPES)
    found = [group for group in groups(list_runs(folder)) if group.first.name in order]
    found = sorted(found, key=lambda group: order.index(group.first.name))
    judges = [group for group in found if group.method == "reward-model"]
    speakers = [group for group in found if group not in judges and "accuracy" in set(headline(group)["metric"])]
    samplers = [group for group in found if "gold/reward" in group.first.metrics()]
    return "\n\n".join((table(speakers, MODELS), table(judges, REWARD_MODELS), reward_shift(samplers)))


def reward_shift(found: Sequence[Group], steps: int = 5) -> str:
    """Tabulate the rewards of each sampling method's completions in its first and last steps.

    The table has the method's reward and the verifier's.
    """
    names = ["reward", "gold/reward", "completions/clipped_ratio"]
    lines = [["model", *(term(name, "train/rlhf").title for name in names)], ["---"] * 4]
    for group in found:
        rows = [run.metrics().dropna(subset=["reward"])[names] for run in group.runs]
        first = pd.concat([each.head(steps) for each in rows]).mean()
        last = pd.concat([each.tail(steps) for each in rows]).mean()
        rewards = [f"{first[name]:.2f} → {last[name]:.2f}" for name in names[:2]]
        cut = " → ".join(f"{100 * end[names[2]]:.0f} %" for end in (first, last))
        lines.append([f"`{group.first.name}`", *rewards, cut])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(found: Sequence[Group], metrics: Sequence[str]) -> str:
    """Tabulate metrics: one row per group of seeds, one column per metric."""
    lines = [["model", *(term(metric).label for metric in metrics)], ["---"] * (len(metrics) + 1)]
    for group in found:
        rows = headline(group).set_index("metric")
        cells = [_number(rows.loc[metric], metric) if metric in rows.index else "" for metric in metrics]
        lines.append([f"`{group.first.name}`", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(row: Any, metric: str) -> str:
    """Format a headline metric with its interval: over trainings, or of one training over its answers."""
    unit = term(metric).unit
    if row.n > 1:
        return OverTrainings.of(row).format(unit)
    return in_unit(unit, row.answers, row.answers_low, row.answers_high)


def at_seed(name: str, seed: int) -> str:
    """Return the name of a run in the pipeline of a seed; seed 0 keeps the name."""
    return f"{name}-seed{seed}" if seed else name


def with_seed(config: TrainConfig, seed: int) -> TrainConfig:
    """Return the recipe with another seed; its run and the runs that it starts from are those of this seed."""
    folder = config.out.parent
    own = {
        str(folder / name): str(folder / at_seed(name, seed))
        for name in (*RECIPES, *factorial_samples.recipes(), *control_runs.RUNS)
    }
    changed: dict[str, Any] = {"out": folder / at_seed(config.out.name, seed), "seed": seed}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if isinstance(value, str):
            changed[each.name] = own.get(value, value)
        elif isinstance(value, tuple):
            changed[each.name] = tuple(own.get(item, item) for item in value)
    return dataclasses.replace(config, **changed)


def scale_steps(config: TrainConfig, scale: float, threads: int) -> TrainConfig:
    """Return the recipe with another number of steps and threads."""
    steps = max(round(config.steps * scale), getattr(config, "phases", 1))
    warmup = config.warmup if scale == 1 else min(config.warmup, steps // 10)
    return dataclasses.replace(config, steps=steps, warmup=warmup, threads=threads)


def _is_finished(path: Path) -> bool:
    try:
        return path.exists() and any(path.iterdir()) and probe.open_run(path).status == "finished"
    except ProbeError as error:
        raise ConfigError(
            f"`{path}` is in the way of a sample run ({error}): move it, or choose another --out."
        ) from error
