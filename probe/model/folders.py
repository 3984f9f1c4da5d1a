"""Checks of untrusted model folders before a library opens their files."""

import os
from itertools import islice
from pathlib import Path

from probe.errors import ModelError
from probe.untrusted import DOCUMENT, WEIGHTS, read_json, regular, short

TOKENS = 1_000_000
"""Maximum number of added tokens in a tokenizer's settings."""
MOST = 10_000
"""Maximum number of entries in a folder."""
TEMPLATES = "additional_chat_templates"
"""Subfolder from which transformers reads, too."""
SETTINGS = frozenset(
    ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json")
)
"""Files that transformers and peft parse without limits; the tokenizer's file is parsed with a limit by its library."""


def sound_folder(directory: Path) -> Path:
    """Return the folder after checking that libraries can read it safely.

    Its files must be regular (or links to regular ones) and not too large, and no settings may be nested too deeply.

    Raises:
        ModelError: a file is something else, such as a named pipe, is too large, or holds settings that are not JSON or
            are nested too deeply.
    """
    for folder in (directory, directory / TEMPLATES):
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MOST + 1) if not entry.is_dir()]
        if len(names) > MOST:
            raise ModelError(f"`{folder}` holds more than {MOST:,} files: give the folder of a model.")
        for name in names:
            _check(folder / name)
    return directory


def _check(file: Path) -> None:
    try:
        if not (file.is_symlink() and not file.exists()):  # a broken link counts as no file
            regular(file, WEIGHTS if file.suffix == ".safetensors" else DOCUMENT)
        if file.name in SETTINGS:
            read_json(file, fields=TOKENS)
    except (OSError, ValueError) as error:
        raise ModelError(f"`{file}` cannot be read ({short(error)}): copy or fetch the model again.") from None
