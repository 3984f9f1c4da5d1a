"""Autoencoders: exact reconstruction, a known dictionary recovered, gradients by finite differences, k on average."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from probe.errors import ConfigError, TrainingStopped
from probe.features.autoencoder import Autoencoder, batch_loss, keep_largest
from probe.features.fitting import FitSettings, fit
from probe.features.variables import match_variables

WIDTH, SIZE, ACTIVE = 16, 32, 3


def dictionary(models: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Generator]:
    """[F M d] known directions of norm 1, and a generator for what is made of them."""
    drawn = torch.Generator().manual_seed(seed)
    known = torch.randn(SIZE, models, WIDTH, generator=drawn)
    return known / known.norm(dim=-1, keepdim=True), drawn


def sparse_states(known: torch.Tensor, drawn: torch.Generator, count: int) -> torch.Tensor:
    """[B M d] sums of ACTIVE directions on average, with sizes from 1 to 2."""
    on = torch.rand(count, len(known), generator=drawn) < ACTIVE / len(known)
    sizes = 1 + torch.rand(count, len(known), generator=drawn)
    return torch.einsum("bf,fmd->bmd", on * sizes, known) + 0.5


def test_an_exact_autoencoder_reconstructs_exactly():
    """With 2 d features, one each way along every axis, and without sparsity, nothing is lost."""
    eye = torch.eye(WIDTH)
    model = Autoencoder(
        torch.cat([eye, -eye], 1)[None], torch.zeros(2 * WIDTH), torch.cat([eye, -eye])[:, None], torch.ones(1, WIDTH)
    )
    states = torch.randn(50, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(states), states, rtol=1e-5, atol=1e-6)
    loss = batch_loss(model, states, k=2 * WIDTH)
    assert loss.total.item() < 1e-10


def test_without_sparsity_a_fit_explains_everything():
    drawn = torch.Generator().manual_seed(0)
    batches = (torch.randn(256, 1, 8, generator=drawn) + 3 for _ in itertools.count())
    found = fit(batches, FitSettings(features=64, k=64, steps=500, batch_size=256, lr=5e-3))
    states = next(batches)
    rest = (found.model(states) - states).square().sum() / (states - states.mean(0)).square().sum()
    assert float(rest) < 0.01
    assert found.steps == 500


@pytest.mark.parametrize("models", [1, 2])
def test_a_known_dictionary_is_recovered(models: int):
    known, drawn = dictionary(models)
    batches = (sparse_states(known, drawn, 512) for _ in itertools.count())
    found = fit(batches, FitSettings(features=SIZE + 8, k=ACTIVE, steps=500, batch_size=512, lr=6e-3))
    learned = found.model.W_dec.flatten(1)
    cosines = torch.nn.functional.cosine_similarity(learned[:, None], known.flatten(1)[None], dim=-1)
    rows, columns = linear_sum_assignment(-cosines.numpy())  # each known direction has a feature of its own
    assert len(columns) == SIZE
    assert float(cosines[rows, columns].mean()) > 0.9
    states = sparse_states(known, drawn, 2000)
    assert float((found.model.encode(states) > 0).sum(-1).float().mean()) == pytest.approx(ACTIVE, rel=0.25)
    norms = found.model.norms.sum(-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-4, atol=1e-5)


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    model = Autoencoder.random(2, 3, 7, seed=4).double()
    states, dead = torch.randn(5, 2, 3, dtype=torch.double), torch.tensor([True, False] * 3 + [True])
    with torch.no_grad():  # decoders of different norms, and biases
        for each in model.parameters():
            each += 0.3 * torch.randn_like(each)
    batch_loss(model, states, 2, dead).total.backward()
    with torch.no_grad():
        rest = (states - model.decode(model.before(states).relu() * batch_loss(model, states, 2).active)).clone()

    def total() -> float:
        """The loss, with the error that dead features learn from held fixed, as its definition says."""
        plain = batch_loss(model, states, 2)
        activations, norms = model.before(states).relu(), model.norms.sum(-1)
        top = torch.where(dead, activations * norms, -1.0).topk(1, dim=-1).indices
        few = torch.zeros_like(activations).scatter(-1, top, activations.gather(-1, top))
        guess = torch.einsum("bf,fmd->bmd", few, model.W_dec)
        return (plain.total + (rest - guess).square().mean() / 32).item()

    assert total() == pytest.approx(batch_loss(model, states, 2, dead).total.item(), rel=1e-9)
    for each in model.parameters():
        assert each.grad is not None
        for at in np.ndindex(*each.shape):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    each[at] += step
                    values.append(total())
                    each[at] -= step
            assert float(each.grad[at]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_k_features_are_kept_on_average_and_not_at_every_token():
    weighed = torch.rand(200, 30, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 200)[:, None]
    kept = keep_largest(weighed, 4)
    counts = kept.sum(-1)
    assert float(counts.float().mean()) == 4
    assert int(counts.min()) < 4 < int(counts.max())
    assert float(weighed[kept].min()) >= float(weighed[~kept].max())
    assert int(keep_largest(torch.tensor([[0.0, 0.0, 1.0]]), 2).sum()) == 1  # nothing that is 0 is kept
    assert int(keep_largest(weighed, 2.5).sum()) == 500


def test_the_scale_of_a_decoder_has_no_effect():
    model = Autoencoder.random(1, 6, 12, seed=1)
    states = torch.randn(40, 1, 6, generator=torch.Generator().manual_seed(0))
    before = batch_loss(model, states, 3)
    with torch.no_grad():
        model.W_dec[2] *= 4
        model.W_enc[..., 2] /= 4
    after = batch_loss(model, states, 3)
    assert torch.equal(before.active, after.active)
    torch.testing.assert_close(before.total, after.total, rtol=1e-4, atol=1e-6)
    guess = model(states)
    model.fold(2.0)
    torch.testing.assert_close(model(states / 2) * 2, guess, rtol=1e-4, atol=1e-5)


def test_dead_features_learn_from_the_error_of_the_others():
    known, drawn = dictionary(seed=3)
    states, dead = sparse_states(known, drawn, 256), torch.arange(SIZE) < 8
    gradients = []
    for mask in (None, dead):
        model = Autoencoder.random(1, WIDTH, SIZE)
        with torch.no_grad():
            model.W_enc[..., :8] *= 0.01  # too weak to be among the largest
        found = batch_loss(model, states, ACTIVE, mask)
        assert not found.active[:, :8].any()
        found.total.backward()
        assert model.W_enc.grad is not None
        gradients.append(float(model.W_enc.grad[..., :8].abs().sum()))
    assert gradients[0] == 0
    assert gradients[1] > 0


def test_a_fit_is_the_same_twice_and_ends_when_it_is_asked_to():
    known, _ = dictionary()

    def once(stop_at: int = 60) -> tuple[torch.Tensor, int]:
        drawn, steps = torch.Generator().manual_seed(5), itertools.count(1)
        batches = (sparse_states(known, drawn, 64) for _ in itertools.count())
        settings = FitSettings(features=SIZE, k=ACTIVE, steps=60, batch_size=64)
        found = fit(batches, settings, stop=lambda: next(steps) >= stop_at)
        return found.model.W_dec.detach(), found.steps

    assert torch.equal(once()[0], once()[0])
    weights, steps = once(stop_at=7)
    assert steps == 7
    assert torch.isfinite(weights).all()


def test_settings_and_states_that_cannot_be_fitted_are_refused():
    with pytest.raises(ConfigError, match="k is 9, more than the 8 features"):
        FitSettings(features=8, k=9)
    with pytest.raises(ConfigError, match="lr is nan; expected a number above 0"):
        FitSettings(features=8, k=2, lr=float("nan"))
    with pytest.raises(TrainingStopped, match="not a number at step 1"):
        fit(itertools.repeat(torch.full((4, 1, 3), torch.nan)), FitSettings(features=8, k=2, steps=3))


def test_a_variable_is_matched_by_the_feature_that_has_it():
    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.3
    active = rng.random((400, 50)) < 0.3
    active[:, 17] = truth ^ (rng.random(400) < 0.02)
    row = match_variables(active, {"held": truth, "not": ~truth}).set_index("variable").loc["held"]
    assert row["feature"] == 17
    assert row["f1"] > 0.9
    share = row["share"]
    assert row["constant"] == pytest.approx(2 * share / (1 + share))
    noise = match_variables(active[:, :17], {"held": truth}).iloc[0]
    assert noise["f1"] < 0.45  # chosen on one half, scored on the other: many features are no better than one
