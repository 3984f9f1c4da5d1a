"""Patching: the same as transformer_lens on its bridge; attribution: autograd there, finite differences here."""

import numpy as np
import pytest
import torch
from scipy import stats
from transformer_lens import patching as peer
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

from probe.errors import ConfigError, DataError
from probe.interventions.patching import PromptPair, agreement, attribute, gradients, pair_of, patch
from probe.interventions.sites import Edit, Kind, Site, activations, grid, hooks_of, sweep
from probe.logits.targets import Target, target_of, value
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from tests.models import ARCHITECTURES, random_lm, random_reward_model

CLEAN, CORRUPTED = "mira lives in oslo . where does mira lives ?", "mira lives in rome . where does tom lives ?"
SWEEPS = {
    "head": peer.get_act_patch_attn_head_out_all_pos,
    "mlp": peer.get_act_patch_mlp_out,
    "attn": peer.get_act_patch_attn_out,
    "resid": peer.get_act_patch_resid_pre,
}


def made(name: str = "llama") -> tuple[LM, PromptPair, Target]:
    lm = random_lm(name)
    pair = pair_of(lm, CLEAN, CORRUPTED)
    return lm, pair, target_of(lm, pair.clean, "oslo", "rome")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", list(SWEEPS))
def test_patching_is_that_of_transformer_lens(name: str, kind: Kind, capsys: pytest.CaptureFixture):
    lm, pair, target = made(name)
    clean, corrupted = torch.tensor([pair.clean]), torch.tensor([pair.corrupted])
    with torch.no_grad():
        _, cache = lm.bridge.run_with_cache(clean)
        theirs = SWEEPS[kind](lm.bridge, corrupted, cache, lambda logits: value(logits, target)[0])
    ours = patch(lm, pair, target, kind)
    values = ours.values[:-1] if kind == "resid" else ours.values  # theirs is before each block, ours goes on after it
    assert np.ptp(values) > 1e-2
    np.testing.assert_allclose(values, theirs.numpy(), atol=1e-4)
    assert ours.clean == pytest.approx(float(value(lm.logits(clean), target).detach()), abs=1e-5)
    assert ours.corrupted == pytest.approx(float(value(lm.logits(corrupted), target).detach()), abs=1e-5)


def test_heads_at_one_token_are_those_of_transformer_lens(capsys: pytest.CaptureFixture):
    lm, pair, target = made()
    with torch.no_grad():
        _, cache = lm.bridge.run_with_cache(torch.tensor([pair.clean]))
        theirs = peer.get_act_patch_attn_head_out_by_pos(
            lm.bridge, torch.tensor([pair.corrupted]), cache, lambda logits: value(logits, target)[0]
        )
    for position in (4, 10):
        ours = patch(lm, pair, target, "head", position=position)
        np.testing.assert_allclose(ours.values, theirs[:, position].numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_patching_is_a_slow_loop(name: str):
    lm, pair, target = made(name)
    ours = patch(lm, pair, target, "mlp", direction="noise")
    for layer, position in [(0, 4), (1, 8)]:
        hook = f"blocks.{layer}.hook_mlp_out"
        _, cache = lm.run_with_cache([pair.corrupted], [hook])

        def put(tensor: torch.Tensor, hook: object, at: int = position, other: torch.Tensor = cache[hook]) -> None:
            tensor[0, at] = other[0, at]

        with torch.no_grad(), lm.hooks([(hook, put)]):
            expected = float(value(lm.logits([pair.clean]), target))
        assert ours.values[layer, position] == pytest.approx(expected, abs=1e-4)


def test_the_scale_runs_from_corrupted_to_clean():
    lm, pair, target = made()
    denoised, noised = (patch(lm, pair, target, "resid", direction) for direction in ("denoise", "noise"))
    gap = denoised.clean - denoised.corrupted
    assert abs(gap) > 0.1
    np.testing.assert_allclose(denoised.normalised, (denoised.values - denoised.corrupted) / gap, atol=1e-9)
    # The last residual at the last token is all that the output sees; before the first difference nothing is patched.
    assert denoised.normalised[-1, -1] == pytest.approx(1, abs=1e-4)
    assert noised.normalised[-1, -1] == pytest.approx(0, abs=1e-4)
    assert noised.shares[-1, -1] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(denoised.shares[:, :4], 0, atol=1e-4)
    np.testing.assert_allclose(noised.shares[:, :4], 0, atol=1e-4)
    np.testing.assert_allclose(noised.effects, noised.values - noised.clean)
    both = PromptPair(pair.corrupted, pair.clean, pair.corrupted_tokens, pair.clean_tokens)
    np.testing.assert_allclose(patch(lm, both, target, "resid").values, noised.values, atol=1e-5, rtol=1e-4)


def test_runs_that_agree_have_no_scale():
    lm, pair, _ = made()
    found = patch(lm, pair, Target(2, 4, 5), "mlp")  # before the texts differ
    assert found.clean == pytest.approx(found.corrupted, abs=1e-6)
    assert np.isnan(found.normalised).all()
    assert np.isfinite(found.effects).all()
    assert np.isnan(agreement(found.effects, attribute(lm, pair, Target(2, 4, 5), ["mlp"])["mlp"].effects)[:2]).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attribution_is_that_of_transformer_lens(name: str):
    lm, pair, target = made(name)
    theirs = attribution_patch(
        lm.bridge, torch.tensor([pair.clean]), torch.tensor([pair.corrupted]), lambda logits: value(logits, target)[0]
    ).node_scores
    for position in (4, 10):
        ours = attribute(lm, pair, target, ["head", "mlp", "resid"], position=position)
        for node, score in theirs.items():
            if node.position == position and node.kind == "attn_head_out":
                assert ours["head"].effects[node.layer, node.head] == pytest.approx(score, abs=1e-4)
            elif node.position == position and node.kind == "mlp_out":
                assert ours["mlp"].effects[node.layer, position] == pytest.approx(score, abs=1e-4)
            elif node.position == position and name != "gpt2":  # there positions are added to the embedding
                assert ours["resid"].effects[0, position] == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attribution_is_the_slope_of_patching(name: str):
    """A small part of the patch has as small a part of the estimated effect (central differences)."""
    lm, pair, target = made(name)
    lm.model.double()  # the norms of some architectures stay in single precision
    names, step = hooks_of(lm, ["resid", "head", "mlp", "attn"]), 3e-3
    own, other = activations(lm, pair.corrupted, names), activations(lm, pair.clean, names)
    for kind, estimate in attribute(lm, pair, target).items():
        slopes = []
        for site in [site for row in grid(lm, kind, len(pair.clean)) for site in row]:
            here = own[site.hook][site.index]
            change = step * (other[site.hook][site.index] - here)
            ends = [exact(lm, pair.corrupted, Edit(site, here + sign * change), target) for sign in (1, -1)]
            slopes.append((ends[0] - ends[1]) / (2 * step))
        largest = np.abs(slopes).max()
        assert largest > 1e-2
        np.testing.assert_allclose(estimate.effects.ravel(), slopes, atol=2e-3 * largest + 2e-4)


@torch.no_grad()
def exact(lm: LM, ids: list[int], edit: Edit, target: Target) -> float:
    """The target with one edit, not rounded to single precision."""

    def put(tensor: torch.Tensor, hook: object) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[(0, *edit.site.index)] = edit.value
        return tensor

    with lm.hooks([(edit.site.hook, put)]):
        row = lm.logits([ids])[0, target.position]
    return float(row[target.answer] - row[target.against])


def test_gradients_leave_the_parameters_alone():
    lm, pair, target = made()
    reached, _, slopes = gradients(lm, pair.clean, hooks_of(lm, ["head"]), target)
    assert reached == pytest.approx(float(value(lm.logits([pair.clean]), target).detach()), abs=1e-5)
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    assert slopes["blocks.1.attn.hook_z"].shape == (11, 4, 8)


def test_agreement_is_correlation_over_sites():
    lm, pair, target = made()
    exact_, estimate = patch(lm, pair, target, "mlp"), attribute(lm, pair, target, ["mlp"])["mlp"]
    a, b = exact_.effects.ravel(), estimate.effects.ravel()
    found = agreement(a, b)
    assert found.pearson == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert found.spearman == pytest.approx(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])
    assert found.n == a.size == 22
    assert 0.3 < found.pearson < 1


def test_tables_and_names():
    lm, pair, target = made()
    assert pair.differing == [4, 8]
    assert pair.clean_tokens[4] == "oslo"
    table = patch(lm, pair, target, "resid").table()
    assert list(table.columns) == [
        "kind", "layer", "position", "token", "value", "effect", "normalised", "direction", "exact",
    ]  # fmt: skip
    assert len(table) == 3 * 11
    row = table[(table.layer == -1) & (table.position == 4)].iloc[0]
    assert row.token == "rome"  # the run that is patched is the corrupted one
    heads = patch(lm, pair, target, "head", position=3).table()
    assert set(heads["head"]) == {0, 1, 2, 3}
    assert Site("resid", -1).hook == "blocks.0.hook_resid_pre"


def test_a_reward_model_is_patched_like_any_other():
    lm = reward_lm(random_reward_model())
    pair = pair_of(lm, CLEAN, CORRUPTED)
    target = target_of(lm, pair.clean)
    found, estimate = patch(lm, pair, target, "resid"), attribute(lm, pair, target, ["resid"])["resid"]
    assert found.clean == pytest.approx(float(lm.logits([pair.clean])[0, -1, 0].detach()), abs=1e-5)
    assert found.normalised[-1, -1] == pytest.approx(1, abs=1e-4)
    assert agreement(found.effects, estimate.effects).pearson > 0.5


def test_progress_is_told():
    lm, pair, target = made()
    shares: list[float] = []
    patch(lm, pair, target, "mlp", tick=shares.append)
    assert shares[-1] == 1.0


@pytest.mark.parametrize(
    ("clean", "corrupted", "words"),
    [
        ("mira lives in oslo", "mira lives in the dog", "has 5 tokens and the corrupted one 6: replace words"),
        ("mira lives", "mira lives", "are the same"),
    ],
)
def test_texts_that_are_no_pair_are_refused(clean: str, corrupted: str, words: str):
    with pytest.raises(DataError, match=words):
        pair_of(random_lm(), clean, corrupted)


def test_an_unknown_direction_is_refused():
    lm, pair, target = made()
    with pytest.raises(ConfigError, match="denoise or noise"):
        patch(lm, pair, target, direction="up")  # type: ignore[arg-type]
    assert sweep(lm, pair.clean, [[]], target).values.shape == (1,)
