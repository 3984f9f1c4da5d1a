"""Lenses that are fitted: an affine map of the residual stream after each block, before the final norm.

    tuned      the map that minimises KL(output || lens) on texts (Belrose et al. 2023, arXiv 2303.08112)
    Jacobian   the mean Jacobian of the last residual by this one (transformer-lens; Gurnee et al. 2026)

Their quality is the KL on held-out texts, beside that of the logit lens after the same block and that of the unigram
distribution: the mean prediction on the fitting texts, which has the smallest KL of all constant predictions. A map is
stored with the model's results, and fitted once.

Axes: D blocks, R rows that are mapped (the embedding and all blocks but the last), N tokens, d width, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import probe.world
from probe.analyses.analysis_record import Analysis
from probe.analyses.stored_results import find_result, keep_result
from probe.errors import DataError, ModelError
from probe.logits.readout import residual_names, unembed
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.model.text import encode
from probe.plotting.notebook import Drawable
from probe.rows import read_documents
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

FittedKind = Literal["tuned", "Jacobian"]
TUNED = (
    r"\mathrm{tuned}_l(t) = \mathrm{softmax}\big(W_{out}\, \mathrm{norm}(A_l h_t^l + b_l) + b_{out}\big), \quad "
    r"A_l, b_l = \operatorname*{argmin} \mathbb{E}\, \mathrm{KL}(\pi_t \,\|\, \mathrm{tuned}_l(t))"
)
FIT, HELD_OUT = 8192, 2048
"""Number of tokens on which a lens is fitted, and on which it is tested."""
LONGEST = 128
"""Number of tokens of the pieces into which texts are cut."""
STEPS, BATCH, RATE = 300, 256, 3e-3
"""Steps of Adam for each row, tokens of a step, and initial rate, which falls to 0 as a cosine."""
JACOBIAN_TOKENS = 1024
"""Number of tokens on which the mean Jacobian is computed."""
LEAST = 5e-4
"""Smallest difference of two KL in nats that counts."""
DIMENSIONS = 32
"""Number of rows of a Jacobian that one backward pass computes."""
READ_AT_ONCE = 16
"""Number of pieces in one forward pass."""


@dataclass(frozen=True)
class FittedLens(Drawable):
    """Affine maps of the residual stream, and how near each brings a lens to the model's output."""

    kind: FittedKind
    """Kind of the maps."""
    matrices: np.ndarray
    """[R d d] matrix A of each row: the mapped residual is A h + b."""
    biases: np.ndarray
    """[R d] vector b of each row."""
    kl: np.ndarray
    """[D+1] KL(output || this lens) on held-out texts in nats; 0 in the last row."""
    kl_logit: np.ndarray
    """[D+1] KL(output || logit lens) on the same texts in nats."""
    kl_unigram: float
    """KL(output || mean prediction on the fitting texts) on the same texts in nats."""
    tokens: int
    """Number of held-out tokens."""
    fitted_on: int
    """Number of tokens on which the maps were fitted."""

    def table(self) -> pd.DataFrame:
        """Return one row per layer: layer (row), name, and the KL of the lens, the logit lens and the unigram."""
        names = ["embedding", *(f"block {block}" for block in range(len(self.kl) - 1))]
        own = {"layer": range(len(self.kl)), "name": names, "kl": self.kl, "kl_logit": self.kl_logit}
        return pd.DataFrame({**own, "kl_unigram": self.kl_unigram, "tokens": self.tokens, "lens": self.kind})

    def figure(self) -> "go.Figure":
        """Draw the KL to the output by layer."""
        from probe.logits.figures import lens_distances
        from probe.plotting.notebook import alone

        return lens_distances([(alone()[0], self.table())])

    def sentence(self) -> str:
        """Compare the KL of this lens with those of the logit lens and the unigram distribution."""
        rows = range(len(self.kl) - 1)
        names = ["the embedding", *(f"L{row - 1}" for row in rows[1:])]
        worse = [row for row in rows if not self.kl[row] < self.kl_logit[row] - LEAST]
        empty = [row for row in rows if self.kl[row] >= self.kl_unigram]
        middle = len(self.kl) // 2
        but = f" except {_listed([names[row] for row in worse])}" if worse else ""
        where = f"nearer to the output than the logit lens after every layer{but}"
        where = "after no layer nearer to the output than the logit lens" if len(worse) == len(rows) else where
        text = (
            f"On {self.tokens:,} held-out tokens the {self.kind} lens is {where}"
            f" (KL after {names[middle]} {self.kl[middle]:.2f} instead of {self.kl_logit[middle]:.2f} nats; the unigram"
            f" distribution has {self.kl_unigram:.2f})"
        )
        if empty:
            text += f"; after {_listed([names[row] for row in empty])} it says no more than the unigram distribution"
        return f"{text}."

    def mapped(self, residual: Float[Tensor, "R N d"]) -> Float[Tensor, "R N d"]:
        """Return the mapped residual stream of all rows."""
        matrices, biases = (torch.from_numpy(each).to(residual.device) for each in (self.matrices, self.biases))
        found = residual.float() @ matrices.mT + biases[:, None]
        return found.to(residual.dtype)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def lens_texts(lm: LM, data: Path | None) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids of the texts to fit on and of the held-out texts, in pieces of at most `LONGEST` tokens.

    A model of a world reads its documents; those that were fitted on are not held out. Of a file, every fifth piece is
    held out.

    Raises:
        DataError: no file is given and the model has no world; the file cannot be read, or has less than two pieces.
    """
    world = probe.world.of(lm)
    if data is None and world is None:
        raise DataError(
            "This lens is fitted on texts, and the model has no world that writes some: give a file of texts (--data)."
        )
    fit: list[list[int]] = []
    held: list[list[int]] = []
    if data is not None:
        pieces = [piece for text in read_documents(data) for piece in _pieces(encode(lm.tokenizer, text))]
        for at, piece in enumerate(pieces):
            (held if at % 5 == 4 or at == len(pieces) - 1 else fit).append(piece)
        fit, held = _first(fit, FIT), _first(held, HELD_OUT)
    elif world is not None:
        seen = set[str]()
        for document in world.documents(0):
            if sum(map(len, fit)) >= FIT:
                break
            seen.add(document.text)
            fit += _pieces(encode(lm.tokenizer, document.text))
        for document in world.documents(1):
            if sum(map(len, held)) >= HELD_OUT:
                break
            if document.text not in seen:
                held += _pieces(encode(lm.tokenizer, document.text))
    if not fit or not held:
        raise DataError(
            f"{data} has {len(fit) + len(held)} pieces of text of two tokens or more; expected at least two."
        )
    return fit, held


def _pieces(ids: Sequence[int]) -> list[list[int]]:
    parts = [list(ids[start : start + LONGEST]) for start in range(0, len(ids), LONGEST)]
    return [part for part in parts if len(part) > 1]


def _first(pieces: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """Return the first pieces with together at least so many tokens."""
    ends = np.cumsum([len(piece) for piece in pieces])
    return list(pieces[: int(np.searchsorted(ends, tokens)) + 1])


@torch.no_grad()
def residuals(lm: LM, texts: Sequence[Sequence[int]], tick: Tick = ignore) -> Float[Tensor, "R+1 N d"]:
    """Return the residual stream after the embedding and after each block at every token of the texts."""
    names, rows = residual_names(lm), list[Tensor]()
    order = sorted(texts, key=len)
    for start in range(0, len(order), READ_AT_ONCE):
        some = order[start : start + READ_AT_ONCE]
        _, cache = lm.run_with_cache([list(each) for each in some], names)
        kept = [torch.cat([cache[name][at, : len(each)] for at, each in enumerate(some)]) for name in names]
        rows.append(torch.stack(kept))
        tick(min(1.0, (start + READ_AT_ONCE) / len(order)))
    return torch.cat(rows, dim=1)


def distance(lm: LM, last: Float[Tensor, "N d"], residual: Float[Tensor, "N d"]) -> Float[Tensor, ""]:
    """Return the mean KL(output || lens) in nats of a mapped residual stream, differentiable by it."""
    with torch.no_grad():
        own = unembed(lm, last).log_softmax(-1)
    return (own.exp() * (own - unembed(lm, residual).log_softmax(-1))).sum(-1).mean()


def tune(
    lm: LM, residual: Float[Tensor, "R+1 N d"], tick: Tick = ignore
) -> tuple[Float[Tensor, "R d d"], Float[Tensor, "R d"]]:
    """Fit the affine map of each row by Adam on the KL to the output, starting from the identity.

    Where a fit brings a row no nearer to the output, even on its own texts, the map stays the identity.

    Args:
        lm: the model.
        residual: residual stream of the texts; its last row gives the output.
        tick: progress.
    """
    *inner, last = residual
    width, matrices, biases = residual.shape[-1], list[Tensor](), list[Tensor]()
    for row, states in enumerate(inner):
        draws = torch.Generator().manual_seed(row)
        matrix = torch.eye(width, device=residual.device, requires_grad=True)
        bias = torch.zeros(width, device=residual.device, requires_grad=True)
        adam = torch.optim.Adam([matrix, bias], lr=RATE)
        slow = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
        for step in range(STEPS):
            some = torch.randint(len(states), (min(BATCH, len(states)),), generator=draws).to(residual.device)
            with torch.enable_grad():
                mapped = states[some].float() @ matrix.mT + bias
                loss = distance(lm, last[some], mapped.to(residual.dtype))
                matrix.grad, bias.grad = torch.autograd.grad(loss, [matrix, bias])
            adam.step()
            slow.step()
            tick((row + (step + 1) / STEPS) / len(inner))
        with torch.no_grad():
            mapped = (states.float() @ matrix.mT + bias).to(residual.dtype)
            gain = sum(
                float(distance(lm, end, before) - distance(lm, end, after)) * len(end)
                for end, before, after in zip(*(each.split(BATCH) for each in (last, states, mapped)), strict=True)
            )
            helps = gain / len(states) > LEAST
        matrices.append(matrix.detach() if helps else torch.eye(width, device=residual.device))
        biases.append(bias.detach() * helps)
    return torch.stack(matrices), torch.stack(biases)


def mean_jacobians(lm: LM, texts: Sequence[Sequence[int]], tick: Tick = ignore) -> Float[Tensor, "R d d"]:
    """Return the mean Jacobian of the last residual by that of each row, as transformer-lens computes it.

    The lens has none for the embedding: its row is the identity.

    Raises:
        ModelError: transformer-lens does not know this lens for the architecture.
    """
    from transformer_lens.tools.analysis import JacobianLens

    width, blocks = lm.bridge.cfg.d_model, lm.bridge.cfg.n_layers
    total = torch.zeros(blocks, width, width)
    total[0] = torch.eye(width) * len(texts)
    for at, ids in enumerate(texts):
        try:
            found = JacobianLens.fit(
                lm.bridge,
                [str(lm.tokenizer.decode(list(ids))).removeprefix(str(lm.tokenizer.bos_token or "")).strip()],
                corpus="texts",
                dim_batch=DIMENSIONS,
                skip_first_positions=1,
                max_seq_len=LONGEST,
                show_progress=False,
            )
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ModelError(f"The Jacobian lens cannot be fitted to this model: {error}") from error
        for layer, matrix in found.jacobians.items():
            total[layer + 1] += matrix
        tick((at + 1) / len(texts))
    return total / len(texts)


def fit_maps(
    lm: LM, kind: FittedKind, texts: Sequence[list[int]], tick: Tick = ignore
) -> tuple[Float[Tensor, "R d d"], Float[Tensor, "R d"]]:
    """Fit the affine map of each row on texts, which are lists of token ids.

    Raises:
        ModelError: see `mean_jacobians`.
    """
    if kind == "tuned":
        return tune(lm, residuals(lm, texts, between(tick, 0, 0.1)), between(tick, 0.1, 1))
    long = [text for text in texts if len(text) > 3]
    matrices = mean_jacobians(lm, _first(long, JACOBIAN_TOKENS), tick).to(lm.device)
    return matrices, torch.zeros(matrices.shape[:2], device=matrices.device)


def fit_lens(lm: LM, kind: FittedKind = "tuned", data: Path | None = None, tick: Tick = ignore) -> FittedLens:
    """Fit a lens to a model on texts, and measure its distance to the output on other texts.

    Args:
        lm: the model.
        kind: kind of lens.
        data: file of texts; by default documents of the model's world.
        tick: progress.

    Raises:
        DataError: see `lens_texts`.
        ModelError: see `mean_jacobians`.
    """
    fit, held = lens_texts(lm, data)
    matrices, biases = fit_maps(lm, kind, fit, between(tick, 0, 0.8))
    last = residuals(lm, fit, between(tick, 0.8, 0.9))[-1]
    found = FittedLens(
        kind,
        matrices.cpu().numpy(),
        biases.cpu().numpy(),
        kl=np.zeros(0),
        kl_logit=np.zeros(0),
        kl_unigram=0.0,
        tokens=sum(map(len, held)),
        fitted_on=len(last),
    )
    return _tested(lm, found, last, residuals(lm, held))


@torch.no_grad()
def _tested(lm: LM, found: FittedLens, fitted: Float[Tensor, "N d"], held: Float[Tensor, "R+1 M d"]) -> FittedLens:
    """Return the lens with its distances to the output on held-out texts."""
    mean = torch.cat([unembed(lm, some).softmax(-1).sum(0, keepdim=True) for some in fitted.split(BATCH)])
    unigram = (mean.double().sum(0) / len(fitted)).clamp(min=1e-30).log().float()
    rows = [*found.mapped(held[:-1]), held[-1]]
    sums = np.zeros((3, len(rows)))
    for start in range(0, held.shape[1], BATCH):
        part = slice(start, start + BATCH)
        last, size = held[-1, part], len(held[-1, part])
        own = unembed(lm, last).log_softmax(-1)
        for row, states in enumerate(rows):
            sums[0, row] += size * float(distance(lm, last, states[part]))
            sums[1, row] += size * float(distance(lm, last, held[row, part]))
        sums[2] += float((own.exp() * (own - unigram)).sum())
    kl, kl_logit, kl_unigram = np.maximum(sums / held.shape[1], 0.0)
    return replace(found, kl=kl, kl_logit=kl_logit, kl_unigram=float(kl_unigram[0]))


RECORD = Analysis("fit_lens", "logits", "Fitted lens", fit_lens, seconds=lambda *_, **__: None)
"""Record by which fitted lenses are stored; it is no analysis of its own."""


def obtain_lens(lm: LM, kind: FittedKind, data: Path | None = None, tick: Tick = ignore) -> FittedLens:
    """Return the stored lens of a model, or fit and store it (arguments and errors: see `fit_lens`)."""
    values = {"kind": kind, "data": data}
    stored = find_result(RECORD, values, lm)
    if stored is not None and isinstance(stored.result, FittedLens):
        return stored.result
    started = time.monotonic()
    found = fit_lens(lm, kind, data, tick)
    keep_result(RECORD, values, found, time.monotonic() - started, lm)
    return found


def fit_seconds(lm: LM, kind: FittedKind, data: Path | None) -> float:
    """Estimate the seconds that `obtain_lens` takes; 0 if the lens is stored."""
    if find_result(RECORD, {"kind": kind, "data": data}, lm) is not None:
        return 0.0
    unembedding, rows = lm.model.get_output_embeddings().weight.numel(), lm.bridge.cfg.n_layers
    columns = 4 * STEPS * BATCH * rows if kind == "tuned" else 0
    backward = 3 * JACOBIAN_TOKENS * lm.bridge.cfg.d_model if kind == "Jacobian" else 0
    return seconds_to_read(lm, FIT + HELD_OUT + backward + columns * unembedding / lm.n_parameters)
