"""Sparse autoencoder of residual streams, of one model or of several at once (a crosscoder), and its BatchTopK loss.

BatchTopK (Bussmann, Leask and Nanda 2024, arXiv 2412.06410) keeps the k B largest activations of a batch of B tokens,
so that k features are active on average. A crosscoder encodes the states of all models together and decodes each of
them (Minder et al. 2025, arXiv 2504.02922). Activations are weighed by the norm of their decoder, summed over models,
so that the scale of a decoder has no effect on what is kept. Dead features learn from the error of the others (the
auxiliary loss of Gao et al. 2024, arXiv 2406.04093).

Axes: B tokens, M models, d width, F features.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

AUXILIARY = 1 / 32
"""Weight of the auxiliary loss."""


class Autoencoder(nn.Module):
    """Features of the residual stream: an encoder, a decoder, and the activation that makes them sparse."""

    threshold: Tensor
    """[F] activations up to here are 0."""

    def __init__(
        self,
        W_enc: Float[Tensor, "M d F"],
        b_enc: Float[Tensor, " F"],
        W_dec: Float[Tensor, "F M d"],
        b_dec: Float[Tensor, "M d"],
        threshold: Float[Tensor, " F"] | None = None,
        most: int | None = None,
        centred: bool = True,
    ) -> None:
        """Make an autoencoder of given weights.

        Args:
            W_enc: encoder.
            b_enc: bias of the encoder.
            W_dec: decoder.
            b_dec: bias of the decoder.
            threshold: activations up to here are 0; 0 by default.
            most: largest number of features that are active at a token; None for all.
            centred: whether the bias of the decoder is subtracted from what is encoded.
        """
        super().__init__()
        self.W_enc, self.b_enc = nn.Parameter(W_enc), nn.Parameter(b_enc)
        self.W_dec, self.b_dec = nn.Parameter(W_dec), nn.Parameter(b_dec)
        self.register_buffer("threshold", torch.zeros_like(b_enc) if threshold is None else threshold)
        self.most, self.centred = most, centred

    @classmethod
    def random(cls, models: int, width: int, features: int, seed: int = 0) -> "Autoencoder":
        """Return an autoencoder with random decoders of norm 1, summed over models, and encoders equal to them.

        A feature begins with the same decoder in all models, so that where they differ it was learned.
        """
        drawn = torch.randn(features, 1, width, generator=torch.Generator().manual_seed(seed)).repeat(1, models, 1)
        decoder = drawn / drawn.norm(dim=-1).sum(-1)[:, None, None]
        return cls(decoder.permute(1, 2, 0).contiguous(), torch.zeros(features), decoder, torch.zeros(models, width))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of models M, of dimensions d, and of features F."""
        models, width, features = self.W_enc.shape
        return models, width, features

    @property
    def norms(self) -> Float[Tensor, "F M"]:
        """Norm of each feature's decoder in each model."""
        return self.W_dec.norm(dim=-1)

    def centre(self, states: Float[Tensor, "B M d"]) -> Float[Tensor, "B Md"]:
        """Return what is encoded: the states of all models in a row, less the bias of the decoder if `centred`."""
        return (states - self.b_dec if self.centred else states).flatten(1)

    def before(self, states: Float[Tensor, "B M d"]) -> Float[Tensor, "B F"]:
        """Return what enters the activation function."""
        return self.centre(states) @ self.W_enc.flatten(0, 1) + self.b_enc

    def encode(self, states: Float[Tensor, "B M d"]) -> Float[Tensor, "B F"]:
        """Return the activations of the features."""
        before = self.before(states)
        active = before.relu() * (before > self.threshold.relu())
        if self.most is None or self.most >= active.shape[-1]:
            return active
        top = active.topk(self.most, dim=-1)
        return torch.zeros_like(active).scatter(-1, top.indices, top.values)

    def decode(self, activations: Float[Tensor, "B F"]) -> Float[Tensor, "B M d"]:
        """Return the states that activations stand for."""
        return (activations @ self.W_dec.flatten(1)).unflatten(-1, self.b_dec.shape) + self.b_dec

    def forward(self, states: Float[Tensor, "B M d"]) -> Float[Tensor, "B M d"]:
        """Return the reconstruction of states."""
        return self.decode(self.encode(states))

    @torch.no_grad()
    def fold(self, scale: float = 1.0) -> None:
        """Give every feature a decoder of norm 1, summed over models, and take states divided by `scale` from now on.

        Reconstructions do not change, up to the scale.
        """
        norms = self.norms.sum(-1).clamp(min=1e-8)
        self.W_enc.mul_(norms)
        self.b_enc.mul_(norms / scale)
        self.threshold.mul_(norms / scale)
        self.W_dec.div_(norms[:, None, None])
        self.b_dec.div_(scale)


class Loss(NamedTuple):
    """Loss of a batch, and what of it is of interest."""

    total: Tensor
    """Quantity to minimise."""
    error: Tensor
    """Mean squared error of an element."""
    active: Bool[Tensor, "B F"]
    """Activations that are kept."""


def keep_largest(weighed: Float[Tensor, "B F"], k: float) -> Bool[Tensor, "B F"]:
    """Return the mask of the k B largest of all values, as far as they are above 0; more if some are equal."""
    positive = weighed > 0
    values = weighed.detach()[positive]  # among many equal zeros a partition takes five times as long
    out = len(values) - round(k * len(weighed))
    if out <= 0:
        return positive
    if weighed.device.type == "cpu":  # ten times as fast as topk
        least = float(np.partition(values.numpy(), out)[out])
    else:
        least = float(values.topk(len(values) - out, sorted=False).values.min())
    return (weighed >= least) & positive


def batch_loss(
    model: Autoencoder, states: Float[Tensor, "B M d"], k: float, dead: Bool[Tensor, " F"] | None = None
) -> Loss:
    """Return the BatchTopK loss: mean squared error with k features a token, and 1/32 of the auxiliary loss.

    The auxiliary loss is the mean squared error with which the d/2 most active dead features of each token reconstruct
    the error of the others.

    Args:
        model: the autoencoder.
        states: states of the models.
        k: mean number of features that are kept a token.
        dead: features that have not been active for long; None for no auxiliary loss.
    """
    centred = model.centre(states)
    encoder, decoder = model.W_enc.flatten(0, 1), model.W_dec.flatten(1)
    norms = model.norms.sum(-1)
    with torch.no_grad():
        active = keep_largest(model.before(states).relu_().mul_(norms), k)
    token, feature = active.nonzero(as_tuple=True)  # few of B F: only these have gradients
    activations = (centred[token] * functional.embedding(feature, encoder.T)).sum(-1) + model.b_enc[feature]
    count = active.sum(1)
    decoded = functional.embedding_bag(
        feature, decoder, count.cumsum(0) - count, mode="sum", per_sample_weights=activations
    )
    rest = states - decoded.unflatten(-1, model.b_dec.shape) - model.b_dec
    error = rest.square().mean()
    total = error
    if dead is not None and dead.any():
        names = dead.nonzero()[:, 0]
        own = (centred @ encoder[:, names] + model.b_enc[names]).relu()
        most = states.shape[-1] // 2 or 1
        if most < len(names):
            top = (own * norms[names]).topk(most, dim=-1).indices
            own = torch.zeros_like(own).scatter(-1, top, own.gather(-1, top))
        guess = (own @ decoder[names]).unflatten(-1, model.b_dec.shape)
        total = error + AUXILIARY * (rest.detach() - guess).square().mean()
    return Loss(total, error.detach(), active)
