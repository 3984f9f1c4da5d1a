"""On what an effect is measured: the logit of an answer at a position, alone or against another answer's.

Attribution, ablation and patching share it, so that their numbers can be laid side by side. A scalar model (a reward
model, a value head) has one output, which is the target itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.lens import answer_ids
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.scoring import check_lengths
from probe.model.text import pieces


@dataclass(frozen=True)
class Target:
    """logit(answer) - logit(against) after the token at `position`, in nats."""

    position: int
    """The token whose output is read, from 0."""
    answer: int
    """Column of the logits: a token id; 0 for a scalar model."""
    against: int | None = None
    """The column that is subtracted; None takes the logit alone."""
    name: str = ""
    """What it is called on an axis, such as `oslo - paris`."""


def target_of(
    lm: LM,
    ids: Sequence[int],
    answer: str | int | None = None,
    against: str | int | None = None,
    position: int | None = None,
) -> Target:
    """A target by words.

    Args:
        lm: the model.
        ids: the text that is run.
        answer: a text, whose first token counts, or a token id; None is the token that the model finds likeliest there.
        against: the same for the answer that is subtracted; None takes the logit of `answer` alone.
        position: default: the last token.

    Raises:
        DataError: an answer without tokens, one beyond the vocabulary, or a position outside of the text.
    """
    check_lengths(lm.model, [ids], [])
    at = len(ids) - 1 if position is None else position
    if not 0 <= at < len(ids):
        raise DataError(f"Position {position} was asked for in a text of {len(ids)} tokens: give 0 to {len(ids) - 1}.")
    if lm.readout != "tokens":
        return Target(at, 0, None, lm.readout)
    first = column_of(lm, answer) if answer is not None else _likeliest(lm, ids, at)
    second = None if against is None else column_of(lm, against)
    names = [piece.strip() for piece in pieces(lm.tokenizer, [first] if second is None else [first, second])]
    return Target(at, first, second, " \u2212 ".join(names))


def require_inside(target: Target, length: int) -> None:
    """Raise a DataError unless the target's token is one of a text of `length` tokens."""
    if not 0 <= target.position < length:
        raise DataError(
            f"The target is at token {target.position} of a text of {length} tokens: give 0 to {length - 1}."
        )


def value(logits: Float[Tensor, "B T V"], target: Target) -> Float[Tensor, " B"]:
    """The target's value in each text of a batch, differentiable."""
    require_inside(target, logits.shape[1])
    row = logits[:, target.position].float()
    return row[:, target.answer] - (row[:, target.against] if target.against is not None else 0.0)


@torch.no_grad()
def _likeliest(lm: LM, ids: Sequence[int], position: int) -> int:
    return int(lm.logits([list(ids)])[0, position].argmax())


def column_of(lm: LM, answer: str | int) -> int:
    """The column of the logits that an answer has: the first token of a text, or the id itself.

    Raises:
        DataError: an answer without tokens, with an unknown word first, or one beyond the vocabulary.
    """
    column = answer_ids(lm, [answer])[0] if isinstance(answer, str) else int(answer)
    size = lm.model.get_output_embeddings().weight.shape[0]
    if not 0 <= column < size:
        raise DataError(f"The token {column} was asked for and the model has {size}: give one of 0 to {size - 1}.")
    return column
