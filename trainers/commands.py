"""The commands `probe train` and `probe samples`; nothing heavy is imported before one of them runs."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from probe.errors import ConfigError
from trainers.config import TrainConfig, check_method, check_out, option

METHODS = {
    "pretrain": ("trainers.pretrain", "PretrainConfig", "next-token prediction on the world, a text or documents"),
    "dpo": ("trainers.dpo", "DPOConfig", "direct preference optimisation on pairs of completions"),
}
"""Method to its module, the name of its config there, and one line on it; the module has `train(config) -> Run`."""
INTERRUPTED = 130

C = TypeVar("C")
T = TypeVar("T", bound=TrainConfig)


def train(argv: Sequence[str]) -> int:
    """Train a model: `probe train METHOD --out DIR [OPTIONS]`."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_methods_text())
        return 0
    method, *rest = argv
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "see `probe train --help`."
        raise ConfigError(f"There is no training method `{method}`; the methods are {', '.join(METHODS)}: {hint}")
    module_name, config_name, _ = METHODS[method]
    module = import_module(module_name)
    config = parse_training(getattr(module, config_name), rest, method)
    run = module.train(config)
    return INTERRUPTED if run.status == "interrupted" else 0


def samples(argv: Sequence[str]) -> int:
    """Make the sample runs: a base model and models aligned by each annotator."""
    from trainers.samples import SamplesConfig, make

    return 0 if make(parse(SamplesConfig, argv, "probe samples")) else INTERRUPTED


def parse_training(kind: type[T], argv: Sequence[str], method: str) -> T:
    """The config that the command line asks for; with --resume what is not given is as the run has it.

    Raises:
        ConfigError, RunError: see `parse`, and a run that cannot be read or is of another method.
    """
    prog = f"probe train {method}"
    out = _value(argv, "--out")
    if "--resume" in argv and out is not None:
        from probe.runs import open_run

        check_out(Path(out), resume=True)
        run = open_run(out)
        check_method(run, method)
        stored = kind.from_dict({**run.config, "out": out, "resume": True})
        return parse(kind, argv, prog, stored)
    return parse(kind, argv, prog)


def parse(kind: type[C], argv: Sequence[str], prog: str, default: C | None = None) -> C:
    """A dataclass from the command line, by tyro; `--help` prints the fields with their docstrings and exits.

    Raises:
        ConfigError: an option is unknown (a near one is named), lacking, or has a value that does not fit.
    """
    import tyro

    _check_known(kind, argv, prog)
    if default is None:
        _check_complete(kind, argv, prog)
    given: dict[str, Any] = {} if default is None else {"default": default}
    caught = io.StringIO()
    try:
        with contextlib.redirect_stderr(caught):
            config, unknown = tyro.cli(kind, args=list(argv), prog=prog, return_unknown_args=True, **given)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ConfigError(_one_sentence(caught.getvalue(), prog)) from None
    if unknown:
        raise ConfigError(f"`{prog}` has no use for `{unknown[0]}`: see `{prog} --help`.")
    return config


def _check_known(kind: Any, argv: Sequence[str], prog: str) -> None:
    """Name a near option for one that does not exist, before tyro complains of what else is missing."""
    known = ["--help", *_options(kind)]
    for word in argv:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and not any(name == option or name.startswith(f"{option}.") for option in known):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"see `{prog} --help`."
            raise ConfigError(f"`{prog}` has no option `{word}`: {hint}")


def _options(kind: Any, prefix: str = "--") -> Iterator[str]:
    for field in dataclasses.fields(kind):
        name = prefix + option(field.name)[2:]
        if dataclasses.is_dataclass(field.type):
            yield from _options(field.type, f"{name}.")
        else:
            yield name
            if field.type is bool:
                yield f"--no-{name[2:]}"


def _check_complete(kind: Any, argv: Sequence[str], prog: str) -> None:
    """Name the options without a default that are not given."""
    given = {word.partition("=")[0].replace("_", "-") for word in argv}
    lacking = [
        option(field.name)
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    lacking = [name for name in lacking if name not in given]
    if lacking and not given & {"-h", "--help"}:
        raise ConfigError(f"`{prog}` needs {', '.join(lacking)}: see `{prog} --help`.")


def _one_sentence(box: str, prog: str) -> str:
    """What tyro says below the title of a frame, which it draws in ASCII or better, as one sentence."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box).partition("\n")[2]
    said = [" ".join(re.sub(r"[│╭╮╰╯|]", " ", part).split()) for part in re.split(r"[─-]{8,}", plain)]
    text = next((part for part in said if part), "the options cannot be understood").rstrip(".")
    return f"{text}: see `{prog} --help`."


def _value(argv: Sequence[str], name: str) -> str | None:
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _methods_text() -> str:
    lines = ["usage: probe train METHOD --out DIR [OPTIONS]", "", "Train a model.", "", "methods:"]
    lines += [f"  {name:<12} {summary}" for name, (_, _, summary) in METHODS.items()]
    return "\n".join([*lines, "", "`probe train METHOD --help` lists the options of a method."])
