"""What a function is known by: hashes of the text or the code that defines it, so that edited code is other code."""

import hashlib
import inspect
from pathlib import Path
from types import CodeType
from typing import Any

NOTEBOOK = "__main__"
"""Module of what is defined at a prompt, in a notebook or in the program itself."""
PLAIN = (str, bytes, int, float, bool, tuple, list, type(None), Path)
"""Types whose values tell what they are."""


def source_hash(function: Any) -> str:
    """SHA-256 of the file that defines a function or class; of a notebook's function its text, else its code."""
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(function, "__code__", None)
    try:
        file = inspect.getsourcefile(function if code or isinstance(function, type) else type(function))
        if file is not None and Path(file).is_file() and not _is_cell(function, file):
            return hashlib.sha256(Path(file).read_bytes()).hexdigest()
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    except (OSError, TypeError):  # typed at a prompt
        return hashlib.sha256(repr(_code(code) if code else type(function)).encode()).hexdigest()


def code_hash(function: Any) -> str:
    """SHA-256 of what a function does: its code, its defaults, and the plain values that it closes over."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held += [
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).items(),
    ]
    plain = [repr(each) if isinstance(each, PLAIN) else type(each).__name__ for each in held]
    return hashlib.sha256(repr((_code(code) if code else str(function), plain)).encode()).hexdigest()


def _is_cell(function: Any, file: str) -> bool:
    return getattr(function, "__module__", "") == NOTEBOOK and "ipykernel" in file


def _code(code: CodeType) -> tuple[Any, ...]:
    """What a code object does, without where it lies."""
    constants = tuple(_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts)
    return code.co_code, constants, code.co_names, code.co_varnames
