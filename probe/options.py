"""Command lines of dataclasses, by tyro, with every mistake said in one sentence; light until something is parsed."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from probe.errors import ConfigError

C = TypeVar("C")


def option(name: str) -> str:
    """A field's name as it is written on the command line."""
    return "--" + name.replace("_", "-")


def hint(word: str, known: Sequence[str], prog: str) -> str:
    """The end of a sentence about a word that is not known: the near one, or where all are listed."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"see `{prog} --help`."


def choose(argv: Sequence[str], prog: str, about: str, choices: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """The first word of `argv`, which must be one of `choices`, and the rest; None once the help has been printed.

    Raises:
        ConfigError: the word is none of them (a near one is named).
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<12} {summary}" for name, summary in choices.items()]
        print("\n".join([about, "", *lines, "", f"`{prog} NAME --help` lists the options of one."]))
        return None
    name, *rest = argv
    if name not in choices:
        raise ConfigError(f"`{prog}` has no `{name}`, only {', '.join(choices)}: {hint(name, list(choices), prog)}")
    return name, rest


def parse(kind: type[C], argv: Sequence[str], prog: str, default: C | None = None) -> C:
    """A dataclass from the command line; `--help` prints the fields with their docstrings and exits.

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


def options(kind: Any, prefix: str = "--") -> Iterator[str]:
    """The options of a dataclass, those of nested ones with dots."""
    for field in _named(kind):
        name = prefix + option(field.name)[2:]
        if dataclasses.is_dataclass(field.type):
            yield from options(field.type, f"{name}.")
        else:
            yield name
            if field.type is bool:
                yield f"--no-{name[2:]}"


def _named(kind: Any) -> list[dataclasses.Field]:
    """The fields that are given by name and not by place."""
    import tyro

    hints = get_type_hints(kind, include_extras=True)
    return [
        field
        for field in dataclasses.fields(kind)
        if tyro.conf.Positional not in getattr(hints[field.name], "__metadata__", ())
    ]


def _check_known(kind: Any, argv: Sequence[str], prog: str) -> None:
    """Name a near option for one that does not exist, before tyro complains of what else is missing."""
    known = ["--help", *options(kind)]
    for word in argv:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and not any(name == one or name.startswith(f"{one}.") for one in known):
            raise ConfigError(f"`{prog}` has no option `{word}`: {hint(name, known, prog)}")


def _check_complete(kind: Any, argv: Sequence[str], prog: str) -> None:
    """Name the options without a default that are not given."""
    given = {word.partition("=")[0].replace("_", "-") for word in argv}
    lacking = [
        option(field.name)
        for field in _named(kind)
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
