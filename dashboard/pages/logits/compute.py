"""What the Logits page computes, each once for a model, a text and a token; other answers cost a few products."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dashboard import models
from dashboard.sides import Side

if TYPE_CHECKING:
    from probe.logits.answer_tokens import AnswerTokens
    from probe.logits.attribution import Attribution
    from probe.logits.lens import Target
    from probe.logits.parts import PromotedTokens, Reading
    from probe.logits.trajectories import LayerTrajectory, PairTrajectory, ScalarLens, WrittenTrajectory
    from probe.model.lm import LM

WINDOW = 12
"""Columns of a lens; of longer texts those around the chosen token."""
NAMED = 8
"""Likeliest tokens of each model that are offered as answers."""


@dataclass(frozen=True)
class Question:
    """What the figures are about."""

    sides: tuple[Side, ...]
    """The models shown, the base first."""
    ids: tuple[int, ...]
    """The text; what the answers begin with alike ends it."""
    tokens: list[str]
    """Readable pieces of it."""
    target: "Target"
    """Which logit, after which token."""
    answers: tuple[int, ...]
    """Tokens that are followed: the answer, and the one against it."""
    whole: "AnswerTokens | None" = None
    """The whole answers, where one of them has several tokens."""

    @property
    def scalar(self) -> bool:
        """Whether the models read out one number."""
        return self.sides[-1].lm.readout != "tokens"

    @property
    def unit(self) -> str:
        """Of the logits."""
        return self.sides[-1].lm.readout if self.scalar else "nats"

    @property
    def label(self) -> str:
        """The target's name."""
        return self.target.name

    @property
    def window(self) -> tuple[int, int]:
        """The positions that lenses show; it moves by half of its width, so that a near token needs nothing new."""
        half, length = WINDOW // 2, len(self.ids)
        start = min(max(0, (self.target.position // half - 1) * half), max(0, length - WINDOW))
        return start, min(length, start + WINDOW)

    @property
    def source(self) -> dict[str, object]:
        """Provenance of figures."""
        about = {"target": self.label, "position": self.target.position}
        return {"models": [side.ref for side in self.sides], "tokens": list(self.ids), **about}


def favourites(lm: "LM", ids: tuple[int, ...]) -> np.ndarray:
    """[T k] the likeliest tokens after every token of a text."""
    return models.compute_once(_favourites, lm, say="Reading the text", ids=ids)


def lens(side: "Side", question: "Question") -> "LayerTrajectory":
    """Measures of one model through its layers; ranks after the target's token."""
    trajectory = models.compute_once(
        _layers, side.lm, say="Reading every layer", ids=question.ids, window=question.window
    )
    return _follow(side.lm, trajectory, question)


def pair(question: "Question") -> "PairTrajectory":
    """Measure both models through their layers, and how far apart they are."""
    base, aligned = (side.lm for side in question.sides)
    say = "Reading every layer of both models"
    both = models.compute_once(_pair, base, aligned, say=say, ids=question.ids, window=question.window)
    return replace(both, base=_follow(base, both.base, question), aligned=_follow(aligned, both.aligned, question))


def _follow(lm: "LM", trajectory: "LayerTrajectory", question: "Question") -> "LayerTrajectory":
    from probe.logits.trajectories import follow

    return follow(lm, trajectory, question.answers, question.target.position)


def scalar(side: "Side", question: "Question") -> "ScalarLens":
    """Read the scalar by layer and position."""
    return models.compute_once(_scalar, side.lm, say="Reading every layer", ids=question.ids)


def attribution(side: "Side", question: "Question") -> "Attribution":
    """Split the target into the parts of a model."""
    from probe.logits.attribution import attribute

    return attribute(side.lm, reading(side, question), question.target)


def tokens_of(side: "Side", question: "Question", layer: int, head: int | None) -> "PromotedTokens":
    """Return the tokens that a part promotes after the chosen token."""
    from probe.logits.parts import promoted_tokens

    return promoted_tokens(side.lm, reading(side, question), layer, head, k=8)


def reading(side: "Side", question: "Question") -> "Reading":
    """Read what every part of a model wrote at the chosen token."""
    say = "Reading what every part writes"
    return models.compute_once(_reading, side.lm, say=say, ids=question.ids, position=question.target.position)


def from_weights(side: "Side", layer: int, head: int, source: int) -> "PromotedTokens":
    """Return the tokens that a head would promote if it attended to one token only."""
    return models.compute_once(_from_weights, side.lm, say="Multiplying weights", layer=layer, head=head, source=source)


def write_tokens(side: "Side", question: "Question", n: int) -> "WrittenTrajectory":
    """Let a model write n tokens after the text, and measure its prediction before each."""
    return models.compute_once(
        _write_answers, side.lm, say=f"Writing {n} tokens", ids=question.ids, answers=question.answers, n=n
    )


def whole_answers(side: "Side", question: "Question") -> list[float]:
    """Log-probabilities of the whole answers in nats, summed over their tokens; none where each is one token."""
    chosen = question.whole
    if chosen is None:
        return []
    ids = question.ids[: question.target.position + 1 - chosen.count]
    return models.compute_once(_whole_answers, side.lm, say="Reading the answers", ids=ids, answers=chosen)


def is_written(side: "Side", question: "Question", n: int) -> bool:
    """Whether `write_tokens` has its result already."""
    return models.ready(_write_answers, side.lm, ids=question.ids, answers=question.answers, n=n) is not None


def _whole_answers(lm: "LM", ids: tuple[int, ...], answers: "AnswerTokens") -> list[float]:
    from probe.logits.answer_tokens import whole_logprobs

    return whole_logprobs(lm, ids, answers)


def _favourites(lm: "LM", ids: tuple[int, ...]) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits = lm.logits([list(ids)])[0].float()
    return logits.topk(min(NAMED, logits.shape[-1]), dim=-1).indices.cpu().numpy()


def _layers(lm: "LM", ids: tuple[int, ...], window: tuple[int, int]) -> "LayerTrajectory":
    from probe.logits.trajectories import over_layers

    return over_layers(lm, ids, window=window)


def _pair(base: "LM", aligned: "LM", ids: tuple[int, ...], window: tuple[int, int]) -> "PairTrajectory":
    from probe.logits.trajectories import pair_over_layers

    return pair_over_layers(base, aligned, ids, window=window)


def _scalar(lm: "LM", ids: tuple[int, ...]) -> "ScalarLens":
    from probe.logits.trajectories import scalar_lens

    return scalar_lens(lm, ids)


def _reading(lm: "LM", ids: tuple[int, ...], position: int) -> "Reading":
    from probe.logits.parts import read_parts

    return read_parts(lm, ids, position)


def _from_weights(lm: "LM", layer: int, head: int, source: int) -> "PromotedTokens":
    from probe.logits.parts import ov_tokens

    return ov_tokens(lm, layer, head, source, k=8)


def _write_answers(lm: "LM", ids: tuple[int, ...], answers: tuple[int, ...], n: int) -> "WrittenTrajectory":
    from probe.logits.trajectories import over_writing

    return over_writing(lm, ids, answers, n=n)
