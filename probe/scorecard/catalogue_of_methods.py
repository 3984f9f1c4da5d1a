"""Catalogue of families and of their methods by name."""

from functools import partial
from importlib import import_module

from probe.errors import ConfigError, suggest
from probe.plugins import BUILT_IN, include
from probe.scorecard.family_record import MODULES, ORACLE, RANDOM, Family
from probe.scorecard.method_record import METHODS, Method


def families() -> dict[str, Family]:
    """Return every family by name."""
    return {name: import_module(module).FAMILY for name, module in MODULES.items()}


def find_family(name: str) -> Family:
    """Find a family by name.

    Raises:
        ConfigError: no family has this name; similar names are listed.
    """
    if name not in MODULES:
        hint = suggest(name, MODULES, "name one of these.")
        raise ConfigError(f"There is no family `{name}`, only {', '.join(MODULES)}: {hint}")
    return families()[name]


def methods() -> list[Method]:
    """Return every method: built-in ones, those of installed packages, then those of this process.

    Raises:
        ConfigError: a method names a family that does not exist.
    """
    for name, module in MODULES.items():
        include(("method", module), f"The methods of the family `{name}`", partial(import_module, module), BUILT_IN)
    found = list(METHODS.all().values())
    for each in found:
        if each.family not in MODULES:
            find_family(each.family)
    order = list(MODULES)
    return sorted(found, key=lambda each: (order.index(each.family), each.origin != BUILT_IN))


def find_methods(name: str) -> list[Method]:
    """Find the methods with a name, of every family that has one; none for the names of references.

    Raises:
        ConfigError: no family has a method or a reference with this name; similar names are listed.
    """
    every = methods()
    found = [each for each in every if each.name == name]
    others = {RANDOM, ORACLE, *(each for family in families().values() for each in family.references)}
    if not found and name not in others:
        known = dict.fromkeys([*(each.name for each in every), *sorted(others)])
        hint = suggest(name, known, "name one of these, or give its file with --plugin.")
        raise ConfigError(f"There is no method `{name}`, only {', '.join(known)}: {hint}")
    return found


def titles_of(family: Family) -> dict[str, str]:
    """Return the titles of a family's methods and references by name."""
    named = {each.name: each.title for each in methods() if each.family == family.name}
    return named | {RANDOM: "Random", ORACLE: "Oracle", **family.titles}
