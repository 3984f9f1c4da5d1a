"""The captured tensors of a run: which steps there are, and what is in them."""

import json
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from probe.errors import RunError
from probe.runs.lines import Position, read_lines
from probe.runs.packing import PACKED, unpack
from probe.runs.schema import CAPTURES, INDEX, PROMPTS, SCHEMA, ProbePrompt, RunWarning
from probe.runs.table import newest


class Captures:
    """What the recorder kept while a model trained: the same tensors on the same prompts at many steps.

    A snapshot: ask the run again for captures made since.
    """

    def __init__(self, run: Path, *, live: bool = False) -> None:
        self.path = run / CAPTURES
        rows, _ = read_lines(self.path / INDEX, Position(), live=live)
        kept = newest({}, rows, self.path / INDEX)
        self._files: dict[int, Path] = {}
        for step in sorted(kept):
            path = self.path / Path(str(kept[step].get("file"))).name
            if path.is_file():
                self._files[step] = path
            else:
                warnings.warn(f"The capture `{path}` is listed and missing; it is left out.", RunWarning, stacklevel=2)

    @property
    def steps(self) -> list[int]:
        """The captured steps in order."""
        return list(self._files)

    @property
    def prompts(self) -> list[ProbePrompt]:
        """The prompts that the first axis of each tensor counts.

        Raises:
            RunError: the file that holds them is damaged or of a newer schema.
        """
        path = self.path / PROMPTS
        if not path.exists():
            return []
        known = {item.name for item in fields(ProbePrompt)}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] > SCHEMA:
                raise RunError(
                    f"`{path}` has schema {content['schema']} and this version of Probe reads up to {SCHEMA}:"
                    " read it with the version that wrote it or a newer one."
                )
            return [ProbePrompt(**{k: v for k, v in row.items() if k in known}) for row in content["prompts"]]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"`{path}` is damaged: copy it again from where the run was made.") from error

    def load(self, step: int) -> dict[str, np.ndarray[Any, Any]]:
        """The tensors of a step by name (docs/runs.md lists them with their axes).

        Raises:
            RunError: the step was not captured, or its file is damaged.
        """
        if step not in self._files:
            known = ", ".join(map(str, self.steps[:12])) + (", ..." if len(self) > 12 else "")
            raise RunError(f"Step {step} of `{self.path.parent}` was not captured: the steps are {known or 'none'}.")
        try:
            tensors = load_file(self._files[step])
            return unpack(tensors, [prompt.length for prompt in self.prompts]) if PACKED in tensors else tensors
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(
                f"The capture `{self._files[step]}` is damaged: delete it, or copy it again from where it was made."
            ) from error

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"Captures({len(self)} steps, {len(self.prompts)} prompts)"
