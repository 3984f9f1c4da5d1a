"""Target of attribution, ablation and patching: the logit of an answer, alone or minus that of another one.

All of them share it, so their numbers are comparable. A scalar model (a reward model, a value head) has one output,
which is the target itself. Defaults come from the models: the answer is the most probable token, and the answer against
it is the runner-up.

Axes: B texts, T tokens, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probe.analyses.analysis_record import Input
from probe.errors import DataError
from probe.logits.answer_tokens import AnswerTokens, answer_tokens
from probe.model.asked import asked_ids, every_token, last_token
from probe.model.lm import LM
from probe.model.scoring import check_lengths
from probe.model.text import NEWLINE, SPACE, pieces, text_ids

NOTHING = "(nothing)"
"""Value in place of the other answer that takes the logit of the answer alone."""
NAMED = 8
"""Number of most probable tokens of each model that are offered as answers."""


@dataclass(frozen=True)
class Target:
    """logit(answer) - logit(against) after the token at `position`, in nats."""

    position: int
    """Token whose output is read, from 0; if the answers begin alike, the last token that they share."""
    answer: int
    """Column of the logits: a token id; 0 for a scalar model."""
    against: int | None = None
    """Column that is subtracted; None takes the logit alone."""
    name: str = ""
    """Name on an axis, such as `oslo - paris`."""
    shared: tuple[int, ...] = ()
    """Tokens with which both answers begin; they stand in the text up to `position` (see `text`)."""
    words: AnswerTokens | None = None
    """All tokens of the answers, if one of them has several."""

    @property
    def note(self) -> str:
        """Sentence that says which tokens of the answers are compared; empty if each answer is one token."""
        return self.words.note if self.words else ""

    def text(self, ids: Sequence[int]) -> list[int]:
        """Return the ids to run: a text up to the position of the answers, then the tokens that they share.

        A text that already has the shared tokens is returned unchanged.

        Args:
            ids: text for which the target was made, or the result of this function for it.
        """
        start = self.position + 1 - len(self.shared)
        if tuple(ids[start : self.position + 1]) == self.shared:
            return list(ids)
        return [*ids[:start], *self.shared]

    @property
    def answers(self) -> list[int]:
        """Tokens that are compared, one or two."""
        return [self.answer] if self.against is None else [self.answer, self.against]


def target_of(
    lm: LM,
    text: str | Sequence[int],
    answer: str | int | None = None,
    against: str | int | None = None,
    position: int | None = None,
) -> Target:
    """Make a target from words: the logit of the first token in which two answers differ.

    Tokens with which both begin (digits of two numbers) are appended to the text: run `target.text(ids)`. Analyses that
    take a text and a target do so themselves.

    Args:
        lm: the model.
        text: text that is run, or its ids.
        answer: a text (without another answer, its first token counts) or a token id; None is the most probable token.
        against: the same for the answer that is subtracted; None takes the logit of `answer` alone.
        position: token after which the answers are due; default: the last.

    Raises:
        DataError: an answer has no tokens or lies beyond the vocabulary, the answers are equal or one begins with the
            other, or the position is outside the text.
    """
    ids = text_ids(lm.tokenizer, text)
    check_lengths(lm.model, [ids], [])
    at = len(ids) - 1 if position is None else position
    if not 0 <= at < len(ids):
        raise DataError(f"Position {position} was requested in a text of {len(ids)} tokens: give 0 to {len(ids) - 1}.")
    if lm.readout != "tokens":
        return Target(at, 0, None, lm.readout)
    first = answer if answer is not None else likely_tokens([lm], ids, at)[0]
    chosen = answer_tokens(lm, [first] if against is None else [first, against])
    check_lengths(lm.model, [], [at + 1 + chosen.count])
    tokens, name = chosen.tokens, " \u2212 ".join(each.strip() for each in chosen.names)
    second = None if against is None else tokens[1]
    words = chosen if chosen.note else None
    return Target(at + chosen.count, tokens[0], second, name, tuple(chosen.shared), words)


def require_inside(target: Target, length: int) -> None:
    """Raise a DataError unless the target's token lies in a text with `length` tokens."""
    if not 0 <= target.position < length:
        raise DataError(
            f"The target is at token {target.position} of a text of {length} tokens: give 0 to {length - 1}."
        )


def require_text(target: Target, ids: Sequence[int]) -> None:
    """Raise a DataError unless the target's token lies in the text, after the tokens that its answers share."""
    require_inside(target, len(ids))
    if target.text(ids) != list(ids):
        raise DataError(
            "The answers of the target begin alike, and their shared beginning is not in the text: give the ids"
            " of `target.text(ids)`."
        )


def value(logits: Float[Tensor, "B T V"], target: Target) -> Float[Tensor, " B"]:
    """Return the target's value in each text of a batch, differentiable."""
    require_inside(target, logits.shape[1])
    row = logits[:, target.position].float()
    return row[:, target.answer] - (row[:, target.against] if target.against is not None else 0.0)


@torch.no_grad()
def likely_tokens(lms: Sequence[LM], ids: Sequence[int], position: int) -> list[int]:
    """Return the most probable tokens of models after a token of a text.

    The first is the most probable token of the last model, the second its rival: the most probable token of another
    model, or else the second most probable one of its own. The others follow in turn, at most `NAMED` of each model.
    """
    rows = []
    for lm in reversed(lms):
        row = lm.logits([list(ids)])[0, position].float()
        rows.append(row.topk(min(NAMED, len(row))).indices.tolist())
    return list(dict.fromkeys(token for column in zip_longest(*rows) for token in column if token is not None))


def likely_words(*lms: LM, prompt: str, chat: bool, position: int | None) -> list[str]:
    """Return the models' most probable tokens after a token of a prompt, readable (`likely_tokens`).

    Raises:
        DataError: the prompt has no tokens or too many.
    """
    if any(lm.readout != "tokens" for lm in lms):
        return []
    ids = asked_ids(lms[-1], prompt, chat)
    at = len(ids) - 1 if position is None else min(position, len(ids) - 1)
    return list(dict.fromkeys(pieces(lms[-1].tokenizer, likely_tokens(lms, ids, at))))


def likeliest_of(words: Sequence[str]) -> str:
    """Name the default answer."""
    return f"likeliest: {words[0]}" if words else "the likeliest"


def rival_of(words: Sequence[str]) -> str:
    """Name the default answer to compare it with."""
    return f"rival: {words[1]}" if len(words) > 1 else "its rival"


Position = Annotated[
    int | None, Input("Token", key="log_position", first=last_token, within=every_token, placeholder="the last")
]
"""Token after which answers are due."""
Answer = Annotated[
    str | int | None,
    Input("Answer", key="log_answer", suggestions=likely_words, placeholder=likeliest_of, type=str | None),
]
"""Answer: a text, or a token as written in a figure (`\u00b7rome`)."""
Against = Annotated[
    str | int | None,
    Input(
        "Against",
        key="log_against",
        suggestions=likely_words,
        placeholder=rival_of,
        nothing=NOTHING,
        type=str | None,
    ),
]
"""Answer that is compared with it."""


def asked_target(
    lm: LM,
    ids: Sequence[int],
    answer: str | int | None = None,
    against: str | int | None = None,
    position: int | None = None,
) -> Target:
    """Make a target from a person's input; defaults are the most probable token and its rival.

    Args:
        lm: the model.
        ids: token ids of the text.
        answer: a text, with the blank that precedes it; a token as it is shown (`·` is a blank, `↵` the end of a
            line); its id; None is the most probable token.
        against: the same for the answer that is subtracted; None is the second most probable token (the most probable
            one if it is not the answer), `NOTHING` takes the logit of the answer alone.
        position: token after which the answers are due; default: the last.

    Raises:
        DataError: see `target_of`.
    """
    check_lengths(lm.model, [ids], [])
    if lm.readout != "tokens" or not ids:
        return target_of(lm, ids, None, None, position)
    at = len(ids) - 1 if position is None else position
    target_of(lm, ids, 0, None, at)  # check the position
    first, second = (
        spelled_token(lm.tokenizer, word) if isinstance(word, str) and word != NOTHING else word
        for word in (answer, against)
    )
    if first is None or second is None:
        likely = likely_tokens([lm], ids, at)
        first = likely[0] if first is None else first
        own = answer_tokens(lm, [first]).tokens[0]
        second = _rival(own, likely) if second is None else second
    return target_of(lm, ids, first, None if second == NOTHING else second, at)


def same_target(
    lms: Sequence[LM],
    *,
    prompt: str,
    chat: bool = False,
    answer: str | int | None = None,
    against: str | int | None = None,
    position: int | None = None,
    **others: Any,
) -> Mapping[str, Any]:
    """Return the answers about which all models are asked if none are given: see `likely_tokens`.

    Models with different tokens are each asked about their own answers.

    Raises:
        DataError: the prompt has no tokens or too many.
    """
    vocabulary = lms[-1].tokenizer.get_vocab()
    alike = all(lm.readout == "tokens" and lm.tokenizer.get_vocab() == vocabulary for lm in lms)
    if not alike or (answer is not None and against is not None):
        return {}
    ids = asked_ids(lms[-1], prompt, chat)
    likely = likely_tokens(lms, ids, len(ids) - 1 if position is None else position)
    first = answer if answer is not None else likely[0]
    word = spelled_token(lms[-1].tokenizer, first) if isinstance(first, str) else first
    own = answer_tokens(lms[-1], [word]).tokens[0]
    return {"answer": first, "against": _rival(own, likely) if against is None else against}


def _rival(answer: int, likely: Sequence[int]) -> int:
    """Return the token to compare an answer with: of `likely_tokens` the second, else the first, else another."""
    return next((token for token in [*likely[1:2], *likely[:1], *likely[2:]] if token != answer), likely[0])


def spelled_token(tokenizer: PreTrainedTokenizerBase, word: str) -> str | int:
    """Return the token whose readable form a word is, else the text that the word spells."""
    text = word.replace(SPACE, " ").replace(NEWLINE, "\n")
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) == 1 and pieces(tokenizer, ids) == [word]:
        return ids[0]
    return _vocabulary(tokenizer).get(word, text)


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the tokens of a vocabulary by their readable forms; of equal ones the first."""
    tokens = range(len(tokenizer) - 1, -1, -1)
    return dict(zip(pieces(tokenizer, tokens), tokens, strict=True))
