"""Contents of a run directory: names, version, and allowed JSON (docs/runs.md is the full text)."""

import importlib.metadata
import json
import math
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from probe.errors import RunError
from probe.runs.addresses import RUN_FILE
from probe.untrusted import parse_json, read_file, readable, refuse_newer, short

SCHEMA = 1
"""Version of the layout; a reader refuses a run with a higher one."""

METRICS, ROLLOUTS, ALARMS = "metrics.jsonl", "rollouts.jsonl", "alarms.jsonl"
CAPTURES, CHECKPOINTS, RESULTS = "captures", "checkpoints", "results"
INDEX, PROMPTS = "index.jsonl", "prompts.json"
KEPT = 2**16
"""Most bytes of a run.json whose contents are kept for the next reader of the same bytes."""
ENDINGS = ("finished", "interrupted", "failed")
HEADLINE = ("metric", "value", "ci_low", "ci_high", "n")
CHECKSUMS = "SHA256SUMS"
"""Checkpoint file with the checksums of the others (`probe.runs.checksums`)."""
TRAINER_STATE = ("optimizer.safetensors", "trainer.json", "method.safetensors", CHECKSUMS)
"""Checkpoint files that only a resume needs, in addition to an ordinary Hugging Face directory."""

META_TYPES: dict[str, Any] = {
    "created": str,
    "status": str,
    "message": str,
    "parent": str,
    "reference": str,
    "reward_model": str,
    "seed": int,
    "step": int,
    "pid": int,
    "attempt": int,
    "heartbeat": int | float,
    "config": dict,
    "world": dict,
    "data": dict,
    "headline": list,
}
"""Entries of run.json that are read, with their types; each may be missing or null."""

MOST = 2**63
"""Upper bound of integers in run.json, so that tables and clocks can hold them."""

RESERVED = ("step", "time", "event")

TOP_K = 5
"""Number of most probable tokens of the lens that the recorder keeps."""
NEURONS = 10
"""Number of neurons of each block that the recorder keeps."""

CAPTURE_DTYPES = {
    "attention": "float16",
    "lens_top_ids": "int32",
    "lens_top_logprobs": "float16",
    "lens_answer_logprobs": "float16",
    "lens_answer_ranks": "int32",
    "lens_entropy": "float16",
    "lens_margin": "float16",
    "entropy": "float32",
    "margin": "float32",
    "residual_norm": "float32",
    "residual_last": "float16",
    "attribution": "float32",
    "attribution_total": "float32",
    "promoted_ids": "int32",
    "neuron_ids": "int32",
    "neuron_attribution": "float32",
    "reference_kl": "float32",
    "pair_ids": "int32",
    "pair_prompt": "int32",
    "pair_lens_logprobs": "float32",
    "pair_ref_logprobs": "float32",
}
"""Tensors that the recorder writes, and their stored types; `reference_kl` is made by
`probe.recording.recorder.ReferenceKL`, those of pairs by `probe.recording.pair_lens.PairLens`. Other tensors keep their
type."""

CAPTURE_AXES = {
    "attention": "P D H T T",
    "lens_top_ids": "P D+1 T k",
    "lens_top_logprobs": "P D+1 T k",
    "lens_answer_logprobs": "P D+1 T A",
    "lens_answer_ranks": "P D+1 T A",
    "lens_entropy": "P D+1 T",
    "lens_margin": "P D+1 T",
    "entropy": "P T",
    "margin": "P T",
    "residual_norm": "P D+1 T",
    "residual_last": "P D+1 d",
    "attribution": "P D H+1",
    "attribution_total": "P 2",
    "promoted_ids": "P D H+1 2 k",
    "neuron_ids": "P D n",
    "neuron_attribution": "P D n",
    "reference_kl": "P T",
    "pair_ids": "Q 2 C",
    "pair_prompt": "Q",
    "pair_lens_logprobs": "Q 2 D+1 C",
    "pair_ref_logprobs": "Q 2",
}
"""Axes of these tensors: P prompts, T tokens, D blocks, H heads, k most probable tokens, A answers, n neurons, d width,
Q pairs, C tokens of a pair's prompt and completion."""


class RunWarning(UserWarning):
    """Warning that part of a run could not be read and was left out."""


@dataclass(frozen=True, kw_only=True)
class ProbePrompt:
    """A fixed prompt that is captured repeatedly while a model trains."""

    id: str
    """Short name, unique within the run."""
    text: str
    """Text of the prompt as given."""
    token_ids: list[int]
    """Token ids that the model read, special tokens and `shared` ones included; the tensors are padded after them."""
    tokens: list[str]
    """Readable tokens."""
    answers: list[str] = field(default_factory=list)
    """Continuations whose log-probability is followed."""
    answer_ids: list[int] = field(default_factory=list)
    """First token of each answer that differs from the others; for a single answer its first token."""
    kind: str = ""
    """Kind of the prompt, such as `fact`; free text."""
    shared: int = 0
    """Number of last tokens that do not belong to the text: all answers begin with them, so they were appended."""
    note: str = ""
    """Sentences on the origin of the answers and on which of their tokens are followed; empty if not needed."""

    @property
    def length(self) -> int:
        """Number of real tokens."""
        return len(self.token_ids)

    @property
    def text_ids(self) -> list[int]:
        """Token ids of the text alone, without those that the answers share."""
        return self.token_ids[: self.length - self.shared]


@dataclass(frozen=True)
class Checkpoint:
    """Saved state of a run: an ordinary Hugging Face directory."""

    step: int
    path: Path


def step_name(step: int) -> str:
    """Return the name of a checkpoint or capture: eight digits, so that names sort like steps."""
    return f"{step:08d}"


def parse_step(name: str) -> int | None:
    """Return the step of a name made by `step_name`, or None."""
    return int(name) if re.fullmatch(r"\d{8,}", name) else None


def as_step(step: Any) -> int:
    """Return `step` as an int.

    Raises:
        RunError: it is not an integer of at least 0.
    """
    try:
        value = int(step)
    except (TypeError, ValueError):
        value = -1
    if value < 0 or value != step:
        raise RunError(f"A step of {step!r} was given: steps are whole numbers from 0 on.")
    return value


def jsonable(value: Any) -> Any:
    """Return `value` in the types of standard JSON: tensors and arrays become lists, numbers that are not finite null.

    Raises:
        RunError: it contains a value that JSON cannot represent.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "tolist"):  # a NumPy scalar or array, a tensor
        return jsonable(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, Path):
        return str(value)
    raise RunError(
        f"A value of type {type(value).__name__} cannot be written to a run: give numbers, text, lists and dicts."
    )


def dumps(value: Any, indent: int | None = None) -> str:
    """Return `value` as standard JSON text, without NaN or Infinity and with lone surrogates escaped."""
    text = json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def number(name: str, value: Any) -> float | int | None:
    """Return a metric for JSON: null for a number that is not finite.

    Raises:
        RunError: it is not a single number.
    """
    plain = jsonable(value)
    if plain is not None and not isinstance(plain, int | float):
        raise RunError(f"The metric `{name}` was given as {value!r}: log single numbers.")
    return plain if isinstance(plain, float | None) or abs(plain) < 2**1023 else None


def read_meta(path: Path) -> dict[str, Any]:
    """Read the contents of run.json.

    Raises:
        RunError: the directory is not a run, the file is damaged, or its schema is newer.
    """
    file = path / RUN_FILE
    try:
        text = read_file(file)
    except OSError as error:
        raise RunError(
            f"`{path}` has no {RUN_FILE} that can be read ({error.strerror}): give a folder that a run was written to."
        ) from error
    return dict(_parse_meta(path, text) if len(text) > KEPT else _parse_kept_meta(path, text))


def _parse_meta(path: Path, text: bytes) -> dict[str, Any]:
    """Return the contents of run.json as they stand in a text."""
    try:
        meta = readable(parse_json(text))
    except ValueError as error:
        state = f"is cut short or damaged ({short(error)})" if text else "is empty"
        raise RunError(
            f"`{path / RUN_FILE}` {state}, so the run cannot be read: copy it again from where it was made, or delete "
            "the folder."
        ) from error
    return check_meta(meta, path)


_parse_kept_meta = lru_cache(maxsize=4096)(_parse_meta)  # a page reads all runs whenever it is drawn


def check_meta(meta: Any, directory: Path) -> dict[str, Any]:
    """Return the contents of run.json after checking that they follow this schema.

    Raises:
        RunError: they are not those of a run, or their schema is newer.
    """
    file = directory / RUN_FILE
    if not isinstance(meta, dict) or type(meta.get("schema")) is not int or not isinstance(meta.get("method"), str):
        raise RunError(f"`{file}` is not the record of a run: give a folder that a run was written to.")
    refuse_newer(f"The run `{directory}`", "schema", meta["schema"], SCHEMA, RunError)
    odd = [name for name, kind in META_TYPES.items() if not _fits(meta.get(name), kind)]
    if not odd and meta.get("pid") is not None and not 0 < meta["pid"] < 2**31:  # others name groups of processes
        odd = ["pid"]
    rows = [] if "headline" in odd else meta.get("headline") or []
    if odd or not all(_is_headline(row) for row in rows):
        raise RunError(
            f"`{file}` has a damaged entry `{odd[0] if odd else 'headline'}`: copy it again from where it was made."
        )
    return meta if not rows else meta | {"headline": [_finite(row) for row in rows]}


def _fits(value: Any, kind: Any) -> bool:
    """Return whether an entry is missing, or has its type and is within bounds."""
    return value is None or (isinstance(value, kind) and (not isinstance(value, int | float) or abs(value) < MOST))


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a headline metric with None for each number that is not finite, and for an n that tables cannot hold."""
    n = row.get("n")
    n = None if isinstance(n, bool) or not _fits(n, int | float) else n
    return row | {name: number(name, row.get(name)) for name in HEADLINE[1:-1]} | {"n": number("n", n)}


def _is_headline(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("metric"), str)
        and all(isinstance(row.get(name), int | float | None) for name in HEADLINE[1:])
    )


PACKAGES = ("probe-lm", "torch", "transformers", "transformer-lens", "tokenizers", "accelerate", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect a result."""
    by_package = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            by_package[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return by_package


def git_revision() -> dict[str, Any] | None:
    """Return the revision of Probe's checkout, and whether files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        revision, changes = (
            subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision.strip(), "dirty": bool(changes.strip())}
