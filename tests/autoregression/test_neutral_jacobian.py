"""The neutral-Jacobian test against finite differences on the model and autograd through the whole network."""

import numpy as np
import pytest
import torch

from probe.autoregression.jacobian import block_jacobian, last_step, neutral_jacobian
from probe.errors import DataError
from probe.logits.readout import residual_names
from probe.model.equations import read_network, states, step
from probe.model.rewards import reward_lm
from tests.models import ARCHITECTURES, MORE, in_double, random_lm, random_reward_model

TEXT = "mira lives in oslo . where does mira lives ?"
IDS = [2, 4, 10, 12, 7, 23, 15, 16, 4]


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mistral", "phi3", "gemma2", "bloom", *MORE])
def test_against_autograd_through_the_whole_text(name):
    """All positions are run and the last one is differentiated: nothing is held, no past is cached."""
    lm = random_lm(name)
    in_double(lm)
    net = read_network(lm)
    result = neutral_jacobian(lm, IDS)
    rows = states(net, IDS)
    for layer in range(2):

        def to_end(x, layer=layer):
            h = torch.cat([rows[layer][:-1], x[None]])
            for block in net.blocks[layer:]:
                h = step(block, h)
            return h[-1]

        whole = torch.func.jacrev(to_end)(rows[layer][-1])
        np.testing.assert_allclose(result.to_end[layer], torch.linalg.svdvals(whole), rtol=1e-7, atol=1e-12)
        one = torch.func.jacrev(lambda x, layer=layer: step(net.blocks[layer], torch.cat([rows[layer][:-1], x[None]])))(
            rows[layer][-1]
        )[-1]
        torch.testing.assert_close(block_jacobian(net.blocks[layer], rows[layer]), one)
        np.testing.assert_allclose(result.alone[layer], torch.linalg.svdvals(one), rtol=1e-9)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mistral", "gemma2", "bloom", *MORE])
def test_one_position_is_the_last_row_of_the_step(name):
    net = read_network(random_lm(name))
    for length in (1, 2, 9):
        h = states(net, IDS[:length])[1]
        row = last_step(net.blocks[1], h[:-1])(h[-1])
        torch.testing.assert_close(row, step(net.blocks[1], h)[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gemma2", "bloom", *MORE])
@pytest.mark.parametrize("position", [0, 4])
def test_against_finite_differences_on_the_model(name, position):
    """The hooked model is nudged in every direction after a block; what moves at the end has these singular values."""
    lm = random_lm(name, **({"activation_function": "gelu"} if name == "opt" else {}))  # ReLU bends within a step
    in_double(lm)
    result = neutral_jacobian(lm, IDS, position=position)
    names, step_size = residual_names(lm), 1e-3
    batch = [IDS] * 64
    nudges = torch.cat([torch.eye(32), -torch.eye(32)]).double() * step_size

    for layer in range(2):
        found = {}

        def nudge(tensor, hook):
            tensor = tensor.clone()
            tensor[:, position] += nudges
            return tensor

        def keep(tensor, hook, found=found):
            found["end"] = tensor[:, position].detach()

        with lm.hooks([(names[layer], nudge), (names[-1], keep)]):
            lm.logits(batch)
        slope = ((found["end"][:32] - found["end"][32:]) / (2 * step_size)).T
        # The norms of transformers round to single precision, and so does what is measured here.
        np.testing.assert_allclose(result.to_end[layer], torch.linalg.svdvals(slope), rtol=1e-3, atol=5e-4)


def test_the_summary_of_a_text():
    seen = []
    lm = random_lm()
    result = neutral_jacobian(lm, TEXT, position=-3, tick=seen.append)
    ids = lm.tokenizer.encode(TEXT)
    assert seen == [0.5, 1.0]
    assert result.position == len(ids) - 3
    assert result.token.strip() == TEXT.split()[-3]
    assert result.to_end.shape == result.alone.shape == (2, 32)
    np.testing.assert_allclose(result.to_end[-1], result.alone[-1], rtol=1e-5)
    table = result.table()
    assert table["name"].tolist() == ["embedding", "block 0"]
    log = np.log(result.to_end)
    np.testing.assert_allclose(np.log(table["geometric_mean"]), log.mean(-1), atol=1e-4)  # by determinants and directly
    np.testing.assert_allclose(table["spread"], log.std(-1))
    np.testing.assert_allclose(table["distance"] ** 2, log.mean(-1) ** 2 + log.std(-1) ** 2, rtol=1e-4)
    np.testing.assert_allclose(table["near_one"], [np.mean((row >= 0.5) & (row <= 2)) for row in result.to_end])
    assert table["unresolved"].tolist() == [0, 0]
    np.testing.assert_allclose(table["largest"], result.to_end.max(-1))


def test_blocks_that_do_nothing_are_neutral():
    lm = random_lm()
    with torch.no_grad():
        for layer in lm.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    table = neutral_jacobian(lm, TEXT).table()
    np.testing.assert_allclose(table["geometric_mean"], 1)
    np.testing.assert_allclose(table["distance"], 0, atol=1e-9)
    assert (table["near_one"] == 1).all()


def test_what_precision_does_not_resolve_is_left_out():
    """A block that keeps one direction and shrinks the others: the second in a row is beyond double precision."""
    from probe.autoregression.jacobian import NeutralJacobian, _mask_rounding

    values = _mask_rounding(torch.tensor([1.0, 1e-3, 1e-20], dtype=torch.float64)).numpy()
    assert np.isnan(values).tolist() == [False, False, True]
    alone = np.array([[1.0, 1e-3, 1e-10]])
    result = NeutralJacobian(0, "a", values[None], alone)
    row = result.table().iloc[0]
    assert row["unresolved"] == 1
    assert row["smallest"] == 1e-3
    assert row["geometric_mean"] == pytest.approx(10 ** (-13 / 3))
    assert row["near_one"] == pytest.approx(1 / 3)


def test_a_reward_model_has_one_too():
    table = neutral_jacobian(reward_lm(random_reward_model()), TEXT).table()
    assert np.isfinite(table["geometric_mean"]).all()


@pytest.mark.parametrize("position", [9, -10])
def test_a_position_outside_of_the_text(position):
    with pytest.raises(DataError, match="in a text of 9 tokens"):
        neutral_jacobian(random_lm(), IDS, position=position)


def test_a_text_beyond_the_context():
    with pytest.raises(DataError, match="has 49 tokens and the model reads at most 48"):
        neutral_jacobian(random_lm(), [5] * 49)


def test_the_gains_are_the_smallest_and_the_largest_of_all_layers():
    found = neutral_jacobian(random_lm(), "mira lives in oslo")
    table = found.table()
    low, high = (table.loc[at] for at in (table["geometric_mean"].idxmin(), table["geometric_mean"].idxmax()))
    assert found.sentence().startswith(
        f"In model the Jacobian from each layer to the last scales the residual by {low['geometric_mean']:.2g} "
        f"(from {low['name']}) to "
        f"{high['geometric_mean']:.2g} (from {high['name']})"
    )
