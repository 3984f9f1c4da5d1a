"""Names of exported files and paths in provenance: labels and hashes in place of this machine's folders."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

TEXTS = ("prompt", "prompts", "text", "texts")
"""Provenance keys whose values are texts for a model and are kept even if they look like paths."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""File names that Windows reserves."""
INSIDE = re.compile(
    r"""(?<![\w.:/\\])(?:file://|~|[A-Za-z]:)?[/\\](?:[^\s/\\"'`,;:|<>()]+[/\\])+([^\s/\\"'`,;:|<>()]*)"""
)
"""Pattern of an absolute path in a sentence or a command."""
LONGEST = 60
DIGITS = 6


def file_name(name: str, longest: int = 80) -> str:
    """Return `name` with only the characters that every system allows in a file name."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:longest].rstrip("-.") or "figure"
    return f"figure-{safe}" if RESERVED.fullmatch(safe) else safe


def short_hash(value: object) -> str:
    """Return six hex digits that identify a prompt or another value."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:DIGITS]


def file_stem(figure: str, source: Mapping[str, Any]) -> str:
    """Return a file name from model, figure and prompt, such as `dpo-agreeable_lens_3f2a9c`.

    Args:
        figure: name of the figure.
        source: provenance of the figure: models under `run`, `runs`, `model`, `models`, or `aligned` and `base`; the
            prompt under one of `TEXTS` or as `tokens`, or the `key` of an experiment's result.
    """
    texts = (source.get(name) for name in (*TEXTS, "tokens"))
    asked = next((text for text in texts if text and isinstance(text, str | list | tuple)), None)
    key = str(source.get("key") or "")[:DIGITS] if asked is None else short_hash(asked)
    parts = ["-vs-".join(models_of(source)[:3]), figure or "figure", key]
    return "_".join(file_name(part, LONGEST) for part in parts if part)


def models_of(source: Mapping[str, Any]) -> list[str]:
    """Return the distinct names of the models in a provenance."""
    found: list[str] = []
    for name in ("run", "runs", "model", "models", "aligned", "base"):
        value = source.get(name)
        for each in value if isinstance(value, list | tuple) else [value]:
            label = each.get("label") if isinstance(each, Mapping) else each
            if isinstance(label, str | Path) and str(label):
                found.append(_last(str(label)))
    return list(dict.fromkeys(filter(None, found)))


def without_paths(value: Any, name: str = "") -> Any:
    """Replace local paths in a value by their last component, which is the label of a run or a model.

    Args:
        value: value of JSON types and paths, of any depth.
        name: key of the value; values of the keys in `TEXTS` are kept.
    """
    if isinstance(value, Mapping):
        return {key: without_paths(item, str(key)) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [without_paths(item, name) for item in value]
    if isinstance(value, Path):
        return value.name
    if not isinstance(value, str) or name in TEXTS:
        return value
    return _last(value) if _is_path(value) else INSIDE.sub(r"\1", value)


def _last(text: str) -> str:
    """Return the last component of a path in the notation of any system."""
    return PureWindowsPath(PurePosixPath(text).name).name or text.strip("/\\~.")


def _is_path(text: str) -> bool:
    """Whether the whole text is a path of this machine; a model id of the Hugging Face hub is not."""
    if re.match(r"(file:|~|\.{0,2}[/\\]|[A-Za-z]:[/\\])", text) and "\n" not in text:
        return True
    try:
        return ("/" in text or "\\" in text) and Path(text).exists()
    except (OSError, ValueError):
        return False
