"""Extensions: entry points of installed packages, Python files, and definitions in the program itself.

Each kind of extension has a `Registry`: names, things, and where each comes from. Decorators put them there;
`discover` imports what would: the entry points of installed packages, and the files in the environment variable
`PROBE_PLUGINS` (separated as in `PATH`). What another's code does wrong becomes one sentence in `problems` and a
warning, and is left out; a file that a user names on the command line must work.

A function is known by hashes of the text or the code that defines it, so that edited code is other code.
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
    """Hash (SHA-256) the file that defines a function or class; of a notebook's function its text, else its code."""
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
    """Hash (SHA-256) the behaviour of a function: its code, its defaults, and the plain values that it closes over."""
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
    """Return what a code object does, without where it lies."""
    constants = tuple(_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts)
    return code.co_code, constants, code.co_names, code.co_varnames


T = TypeVar("T")
BUILT_IN = "built in"
"""The origin of Probe's own extensions."""


class NameTakenError(ConfigError):
    """A name that another extension has already."""


class Registry(Generic[T]):
    """The extensions of one kind by name."""

    def __init__(self, kind: str, group: str) -> None:
        """Make an empty registry.

        Args:
            kind: one word for messages, such as `experiment`.
            group: entry-point group of packages that bring some.
        """
        self.kind, self.group = kind, group
        self.article = "an" if kind[0] in "aeiou" else "a"
        self.known: dict[str, T] = {}
        self.places: dict[str, tuple[tuple[str, str], str]] = {}
        REGISTRIES.append(self)

    def put(self, name: str, thing: T, defined: Any, origin: str | None = None) -> None:
        """Add a thing; one that is defined again (a notebook cell, a file that is run twice) replaces itself.

        Args:
            name: by which it is called.
            thing: what is kept.
            defined: the function or class behind it, by which it is known again.
            origin: where it comes from, if not as `origin_of` says.

        Raises:
            NameTakenError: another one has the name.
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
        """Return where a thing comes from."""
        return self.places[name][1]

    def all(self) -> dict[str, T]:
        """Return everything in the registry, once installed packages and the environment's plugins are imported."""
        discover()
        return dict(self.known)

    def state(self) -> tuple[dict[str, T], dict[str, Any]]:
        """Return what `restore` needs to put the registry back."""
        return dict(self.known), dict(self.places)

    def forget(self, origin: str) -> None:
        """Remove the extensions of a file that is about to run again."""
        for name in [name for name, (_, whence) in self.places.items() if whence == origin]:
            del self.known[name], self.places[name]


REGISTRIES: list[Registry[Any]] = []
"""All registries of this process."""
ORIGINS: list[str] = []
"""What is being loaded, the innermost last."""
REFUSED: list[list[NameTakenError]] = []
"""The refused extensions of each origin in `ORIGINS`."""


@contextmanager
def coming_from(origin: str) -> Iterator[list[NameTakenError]]:
    """Set the origin of extensions that are defined inside, and yield the errors of those whose names were taken."""
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
    """Leave out a thing whose name is taken, and nothing else of the file or package that is being loaded.

    Raises:
        NameTakenError: nothing is being loaded; whoever defines the thing is told at once.
    """
    try:
        yield
    except NameTakenError as error:
        if not REFUSED:
            raise
        REFUSED[-1].append(error)


def origin_of(thing: Any) -> str:
    """Return where a thing comes from: the file or distribution that is being loaded, else its module."""
    module = str(getattr(thing, "__module__", "") or "here")
    return ORIGINS[-1] if ORIGINS else module


@contextmanager
def undone_on_failure(origin: str) -> Iterator[None]:
    """Take back what is defined inside if an error leaves it."""
    states = [(registry, registry.state()) for registry in REGISTRIES]
    try:
        yield
    except BaseException:
        restore(states)
        for registry in REGISTRIES[len(states) :]:  # made meanwhile
            registry.forget(origin)
        raise


def restore(states: Sequence[tuple[Registry[Any], tuple[dict[str, Any], dict[str, Any]]]]) -> None:
    """Put registries back to earlier states."""
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
"""Variable that names plugin files for every command and for the dashboard."""
OPTION = "--plugin"


CODE_OPTIONS = ("reward",)
"""Options of training methods whose values may name code."""


def names_code(text: object) -> bool:
    """Return whether a text names a function to import: `module:function` or `file.py:function`."""
    _, colon, name = str(text).rpartition(":")
    return bool(colon) and name.isidentifier()


def code_options(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the options of a stored run that name code, each with all its values.

    A run is data: such code is imported only when the command line names it again.
    """
    options = {}
    for name in CODE_OPTIONS:
        value = config.get(name)
        values = [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
        if any(map(names_code, values)):
            options[name] = values
    return options


class ExtensionWarning(UserWarning):
    """An extension could not be used and was left out."""


_DONE: dict[Any, Any] = {}
"""Entry points that were imported, and files with the state that they were run in."""
_PROBLEMS: dict[Any, str] = {}
_LOCK = RLock()


def load(file: str | Path) -> Mapping[str, list[str]]:
    """Run a Python file that defines extensions, and return the new names by kind.

    The file runs with all rights of this process: only your own belong here. Run again, it replaces what it had
    defined; if it fails, nothing has changed. What has the name of another extension is left out, with a sentence in
    `problems` and a warning.

    Raises:
        ConfigError: there is no such file, it fails, or all of its names are taken.
    """
    path = Path(file).expanduser().resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ConfigError(f"The plugin `{file}` is no Python file: give the path of a file that ends in .py.")
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
    """Load the files behind `--plugin` in a command line, wherever they stand, and return the other words.

    Raises:
        ConfigError: no file stands there, or it cannot be used.
    """
    files, rest = split(argv)
    for file in files:
        load(file)
    return rest


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files behind `--plugin` in a command line, and the other words.

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
    """Import the extensions of installed packages, each once, and the environment's plugins, again when they change."""
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
    """Return the entry points of a group by name; packages installed while a program runs are seen by the next one."""
    return sorted(entry_points(group=group), key=lambda point: point.name)


def include(key: Hashable, what: str, bring: Callable[[], object], origin: str) -> None:
    """Import an extension once; if that fails it is left out, with a sentence in `problems` and a warning.

    Args:
        key: by which it is known that this was done.
        what: the beginning of the sentence.
        bring: does it.
        origin: where what it defines comes from.
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
        except (Exception, SystemExit) as error:  # whatever another package does wrong
            why = str(error).rstrip(".") if isinstance(error, ProbeError) else _error_text(error)
            _complain(key, f"{what} cannot be imported ({why}) and is left out.")


def problems() -> list[str]:
    """Return one sentence for each extension that could not be used."""
    with _LOCK:
        return list(_PROBLEMS.values())


@contextmanager
def aside() -> Iterator[None]:
    """Undo afterwards all definitions and imports inside, except built-in ones (which are imported only once)."""
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
    """Return whether anything of this origin is in a registry."""
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
    """Name the line of the file that was running when the error arose; empty where none was."""
    clause, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            clause = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return clause


def failure(what: str, error: BaseException, function: Callable[..., Any]) -> ConfigError:
    """Return the error for an extension's function that failed: `what` fails with ... in line N of its file."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    file = Path(code.co_filename) if code else None
    line = _line(error, file) if file else ""
    where = f"{line} of {file.name}" if line and file else ""
    return ConfigError(f"{what} fails with {_error_text(error)}{where}: fix it.")
