"""Options of dataclasses: parsed from a command line by tyro, or described as plain data for forms.

Every mistake is reported in one sentence. Nothing heavy is imported until something is parsed.
"""

import contextlib
import dataclasses
import inspect
import io
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from probe.errors import ConfigError, suggest
from probe.texts import say

C = TypeVar("C")


def option(name: str) -> str:
    """Return the option of a field on the command line."""
    return "--" + name.replace("_", "-")


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value of an option on a command line with possibly unknown options; None without one."""
    found = None
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else next(iter(argv[index + 1 : index + 2]), found)
    return found


def choose(argv: Sequence[str], prog: str, about: str, choices: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """Return the first word of `argv`, which must be one of `choices`, and the rest; None after printing the help.

    Raises:
        ConfigError: the word is not a choice (a similar one is suggested).
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<12} {summary}" for name, summary in choices.items()]
        say("\n".join([about, "", *lines, "", f"`{prog} NAME --help` lists the options of one."]))
        return None
    name, *rest = argv
    if name not in choices:
        see = f"see `{prog} --help`."
        raise ConfigError(f"`{prog}` has no `{name}`, only {', '.join(choices)}: {suggest(name, choices, see)}")
    return name, rest


def take_check(argv: Sequence[str]) -> tuple[list[str], bool]:
    """Return the words without `--check`, and whether they contained it."""
    return [word for word in argv if word != "--check"], "--check" in argv


def parse(kind: type[C], argv: Sequence[str], prog: str, default: C | None = None) -> C:
    """Parse a dataclass from the command line; `--help` prints the fields with their docstrings and exits.

    An option with any number of values may be repeated, and its values are joined: `--also A --also B C` is `--also A B
    C`. An option with a fixed number of values also accepts them one by one: `--betas=0.9 --betas=0.95`.

    Raises:
        ConfigError: an option is unknown (a similar one is suggested), missing, has an invalid value, or takes one
            value and gets two different ones.
    """
    import tyro

    _check_known(kind, argv, prog)
    argv = _add_up(kind, argv, prog)
    if default is None:
        _check_complete(kind, argv, prog)
    arguments: dict[str, Any] = {} if default is None else {"default": default}
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            config, unknown_words = tyro.cli(kind, args=list(argv), prog=prog, return_unknown_args=True, **arguments)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ConfigError(_one_sentence(output.getvalue(), prog)) from None
    if unknown_words:
        raise ConfigError(f"`{prog}` does not take `{unknown_words[0]}`: see `{prog} --help`.")
    return config


def options(kind: Any) -> Iterator[str]:
    """Yield the options of a dataclass; those of nested dataclasses contain dots."""
    for name, hint in _option_types(kind):
        yield name
        if hint is bool:
            yield f"--no-{name[2:]}"


def _option_types(kind: Any, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """Yield the options of a dataclass and the types of their values."""
    hints = get_type_hints(kind)
    for field in _named_fields(kind):
        name, hint = prefix + option(field.name)[2:], hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _option_types(hint, f"{name}.")
        else:
            yield name, hint


def _takes_many(hint: Any) -> bool:
    """Return whether a type takes any number of words: a list, a mapping, or a tuple of variable length."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_takes_many(part) for part in get_args(hint))
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin is tuple:
        return not parts or Ellipsis in parts
    return isinstance(origin, type) and issubclass(origin, Collection) and not issubclass(origin, str | bytes)


def _add_up(kind: Any, argv: Sequence[str], prog: str) -> list[str]:
    """Move the values of a repeated option to its first occurrence on the command line.

    Raises:
        ConfigError: an option with one value gets two different ones.
    """
    hints = dict(_option_types(kind))
    lists = {name for name, hint in hints.items() if _takes_many(hint)}
    fixed = {name for name, hint in hints.items() if get_origin(hint) is tuple} - lists  # their words one by one
    parts: list[list[str]] = [[]]
    first: dict[str, list[str]] = {}
    place = parts[0]
    for word in argv:
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        adds_up = name in lists or (name in fixed and bool(equals))
        if not word.startswith("--"):
            place.append(word)
        elif adds_up and name in first:
            place = first[name]
            place += [value] if equals else []
        else:
            place = [name, *([value] if equals else [])] if adds_up else [word]
            first.setdefault(name, place)
            parts.append(place)
    for part in parts[1:]:
        name = part[0].partition("=")[0].replace("_", "-")
        previous, second = (" ".join(each).replace("=", " ").partition(" ")[2] for each in (first[name], part))
        if previous != second and hints.get(name, bool) is not bool:
            raise ConfigError(
                f"`{prog}` was given {name} twice, with {previous} and {second}: it takes one, so leave the other out."
            )
    return [word for part in parts for word in part]


def _named_fields(kind: Any) -> list[dataclasses.Field]:
    """Return the fields that are given by name rather than by position."""
    import tyro

    hints = get_type_hints(kind, include_extras=True)
    return [
        field
        for field in dataclasses.fields(kind)
        if tyro.conf.Positional not in getattr(hints[field.name], "__metadata__", ())
    ]


def _check_known(kind: Any, argv: Sequence[str], prog: str) -> None:
    """Suggest a similar option for an unknown one, before tyro reports other missing options."""
    names = ["--help", *options(kind)]
    for word in argv:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and not any(name == one or name.startswith(f"{one}.") for one in names):
            remedy = suggest(name, names, f"see `{prog} --help`.")
            raise ConfigError(f"`{prog}` has no option `{word.partition('=')[0]}`: {remedy}")


def _check_complete(kind: Any, argv: Sequence[str], prog: str) -> None:
    """Report missing options without a default."""
    names = {word.partition("=")[0].replace("_", "-") for word in argv}
    lacking = [
        option(field.name)
        for field in _named_fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    lacking = [name for name in lacking if name not in names]
    if lacking and not names & {"-h", "--help"}:
        raise ConfigError(f"`{prog}` needs {', '.join(lacking)}: see `{prog} --help`.")


_CHOICE = re.compile(r"invalid choice '(.*)' for argument '([^']*)'\. Expected one of \((.*)\)")
"""Pattern of tyro's message about an invalid value of a choice."""


def _one_sentence(box: str, prog: str) -> str:
    """Extract the text in tyro's frame as one sentence."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box).partition("\n")[2]
    parts = [" ".join(re.sub(r"[│╭╮╰╯|]", " ", part).split()) for part in re.split(r"[─-]{8,}", plain)]
    text = next((part for part in parts if part), "the options cannot be understood").rstrip(".")
    choice = _CHOICE.match(text)
    if choice:
        value, name, known = choice[1], choice[2], re.findall(r"'([^']*)'", choice[3])
        remedy = suggest(value, known, f"see `{prog} --help`.")
        return f"`{prog}` takes {', '.join(known)} for {name}, and not `{value}`: {remedy}"
    return f"{text}: see `{prog} --help`."


KINDS: dict[Any, str] = {
    bool: "flag",
    int: "int",
    float: "float",
    str: "text",
    Path: "path",
    tuple: "list",
    list: "list",
}
"""Kind of a value by its type; mappings have the kind `map`, and other types `text`."""


def describe(kind: Any, common: Any = None, prefix: str = "--") -> list[dict[str, Any]]:
    """Describe the fields of a dataclass as JSON values, in the command line's order; nested names have dots.

    Each has `name`, `flag`, `type` (a value of `KINDS`, `map` or `choice`), `choices`, `default` (None where there is
    none), `optional` (whether it may be None), `required`, `help`, `common` (whether it is also a field of `common`),
    `file` (whether it may name a file, a folder or a model), and `suggestions` (example values; others are allowed).
    """
    has_help = all("help" in field.metadata for field in dataclasses.fields(kind))
    hints, docs = get_type_hints(kind), {} if has_help else docstrings(kind)
    common_names = {field.name for field in dataclasses.fields(common)} if common else set()
    entries = []
    for field in dataclasses.fields(kind):
        flag = prefix + option(field.name)[2:]
        if dataclasses.is_dataclass(hints[field.name]):
            subfields = describe(hints[field.name], prefix=f"{flag}.")
            entries += [{**each, "name": f"{field.name}.{each['name']}"} for each in subfields]
            continue
        value, optional, choices = _describe_typed(hints[field.name])
        suggestions = field.metadata.get("suggestions", ())
        entry = {
            "name": field.name,
            "flag": flag,
            "type": value,
            "choices": choices,
            "default": _plain(_default(field)),
            "optional": optional,
            "required": field.default is field.default_factory is dataclasses.MISSING,
            "help": field.metadata.get("help") or docs.get(field.name, ""),
            "common": field.name in common_names,
            "file": field.name == "data" or _names_file(hints[field.name]),
            "suggestions": list(suggestions() if callable(suggestions) else suggestions),
        }
        entries += _entries(entry) if value == "map" and entry["default"] else [entry]
    return entries


def _entries(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a map with default keys into one option per key, as tyro does."""
    entries = []
    for key, value in entry["default"].items():
        name_and_flag = {"name": f"{entry['name']}.{key}", "flag": f"{entry['flag']}.{option(key)[2:]}"}
        entries.append(entry | name_and_flag | {"type": KINDS[type(value)], "default": value})
    return entries


@lru_cache(maxsize=64)  # it reads and parses source code, and a sweep asks for each of its tasks
def docstrings(kind: type) -> Mapping[str, str]:
    """Return the docstring of each field of a class; overriding classes take precedence."""
    import docstring_parser

    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        params = docstring_parser.parse_from_object(owner).params
        texts |= {each.arg_name: " ".join((each.description or "").split()) for each in params}
    return texts


def description(function: Any) -> str:
    """Return a function's docstring without its sections on arguments, results and errors."""
    text = inspect.getdoc(function) or ""
    return text.partition("\nArgs:")[0].partition("\nReturns:")[0].partition("\nRaises:")[0].strip()


def argument_help(function: Any) -> dict[str, str]:
    """Return the text of each argument in the section `Args:` of a function's docstring."""
    import docstring_parser

    params = docstring_parser.parse(inspect.getdoc(function) or "").params
    return {each.arg_name: " ".join((each.description or "").split()) for each in params}


def hint_of(function: Any, annotation: Any) -> Any:
    """Resolve an annotation in the signature of a function, including `Annotated`; None without an annotation.

    An annotation that cannot be resolved (a name imported only for type checkers) counts as missing.
    """
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
        except Exception:  # the annotation may be anything
            return None
    return None if annotation is inspect.Parameter.empty else annotation


def _describe_typed(hint: Any) -> tuple[str, bool, list[Any]]:
    """Return (kind of the value, whether it may be None, the possible values) of an annotation."""
    parts = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    optional = type(None) in parts
    inner = next(part for part in parts if part is not type(None))
    if get_origin(inner) is Literal:
        return "choice", optional, list(get_args(inner))
    origin = get_origin(inner) or inner
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "map", optional, []
    parts = [part for part in get_args(inner) if get_origin(part) is Literal]
    if origin in (tuple, list) and parts:
        return "list", optional, list(get_args(parts[0]))
    return KINDS.get(origin, "text"), optional, []


def _names_file(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _plain(value: Any) -> Any:
    """Return a default as a JSON value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def words(flags: Mapping[str, Any], joined: bool = False) -> Iterator[str]:
    """Yield the words of a command line that set options to values.

    No value can be taken for an option: a value that begins with `-` is joined with its flag in one word.

    Args:
        flags: flag -> a value, a list, True or False.
        joined: join every value with its flag, `--flag=value`; a list repeats the flag.
    """
    for flag, value in flags.items():
        values = [str(each) for each in (value if isinstance(value, list | tuple) else [value])]
        if value is True:
            yield flag
        elif value is False:
            yield f"--no-{flag[2:]}"
        elif values and (joined or any(each.startswith("-") for each in values)):
            yield from (f"{flag}={each}" for each in values)
        else:
            yield from (flag, *values)


def changed(values: Mapping[str, Any], fields: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that differ from the defaults, by flag, for `words`.

    Args:
        values: values of the options as JSON, nested ones in mappings; missing keys of a map count as 0.
        fields: fields from `describe`.
    """
    flags: dict[str, Any] = {}
    for each in fields:
        value: Any = values
        for depth, key in enumerate(str(each["name"]).split(".")):
            value = value.get(key, 0.0 if depth > 1 else None) if isinstance(value, Mapping) else None
        if value not in (None, [], each["default"]):
            flags[each["flag"]] = value
    return flags
