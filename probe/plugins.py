"""Extensions: entry points of installed packages, Python files, and definitions in the program itself.

Each kind of extension has a `Registry` of names, objects and their origins. Decorators fill it; `discover` imports the
code that contains them: the entry points of installed packages, and the files in the environment variable
`PROBE_PLUGINS` (separated as in `PATH`). An extension that fails is left out with a sentence in `problems` and a
warning; a file that a user names on the command line must work. A function is identified by hashes of its text or code,
so that edited code counts as different.
"""

import hashlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from threading import RLock
from types import CodeType
from typing import Any, Generic, TypeVar

from probe.errors import ConfigError, ProbeError
from probe.untrusted import read_file

NOTEBOOK = "__main__"
"""Module of definitions at a prompt, in a notebook or in the program itself."""
PLAIN = (str, bytes, int, float, bool, tuple, list, type(None), Path)
"""Types whose values are identified by their `repr`."""


def source_hash(function: Any) -> str:
    """Hash (SHA-256) the file that defines a function or class; for a notebook's function its text, else its code."""
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(function, "__code__", None)
    try:
        file = inspect.getsourcefile(function if code or isinstance(function, type) else type(function))
        if file is not None and Path(file).is_file() and not _is_cell(function, file):
            return hashlib.sha256(read_file(file)).hexdigest()
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):  # typed at a prompt
        return hashlib.sha256(repr(_code(code) if code else type(function)).encode()).hexdigest()


def code_hash(function: Any) -> str:
    """Hash (SHA-256) the behaviour of a function: its code, its defaults, and the plain values in its closure."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    values = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    values += [
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).items(),
    ]
    identities = [repr(each) if isinstance(each, PLAIN) else type(each).__name__ for each in values]
    return hashlib.sha256(repr((_code(code) if code else str(function), identities)).encode()).hexdigest()


def _is_cell(function: Any, file: str) -> bool:
    return getattr(function, "__module__", "") == NOTEBOOK and "ipykernel" in file


def _code(code: CodeType) -> tuple[Any, ...]:
    """Return the content of a code object without its location."""
    constants = tuple(_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts)
    return code.co_code, constants, code.co_names, code.co_varnames


T = TypeVar("T")
BUILT_IN = "built in"
"""Origin of built-in extensions."""


class NameTakenError(ConfigError):
    """A name that another extension already has."""


class Registry(Generic[T]):
    """The extensions of one kind by name."""

    def __init__(self, kind: str, group: str) -> None:
        """Make an empty registry.

        Args:
            kind: noun for messages, such as `experiment`.
            group: entry-point group of packages with such extensions.
        """
        self.kind, self.group = kind, group
        self.article = "an" if kind[0] in "aeiou" else "a"
        self.known: dict[str, T] = {}
        self.places: dict[str, tuple[tuple[str, str], str]] = {}
        REGISTRIES.append(self)

    def put(self, name: str, thing: T, defined: Any, origin: str | None = None) -> None:
        """Add an extension; if it is defined again (a notebook cell, a file that is run twice), it is replaced.

        Args:
            name: name of the extension.
            thing: object to register.
            defined: function or class behind it, which identifies it when it is defined again.
            origin: origin, if it is not that of `origin_of`.

        Raises:
            NameTakenError: another extension has the name.
        """
        origin = origin or origin_of(defined)
        place = _place(defined, origin)
        owner = self.places.get(name)
        if owner is not None and owner[0] != place:
            raise NameTakenError(
                f"{self.article.capitalize()} {self.kind} `{name}` exists already ({owner[1]}): choose another name for"
                f" that of {origin}."
            )
        self.known[name] = thing
        self.places[name] = place, origin

    def origin(self, name: str) -> str:
        """Return the origin of an extension."""
        return self.places[name][1]

    def all(self) -> dict[str, T]:
        """Import installed packages and the environment's plugins, and return all extensions in the registry."""
        discover()
        return dict(self.known)

    def state(self) -> tuple[dict[str, T], dict[str, Any]]:
        """Return the state of the registry for `restore`."""
        return dict(self.known), dict(self.places)

    def forget(self, origin: str) -> None:
        """Remove the extensions of a file before it is run again."""
        for name in [name for name, (_, whence) in self.places.items() if whence == origin]:
            del self.known[name], self.places[name]


REGISTRIES: list[Registry[Any]] = []
"""Registries of this process."""
ORIGINS: list[str] = []
"""Origins being loaded, the innermost last."""
REFUSED: list[list[NameTakenError]] = []
"""Refused extensions of each origin in `ORIGINS`."""


@contextmanager
def coming_from(origin: str) -> Iterator[list[NameTakenError]]:
    """Set the origin of extensions defined in this context, and yield the errors of those whose names are taken."""
    errors: list[NameTakenError] = []
    ORIGINS.append(origin)
    REFUSED.append(errors)
    try:
        yield errors
    finally:
        ORIGINS.pop()
        REFUSED.pop()


@contextmanager
def unless_taken() -> Iterator[None]:
    """Skip an extension whose name is taken, but nothing else of the file or package being loaded.

    Raises:
        NameTakenError: nothing is being loaded, so the error is raised immediately.
    """
    try:
        yield
    except NameTakenError as error:
        if not REFUSED:
            raise
        REFUSED[-1].append(error)


def origin_of(thing: Any) -> str:
    """Return the origin of an object: the file or distribution being loaded, else its module."""
    module = str(getattr(thing, "__module__", "") or "here")
    return ORIGINS[-1] if ORIGINS else module


@contextmanager
def undone_on_failure(origin: str) -> Iterator[None]:
    """Undo the definitions in this context if it ends with an error."""
    states = [(registry, registry.state()) for registry in REGISTRIES]
    try:
        yield
    except BaseException:
        restore(states)
        for registry in REGISTRIES[len(states) :]:  # created in between
            registry.forget(origin)
        raise


def restore(states: Sequence[tuple[Registry[Any], tuple[dict[str, Any], dict[str, Any]]]]) -> None:
    """Restore earlier states of registries."""
    for registry, (things, places) in states:
        registry.known, registry.places = dict(things), dict(places)


def _place(thing: Any, origin: str) -> tuple[str, str]:
    """Return the key by which an extension is recognised when it is defined again."""
    module = getattr(thing, "__module__", None)
    if module == NOTEBOOK:
        return NOTEBOOK, ""
    name = getattr(thing, "__qualname__", None)
    return (str(module), str(name)) if name else (origin, "")


ENVIRONMENT = "PROBE_PLUGINS"
"""Environment variable with plugin files for every command and for the dashboard."""
OPTION = "--plugin"


CODE_OPTIONS = ("reward",)
"""Options of training methods whose values may name code."""


def names_code(text: object) -> bool:
    """Return whether a text names a function to import: `module:function` or `file.py:function`."""
    _, colon, name = str(text).rpartition(":")
    return bool(colon) and name.isidentifier()


def code_options(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the options of a stored run that name code, each with all its values.

    A run is untrusted: such code is imported only if the command line names it again.
    """
    options = {}
    for name in CODE_OPTIONS:
        value = config.get(name)
        values = [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
        if any(map(names_code, values)):
            options[name] = values
    return options


class ExtensionWarning(UserWarning):
    """Warning about an extension that was left out because it could not be used."""


_DONE: dict[Any, Any] = {}
"""Imported entry points, and files that were run with their state at that time."""
_PROBLEMS: dict[Any, str] = {}
_LOCK = RLock()


def load(file: str | Path) -> Mapping[str, list[str]]:
    """Run a Python file that defines extensions, and return the new names by kind.

    The file runs with all rights of this process, so use only trusted files. Run again, it replaces its earlier
    definitions; if it fails, nothing changes. A definition with the name of another extension is left out, with a
    sentence in `problems` and a warning.

    Raises:
        ConfigError: the file does not exist, fails, or all of its names are taken.
    """
    path = Path(file).expanduser().resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ConfigError(f"The plugin `{file}` is not a Python file: give the path of a file that ends in .py.")
    with _LOCK:
        _DONE[path] = _stamp(path)
        before = {id(registry): set(registry.known) for registry in REGISTRIES}
        try:
            with undone_on_failure(str(path)):
                for registry in REGISTRIES:
                    registry.forget(str(path))
                with coming_from(str(path)) as errors:
                    _run(path)
                if errors and not _is_registered(str(path)):
                    raise errors[0]
        except ProbeError as error:
            _PROBLEMS[path] = f"The plugin `{file}` cannot be used: {error}"
            raise
        except (Exception, SystemExit) as error:
            sentence = f"The plugin `{file}` fails with {_error_text(error)}{_line(error, path)}: fix it."
            _PROBLEMS[path] = sentence
            raise ConfigError(sentence) from error
        _PROBLEMS.pop(path, None)
        if errors:
            _complain(path, f"{_sentences(errors)} The rest of `{file}` is used.")
        return {
            registry.kind: [name for name in registry.known if name not in before.get(id(registry), ())]
            for registry in REGISTRIES
        }


def take(argv: Sequence[str]) -> list[str]:
    """Load the files given by `--plugin` anywhere on a command line, and return the other words.

    Raises:
        ConfigError: a file is missing or cannot be used.
    """
    files, rest = split(argv)
    for file in files:
        load(file)
    return rest


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files given by `--plugin` on a command line, and the other words.

    Raises:
        ConfigError: `--plugin` is the last word.
    """
    files: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != OPTION:
            rest.append(word)
            continue
        file = value if equals else next(words, None)
        if not file or file.startswith("--"):
            raise ConfigError(f"`{OPTION}` stands without a file: give the path of a Python file.")
        files.append(file)
    return files, rest


def discover() -> None:
    """Import the extensions of installed packages once, and the environment's plugins again when they change."""
    with _LOCK:
        for registry in list(REGISTRIES):
            for point in _points(registry.group, tuple(sys.path)):
                origin = point.dist.name if point.dist else point.module
                what = f"The {registry.kind} `{point.name}` of {origin}"
                include((registry.group, point.name, point.value), what, point.load, origin)
        for name in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
            path = Path(name).expanduser().resolve()
            if _DONE.get(path) == _stamp(path) and path in _DONE:
                continue
            _DONE[path] = _stamp(path)
            try:
                load(name)
            except ProbeError as error:
                _complain(path, _PROBLEMS.get(path, str(error)))


@cache
def _points(group: str, path: tuple[str, ...]) -> list[EntryPoint]:
    """Return the entry points of a group by name, without packages installed after the start of the process."""
    return sorted(entry_points(group=group), key=lambda point: point.name)


def include(key: Hashable, what: str, bring: Callable[[], object], origin: str) -> None:
    """Import an extension once; if it fails, leave it out with a sentence in `problems` and a warning.

    Args:
        key: key that records that this was done.
        what: beginning of the sentence.
        bring: function that imports the extension.
        origin: origin of its definitions.
    """
    with _LOCK:
        if key in _DONE:
            return
        _DONE[key] = True
        try:
            with undone_on_failure(origin), coming_from(origin) as errors:
                bring()
            if errors:
                _complain(key, f"{_sentences(errors)} It is left out.")
        except (Exception, SystemExit) as error:  # any error of another package
            why = str(error).rstrip(".") if isinstance(error, ProbeError) else _error_text(error)
            _complain(key, f"{what} cannot be imported ({why}) and is left out.")


def problems() -> list[str]:
    """Return one sentence for each extension that could not be used."""
    with _LOCK:
        return list(_PROBLEMS.values())


@contextmanager
def aside() -> Iterator[None]:
    """Undo all definitions and imports of this context at its end, except built-in ones (imported only once)."""
    with _LOCK:
        states = [(registry, registry.state()) for registry in REGISTRIES]
        imports, sentences = dict(_DONE), dict(_PROBLEMS)
    try:
        yield
    finally:
        with _LOCK:
            for registry, (things, places) in states:
                for name, (_, origin) in registry.places.items():
                    if origin == BUILT_IN:
                        things[name], places[name] = registry.known[name], registry.places[name]
            restore(states)
            for registry in REGISTRIES[len(states) :]:
                for origin in {origin for _, origin in registry.places.values()} - {BUILT_IN}:
                    registry.forget(origin)
            for store, previous in ((_DONE, imports), (_PROBLEMS, sentences)):
                store.clear()
                store.update(previous)


def _run(path: Path) -> None:
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"probe_plugin_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    previous = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and signatures look their module up
    try:
        exec(compile(read_file(path), str(path), "exec"), vars(module))  # never an older compiled one
    except BaseException:
        if previous is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = previous
        raise


def _is_registered(origin: str) -> bool:
    """Return whether a registry contains anything of this origin."""
    return any(whence == origin for registry in REGISTRIES for _, whence in registry.places.values())


def _sentences(errors: Sequence[ConfigError]) -> str:
    return " ".join(map(str, errors))


def _complain(key: Any, sentence: str) -> None:
    _PROBLEMS[key] = sentence
    warnings.warn(sentence, ExtensionWarning, stacklevel=2)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _line(error: BaseException, path: Path) -> str:
    """Return the line of the file at which the error arose; empty if there is none."""
    clause, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            clause = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return clause


def failure(what: str, error: BaseException, function: Callable[..., Any]) -> ConfigError:
    """Return the error for an extension's failed function: `what` fails with ... in line N of its file."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    file = Path(code.co_filename) if code else None
    line = _line(error, file) if file else ""
    where = f"{line} of {file.name}" if line and file else ""
    return ConfigError(f"{what} fails with {_error_text(error)}{where}: fix it.")
