"""Stored results of analyses: one file of plain data each, read back by the types that their classes declare.

A result is a dataclass of numbers, texts, arrays and tables. It is stored as a safetensors file with its arrays, and
everything else as JSON in the file's metadata. Files may come from anybody: only those that this user's signature
covers are read, and those that come with Probe. Nothing in them names a class, and a value that does not fit the
declared type makes the whole result count as missing.
"""

import dataclasses
import hashlib
import hmac
import inspect
import json
import time
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from probe.errors import RunError
from probe.jobs.job import sign_text
from probe.model.references import split_step
from probe.options import hint_of
from probe.plotting.notebook import Drawable
from probe.runs.addresses import RUN_FILE
from probe.runs.directories import WORK, is_sample, is_shipped, may_make, run_homes
from probe.runs.schema import jsonable
from probe.runs.storage import write_atomic
from probe.ticks import LISTENERS, Tick, ignore
from probe.untrusted import MB, parse_figure, parse_json, read_file

if TYPE_CHECKING:
    from probe.analyses.analysis_record import Analysis
    from probe.model.lm import LM

FORMAT = 1
"""Version of the files; others count as missing."""
FOLDER = "analyses"
"""Subfolder of a model's results."""
MOST = 64 * MB
"""Largest file that is read."""
LONG_S = 1.0
"""Seconds from which a result is stored."""
FEATURES = "sae_weights.safetensors"
"""File that stands for a folder of features."""
SUFFIX = ".safetensors"
PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class StoredResult:
    """A result that was found, and the inputs that it belongs to."""

    result: Drawable
    inputs: Mapping[str, Any]
    """Values of the inputs as JSON; a file is the hash of its content."""
    created: str
    """Time of the computation, in UTC."""
    seconds: float
    """Seconds that the computation took."""


def find_result(analysis: "Analysis", values: Mapping[str, Any], *lms: "LM") -> StoredResult | None:
    """Return the stored result of an analysis for these models and inputs; a damaged one counts as missing.

    Args:
        analysis: the analysis.
        values: values of its inputs; defaults where missing.
        lms: the models.
    """
    name = file_name(analysis, values, *lms)
    found = (_read(analysis, home / FOLDER / name) for home in result_homes(*lms))
    return next((each for each in found if each is not None), None)


def nearest_result(analysis: "Analysis", values: Mapping[str, Any], *lms: "LM") -> StoredResult | None:
    """Return the stored result of these models whose inputs differ least from the given ones; None if there is none."""
    return _nearest(analysis, _plain_inputs(analysis, values, *lms), *lms)


def nearest_unloaded(analysis: "Analysis", values: Mapping[str, Any], *models: "LM") -> StoredResult | None:
    """Return what `nearest_result` returns, for models whose weights are not on this machine.

    Args:
        analysis: the analysis.
        values: values of its inputs; those that the models would determine are left open.
        models: what is known of the models without their weights: `fingerprint`, `run_dir` and `ref`. With an empty
            fingerprint, a sample run has the results that come with it.
    """
    own = analysis.with_values(values)
    given = {name: values.get(name, each.default) for name, each in own.inputs.items()}
    return _nearest(analysis, {name: _plain(value) for name, value in given.items() if value is not None}, *models)


def differing_inputs(stored: StoredResult, wanted: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs of a stored result whose values are not the wanted ones."""
    return [name for name, value in wanted.items() if name in stored.inputs and stored.inputs[name] != _plain(value)]


def _nearest(analysis: "Analysis", wanted: Mapping[str, Any], *lms: "LM") -> StoredResult | None:
    best, least = None, float("inf")
    for home in result_homes(*lms):
        for file in sorted((home / FOLDER).glob(f"{analysis.name}-*{SUFFIX}")):
            found = _read(analysis, file, lms)
            if found is not None:
                apart = sum(found.inputs.get(name) != value for name, value in wanted.items())
                best, least = (found, apart) if apart < least else (best, least)
    return best


def is_storable(analysis: "Analysis") -> bool:
    """Return whether results of an analysis are stored: they are to be, may take long, and declare their fields."""
    kind = _kind(analysis)
    return (
        analysis.stored and analysis.seconds is not None and isinstance(kind, type) and _field_hints(kind) is not None
    )


def obtain_result(
    analysis: "Analysis",
    values: Mapping[str, Any],
    *lms: "LM",
    again: bool = False,
    home: Path | None = None,
    tick: Tick = ignore,
) -> tuple[Drawable, StoredResult | None]:
    """Return the result of an analysis, and what was stored of it; one that took long is stored.

    Args:
        analysis: the analysis.
        values: values of its inputs; defaults where missing.
        lms: the models.
        again: compute it even if it is stored.
        home: see `keep_result`.
        tick: progress.

    Raises:
        ProbeError: the models or the inputs cannot be used.
    """
    storable = is_storable(analysis)
    stored = find_result(analysis, values, *lms) if storable and not again else None
    if stored is not None:
        return stored.result, stored
    started = time.monotonic()
    result = analysis.run(*lms, tick=tick, **values)
    seconds = time.monotonic() - started
    if storable and (seconds >= LONG_S or LISTENERS):  # a job has no other output
        keep_result(analysis, values, result, seconds, *lms, home=home)
    return result, None


def keep_result(
    analysis: "Analysis",
    values: Mapping[str, Any],
    result: Drawable,
    seconds: float,
    *lms: "LM",
    home: Path | None = None,
) -> Path | None:
    """Store a result, and return its file; None if it holds what cannot be stored, or its folder is not writable.

    Args:
        analysis: the analysis.
        values: values of its inputs; defaults where missing.
        result: result to store.
        seconds: seconds that the computation took.
        lms: the models.
        home: folder of results; by default that of the last model.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        tree = _encode(result, arrays)
    except TypeError:
        return None
    file = (home or result_homes(*lms)[0]) / FOLDER / file_name(analysis, values, *lms)
    if not may_make(file):
        return None
    about = {
        "format": FORMAT,
        "analysis": analysis.name,
        "inputs": _plain_inputs(analysis, values, *lms),
        "models": [{"label": _label(lm), "fingerprint": lm.fingerprint} for lm in lms],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "result": tree,
    }
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(about)
    data = save(whole, {"about": text, "signature": _sign(save(whole, {"about": text}))})
    if len(data) > MOST:
        return None
    try:
        write_atomic(file, data)
    except (OSError, RunError):
        return None
    return file


def file_name(analysis: "Analysis", values: Mapping[str, Any], *lms: "LM") -> str:
    """Return the file name of a result: analysis, and the hash of its inputs, its models and the result's structure.

    An input that earlier results lack (`Input.added`) is left out while it has its default.
    """
    facts = [FORMAT, analysis.version, _structure(_kind(analysis)), _identity(*lms)]
    inputs, added = _plain_inputs(analysis, values, *lms), analysis.with_values(values).added
    own = {name: value for name, value in inputs.items() if name not in added or value != added[name]}
    text = json.dumps([*facts, own], sort_keys=True)
    return f"{analysis.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}{SUFFIX}"


def _identity(*lms: "LM") -> list[tuple[str, str]]:
    return [(lm.fingerprint, str(lm.readout)) for lm in lms]


def _label(lm: "LM") -> str:
    return lm.run_dir.name if lm.run_dir is not None else Path(lm.ref).name


def result_homes(*lms: "LM") -> list[Path]:
    """Return the folders that can hold results of these models, those of the last one; new ones go to the first."""
    if not lms:
        return [WORK / "model"]
    lm = lms[-1]
    return run_homes(Path(lm.run_dir)) if lm.run_dir is not None else [WORK / (_label(lm).strip(".") or "model")]


def _plain_inputs(analysis: "Analysis", values: Mapping[str, Any], *lms: "LM") -> dict[str, Any]:
    """Return the inputs, with their defaults, as JSON; a file as the hash of its content."""
    own = analysis.with_values(values)
    whole = own.complete({name: value for name, value in values.items() if name in own.inputs}, *lms)
    return {name: _plain(value) for name, value in whole.items() if not own.about_input(name).aside}


def _plain(value: Any) -> Any:
    """Return a value as JSON: a file as the hash of its content, a run or features as that of one of their files."""
    if isinstance(value, Path):
        base, step = split_step(str(value.expanduser()))
        for file in (Path(base), Path(base) / RUN_FILE, Path(base) / FEATURES):
            with suppress(OSError):
                return hashlib.sha256(read_file(file, MOST) + step.encode()).hexdigest()
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return parse_json(json.dumps(jsonable(value)))


def _read(analysis: "Analysis", file: Path, lms: "Sequence[LM] | None" = None) -> StoredResult | None:
    """Read a result; None if it is damaged, was signed by nobody here, or belongs to other models than `lms`."""
    from safetensors.numpy import load

    try:
        data = read_file(file, MOST, follow=False)
        size = int.from_bytes(data[:8], "little")
        metadata = parse_json(data[8 : 8 + size])["__metadata__"]
        if not is_shipped(file) and not hmac.compare_digest(metadata["signature"], _sign(data)):
            return None
        about = parse_json(metadata["about"])
        if about["format"] != FORMAT or about["analysis"] != analysis.name:
            return None
        if lms is not None and not all(_is_of(each, lm, file) for each, lm in zip(about["models"], lms, strict=True)):
            return None
        result = _decode(_kind(analysis), about["result"], load(data))
        inputs = analysis.with_values(about["inputs"]).added | about["inputs"]
        return StoredResult(result, inputs, str(about["created"]), float(about["seconds"]))
    except Exception:  # whatever does not fit: a damaged file, or one of other code
        return None


def _is_of(recorded: Mapping[str, str], lm: "LM", file: Path) -> bool:
    """Return whether a result records this model; one without a fingerprint is a sample run, known by its name."""
    if not lm.fingerprint:
        return is_sample(file) and recorded["label"] == _label(lm)
    return recorded["fingerprint"] == lm.fingerprint


def _sign(data: bytes) -> str:
    """Return this user's signature of a safetensors file: of its text, its arrays and their layout."""
    size = int.from_bytes(data[:8], "little")
    header = parse_json(data[8 : 8 + size])
    about = header.pop("__metadata__")["about"]
    return sign_text(json.dumps([about, header, hashlib.sha256(data[8 + size :]).hexdigest()], sort_keys=True))


def _kind(analysis: "Analysis") -> Any:
    """Return the class of an analysis's results."""
    return hint_of(analysis.function, inspect.signature(analysis.function).return_annotation)


@lru_cache(maxsize=128)
def _structure(kind: Any) -> str:
    """Return the hash of the fields of a class and of the classes in them: other fields are another format."""
    return hashlib.sha256("\n".join(sorted(set(_fields_below(kind, set())))).encode()).hexdigest()[:12]


def _fields_below(kind: Any, seen: set[Any]) -> Iterator[str]:
    for part in get_args(kind):
        yield from _fields_below(part, seen)
    if not isinstance(kind, type) or kind in seen or _field_hints(kind) is None:
        return
    seen.add(kind)
    for name, hint in (_field_hints(kind) or {}).items():
        yield f"{kind.__qualname__}.{name}: {hint}".replace("pathlib._local.", "pathlib.")  # as Python 3.13 has it
        yield from _fields_below(hint, seen)


@lru_cache(maxsize=512)
def _field_hints(kind: type) -> dict[str, Any] | None:
    """Return the types of a dataclass's or named tuple's fields by name; None for another class."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, localns=_late_names())
        return {each.name: hints[each.name] for each in dataclasses.fields(kind) if each.init}
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return get_type_hints(kind)
    return None


def _late_names() -> dict[str, Any]:
    """Return the names that classes import for type checkers alone."""
    import plotly.graph_objects as go

    return {"go": go}


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON; arrays of numbers are put into `arrays`, and named in their place.

    Raises:
        TypeError: it holds something else than plain data.
    """
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _encode_array(value, arrays)
    if isinstance(value, pd.DataFrame):
        index = None if isinstance(value.index, pd.RangeIndex) else _encode_array(value.index.to_numpy(), arrays)
        columns = [[_encode(name, arrays), _encode_array(value[name].to_numpy(), arrays)] for name in value.columns]
        return {"columns": columns, "index": index, "rows": len(value)}
    if isinstance(value, Path):
        return str(value)
    kind: Any = type(value)
    if isinstance(value, _late_names()["go"].Figure):
        return value.to_json()
    hints = _field_hints(kind)
    if hints is not None:
        return {name: _encode(getattr(value, name), arrays) for name in hints}
    if isinstance(value, Mapping):
        return {"pairs": [[_encode(name, arrays), _encode(each, arrays)] for name, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_encode(each, arrays) for each in value]
    raise TypeError(f"{type(value).__name__} is no plain data")


def _encode_array(values: np.ndarray, arrays: dict[str, np.ndarray]) -> Any:
    if values.dtype.kind in "biuf":
        name = str(len(arrays))
        arrays[name] = values
        return {"array": name}
    if values.dtype.kind not in "OUT":
        raise TypeError(f"an array of {values.dtype} is no plain data")
    return {"values": [_encode(each, arrays) for each in values.ravel()], "shape": list(values.shape)}


def _decode(hint: Any, tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the value of a declared type from its JSON.

    Raises:
        Exception: it does not fit the type.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _decode(args[0], tree, arrays)
    if origin in (Union, types.UnionType):
        return _decode_any(args, tree, arrays)
    if origin is Literal:
        return _fit(tree in args, tree)
    if hint is type(None):
        return _fit(tree is None, None)
    if hint is float:
        return float(_fit(isinstance(tree, int | float) and not isinstance(tree, bool), tree))
    if hint in PLAIN:
        return _fit(type(tree) is hint, tree)
    if hint is np.ndarray or origin is np.ndarray:
        return _decode_array(tree, arrays)
    if hint is pd.DataFrame:
        return _decode_frame(tree, arrays)
    if hint is Path:
        return Path(_fit(isinstance(tree, str), tree))
    if origin in _MAPPINGS or hint in _MAPPINGS:
        first, second = args or (Any, Any)
        return {_decode(first, name, arrays): _decode(second, each, arrays) for name, each in tree["pairs"]}
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return tuple(_decode(part, each, arrays) for part, each in zip(args, tree, strict=True))
    if origin in _SEQUENCES or hint in _SEQUENCES:
        values = [_decode(args[0] if args else Any, each, arrays) for each in _fit(isinstance(tree, list), tree)]
        return values if origin is list else tuple(values)
    if hint is (figure := _late_names()["go"].Figure):
        return figure(parse_figure(_fit(isinstance(tree, str), tree)))
    if hint is Any:
        return _decode_untyped(tree, arrays)
    hints = _field_hints(origin or hint)
    if hints is None:
        raise TypeError(f"{hint} is no plain data")
    return (origin or hint)(**{name: _decode(part, tree[name], arrays) for name, part in hints.items()})


_MAPPINGS: tuple[Any, ...] = (dict, Mapping, typing.Mapping)
_SEQUENCES: tuple[Any, ...] = (list, tuple, Sequence, typing.Sequence)


def _decode_any(hints: Sequence[Any], tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the value of the first of several types that fits."""
    for hint in sorted(hints, key=lambda each: each is float):  # a whole number stays one
        try:
            return _decode(hint, tree, arrays)
        except Exception:  # the next type may fit
            continue
    raise TypeError("no type fits")


def _decode_untyped(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return a value without a declared type: plain data, and lists, mappings, arrays and tables of it."""
    if tree is None or isinstance(tree, PLAIN):
        return tree
    if isinstance(tree, list):
        return [_decode_untyped(each, arrays) for each in tree]
    if "pairs" in tree:
        return {_decode_untyped(name, arrays): _decode_untyped(each, arrays) for name, each in tree["pairs"]}
    return _decode_frame(tree, arrays) if "columns" in tree else _decode_array(tree, arrays)


def _decode_array(tree: Any, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if "array" in tree:
        return arrays[tree["array"]]
    whole = np.empty(len(tree["values"]), dtype=object)
    for at, each in enumerate(tree["values"]):
        whole[at] = _decode_untyped(each, arrays)
    return whole.reshape(tree["shape"])


def _decode_frame(tree: Any, arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    index = None if tree["index"] is None else _decode_array(tree["index"], arrays)
    columns = {_fit(isinstance(name, PLAIN), name): _decode_array(each, arrays) for name, each in tree["columns"]}
    frame = pd.DataFrame(columns, index=pd.RangeIndex(int(tree["rows"])) if index is None else index)
    return frame.infer_objects()


def _fit(fits: bool, value: Any) -> Any:
    """Return a value that fits its type.

    Raises:
        TypeError: it does not.
    """
    if not fits:
        raise TypeError("a value does not fit its type")
    return value
