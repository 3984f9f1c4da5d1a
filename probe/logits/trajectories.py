"""How sure a model is, and of what, through its layers and while it writes: the lens as numbers, of one model or two.

After each layer: entropy of the next-token distribution, margin between its two likeliest tokens, log-probability and
rank of each chosen answer; KL between two models. `over_writing` measures the same before every token that a model
writes, `probe.logits.trained` over the steps of its training. All of it is of the distribution at temperature 1,
whatever the tokens were drawn at. `follow` takes other answers through the layers of a text that was read already, by a
few columns of the unembedding instead of all.

Axes: D blocks, T tokens, A answers, K columns, k likeliest tokens, n written tokens, d width, V vocabulary. Ranks
count from 0 = likeliest. Row 0 is the embedding, row D the model's own output; column t tells what follows token t.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import ConfigError, DataError, ModelError
from probe.logits.answer_tokens import answer_tokens
from probe.logits.lens import (
    Lens,
    LensReader,
    entropy,
    kl,
    lens_logprobs,
    lens_of,
    require_same_tokens,
    residual_names,
    shape_logits,
    unembed,
)
from probe.model.lm import LM
from probe.model.scoring import check_lengths
from probe.model.text import encode, pieces, text_ids
from probe.plotting.notebook import NAME, Drawable

if TYPE_CHECKING:
    import plotly.graph_objects as go

AT_ONCE = 2**24
"""Logits that are held at once while the layers are read."""


@dataclass(frozen=True)
class LayerTrajectory(Drawable):
    """A text through the layers of one model."""

    lens: Lens
    """Likeliest tokens, entropy and log-probability of the answers, by layer and position."""
    start: int
    """Position of the first of the T columns in the text; 0 unless a window was requested."""
    answers: list[str]
    """[A] the answers as readable pieces."""
    answer_ids: list[int]
    """[A] their tokens."""
    margin: np.ndarray
    """[D+1 T] log-probability of the likeliest token minus that of the second, nats."""
    logprobs: np.ndarray
    """[D+1 T A] log-probability of each answer, nats."""
    ranks: np.ndarray
    """[D+1 T A] how many tokens are likelier than each answer; NaN where ranks were not requested."""
    residual: Tensor = field(repr=False, compare=False)
    """[D+1 T d] the residual stream, from which `follow` reads other answers."""

    @property
    def entropy(self) -> np.ndarray:
        """[D+1 T] entropy, nats."""
        return self.lens.entropy

    def decision_row(self, position: int) -> int:
        """Return the first row from which on the favourite after the token at `position` stays that of the output."""
        return self.lens.decision_row(position - self.start)

    def table(self, position: int | None = None) -> pd.DataFrame:
        """Tidy: layer (row), name, position, token, measure, answer (empty where it concerns none), value."""
        first = self.start if position is None else position
        part = slice(None) if position is None else slice(position - self.start, position - self.start + 1)
        series = [("entropy", "", self.entropy), ("margin", "", self.margin)]
        for index, answer in enumerate(self.answers):
            series += [("logprob", answer, self.logprobs[..., index]), ("rank", answer, self.ranks[..., index])]
        row, column = (axis.ravel() for axis in np.indices(self.entropy[:, part].shape))
        places = {
            "layer": row,
            "name": np.array(self.lens.rows, dtype=object)[row],
            "position": first + column,
            "token": np.array(self.lens.tokens[part], dtype=object)[column],
        }
        frames = [
            pd.DataFrame({**places, "measure": measure, "answer": answer, "value": values[:, part].ravel()})
            for measure, answer, values in series
        ]
        return pd.concat(frames, ignore_index=True).dropna(subset="value", ignore_index=True)

    def figure(self, position: int | None = None) -> "go.Figure":
        """Log-probability and rank of the answers, entropy and margin over layers, at one token (the last one)."""
        from probe.logits.figures import Side, curves, layer_names
        from probe.plotting.theme import METHODS

        at = -1 if position is None else position - self.start
        names = layer_names(len(self.entropy))
        entropy, margin, logprobs, ranks = (x[:, at] for x in (self.entropy, self.margin, self.logprobs, self.ranks))
        side = Side(NAME, METHODS["dpo"], entropy, margin, logprobs, ranks, names)
        return curves([side], self.answers, axis="after layer", ticks=["emb", *names[1:-1], names[-1].split(" ")[0]])


@dataclass(frozen=True)
class PairTrajectory(Drawable):
    """Two models on one text through their layers."""

    base: LayerTrajectory
    """The model compared against."""
    aligned: LayerTrajectory
    """The other one."""
    tokens: list[str]
    """Readable pieces of the whole text."""
    token_kl: np.ndarray
    """[length of the text] KL(aligned || base) of what follows each token, nats."""
    kl: np.ndarray | None
    """[D+1 T] the same after each layer, by the lenses; None for models of different depth."""

    def table(self, position: int | None = None) -> pd.DataFrame:
        """Both trajectories (see `LayerTrajectory.table`) with a column `model`, and rows of measure `kl`."""
        sides = [("base", self.base), ("aligned", self.aligned)]
        frames = [side.table(position).assign(model=name) for name, side in sides]
        if self.kl is not None:
            row, column = (axis.ravel() for axis in np.indices(self.kl.shape))
            lens, start = self.base.lens, self.base.start
            about = {"layer": row, "name": [lens.rows[each] for each in row], "position": start + column}
            words = {"token": [lens.tokens[each] for each in column], "measure": "kl", "answer": ""}
            rows = pd.DataFrame({**about, **words, "value": self.kl.ravel(), "model": "aligned || base"})
            frames.append(rows if position is None else rows[rows["position"] == position])
        return pd.concat(frames, ignore_index=True)

    def figure(self) -> "go.Figure":
        """KL of the two models by layer and token.

        Raises:
            DataError: the models have different depths.
        """
        from probe.logits.figures import kl_map

        if self.kl is None:
            raise DataError("The two models have different depths, so their layers have no common rows: see `table()`.")
        return kl_map(self.kl, self.base.lens.tokens)


@dataclass(frozen=True)
class ScalarLens(Drawable):
    """The scalar of a reward or value model, read after each layer at each token."""

    tokens: list[str]
    """[T] readable pieces of the text."""
    values: np.ndarray
    """[D+1 T] the head on the normed residual stream; row D is the model's own scalar."""

    def table(self) -> pd.DataFrame:
        """One row for each layer and position: layer, name, position, token, value."""
        layer, position = (axis.ravel() for axis in np.indices(self.values.shape))
        names = ["embedding", *(f"block {block}" for block in range(len(self.values) - 1))]
        return pd.DataFrame(
            {
                "layer": layer,
                "name": [names[row] for row in layer],
                "position": position,
                "token": [self.tokens[column] for column in position],
                "value": self.values.ravel(),
            }
        )

    def figure(self) -> "go.Figure":
        """Draw the scalar after each layer at each token."""
        from probe.logits.figures import LensPanel, lens_map

        return lens_map([LensPanel("", self.values)], self.tokens, label="scalar", unit="")


@torch.no_grad()
def over_layers(
    lm: LM,
    text: str | Sequence[int],
    answers: Sequence[str | int] = (),
    k: int = 5,
    window: tuple[int, int] | None = None,
) -> LayerTrajectory:
    """Entropy, margin and the answers' rank and log-probability after each layer, at every position of a text.

    Args:
        lm: a model of tokens.
        text: a text or its ids.
        answers: texts, whose first token that differs counts, or token ids; what texts begin with alike is read behind
            the text (see `probe.logits.answer_tokens`).
        k: how many of the likeliest tokens to keep, 2 at least.
        window: (start, stop) of the positions that are read; default: all. The whole text is run in any case.

    Raises:
        DataError: a scalar model (see `scalar_lens`), a text or an answer without tokens, answers that no token tells
            apart, or an empty window.
        ModelError: the architecture cannot be hooked, or its output is more than norm and unembedding.
    """
    reader = _Reader(lm, text, answers, k, window)
    for row in reader.rows():
        reader.add(row)
    return reader.trajectory()


@torch.no_grad()
def pair_over_layers(
    base: LM,
    aligned: LM,
    text: str | Sequence[int],
    answers: Sequence[str | int] = (),
    k: int = 5,
    window: tuple[int, int] | None = None,
) -> PairTrajectory:
    """Two models on one text through their layers, and the KL between them (arguments as in `over_layers`).

    Raises:
        DataError: the tokenizers differ, and as in `over_layers`.
    """
    require_same_tokens(base, aligned)
    readers = [_Reader(lm, text, answers, k, window) for lm in (base, aligned)]
    distances: list[Tensor | None] = []
    for pair in zip_longest(*(reader.rows() for reader in readers)):
        for reader, row in zip(readers, pair, strict=True):
            if row is not None:
                reader.add(row)
        distances.append(None if any(row is None for row in pair) else kl(pair[1][0], pair[0][0]))
    present = [distance for distance in distances if distance is not None]
    logprobs = [reader.logits[0].float().log_softmax(-1) for reader in readers]
    return PairTrajectory(
        base=readers[0].trajectory(),
        aligned=readers[1].trajectory(),
        tokens=pieces(aligned.tokenizer, readers[1].ids),
        token_kl=kl(logprobs[1], logprobs[0]).cpu().numpy(),
        kl=torch.stack(present).cpu().numpy() if len(present) == len(distances) else None,
    )


@torch.no_grad()
def scalar_lens(lm: LM, text: str | Sequence[int]) -> ScalarLens:
    """Read the lens of a reward or value model: its head on the residual stream after each layer, at every token.

    Raises:
        DataError: a model of tokens.
        ModelError: norm and head of the last residual do not give the model's own scalar.
    """
    if lm.readout == "tokens":
        raise DataError("This model gives tokens and no scalar: use `over_layers`.")
    ids = text_ids(lm.tokenizer, text)
    logits, cache = lm.run_with_cache([ids], residual_names(lm))
    rows = torch.stack([unembed(lm, cache[name])[0, :, 0] for name in residual_names(lm)])
    own = logits[0, :, 0].float()
    if float((rows[-1] - own).abs().max()) > 0.02 * float(own.abs().max()) + 1e-4:
        raise ModelError(
            f"The lens does not know how {type(lm.model).__name__} makes its scalar from the residual stream: use a "
            "model of another architecture."
        )
    return ScalarLens(pieces(lm.tokenizer, ids), torch.cat([rows[:-1], own[None]]).cpu().numpy())


def margin(logprobs: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    """Log-probability of the likeliest token minus that of the second, nats; 0 for a vocabulary of one."""
    if logprobs.shape[-1] < 2:
        return torch.zeros_like(logprobs[..., 0])
    top = logprobs.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def rank(logprobs: Float[Tensor, "T V"], tokens: Sequence[int]) -> Int[Tensor, "T A"]:
    """How many tokens are likelier than each of `tokens`: 0 for the likeliest."""
    counts = [(logprobs > logprobs[:, token, None]).sum(-1) for token in tokens]
    return torch.stack(counts, dim=-1) if counts else torch.zeros((len(logprobs), 0), dtype=torch.long)


class _Reader:
    """Reads one text through the layers of one model, row by row, so that one row of logits is in memory."""

    def __init__(
        self,
        lm: LM,
        text: str | Sequence[int],
        answers: Sequence[str | int],
        k: int,
        window: tuple[int, int] | None,
    ) -> None:
        require_tokens(lm)
        self.lm = lm
        chosen = answer_tokens(lm, answers)
        self.ids, self.answers = [*text_ids(lm.tokenizer, text), *chosen.shared], chosen.tokens
        check_lengths(lm.model, [self.ids], [])
        self.start, self.stop = (0, len(self.ids)) if window is None else window
        if not 0 <= self.start < self.stop <= len(self.ids):
            raise DataError(
                f"The window {window} was asked for in a text of {len(self.ids)} tokens: give a part of it."
            )
        names = residual_names(lm)
        self.logits, cache = lm.run_with_cache([self.ids], names)
        part = slice(self.start, self.stop)
        self.residual = torch.stack([cache[name][0, part] for name in names])
        self.own = self.logits[0, part].float().log_softmax(-1)
        last = {name: cache[name][:, part][:, -1:] for name in (names[0], names[-1])}
        next(lens_logprobs(lm, {**dict.fromkeys(names, last[names[0]]), **last}, self.logits[:, part][:, -1:]))
        batch = torch.tensor([self.ids[part]])
        self.reader = LensReader(batch, max(k, 2), torch.tensor([self.answers], dtype=torch.long))

    def rows(self) -> Iterator[Float[Tensor, "1 T V"]]:
        """Log-probabilities after the embedding and after each block.

        Few columns leave the unembedding waiting for its own weights, so several rows go through it at once.
        """
        inner, size = self.residual[:-1], max(1, self.own.numel())
        for rows in inner.split(max(1, AT_ONCE // size)):
            for row in unembed(self.lm, rows).log_softmax(-1):
                yield row[None]
        yield self.own[None]

    def add(self, row: Float[Tensor, "1 T V"]) -> None:
        """Read the next row of log-probabilities."""
        self.reader.add(row)

    def trajectory(self) -> LayerTrajectory:
        """Return the trajectory that was read."""
        readings = self.reader.readings()
        top = readings.top_logprobs[0].cpu().numpy()
        return LayerTrajectory(
            lens=lens_of(self.lm, self.ids[self.start : self.stop], pieces(self.lm.tokenizer, self.answers), readings),
            start=self.start,
            answers=pieces(self.lm.tokenizer, self.answers),
            answer_ids=self.answers,
            margin=top[..., 0] - top[..., 1],
            logprobs=readings.answer_logprobs[0].cpu().numpy(),
            ranks=readings.answer_ranks[0].double().cpu().numpy(),
            residual=self.residual,
        )


def require_tokens(lm: LM) -> None:
    """Raise a DataError for a model that reads out one number."""
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model gives one number and no tokens: use `scalar_lens`.")


@torch.no_grad()
def follow(lm: LM, read: LayerTrajectory, answers: Sequence[str | int], position: int | None = None) -> LayerTrajectory:
    """Return a trajectory with other answers: log p(a) = logit(a) - logit(favourite) + log p(favourite).

    Args:
        lm: the model that was read.
        read: what `over_layers` gave.
        answers: texts, whose first token counts, or token ids.
        position: the only token after which ranks are wanted (elsewhere they are NaN), since a rank needs all logits;
            default: everywhere.

    Raises:
        DataError: an answer without tokens, or texts that begin alike: `over_layers` reads what they share.
    """
    chosen = answer_tokens(lm, answers)
    tokens = chosen.tokens
    if chosen.count:
        raise DataError(f"{chosen.note} The text was read without it: read it again by `over_layers` with the answers.")
    top = torch.from_numpy(read.lens.top_ids[..., :1]).to(read.residual.device)
    targets = torch.tensor(tokens, dtype=torch.long, device=top.device).expand(*top.shape[:-1], len(tokens))
    logits = columns(lm, read.residual, torch.cat([top, targets], dim=-1))
    logprobs = (logits[..., 1:] - logits[..., :1]).cpu().numpy() + read.lens.top_logprobs[..., :1]
    ranks = np.full(logprobs.shape, np.nan)
    for column in range(top.shape[1]) if position is None else [position - read.start]:
        ranks[:, column] = rank(unembed(lm, read.residual[:, column]), tokens).cpu().numpy()
    names = pieces(lm.tokenizer, tokens)
    lens = replace(read.lens, answers=names, answer_logprobs=logprobs)
    return replace(read, lens=lens, answers=names, answer_ids=tokens, logprobs=logprobs, ranks=ranks)


def columns(lm: LM, residual: Float[Tensor, "D T d"], tokens: Int[Tensor, "D T K"]) -> Float[Tensor, "D T K"]:
    """Return what `probe.logits.lens.unembed` gives, at some tokens only."""
    head = lm.model.get_output_embeddings()
    normed = lm.bridge.ln_final.original_component(residual)
    logits = (head.weight[tokens] @ normed[..., None])[..., 0]
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias[tokens]
    return shape_logits(lm, logits.float())


@dataclass(frozen=True)
class WrittenTrajectory(Drawable):
    """A model writes: entry i belongs to the distribution from which written token i was drawn."""

    prompt_tokens: list[str]
    """Readable pieces of the prompt."""
    tokens: list[str]
    """[n] readable pieces of what it wrote."""
    ids: list[int]
    """[n] the same as ids."""
    answers: list[str]
    """[A] the answers as readable pieces."""
    entropy: np.ndarray
    """[n] nats."""
    margin: np.ndarray
    """[n] nats."""
    chosen: np.ndarray
    """[n] log-probability of the token that was written, nats at temperature 1."""
    logprobs: np.ndarray
    """[n A] log-probability of each answer, nats."""
    ranks: np.ndarray
    """[n A] how many tokens are likelier than each answer."""
    top_tokens: np.ndarray
    """[n k] likeliest tokens, best first."""
    top_logprobs: np.ndarray
    """[n k] their log-probabilities, nats."""

    def table(self) -> pd.DataFrame:
        """Tidy: step, token, measure, answer (empty where it concerns none), value."""
        rows: list[tuple[int, str, str, str, float]] = []
        for step, token in enumerate(self.tokens):
            rows.append((step, token, "entropy", "", float(self.entropy[step])))
            rows.append((step, token, "margin", "", float(self.margin[step])))
            rows.append((step, token, "logprob", token, float(self.chosen[step])))
            for index, answer in enumerate(self.answers):
                rows.append((step, token, "logprob", answer, float(self.logprobs[step, index])))
                rows.append((step, token, "rank", answer, float(self.ranks[step, index])))
        return pd.DataFrame(rows, columns=["step", "token", "measure", "answer", "value"])

    def figure(self) -> "go.Figure":
        """Log-probability and rank of the answers, entropy and margin before every token that was written."""
        from probe.logits.figures import Side, curves
        from probe.plotting.theme import METHODS

        side = Side(NAME, METHODS["dpo"], self.entropy, self.margin, self.logprobs, self.ranks, self.tokens)
        return curves([side], self.answers, axis="written token", ticks=self.tokens)

    def top_table(self) -> pd.DataFrame:
        """One row for each written token and rank: step, token, rank, expected, logprob."""
        step, rank = (axis.ravel() for axis in np.indices(self.top_logprobs.shape))
        return pd.DataFrame(
            {
                "step": step,
                "token": np.array(self.tokens, dtype=object)[step],
                "rank": rank,
                "expected": self.top_tokens.ravel(),
                "logprob": self.top_logprobs.ravel(),
            }
        )


@torch.no_grad()
def over_writing(
    lm: LM,
    prompt: str | Sequence[int],
    answers: Sequence[str | int] = (),
    n: int = 12,
    temperature: float = 0.0,
    seed: int = 0,
    k: int = 5,
) -> WrittenTrajectory:
    """Let the model write n tokens, and read its next-token distribution before each of them.

    Args:
        lm: a model of tokens.
        prompt: a text or its ids.
        answers: texts, whose first token that differs counts, or token ids; what texts begin with alike joins the
            prompt.
        n: tokens to write at most; an end token ends it.
        temperature: of the drawing, 0 takes the likeliest; all measures are at temperature 1.
        seed: of the drawing.
        k: how many of the likeliest tokens to keep.

    Raises:
        DataError: a scalar model, a prompt or an answer without tokens, answers that no token tells apart, or too long
            a text.
        ConfigError: n below 1.
    """
    require_tokens(lm)
    if n < 1:
        raise ConfigError(f"{n} tokens were asked for: let the model write 1 at least.")
    ids = encode(lm.tokenizer, prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
    chosen = answer_tokens(lm, answers)
    ids, tokens = [*ids, *chosen.shared], chosen.tokens
    continuation = lm.generate([ids], max_new_tokens=n, temperature=temperature, seed=seed).ids[0]
    logprobs = lm.logits([[*ids, *continuation]])[0, len(ids) - 1 : -1].float().log_softmax(-1)
    top = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
    names = pieces(lm.tokenizer, top.indices.flatten().tolist())
    return WrittenTrajectory(
        prompt_tokens=pieces(lm.tokenizer, ids),
        tokens=pieces(lm.tokenizer, continuation),
        ids=list(continuation),
        answers=pieces(lm.tokenizer, tokens),
        entropy=entropy(logprobs).cpu().numpy(),
        margin=margin(logprobs).cpu().numpy(),
        chosen=logprobs[range(len(continuation)), continuation].cpu().numpy(),
        logprobs=logprobs[:, tokens].cpu().numpy(),
        ranks=rank(logprobs, tokens).cpu().numpy(),
        top_tokens=np.array(names, dtype=object).reshape(top.indices.shape),
        top_logprobs=top.values.cpu().numpy(),
    )
