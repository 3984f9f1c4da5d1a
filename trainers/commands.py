"""The commands `probe train` and `probe samples`; heavy modules are imported only when one of them runs."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from probe.cli import hear_interrupts
from probe.commands.opened import open_models, require_files
from probe.errors import ConfigError, ModelError, suggest
from probe.jobs.heap import keep_memory
from probe.model.references import check_reference
from probe.options import choose, describe, option, parse, take_check
from probe.plugins import code_options, names_code, take
from probe.runs.directories import host_options
from probe.texts import say
from probe.world.extensions import annotator_name, annotators, verifiers
from trainers.config import (
    FINAL_ANSWER,
    JUDGEMENTS,
    ContinualConfig,
    DPOConfig,
    PretrainConfig,
    RewardConfig,
    RLHFConfig,
    RLVRConfig,
    RSFTConfig,
    SFTConfig,
    TrainConfig,
)
from trainers.resume import check_method, check_out

if TYPE_CHECKING:
    from probe import Run

METHODS: dict[str, tuple[str, type[TrainConfig], str]] = {
    "pretrain": ("trainers.pretrain", PretrainConfig, "next-token prediction on the world, a text or documents"),
    "sft": ("trainers.sft", SFTConfig, "supervised fine-tuning on demonstrations"),
    "reward-model": ("trainers.reward_model", RewardConfig, "a scalar that scores preferred completions higher"),
    "dpo": ("trainers.dpo", DPOConfig, "direct preference optimisation on pairs of completions"),
    "rlhf": ("trainers.rlhf", RLHFConfig, "reinforcement learning from human feedback by PPO"),
    "rsft": ("trainers.rsft", RSFTConfig, "rejection-sampling fine-tuning: best of N, or above a threshold"),
    "rlvr": ("trainers.rlvr", RLVRConfig, "reinforcement learning from verifiable rewards (GRPO)"),
    "continual": ("trainers.continual", ContinualConfig, "phases one after the other: plain, with replay or EWC"),
}
"""Method -> its module, its config class and a one-line summary; the module has `train(config) -> Run`."""
INTERRUPTED = 130

T = TypeVar("T", bound=TrainConfig)


def train(argv: Sequence[str]) -> int:
    """Train a model: `probe train METHOD --out DIR [OPTIONS]`; `--describe [METHOD]` gives the options as JSON.

    With `--check` it only checks the options.
    """
    hear_interrupts()
    argv = take(argv)
    if argv and argv[0] == "--describe":
        return describe_methods(argv[1:])
    argv, only_check = take_check(argv)
    about = (
        "usage: probe train METHOD --out DIR [OPTIONS]\n\nTrain a model. `--plugin FILE.py` adds your own rewards"
        " (`--reward NAME`) and annotators (`--annotator NAME`).\nWith `--check` it only checks the options, and"
        " prints nothing if they are right."
    )
    summaries = {name: summary for name, (_, _, summary) in METHODS.items()}
    choice = choose(argv, "probe train", about, summaries)
    if choice is None:
        return 0
    method, rest = choice
    config = parse_training(METHODS[method][1], rest, method)
    check_files(config)
    if only_check:
        return 0
    check_out(config.out, config.resume)
    if not config.resume:  # a resumed run has its own model
        open_models(models_of(config))
    keep_memory()
    run = start(method, config)
    return INTERRUPTED if run.status == "interrupted" else 0


def start(method: str, config: TrainConfig) -> "Run":
    """Train with a method; torch and the method's module are imported only here."""
    run: Run = import_module(METHODS[method][0]).train(config)
    return run


def check_files(config: TrainConfig) -> None:
    """Refuse missing files before a model is loaded.

    Raises:
        DataError: an option names a file that does not exist.
    """
    paths = [getattr(config, each.name) for each in fields(config) if each.type == Path | None]
    require_files([*([] if config.data == "world" else [config.data]), *filter(None, paths)])


def models_of(config: TrainConfig) -> list[str]:
    """Return the models that a training refers to: its base, and rewards that are models.

    Raises:
        ConfigError: a reward is neither a known model nor the name of a reward.
        ModelError: see `probe.model.references.look_up`.
    """
    refs = [ref for ref in (getattr(config, "base", None),) if ref]
    known = [*JUDGEMENTS, FINAL_ANSWER]
    for spec in getattr(config, "reward", ()):
        if spec in known or names_code(spec) or spec in verifiers() or annotator_name(spec) in annotators():
            continue
        try:
            check_reference(spec)
        except ModelError as error:
            remedy = suggest(spec, [*known, *verifiers(), *annotators()], "")
            if not remedy:
                raise
            raise ConfigError(
                f"--reward {spec} is neither a reward by name nor a reward model's run: {remedy}"
            ) from error
        refs.append(spec)
    return refs


def describe_methods(names: Sequence[str]) -> int:
    """Print the named methods (default: all) as a JSON list of `method`, `summary` and `fields` (`describe`).

    Raises:
        ConfigError: a name is not a method.
    """
    for name in names:
        if name not in METHODS:
            remedy = suggest(name, METHODS, "describe one of these.")
            raise ConfigError(f"`probe train` has no `{name}`, only {', '.join(METHODS)}: {remedy}")
    entries = []
    for name in names or METHODS:
        _, kind, summary = METHODS[name]
        entries.append({"method": name, "summary": summary, "fields": describe(kind, TrainConfig)})
    say(json.dumps(entries))
    return 0


def samples(argv: Sequence[str]) -> int:
    """Make the sample runs: a base model and models aligned by each annotator."""
    from trainers.samples.recipes import SamplesConfig

    config = parse(SamplesConfig, argv, "probe samples")
    from trainers.samples.make_samples import make

    return make(config)


def parse_training(kind: type[T], argv: Sequence[str], method: str) -> T:
    """Parse the command line into a config; with --resume, options that are not given keep the values of the run.

    Raises:
        ConfigError, RunError: see `probe.options.parse`; also a run that cannot be read or is of another method.
    """
    prog = f"probe train {method}"
    out = _value(argv, "--out")
    if "--resume" in argv and out is not None:
        from probe.runs import Run

        check_out(Path(out), resume=True)
        run = Run(Path(out))
        check_method(run, method)
        check_named(run, method, argv)
        config = kind.from_dict({**run.config, "out": out, "resume": True})
        return parse(kind, argv, prog, config)
    return parse(kind, argv, prog)


def check_named(run: "Run", method: str, argv: Sequence[str]) -> None:
    """Refuse to import code or to contact a host that only the (untrusted) run names.

    Raises:
        ConfigError: the command line does not name the code or host again.
    """
    known = {each.name for each in fields(METHODS[method][1])}
    code = code_options(run.config)
    hosts = {name: values for name, values in host_options(run.config).items() if name in known - {"out"}}
    again = [word for name, values in (code | hosts).items() for word in (option(name), *values)]
    command = shlex.join(["probe", "train", method, "--out", str(run.path), "--resume", *again])
    named = {word.partition("=")[0].replace("_", "-") for word in argv}
    for options, what, rule, first in (
        (code, "code", "a run's code is imported only when", "read it, then"),
        (hosts, "a host", "nothing is asked of one, or sent to it, unless", "if you trust that host,"),
    ):
        lacking = [option(name) for name in options if option(name) not in named]
        if lacking:
            raise ConfigError(
                f"The run in `{run.path}` names {what} with {', '.join(lacking)}, and {rule} the command line names it"
                f" again: {first} type `{command}`."
            )


def _value(argv: Sequence[str], name: str) -> str | None:
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None
