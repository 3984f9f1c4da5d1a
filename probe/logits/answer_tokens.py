"""Answers as tokens: which token of each answer is followed, and which tokens all answers begin with.

Two answers may begin with the same token: many tokenizers split numbers into digits, so that " 15" and " 14" share a
blank and a 1. The followed token is the first one in which the answers differ; the tokens that all share before it are
appended to the text. A single answer is followed by its first token. `whole_logprobs` gives the sum over all tokens of
each answer.

Axes: A answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import torch

from probe.errors import DataError
from probe.model.lm import LM
from probe.model.text import SPACE, pieces, require_known

LONGEST = 60
"""Maximum number of letters of the shared beginning that a sentence quotes."""


@dataclass(frozen=True)
class AnswerTokens:
    """Tokens of A answers, and which of them are followed."""

    ids: tuple[tuple[int, ...], ...]
    """[A] all tokens of each answer."""
    texts: tuple[str, ...]
    """[A] text of each answer, without blanks around it."""
    names: tuple[str, ...]
    """[A] readable token of each answer that is followed."""
    alike: str
    """Text with which all answers begin; empty if their first tokens differ."""
    count: int
    """Number of tokens of this shared beginning."""

    @property
    def shared(self) -> list[int]:
        """Tokens with which all answers begin; they are appended to the text."""
        return list(self.ids[0][: self.count]) if self.ids else []

    @property
    def tokens(self) -> list[int]:
        """[A] token of each answer that is followed: the first that differs, or the first token of a single answer."""
        return [each[self.count] for each in self.ids]

    @property
    def note(self) -> str:
        """Sentence that says which tokens are followed; empty if every answer is one token."""
        if all(len(each) == 1 for each in self.ids):
            return ""
        texts, names = (_listed([f"\u201c{each}\u201d" for each in words]) for words in (self.texts, self.names))
        if len(self.ids) == 1:
            return f"{texts} has {len(self.ids[0])} tokens; its first token, {names}, is followed."
        if not self.count:
            return f"{texts} differ in their first tokens, which are followed: {names}."
        alike = self.alike if len(self.alike) <= LONGEST else f"\u2026{self.alike[-LONGEST:]}"
        return (
            f"{texts} begin alike: \u201c{alike}\u201d is added to the prompt, and the first tokens that differ"
            f" are followed: {names}."
        )


def answer_tokens(
    lm: LM, answers: Sequence[str | int | Sequence[int]], texts: Sequence[str] | None = None
) -> AnswerTokens:
    """Find the first token in which answers differ.

    Args:
        lm: a model of tokens.
        answers: texts, with the blank that precedes them; token ids; or lists of these.
        texts: names of the answers in sentences; default: the answers themselves.

    Raises:
        DataError: an answer has no tokens, begins with an unknown word, or lies beyond the vocabulary; two answers are
            equal, or one is the beginning of another; or of more than two answers some, but not all, share the token at
            the first difference.
    """
    ids = [_ids(lm, answer) for answer in answers]
    texts = texts or [
        answer.strip() or answer if isinstance(answer, str) else _text(lm, each)
        for answer, each in zip(answers, ids, strict=True)
    ]
    count = _common(ids) if len(ids) > 1 else 0
    unknown = lm.tokenizer.unk_token_id
    for answer, each in zip(answers, ids, strict=True):
        if isinstance(answer, str) and unknown is not None and unknown in each[: count + 1]:
            require_known(lm.tokenizer, [answer])
    for first, second in permutations(range(len(ids)), 2):
        if ids[second][: len(ids[first])] == ids[first]:
            raise DataError(_not_told_apart(texts[first], texts[second], ids[first] == ids[second]))
    for first, second in combinations(range(len(ids)), 2):
        if ids[first][count] == ids[second][count]:
            raise DataError(
                f"The answers \u201c{texts[first]}\u201d and \u201c{texts[second]}\u201d still begin alike where others"
                " differ from them: give two answers at a time."
            )
    names = pieces(lm.tokenizer, [each[count] for each in ids])
    alike = _text(lm, ids[0][:count]) if count else ""
    return AnswerTokens(tuple(map(tuple, ids)), tuple(texts), tuple(names), alike, count)


@torch.no_grad()
def whole_logprobs(lm: LM, text: Sequence[int], answers: AnswerTokens) -> list[float]:
    """Return the log-probability [A] of each whole answer after a text in nats, summed over the answer's tokens.

    Args:
        lm: the model.
        text: token ids before the answers, without the tokens that they share.
        answers: result of `answer_tokens`.

    Raises:
        DataError: an empty text, or one longer than the model's context.
    """
    scores = lm.logprobs([list(text)], [[list(each) for each in answers.ids]])
    return [float(total) for total in scores.values.double().sum(dim=1)]


def _ids(lm: LM, answer: str | int | Sequence[int]) -> list[int]:
    """Return all tokens of an answer."""
    if isinstance(answer, str):
        ids = list(lm.tokenizer.encode(answer, add_special_tokens=False))
    else:
        ids = [int(token) for token in answer] if isinstance(answer, Sequence) else [int(answer)]
    if not ids:
        raise DataError(f"The answer {answer!r} has no tokens: give at least one word.")
    size = lm.model.get_output_embeddings().weight.shape[0]
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise DataError(f"The token {wrong} was requested and the model has {size}: give one of 0 to {size - 1}.")
    return ids


def _common(ids: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens with which all lists begin."""
    return next((at for at, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1), min(map(len, ids)))


def _not_told_apart(short: str, long: str, equal: bool) -> str:
    """Explain why two answers differ in no token."""
    if equal:
        return f"The answer \u201c{short}\u201d was given twice: give two different answers."
    return (
        f"The answer \u201c{long}\u201d begins with the whole of \u201c{short}\u201d, so no token distinguishes"
        " them: add what follows the shorter one, such as a full stop, or give another answer."
    )


def _text(lm: LM, ids: Sequence[int]) -> str:
    """Return tokens as text with visible blanks."""
    text = lm.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "\ufffd" in text or not text:  # part of a character
        return "".join(pieces(lm.tokenizer, ids))
    return "".join(SPACE if letter.isspace() else letter for letter in text)


def _listed(words: Sequence[str]) -> str:
    """Join words to a list in a sentence."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
