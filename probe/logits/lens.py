"""The logit lens: what the model would say if it stopped after each block; and the target that effects are measured on.

The residual stream after the embedding and after each block goes through the final norm and the unembedding
(nostalgebraist 2020). Row 0 is the embedding, row D the model's own output.

A target is the logit of an answer at a position, alone or minus another answer's. Attribution, ablation and patching
share it, so that their numbers can be laid side by side. A scalar model (a reward model, a value head) has one output,
which is the target itself.

Axes: B texts, D blocks, T tokens, V vocabulary, A answers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError, ModelError
from probe.logits.answer_tokens import answer_tokens
from probe.logits.direct import logit_cap, output_scale
from probe.model.heads import check_count
from probe.model.lm import LM
from probe.model.scoring import check_lengths
from probe.model.text import pieces, text_ids
from probe.plotting.notebook import Beside, Drawable, alone, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go


LENS = r"\mathrm{lens}_l(t) = \mathrm{softmax}\big(W_{out}\, \mathrm{norm}(h_t^l) + b_{out}\big)"


class LensRows(NamedTuple):
    """Lens readings of a batch of texts."""

    top_ids: Int[Tensor, "B D+1 T k"]
    """The most probable next tokens, best first."""
    top_logprobs: Float[Tensor, "B D+1 T k"]
    """Their log-probabilities in nats."""
    answer_logprobs: Float[Tensor, "B D+1 T A"]
    """Log-probability of each answer token in nats; minus infinity where a text has fewer answers."""
    entropy: Float[Tensor, "B D+1 T"]
    """Entropy of the next-token distribution in nats."""
    next_logprobs: Float[Tensor, "B D+1 T"]
    """Log-probability of the token that follows in the text in nats; NaN in the last column."""
    answer_ranks: Int[Tensor, "B D+1 T A"]
    """How many tokens are likelier than each answer: 0 for the likeliest; -1 where a text has fewer answers."""


@dataclass(frozen=True)
class Lens(Drawable):
    """The logit lens on one text; column t tells what follows token t."""

    tokens: list[str]
    """Readable pieces of the text."""
    ids: list[int]
    """Their ids."""
    answers: list[str]
    """The requested answers, as texts or readable pieces."""
    top_ids: np.ndarray
    """[D+1, T, k] most probable next tokens, best first."""
    top_tokens: np.ndarray
    """[D+1, T, k] the same as readable pieces."""
    top_logprobs: np.ndarray
    """[D+1, T, k] their log-probabilities in nats."""
    answer_logprobs: np.ndarray
    """[D+1, T, A] log-probability in nats of the first token in which each answer differs from the others."""
    next_logprobs: np.ndarray
    """[D+1, T] log-probability of the token that follows in the text in nats; NaN in the last column."""
    entropy: np.ndarray
    """[D+1, T] entropy of the next-token distribution in nats."""

    @property
    def rows(self) -> list[str]:
        """Names of the D + 1 rows."""
        return ["embedding", *(f"block {block}" for block in range(len(self.entropy) - 1))]

    def table(self) -> pd.DataFrame:
        """One row for each layer, position and rank: layer, name, position, token, rank, predicted, logprob."""
        layer, position, rank = (axis.ravel() for axis in np.indices(self.top_ids.shape))
        return pd.DataFrame(
            {
                "layer": layer,
                "name": [self.rows[row] for row in layer],
                "position": position,
                "token": [self.tokens[column] for column in position],
                "rank": rank,
                "predicted": self.top_tokens.ravel(),
                "logprob": self.top_logprobs.ravel(),
            }
        )

    def figure(self) -> "go.Figure":
        """Draw the favourite after each layer at each token, coloured by its probability."""
        from probe.logits.figures import lens_grid

        return lens_grid((self.top_tokens.tolist(), self.top_logprobs), self.tokens)

    def sentence(self) -> str:
        """Say what the model says next, and from which layer on that is its favourite."""
        return Lenses((self,), alone()).sentence()

    def decision_row(self, column: int = -1) -> int:
        """Return the first row from which on the favourite of a column stays that of the output."""
        favourites = self.top_ids[:, column, 0]
        others = np.flatnonzero(favourites != favourites[-1])
        return int(others[-1]) + 1 if len(others) else 0

    def decision(self, name: str, column: int = -1) -> str:
        """Return a clause such as `dpo says "rome" (91 %), its favourite from L2 on`.

        Args:
            name: of the model.
            column: of the token after which it is.
        """
        row, last = self.decision_row(column), len(self.entropy) - 1
        word = str(self.top_tokens[-1, column, 0]).strip("\u00b7")
        share = 100 * float(np.exp(self.top_logprobs[-1, column, 0]))
        ends = {0: "from the embedding on", last: "only after the last layer"}
        since = ends.get(row, f"from L{row - 1} on")
        return f"{name} says \u201c{word}\u201d ({share:.0f} %), its favourite {since}"

    def answer_table(self) -> pd.DataFrame:
        """One row for each layer, position and answer: layer, name, position, token, answer, logprob."""
        layer, position, answer = (axis.ravel() for axis in np.indices(self.answer_logprobs.shape))
        return pd.DataFrame(
            {
                "layer": layer,
                "name": [self.rows[row] for row in layer],
                "position": position,
                "token": [self.tokens[column] for column in position],
                "answer": [self.answers[column] for column in answer],
                "logprob": self.answer_logprobs.ravel(),
            }
        )


class Lenses(Beside[Lens]):
    """What one model or several would say if they stopped after each layer."""

    def sentence(self) -> str:
        """Say what every model says next, and from which layer on that is its favourite."""
        return "; ".join(each.decision(look.name) for look, each in zip(self.looks, self.results, strict=True)) + "."

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the favourite after each layer at each token, coloured by its probability, of each model."""
        several = len(self.looks) > 1
        return {
            f"lens-{index}" if index else "lens": titled(
                each.figure(), "What follows each token, layer by layer" + f": {look.name}" * several
            )
            for index, (look, each) in enumerate(zip(self.looks, self.results, strict=True))
        }

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return what follows the last token after each layer."""
        rows = next(iter(self.tables().values()))
        last = rows[(rows["position"] == rows["position"].max()) & (rows["rank"] < 3)]
        shown = last[["model", "name", "rank", "predicted"]].assign(probability=np.exp(last["logprob"]))
        return {"After the last token": shown.rename(columns={"name": "after"}).reset_index(drop=True)}


@analysis("logits", title="Logit lens", equations=(LENS,), key="log_lens", beside=Lenses)
@torch.no_grad()
def logit_lens(
    lm: LM,
    text: Annotated[str | Sequence[int], Input("Prompt", shared="prompt", type=str)],
    k: Annotated[int, Input("Tokens", advanced=True)] = 5,
    answers: Annotated[Sequence[str], Input("Answers", advanced=True, type=tuple[str, ...])] = (),
) -> Lens:
    """Read what a model would say if it stopped after each layer.

    The residual stream after the embedding and after each block goes through the final norm and the unembedding
    (nostalgebraist 2020). Column *t* tells what follows token *t*; the last row is the model itself. A model *settles*
    at the first layer from which on its favourite stays that of the output.

    Args:
        lm: the model.
        text: a text or its token ids.
        k: how many of the most probable tokens to keep.
        answers: texts, with the blank that precedes them, whose first token that differs is followed through the
            layers; what all begin with is read behind the text (see `probe.logits.answer_tokens`).

    Raises:
        ModelError: the architecture cannot be hooked, or its output is more than norm and unembedding.
        DataError: a text or an answer without tokens, answers that no token tells apart, or a scalar model.
        ConfigError: k is less than 1.
    """
    check_count(k)
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model gives one number and no tokens: use `scalar_lens`.")
    chosen = answer_tokens(lm, answers)
    ids = [*text_ids(lm.tokenizer, text), *chosen.shared]
    logits, cache = lm.run_with_cache([ids], residual_names(lm))
    batch, answer_row = torch.tensor([ids]), torch.tensor([chosen.tokens], dtype=torch.long)
    return lens_of(lm, ids, answers, read_lens(lens_logprobs(lm, cache, logits), batch, k, answer_row))


def lens_of(lm: LM, ids: Sequence[int], answers: Sequence[str], rows: LensRows, at: int = 0) -> Lens:
    """Return the lens of one text of a batch, with names for its tokens."""
    top = rows.top_ids[at].cpu().numpy()
    return Lens(
        tokens=pieces(lm.tokenizer, ids),
        ids=list(ids),
        answers=list(answers),
        top_ids=top,
        top_tokens=np.array(pieces(lm.tokenizer, top.ravel().tolist()), dtype=object).reshape(top.shape),
        top_logprobs=rows.top_logprobs[at].cpu().numpy(),
        answer_logprobs=rows.answer_logprobs[at].cpu().numpy(),
        next_logprobs=rows.next_logprobs[at].cpu().numpy(),
        entropy=rows.entropy[at].cpu().numpy(),
    )


def residual_names(lm: LM) -> list[str]:
    """Return the hook names of the residual stream after the embedding and after each block, D + 1 of them."""
    blocks = lm.bridge.cfg.n_layers
    return ["blocks.0.hook_resid_pre", *(f"blocks.{block}.hook_resid_post" for block in range(blocks))]


def unembed(lm: LM, residual: Float[Tensor, "... d"]) -> Float[Tensor, "... V"]:
    """Logits of a residual stream: final norm, unembedding and the architecture's scale or soft cap, if any.

    Both are the plain modules: hooks on them do not act here.
    """
    return shape_logits(lm, lm.model.get_output_embeddings()(lm.bridge.ln_final.original_component(residual)).float())


def shape_logits(lm: LM, logits: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Apply to the unembedding's output what an architecture adds: a factor (Cohere, Granite), a soft cap (Gemma 2)."""
    logits, cap = logits * output_scale(lm), logit_cap(lm)
    return torch.tanh(logits / cap) * cap if cap else logits


@torch.no_grad()
def lens_logprobs(
    lm: LM, cache: Mapping[str, Tensor], logits: Float[Tensor, "B T V"]
) -> Iterator[Float[Tensor, "B T V"]]:
    """Log-probabilities of the next token, one row after the other (D + 1), so that only one is in memory.

    Args:
        lm: the model.
        cache: activations that hold `residual_names(lm)`.
        logits: the model's own output, which is the last row.

    Raises:
        ModelError: norm and unembedding of the last residual do not give the model's own output.
    """
    *inner, last = residual_names(lm)
    own = logits.float().log_softmax(-1)
    again = unembed(lm, cache[last]).log_softmax(-1)
    if float((again.exp() - own.exp()).abs().max()) > 0.05:
        raise ModelError(
            f"The logit lens does not know how {type(lm.model).__name__} makes logits from its residual stream: "
            "use a model of another architecture."
        )
    for name in inner:
        yield unembed(lm, cache[name]).log_softmax(-1)
    yield own


class LensReader:
    """Takes the rows of a lens one after the other and keeps the readings.

    Args:
        ids: the texts, padded on the right.
        k: how many of the most probable tokens to keep.
        answers: answer tokens of each text, padded with -1.
    """

    def __init__(self, ids: Int[Tensor, "B T"], k: int, answers: Int[Tensor, "B A"]) -> None:
        self.ids, self.k, self.answers = ids, k, answers
        self.rows: list[tuple[Tensor, ...]] = []

    def add(self, row: Float[Tensor, "B T V"]) -> None:
        """Read the next row of log-probabilities."""
        answers = self.answers.to(row.device)[:, None].expand(-1, row.shape[1], -1)
        values = row.gather(-1, answers.clamp(min=0)).masked_fill(answers < 0, -torch.inf)
        follow = row[:, :-1].gather(-1, self.ids.to(row.device)[:, 1:, None])[..., 0]
        follow = torch.cat([follow, follow.new_full((len(follow), 1), torch.nan)], dim=1)
        top = row.topk(min(self.k, row.shape[-1]), dim=-1)
        ranks = count_above(row, values).masked_fill(answers < 0, -1)
        self.rows.append((top.indices, top.values, values, entropy(row), follow, ranks))

    def readings(self) -> LensRows:
        """Return the readings of all rows that were added."""
        return LensRows(*(torch.stack(part, dim=1) for part in zip(*self.rows, strict=True)))


@torch.no_grad()
def read_lens(
    rows: Iterable[Float[Tensor, "B T V"]], ids: Int[Tensor, "B T"], k: int, answers: Int[Tensor, "B A"]
) -> LensRows:
    """Read the rows that `lens_logprobs` gives (arguments: see `LensReader`)."""
    reader = LensReader(ids, k, answers)
    for row in rows:
        reader.add(row)
    return reader.readings()


@torch.no_grad()
def count_above(row: Float[Tensor, "B T V"], values: Float[Tensor, "B T A"]) -> Int[Tensor, "B T A"]:
    """Count the entries of each row that are greater than each of its values."""
    counts, above = torch.zeros_like(values, dtype=torch.int64), torch.empty_like(row)
    for a in range(values.shape[-1]):  # summed as numbers: torch counts booleans many times slower
        counts[..., a] = torch.gt(row, values[..., a, None], out=above).sum(-1)
    return counts


def entropy(logprobs: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    """Entropy of log-distributions in nats."""
    return -(logprobs.exp() * logprobs.clamp(min=-1e9)).sum(-1)


def kl(p: Float[Tensor, "... V"], q: Float[Tensor, "... W"]) -> Float[Tensor, "..."]:
    """KL(p || q) of two log-distributions in nats; over the common tokens, should one vocabulary be padded longer."""
    q = q.to(p.device)
    if p.shape[-1] != q.shape[-1]:
        common = min(p.shape[-1], q.shape[-1])
        p, q = p[..., :common].log_softmax(-1), q[..., :common].log_softmax(-1)
    return (p.exp() * (p.clamp(min=-1e9) - q.clamp(min=-1e9))).sum(-1).clamp(min=0)


def require_same_tokens(base: LM, aligned: LM) -> None:
    """Raise a DataError unless both models give every token the same id."""
    if base.tokenizer.get_vocab() != aligned.tokenizer.get_vocab():
        raise DataError(
            f"The models `{base.ref or 'created'}` and `{aligned.ref or 'created'}` have different tokenizers, so "
            "their probabilities cannot be compared token by token: choose two models of one family."
        )


@dataclass(frozen=True)
class Target:
    """logit(answer) - logit(against) after the token at `position`, in nats."""

    position: int
    """The token whose output is read, from 0; where the answers begin alike, the last token that they share."""
    answer: int
    """Column of the logits: a token id; 0 for a scalar model."""
    against: int | None = None
    """The column that is subtracted; None takes the logit alone."""
    name: str = ""
    """What it is called on an axis, such as `oslo - paris`."""
    shared: tuple[int, ...] = ()
    """Tokens that both answers begin with; they stand in the text up to `position` (see `text`)."""
    note: str = ""
    """Which tokens of the answers are compared, in a sentence; empty where each answer is one token."""

    def text(self, ids: Sequence[int]) -> list[int]:
        """Return the ids to run: a text up to where the answers are due, then what they share.

        A text that has what they share already is returned as it is.

        Args:
            ids: the text that the target was made for, or what this gave for it.
        """
        start = self.position + 1 - len(self.shared)
        if tuple(ids[start : self.position + 1]) == self.shared:
            return list(ids)
        return [*ids[:start], *self.shared]


def target_of(
    lm: LM,
    text: str | Sequence[int],
    answer: str | int | None = None,
    against: str | int | None = None,
    position: int | None = None,
) -> Target:
    """Make a target from words: the logit of the first token in which two answers differ.

    What both begin with (digits of two numbers) stands behind the text then: run `target.text(ids)`, as the analyses
    that take a text and a target do by themselves.

    Args:
        lm: the model.
        text: the text that is run, or its ids.
        answer: a text, whose first token counts where nothing is set against it, or a token id; None is the token that
            the model finds likeliest there.
        against: the same for the answer that is subtracted; None takes the logit of `answer` alone.
        position: the token after which the answers are due; default: the last.

    Raises:
        DataError: an answer without tokens, one beyond the vocabulary, two that are equal or of which one begins with
            the other, or a position outside of the text.
    """
    ids = text_ids(lm.tokenizer, text)
    check_lengths(lm.model, [ids], [])
    at = len(ids) - 1 if position is None else position
    if not 0 <= at < len(ids):
        raise DataError(f"Position {position} was asked for in a text of {len(ids)} tokens: give 0 to {len(ids) - 1}.")
    if lm.readout != "tokens":
        return Target(at, 0, None, lm.readout)
    first = answer if answer is not None else _likeliest(lm, ids, at)
    chosen = answer_tokens(lm, [first] if against is None else [first, against])
    check_lengths(lm.model, [], [at + 1 + chosen.count])
    tokens, name = chosen.tokens, " \u2212 ".join(each.strip() for each in chosen.names)
    second = None if against is None else tokens[1]
    return Target(at + chosen.count, tokens[0], second, name, tuple(chosen.shared), chosen.note)


def require_inside(target: Target, length: int) -> None:
    """Raise a DataError unless the target's token is one of a text of `length` tokens."""
    if not 0 <= target.position < length:
        raise DataError(
            f"The target is at token {target.position} of a text of {length} tokens: give 0 to {length - 1}."
        )


def require_text(target: Target, ids: Sequence[int]) -> None:
    """Raise a DataError unless the target's token is one of the text, and what its answers share stands before it."""
    require_inside(target, len(ids))
    if target.text(ids) != list(ids):
        raise DataError(
            "The answers of the target begin alike, and what they share is not in the text: run `target.text(ids)`."
        )


def value(logits: Float[Tensor, "B T V"], target: Target) -> Float[Tensor, " B"]:
    """Return the target's value in each text of a batch, differentiable."""
    require_inside(target, logits.shape[1])
    row = logits[:, target.position].float()
    return row[:, target.answer] - (row[:, target.against] if target.against is not None else 0.0)


@torch.no_grad()
def _likeliest(lm: LM, ids: Sequence[int], position: int) -> int:
    return int(lm.logits([list(ids)])[0, position].argmax())
