"""What files and their provenance say of models and prompts: labels and hashes, never a folder of this machine."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

TEXTS = ("prompt", "prompts", "text", "texts")
"""Facts that are texts for a model, whatever they look like."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for itself."""
INSIDE = re.compile(
    r"""(?<![\w.:/\\])(?:file://|~|[A-Za-z]:)?[/\\](?:[^\s/\\"'`,;:|<>()]+[/\\])+([^\s/\\"'`,;:|<>()]*)"""
)
"""An absolute path in a sentence or a command."""
LONGEST = 60
DIGITS = 6


def file_name(name: str, longest: int = 80) -> str:
    """`name` as part of a file name on any system."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:longest].rstrip("-.") or "figure"
    return f"figure-{safe}" if RESERVED.fullmatch(safe) else safe


def short_hash(value: object) -> str:
    """Six hex digits that stand for a prompt, or for whatever else was asked."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:DIGITS]


def file_stem(figure: str, source: Mapping[str, Any]) -> str:
    """Return the name of a file that says model, figure and prompt, such as `dpo-agreeable_lens_3f2a9c`.

    Args:
        figure: what is shown.
        source: provenance of the figure; models under `run`, `runs`, `model`, `models`, or `aligned` and `base`, the
            prompt under one of `TEXTS` or as `tokens`; a result of an experiment has a `key` instead.
    """
    texts = (source.get(name) for name in (*TEXTS, "tokens"))
    asked = next((text for text in texts if text and isinstance(text, str | list | tuple)), None)
    key = str(source.get("key") or "")[:DIGITS] if asked is None else short_hash(asked)
    parts = ["-vs-".join(models_of(source)[:3]), figure or "figure", key]
    return "_".join(file_name(part, LONGEST) for part in parts if part)


def models_of(source: Mapping[str, Any]) -> list[str]:
    """Names of the models that a provenance tells of, each once."""
    found: list[str] = []
    for name in ("run", "runs", "model", "models", "aligned", "base"):
        value = source.get(name)
        for each in value if isinstance(value, list | tuple) else [value]:
            label = each.get("label") if isinstance(each, Mapping) else each
            if isinstance(label, str | Path) and str(label):
                found.append(_last(str(label)))
    return list(dict.fromkeys(filter(None, found)))


def without_paths(value: Any, name: str = "") -> Any:
    """Reduce the paths of this machine in a value to their last part: a run or a model is known by its label.

    Args:
        value: JSON values and paths, of any depth.
        name: of the fact; those of `TEXTS` stay as they are.
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
    """Return the last part of a path as any system writes it."""
    return PureWindowsPath(PurePosixPath(text).name).name or text.strip("/\\~.")


def _is_path(text: str) -> bool:
    """Whether a text as a whole names a file or folder of this machine; a hub id is none."""
    if re.match(r"(file:|~|\.{0,2}[/\\]|[A-Za-z]:[/\\])", text) and "\n" not in text:
        return True
    try:
        return ("/" in text or "\\" in text) and Path(text).exists()
    except (OSError, ValueError):
        return False
