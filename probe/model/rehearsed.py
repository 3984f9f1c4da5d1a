"""Tokenizers whose parts may take unbounded time or memory: each call is tried in a child process first.

Only a tokenizer with an unknown part (`probe.tokenizer_parts`) is treated this way, because each call then costs more
than twice its time. A call that fails in the child, within its limits, is not made here.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from probe.errors import DataError, brief
from probe.model.confined import Exceeded, Refused, try_tokenizer
from probe.tokenizer_parts import odd_part

KEY = "_rehearsal_key"
"""Attribute of a tokenizer with the hash of its description, which identifies it to the child."""
LETTERS = 2**16
"""Maximum number of letters, or ids, in one request to the child, except for a longer single text."""


def rehearsed(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Make a tokenizer raise a DataError instead of a call that takes too much time or memory.

    A tokenizer with only known parts is returned unchanged.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is not None and odd_part(backend) is not None and not isinstance(tokenizer, _Rehearsed):
        tokenizer.__class__ = _rehearsing(type(tokenizer))  # type: ignore[arg-type]
        vars(tokenizer)[KEY] = hashlib.sha256(backend.to_str().encode()).hexdigest()
    return tokenizer


class _Rehearsed:
    """Mixin that precedes the class of a tokenizer of transformers."""

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
    """Return a class of transformers whose calls are tried first; it keeps its name, which is saved with a model."""
    return type(kind.__name__, (_Rehearsed, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def _texts(given: Any) -> Iterator[str]:
    """Yield the texts in an argument of a tokenizer."""
    if isinstance(given, str):
        yield given
    for each in given if isinstance(given, list | tuple) else ():
        yield from _texts(each)


def _bundles(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts in the same order, a few at a time, because the limits hold for each request to the child."""
    bundle: list[str] = []
    for text in texts:
        if bundle and sum(map(len, bundle)) + len(text) > LETTERS:
            yield bundle
            bundle = []
        bundle.append(text)
    if bundle:
        yield bundle
