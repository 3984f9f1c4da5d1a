"""Code of others that joins in: entry points of installed packages, Python files, and what a program defines itself.

Each kind of extension keeps its things on a `Shelf`. Decorators put them there; `discover` imports what would: the
entry points of installed packages, and the files in the environment variable `PROBE_PLUGINS` (separated as in `PATH`).
What another's code does wrong becomes one sentence in `problems` and a warning, and is left out; a file that a user
names on the command line must work.
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
from typing import Any

from probe.errors import ConfigError, ProbeError
from probe.shelves import BUILT_IN, SHELVES, coming_from, restore, undone_on_failure

ENVIRONMENT = "PROBE_PLUGINS"
"""Variable that names plugin files for every command and for the dashboard."""
OPTION = "--plugin"


CODE_OPTIONS = ("reward",)
"""Options of training methods whose values may name code."""


def names_code(text: object) -> bool:
    """Whether a text names a function to import: `module:function` or `file.py:function`."""
    _, colon, name = str(text).rpartition(":")
    return bool(colon) and name.isidentifier()


def code_options(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The options of a stored run that name code, each with all its values.

    A run is data: such code is imported only when the command line names it again.
    """
    found = {}
    for name in CODE_OPTIONS:
        value = config.get(name)
        values = [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
        if any(map(names_code, values)):
            found[name] = values
    return found


class ExtensionWarning(UserWarning):
    """An extension could not be used and was left out."""


_DONE: dict[Any, Any] = {}
"""Entry points that were imported, and files with the state that they were run in."""
_PROBLEMS: dict[Any, str] = {}
_LOCK = RLock()


def load(file: str | Path) -> Mapping[str, list[str]]:
    """Run a Python file that defines extensions; gives the new names by kind.

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
        before = {id(shelf): set(shelf.known) for shelf in SHELVES}
        try:
            with undone_on_failure(str(path)):
                for shelf in SHELVES:
                    shelf.forget(str(path))
                with coming_from(str(path)) as refused:
                    _run(path)
                if refused and not _brought(str(path)):
                    raise refused[0]
        except ProbeError as error:
            _PROBLEMS[path] = f"The plugin `{file}` cannot be used: {error}"
            raise
        except (Exception, SystemExit) as error:
            sentence = f"The plugin `{file}` fails with {_said(error)}{_line(error, path)}: fix it."
            _PROBLEMS[path] = sentence
            raise ConfigError(sentence) from error
        _PROBLEMS.pop(path, None)
        if refused:
            _complain(path, f"{_sentences(refused)} The rest of `{file}` is used.")
        return {
            shelf.kind: [name for name in shelf.known if name not in before.get(id(shelf), ())] for shelf in SHELVES
        }


def take(argv: Sequence[str]) -> list[str]:
    """Load the files behind `--plugin` in a command line, wherever they stand; gives the other words.

    Raises:
        ConfigError: no file stands there, or it cannot be used.
    """
    files, rest = split(argv)
    for file in files:
        load(file)
    return rest


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files behind `--plugin` in a command line, and the other words.

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
    """Import what installed packages bring, each once, and the environment's plugins, again when they have changed."""
    with _LOCK:
        for shelf in list(SHELVES):
            for point in _points(shelf.group, tuple(sys.path)):
                origin = point.dist.name if point.dist else point.module
                what = f"The {shelf.kind} `{point.name}` of {origin}"
                include((shelf.group, point.name, point.value), what, point.load, origin)
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
    """Entry points by name; what is installed while a program runs is seen by the next one."""
    return sorted(entry_points(group=group), key=lambda point: point.name)


def include(key: Hashable, what: str, bring: Callable[[], object], origin: str) -> None:
    """Import something once; where that fails it is left out, with a sentence in `problems` and a warning.

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
            with undone_on_failure(origin), coming_from(origin) as refused:
                bring()
            if refused:
                _complain(key, f"{_sentences(refused)} It is left out.")
        except (Exception, SystemExit) as error:  # whatever another package does wrong
            why = str(error).rstrip(".") if isinstance(error, ProbeError) else _said(error)
            _complain(key, f"{what} cannot be imported ({why}) and is left out.")


def problems() -> list[str]:
    """One sentence for each extension that could not be used."""
    with _LOCK:
        return list(_PROBLEMS.values())


@contextmanager
def aside() -> Iterator[None]:
    """Forget afterwards what is defined and loaded inside, but for what is built in (which is imported only once)."""
    with _LOCK:
        states = [(shelf, shelf.state()) for shelf in SHELVES]
        done, wrong = dict(_DONE), dict(_PROBLEMS)
    try:
        yield
    finally:
        with _LOCK:
            for shelf, (known, places) in states:
                for name, (_, origin) in shelf.places.items():
                    if origin == BUILT_IN:
                        known[name], places[name] = shelf.known[name], shelf.places[name]
            restore(states)
            for shelf in SHELVES[len(states) :]:
                for origin in {origin for _, origin in shelf.places.values()} - {BUILT_IN}:
                    shelf.forget(origin)
            for store, earlier in ((_DONE, done), (_PROBLEMS, wrong)):
                store.clear()
                store.update(earlier)


def _run(path: Path) -> None:
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"probe_plugin_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    earlier = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and signatures look their module up
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # never an older compiled one
    except BaseException:
        if earlier is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = earlier
        raise


def _brought(origin: str) -> bool:
    """Whether anything of this origin is on a shelf."""
    return any(whence == origin for shelf in SHELVES for _, whence in shelf.places.values())


def _sentences(refused: Sequence[ConfigError]) -> str:
    return " ".join(map(str, refused))


def _complain(key: Any, sentence: str) -> None:
    _PROBLEMS[key] = sentence
    warnings.warn(sentence, ExtensionWarning, stacklevel=2)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _line(error: BaseException, path: Path) -> str:
    """The line of the file that was running."""
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def failure(what: str, error: BaseException, function: Callable[..., Any]) -> ConfigError:
    """The sentence for an extension's function that failed: `what` fails with ... in line N of its file."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    file = Path(code.co_filename) if code else None
    line = _line(error, file) if file else ""
    where = f"{line} of {file.name}" if line and file else ""
    return ConfigError(f"{what} fails with {_said(error)}{where}: fix it.")
