"""Tokenizers with parts that may take time or memory without bound: each use is tried in a child process first.

Only a tokenizer with a part that is not known (`probe.tokenizer_parts`) is treated so, as each use then costs twice its
time and more. What the child cannot do within its limits is not done here.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from probe.confined import Exceeded, Refused, try_tokenizer
from probe.errors import DataError, brief
from probe.tokenizer_parts import odd_part

KEY = "_rehearsal_key"
"""Where a tokenizer has the hash of its description, by which the child knows it."""
LETTERS = 2**16
"""Letters, or ids, of one question to the child, but for a text that is longer."""


def rehearsed(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Make a tokenizer raise a DataError in place of a use that takes too much.

    A tokenizer whose parts are all known stays as it is.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is not None and odd_part(backend) is not None and not isinstance(tokenizer, _Rehearsed):
        tokenizer.__class__ = _rehearsing(type(tokenizer))  # type: ignore[arg-type]
        vars(tokenizer)[KEY] = hashlib.sha256(backend.to_str().encode()).hexdigest()
    return tokenizer


class _Rehearsed:
    """What is put before the class of a tokenizer of transformers."""

    _tokenizer: Any
    name_or_path: str

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        for texts in _bundles([*_texts(text), *_texts(text_pair)]):
            self._try(texts, [])
        return super()._encode_plus(text, text_pair, **options)  # type: ignore[misc]

    def _decode(self, token_ids: Any, *given: Any, **options: Any) -> Any:
        self._try([], [[int(token) for token in ([token_ids] if isinstance(token_ids, int) else token_ids)]])
        return super()._decode(token_ids, *given, **options)  # type: ignore[misc]

    def _try(self, texts: list[str], rows: list[list[int]]) -> None:
        try:
            try_tokenizer(vars(self)[KEY], self._tokenizer.to_str, texts, rows)
        except (Exceeded, Refused) as reason:
            limit = str(reason) if isinstance(reason, Exceeded) else f"fails ({brief(str(reason))})"
            raise DataError(
                f"The tokenizer of `{self.name_or_path}` has {odd_part(self._tokenizer)} and {limit} on this text, so"
                " it is not used: give another text, or fix the model's tokenizer.json."
            ) from None


@lru_cache
def _rehearsing(kind: type) -> type:
    """Return a class of transformers whose uses are tried first; it keeps its name, which is saved with a model."""
    return type(kind.__name__, (_Rehearsed, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def _texts(given: Any) -> Iterator[str]:
    """Yield the texts in an argument of a tokenizer."""
    if isinstance(given, str):
        yield given
    for each in given if isinstance(given, list | tuple) else ():
        yield from _texts(each)


def _bundles(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts in the same order, a few at a time, since the limits hold for each question to the child."""
    bundle: list[str] = []
    for text in texts:
        if bundle and sum(map(len, bundle)) + len(text) > LETTERS:
            yield bundle
            bundle = []
        bundle.append(text)
    if bundle:
        yield bundle
