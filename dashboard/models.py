"""Cache of models and results: each is made once, keyed by the location and modification time of the weights."""

import gc
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Condition, Event, Lock, Thread, get_ident
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import streamlit as st
from streamlit.runtime.scriptrunner import RerunException, StopException

from dashboard import access
from dashboard.consent import may_open, offer
from dashboard.garbage import settle
from dashboard.markdown import escape_markdown, spin
from probe.analyses.catalogue import MODULES
from probe.errors import MissingBaseError, ModelError, RunError, brief
from probe.model import confined
from probe.model.references import (
    HUB_ID,
    REAL_MODEL,
    bytes_to_fetch,
    find_model,
    is_adapter,
    model_files,
    resolve,
    split_readout,
)
from probe.numbers import duration, file_size
from probe.runs.addresses import is_cached
from probe.runs.directories import find, shown_name
from probe.ticks import Pace

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.model.references import Readout


@dataclass(eq=False)
class Computation:
    """A computation requested by a session."""

    key: Hashable
    """Key of its result in the cache."""
    label: str
    """Description of the computation and its models, as Markdown."""
    begun: float | None = None
    """Time at which it started (`time.monotonic`); None while it waits."""
    left: BaseException | None = None
    """Exception that ends the script run of a reader who has left, while another session waits for the same result."""

    @property
    def seconds(self) -> float:
        """Duration of the computation so far in seconds; 0 while it waits."""
        return 0.0 if self.begun is None else time.monotonic() - self.begun


class Turns:
    """A queue of computations: the first runs, the others wait."""

    def __init__(self) -> None:
        self._line: list[Computation] = []
        self._change = Condition()

    @contextmanager
    def stand(self, work: Computation) -> Iterator[None]:
        """Keep a place in the queue until the block ends."""
        with self._change:
            self._line.append(work)
        try:
            yield
        finally:
            with self._change:
                self._line.remove(work)
                self._change.notify_all()

    def first(self) -> Computation | None:
        """Return the running computation."""
        with self._change:
            return self._line[0] if self._line else None

    def wait(self, first: Computation, seconds: float) -> None:
        """Wait until another computation is the first, or until the time is over."""
        with self._change:
            self._change.wait_for(lambda: first not in self._line, seconds)

    def wanted(self, work: Computation) -> bool:
        """Return whether another session waits for the same result."""
        with self._change:
            return any(other.key == work.key for other in self._line if other is not work)


MOST_RESULTS = 256
"""Largest number of results kept for all sessions."""

MOST_BYTES = 2**29
"""Largest total of bytes of their arrays; the latest result is kept regardless of its size."""


class Results:
    """Results of all sessions in order of last use; the least recently used are dropped if there are too many."""

    def __init__(self, most: int = MOST_RESULTS, room: int = MOST_BYTES) -> None:
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock, self._most, self._room = Lock(), most, room

    def get(self, key: Hashable) -> Any:
        """Return a cached result, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any) -> None:
        """Cache a result."""
        with self._lock:
            self._kept[key] = value, nbytes(value)
            self._kept.move_to_end(key)
            total = sum(size for _, size in self._kept.values())
            while len(self._kept) > self._most or (total > self._room and len(self._kept) > 1):
                total -= self._kept.popitem(last=False)[1][1]


def nbytes(value: Any) -> int:
    """Count the bytes of arrays, tensors and tables in a result, including nested dataclasses, tuples and dicts."""
    if hasattr(value, "memory_usage"):
        usage = value.memory_usage(index=True)
        return int(usage if isinstance(usage, int) else usage.sum())
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if is_dataclass(value):
        return sum(nbytes(getattr(value, part.name)) for part in fields(value))
    if isinstance(value, dict):
        return sum(nbytes(part) for part in value.values())
    return sum(nbytes(part) for part in value) if isinstance(value, list | tuple) else 0


AGREED = "_agreed"
"""Key of the session's models that the reader agreed to download or load."""
COSTLY_BYTES = 2 * 2**30
"""Size in bytes above which weights are loaded only after the reader's consent."""

LARGE_BYTES = 256 * 2**20
"""Size in bytes from which loading weights first frees the memory of released models."""

HEAD_START_S = 4.0
"""Seconds for the first page before everything else that pages of models use is imported."""

PATIENCE_S = 6.0
"""Longest expected computation in seconds that a page starts without a click."""

T = TypeVar("T")

RESULTS, MODELS = Results(), Results(most=4)
"""Results computed and models loaded by this server."""

_WRITTEN: "WeakKeyDictionary[LM, tuple[int, ...]]" = WeakKeyDictionary()
"""Modification times of the files that each loaded model was read from."""

_PLAIN: "WeakValueDictionary[tuple[Path, tuple[int, ...]], LM]" = WeakValueDictionary()
"""Language models in memory that are no adapters, by their folder and its modification times; adapters share them."""

_TURNS = Turns()
"""Queue of computations: only one runs at a time, because all sessions share the models with their hooks and caches."""

NEEDED = ("probe.compare.side_by_side", "probe.model.rewards")
"""Modules that the first page and every page of a model use; they import torch."""
INSIDE = ("probe.model.hooked_gap", "peft")
"""Those that look inside a model. With the analyses they follow if nobody waits for a model yet."""

CHECK_S = 0.1
"""Seconds between two checks whether the reader has left."""


class Warmth:
    """Background import of the libraries for models, which takes seconds, while the reader looks at the first page."""

    def __init__(self) -> None:
        self._now, self._ready, self._turn = Event(), Event(), Lock()
        Thread(target=self._run, name="probe-warm", daemon=True).start()

    def wait(self) -> None:
        """Wait until what every model needs is imported; from now on pages import the rest themselves."""
        self._now.set()
        self.wait_for_needed()
        with (
            self._turn
        ):  # until the present import is over: of two threads that import the same, one gets half a module
            pass

    def wait_for_needed(self) -> None:
        """Wait until what every model needs is imported."""
        self._ready.wait()

    def _run(self) -> None:
        try:
            self._bring(NEEDED)
        finally:
            self._ready.set()
        if not self._now.wait(HEAD_START_S):
            confined.start()
            self._bring(filter(find_spec, (*INSIDE, *MODULES.values())))

    def _bring(self, names: Iterable[str]) -> None:
        gc.disable()  # collections of a growing heap take a fifth of the time
        try:
            for name in names:
                with self._turn:
                    if self._now.is_set() and self._ready.is_set():
                        return
                    self._bring_one(name)
        finally:
            gc.enable()
        settle()

    def _bring_one(self, name: str) -> None:
        try:
            import_module(name)
        except ImportError:  # a page imports the same at this moment, and Python gave one of both half a module
            import_module(name)


@cache
def warm() -> Warmth:
    """Start importing the libraries for models, once per server."""
    return Warmth()


def load(ref: str) -> "LM | None":
    """Load the model that `ref` names, a reward model as one whose logit is the reward (`probe.model.rewards`).

    The result is None while the page waits for the user's consent to a download or a large file.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    place = _locate(ref)
    if place is None:
        return None
    if not _size_agreed(ref, place.directory):
        return None
    size = _size_of(place.directory)
    say = escape_markdown(f"Loading {brief(Path(ref).name)}" + f" ({file_size(size)})" * (size > LARGE_BYTES))
    return _load(place.directory, place.readout, _write_times(place.directory), say)


def agreed(ref: str) -> bool:
    """Return whether a model may be loaded: it is on this machine and not large, or the reader agreed; else ask."""
    place = _locate(ref)
    return place is not None and _size_agreed(ref, place.directory)


def model_facts(ref: str) -> "ModelFacts | None":
    """Return the facts with which a model's stored results are found; it is loaded once for its fingerprint.

    For an adapter that records the hash of its base, neither adapter nor base is loaded. The result is None while the
    page waits for the user's consent to a download or a large file.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    place = _locate(ref, with_base=False)
    if place is None:
        return None
    key = "fingerprint", str(place.directory), _write_times(place.directory), place.readout
    fingerprint, readout = RESULTS.get(key) or (None, "tokens")
    if fingerprint is None and is_adapter(place.directory) and place.readout is None:
        from probe.model.adapters import fingerprint as of_adapter

        fingerprint = of_adapter(place.directory)
    if fingerprint is None:
        lm = load(ref)
        if lm is None:
            return None
        fingerprint, readout = lm.fingerprint, lm.readout
    RESULTS.put(key, (fingerprint, readout))
    return ModelFacts(ref, fingerprint, place.run_dir, place.directory, readout)


def unloaded_facts(ref: str) -> "ModelFacts | None":
    """Return the facts of a model that cannot be loaded here; the fingerprint is empty if only its weights give it.

    The result is None while the page waits for the user's consent.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    try:
        return model_facts(ref)
    except MissingBaseError:
        directory, run_dir = resolve(split_readout(ref)[0])
        return ModelFacts(ref, "", run_dir, directory)


@dataclass(frozen=True)
class ModelFacts:
    """A model without its weights: it provides name, fingerprint, readout, run and world."""

    ref: str
    fingerprint: str
    run_dir: Path | None
    directory: Path | None = None
    readout: str = "tokens"


@dataclass(frozen=True)
class _Place:
    """Location of a model, and its readout."""

    directory: Path
    run_dir: Path | None
    readout: "Readout | None"


def _locate(ref: str, with_base: bool = True) -> _Place | None:
    """Return the location of a reference; None while the page waits for the user's consent to a download."""
    if not _may_open(ref):
        return None
    with spin("Starting torch"):
        warm().wait()

    base, readout = split_readout(ref)
    size = bytes_to_fetch(base)
    if size > COSTLY_BYTES and ref not in st.session_state.setdefault(AGREED, set()):
        what = shown_name(Path(ref)) if is_cached(ref) else ref
        _offer(ref, f"{what} has {size / 2**30:.1f} GiB to fetch from its store into the cache.", "Fetch", what)
        return None
    with spin(escape_markdown(f"Looking for {brief(base)}")):
        directory, run_dir = resolve(base)
    return _Place(directory, run_dir, readout) if not with_base or _base_agreed(directory) else None


def _may_open(ref: str) -> bool:
    """Return whether a model may be opened and, if it is not on this machine, downloaded; else the page asks."""
    if not may_open(ref):
        return False
    base, _ = split_readout(ref)
    consents = st.session_state.setdefault(AGREED, set())
    if HUB_ID.fullmatch(base) and not is_here(base) and base not in consents:
        what = brief(base)
        _offer(base, f"{what} is neither a run nor a folder here: fetch it from the Hugging Face hub?", "Fetch")
        return False
    return True


def _base_agreed(directory: Path) -> bool:
    """Return whether `_may_open` allows the base named in an adapter's file, and in turn the base of that one."""
    folders: set[Path] = set()
    while is_adapter(directory):
        from probe.model.adapters import base_of, base_ref, read_config

        if directory.resolve() in folders:
            raise ModelError(
                f"The adapter in `{directory}` is its own base in the end: name another base in its configuration."
            )
        folders.add(directory.resolve())
        config = read_config(directory)
        if config["base_model_name_or_path"] == REAL_MODEL:  # not on a hub: it is on this machine or missing
            base_of(directory, config)
        if not _may_open(base_ref(directory, config["base_model_name_or_path"])):
            return False
        directory = base_of(directory, config).directory
    return True


def _size_of(directory: Path) -> int:
    """Return the bytes of a model's files."""
    return sum(file.stat().st_size for file in model_files(directory))


def _size_agreed(ref: str, directory: Path) -> bool:
    size = _size_of(directory)
    if size <= COSTLY_BYTES or ref in st.session_state.setdefault(AGREED, set()):
        return True
    _offer(ref, f"{ref} has {size / 2**30:.1f} GiB of weights, which take as much memory, or twice as much.", "Load")
    return False


def _load(directory: Path, readout: "Readout | None", times: tuple[int, ...], say: str) -> "LM":
    def load(work: Computation) -> "LM":
        from probe.model.rewards import analysable

        base = _base_of(directory)
        if _size_of(directory) > LARGE_BYTES:
            gc.collect()  # a released model makes room for the next one
        lm = _PLAIN.get((directory.resolve(), times)) if readout is None else None
        lm = lm or analysable(directory, readout, base=base)
        _WRITTEN[lm] = times
        if base is None and lm.readout == "tokens":
            _PLAIN[directory.resolve(), times] = lm
        return lm

    key = str(directory), readout, times
    lm: LM | None = MODELS.get(key)
    return lm or _take_turn(MODELS, Computation(key, say), say, load)


def _base_of(directory: Path) -> "LM | None":
    """Return the base of an adapter, the one in memory if there is one, so that both share its weights.

    The result is None for a model that is no adapter, and for an adapter of an adapter, which is merged.
    """
    from probe.model.adapters import plain_base
    from probe.model.lm import LM

    place = plain_base(directory)
    if place is None:
        return None

    times = _write_times(place)
    lm = _PLAIN.get((place, times))
    if lm is None:
        if _size_of(place) > LARGE_BYTES:
            gc.collect()
        lm = _PLAIN[place, times] = LM.load(place)
        _WRITTEN[lm] = times
    return lm


def _write_times(directory: Path) -> tuple[int, ...]:
    """Return the modification times of a model's files and, if on this machine, of an adapter's base."""
    folders = [directory]
    if is_adapter(directory):
        from probe.model.adapters import folders_of

        folders = folders_of(directory)
    return tuple(file.stat().st_mtime_ns for folder in folders for file in model_files(folder))


def _read_at(lm: "LM") -> tuple[int, ...]:
    """Return the modification times of the files from which the model was loaded."""
    return _WRITTEN.get(lm) or _write_times(lm.directory or Path())


def is_here(ref: str) -> bool:
    """Return whether a reference names something on this machine, so that nothing would be downloaded."""
    base = ref.rpartition("@")[0] or ref
    if find_model(base) or os.path.exists(os.path.expanduser(base)) or ref.startswith((".", "/", "~")):
        return True
    try:
        find(base)
    except RunError:
        return False
    return True


def compute_once(
    fn: Callable[..., T], *lms: "LM", say: str, steps: bool = False, again: bool = False, **options: Hashable
) -> T:
    """Return `fn(*lms, **options)`, computed once for equal arguments, one computation at a time.

    Args:
        fn: a pure function of models and options.
        lms: loaded models; the location of their weights is part of the key.
        say: message shown meanwhile.
        steps: pass `fn` a `tick` to call with the share that is done; it moves a progress bar, and ends the work if the
            reader has left.
        again: compute even if there is a cached result.
        options: hashable arguments, which are part of the key.

    Raises:
        ProbeError: the error of `fn`; nothing is cached then.
    """
    key = _key(fn, lms, options)
    result = None if again else RESULTS.get(key)
    place = st.empty()  # cached or not, later elements keep their place and are not redrawn
    if result is not None:
        return result

    def make(work: Computation) -> T:
        from probe.model.passes import share_passes

        with _stopped_when_left(work), share_passes():
            return _with_bar(fn, lms, options, work) if steps else fn(*lms, **options)

    with place.container():
        result = _take_turn(RESULTS, Computation(key, f"{say}{_of(lms)}"), say, make, again)
    if result is not None:  # a function without a result has drawn something
        place.empty()
    return result


def _take_turn(store: Results, work: Computation, say: str, make: Callable[[Computation], T], again: bool = False) -> T:
    """Return the cached result of a computation, or compute it in its turn; the page shows what it waits for.

    If the reader leaves the page, the computation ends at its next step, unless another session waits for the same
    result.
    """
    with _TURNS.stand(work):
        while (first := _TURNS.first()) is not work and first is not None:
            if not again and (kept := store.get(work.key)) is not None:
                return kept
            with spin(_waiting(first, work)):
                while _TURNS.first() is first:
                    _look_whether_left(work)
                    _TURNS.wait(first, CHECK_S)
        work.begun = time.monotonic()
        result: Any = None if again else store.get(work.key)
        if result is None:
            with spin(say):
                result = make(work)
                store.put(work.key, result)
        if work.left is not None:
            raise work.left
        return result


def _waiting(first: Computation, work: Computation) -> str:
    since = f"begun {duration(first.seconds)} ago"
    if first.key == work.key:
        return f"{first.label}, {since}"
    return f"Waiting for another computation, {since}: {first.label}"


def _of(lms: "tuple[LM, ...]") -> str:
    """Return the names of a computation's models in brackets."""
    names = dict.fromkeys(lm.run_dir.name if lm.run_dir else Path(lm.ref).name for lm in lms)
    return " " + escape_markdown(f"({', '.join(map(brief, names))})") if names else ""


def _look_whether_left(work: Computation) -> None:
    """End the script run of a reader who has left, unless another session waits for the result."""
    if work.left is None:
        try:
            AGREED in st.session_state  # noqa: B015  # here Streamlit ends a run that is no longer wanted
        except (StopException, RerunException) as left:
            work.left = left
    if work.left is not None and (work.begun is None or not _TURNS.wanted(work)):
        raise work.left


@contextmanager
def _stopped_when_left(work: Computation) -> Iterator[None]:
    """Check before each module that this thread computes whether the reader has left."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    thread, looked = get_ident(), time.monotonic()

    def look(module: Any, given: Any) -> None:
        nonlocal looked
        if get_ident() == thread and time.monotonic() - looked > CHECK_S:
            _look_whether_left(work)
            looked = time.monotonic()

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


def is_quick(seconds: float) -> bool:
    """Return whether a computation of this expected duration starts without a click."""
    return seconds <= PATIENCE_S


def ready(fn: Callable[..., T], *lms: "LM", **options: Hashable) -> T | None:
    """Return the cached result of `compute_once` for these arguments, or None."""
    return RESULTS.get(_key(fn, lms, options))


def put_ready(fn: Callable[..., T], result: T, *lms: "LM", **options: Hashable) -> None:
    """Let `compute_once` and `ready` return a result for these arguments that was found elsewhere."""
    RESULTS.put(_key(fn, lms, options), result)


def _key(fn: Callable[..., Any], lms: "tuple[LM, ...]", options: dict[str, Hashable]) -> Hashable:
    places = tuple((str(lm.directory), _read_at(lm), lm.readout) for lm in lms)
    return fn.__module__, fn.__qualname__, places, tuple(sorted(options.items()))


def _with_bar(fn: Callable[..., T], lms: "tuple[LM, ...]", options: dict[str, Hashable], work: Computation) -> T:
    bar, pace = st.progress(0.0), Pace()

    def tick(share: float) -> None:
        _look_whether_left(work)
        left = pace.left(share)
        if work.left is None:
            bar.progress(min(max(share, 0.0), 1.0), None if left is None else f"about {duration(left)} left")

    try:
        return fn(*lms, tick=tick, **options)
    finally:
        if work.left is None:
            bar.empty()


def _offer(ref: str, sentence: str, action: str, what: str = "") -> None:
    fetches = action == "Fetch"
    if offer(sentence, f"{action} {brief(what or ref, 60)}", f"agree-{ref}", writes=fetches):
        if fetches:
            access.check()
        st.session_state[AGREED].add(ref)
        st.rerun()
