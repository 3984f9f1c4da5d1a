"""The options of a dataclass as plain data, for a form that does not import the dataclass."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from probe.options import option

KINDS: dict[Any, str] = {
    bool: "flag",
    int: "int",
    float: "float",
    str: "text",
    Path: "path",
    tuple: "list",
    list: "list",
}
"""What a value is, by its type; mappings are a `map`, and what is none of these is a `text`."""


def describe(kind: Any, common: Any = None, prefix: str = "--") -> list[dict[str, Any]]:
    """The fields of a dataclass as JSON values, in the order of the command line; nested ones follow with dots.

    Each has `name`, `flag`, `type` (a value of `KINDS`, `map` or `choice`), `choices`, `default` (None where there is
    none), `optional` (whether it may be None), `required`, `help`, `common` (whether `common` has it too), and `file`
    (whether it may name a file, a folder or a model).
    """
    told = all("help" in field.metadata for field in dataclasses.fields(kind))
    hints, docs = get_type_hints(kind), {} if told else docstrings(kind)
    shared = {field.name for field in dataclasses.fields(common)} if common else set()
    found = []
    for field in dataclasses.fields(kind):
        flag = prefix + option(field.name)[2:]
        if dataclasses.is_dataclass(hints[field.name]):
            nested = describe(hints[field.name], prefix=f"{flag}.")
            found += [{**each, "name": f"{field.name}.{each['name']}"} for each in nested]
            continue
        value, optional, choices = _typed(hints[field.name])
        if "choices" in field.metadata:  # more than the type tells: what is known now, extensions included
            value, choices = "choice", list(field.metadata["choices"]())
        about = {
            "name": field.name,
            "flag": flag,
            "type": value,
            "choices": choices,
            "default": _plain(_default(field)),
            "optional": optional,
            "required": field.default is field.default_factory is dataclasses.MISSING,
            "help": field.metadata.get("help") or docs.get(field.name, ""),
            "common": field.name in shared,
            "file": field.name == "data" or _names_file(hints[field.name]),
        }
        found += _entries(about) if value == "map" and about["default"] else [about]
    return found


def _entries(about: dict[str, Any]) -> list[dict[str, Any]]:
    """A map that has keys already as one option a key, which is how tyro reads it."""
    found = []
    for key, value in about["default"].items():
        place = {"name": f"{about['name']}.{key}", "flag": f"{about['flag']}.{option(key)[2:]}"}
        found.append(about | place | {"type": KINDS[type(value)], "default": value})
    return found


def docstrings(kind: type) -> dict[str, str]:
    """The text below each field of a class; that of the class nearest to `kind` counts."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        lines = body.body if isinstance(body, ast.ClassDef) else []
        for line, after in itertools.pairwise(lines):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(after, ast.Expr):
                text = ast.literal_eval(after.value) if isinstance(after.value, ast.Constant) else ""
                found[line.target.id] = " ".join(str(text).split())
    return found


def _typed(hint: Any) -> tuple[str, bool, list[Any]]:
    """(what a value is, whether None is one, the values that there are) of an annotation."""
    parts = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    optional = type(None) in parts
    inner = next(part for part in parts if part is not type(None))
    if get_origin(inner) is Literal:
        return "choice", optional, list(get_args(inner))
    origin = get_origin(inner) or inner
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "map", optional, []
    return KINDS.get(origin, "text"), optional, []


def _names_file(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _plain(value: Any) -> Any:
    """A default as a JSON value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def words(flags: dict[str, Any]) -> Iterator[str]:
    """The words of a command line that give options their values: by flag a value, a list, True or False."""
    for flag, value in flags.items():
        if value is True:
            yield flag
        elif value is False:
            yield f"--no-{flag[2:]}"
        else:
            yield flag
            yield from (str(each) for each in (value if isinstance(value, list) else [value]))
