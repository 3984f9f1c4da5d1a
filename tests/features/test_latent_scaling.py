"""Latent scaling: factors by least squares, and what is known of two made-up models."""

import numpy as np
import pytest
import torch

from probe.errors import ConfigError
from probe.features.autoencoder import Autoencoder
from probe.features.latent_scaling import KINDS, scale_latents, scale_states
from probe.features.streamed_states import Piece, states_of
from tests.models import random_lm


def test_factors_are_those_of_least_squares():
    drawn = torch.Generator().manual_seed(0)
    model = Autoencoder.random(2, 5, 7, seed=2).requires_grad_(False)
    states = torch.randn(200, 2, 5, generator=drawn) + 0.4
    found = scale_states(model, states.split(60))
    active, guess = model.encode(states).double().numpy(), model(states).double().numpy()
    whole, decoder, bias = states.double().numpy(), model.W_dec.double().numpy(), model.b_dec.double().numpy()
    for j, row in found.iterrows():
        sizes = np.linalg.norm(decoder[j], axis=-1)
        strong = int(sizes.argmax())
        design = (active[:, j, None] * decoder[j, strong]).ravel()[:, None]
        factors = []
        for target in (whole - guess + active[:, j, None, None] * decoder[j], guess - bias):
            factors.append([np.linalg.lstsq(design, target[:, m].ravel(), rcond=None)[0][0] for m in range(2)])
        for name, pair in zip(("error_ratio", "reconstruction_ratio"), factors, strict=True):
            assert row[name] == pytest.approx(pair[1 - strong] / pair[strong], rel=1e-4, abs=1e-6)
        assert row["relative_norm"] == pytest.approx((((sizes[1] - sizes[0]) / sizes.max()) + 1) / 2, rel=1e-5)


def test_what_alignment_did_to_known_features_is_found():
    """Six directions: in both models; turned; in one only; and one that both have, which the crosscoder has for one."""
    eye, size = torch.eye(8), 0.5
    known = torch.zeros(6, 2, 8)
    for at in range(6):
        known[at] = eye[at]
    known[1, 1] = eye[6]  # changed
    known[2, 0] = 0  # new
    known[3, 1] = 0  # lost
    decoder = size * known
    decoder[4, 0] = 0  # sparsity took away the base's side of what both have
    drawn = torch.Generator().manual_seed(0)
    on = (torch.rand(3000, 6, generator=drawn) < 0.3) * (1 + torch.rand(3000, 6, generator=drawn))
    on[:, 5] = 0
    states = torch.einsum("bf,fmd->bmd", on, size * known)
    encoder = (decoder / decoder.square().sum((1, 2), keepdim=True)).permute(1, 2, 0)
    model = Autoencoder(encoder, torch.zeros(6), decoder, torch.zeros(2, 8)).requires_grad_(False)
    found = scale_states(model, [states])
    assert found["kind"].tolist() == ["shared", "changed", "new", "lost", "artefact", "silent"]
    assert set(found["kind"]) == set(KINDS)
    assert found["error_ratio"][4] == pytest.approx(1, abs=0.05)
    assert found["error_ratio"][2] == pytest.approx(0, abs=0.05)


def test_states_of_two_models_are_read_once():
    base, aligned = random_lm(seed=0), random_lm(seed=1)
    model = Autoencoder.random(2, base.bridge.cfg.d_model, 12).requires_grad_(False)
    pieces = [Piece([5, 6, 7, 8], "a"), Piece([9, 10, 4], "b")]
    states = torch.cat([each[1:] for each in states_of([base, aligned], [one.ids for one in pieces], 1)])
    plain = scale_states(model, [states])
    found = scale_latents(base, aligned, model, pieces, 1)
    np.testing.assert_allclose(found.drop(columns="kind"), plain.drop(columns="kind"), rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match="compares 2 models, and these features are of 1"):
        scale_states(Autoencoder.random(1, 4, 5), [])
