"""Pairs through the layers: against transformers' own hidden states, and a training that they must not touch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from probe import LM, open_run, watch
from probe.errors import DataError
from probe.recording.pair_lens import MOST_TOKENS, PairLens, pair_sums, short_pairs
from probe.recording.reward_tokens import TextPair
from probe.rewards import follow_pair_layers
from tests.models import random_lm

PAIRS = [TextPair([5, 9, 7, 4], [11, 3, 8], [6]), TextPair([2, 3], [4, 4], [9, 8, 7, 6, 5])]


@torch.no_grad()
def slow_lens(lm: LM, prompt: list[int], side: list[int]) -> np.ndarray:
    """[D+1 L] log-probabilities of the tokens after every layer, from the states that transformers gives."""
    out = lm.model(torch.tensor([[*prompt, *side]]), output_hidden_states=True)
    rows = [lm.model.lm_head(lm.model.model.norm(states)) for states in out.hidden_states[:-1]] + [out.logits]
    start = len(prompt)
    return torch.stack(
        [row.log_softmax(-1)[0, start - 1 : -1].gather(-1, torch.tensor(side)[:, None])[:, 0] for row in rows]
    ).numpy()


def test_every_layer_is_that_of_transformers():
    lm = random_lm(num_hidden_layers=3)
    tensors = PairLens(PAIRS, lm.logits)(lm, [])
    values = tensors["pair_lens_logprobs"].numpy()
    assert values.shape == (2, 2, 4, 7)
    for number, pair in enumerate(PAIRS):
        for side, ids in enumerate((pair.chosen, pair.rejected)):
            own = slice(len(pair.prompt), len(pair.prompt) + len(ids))
            np.testing.assert_allclose(
                values[number, side, :, own], slow_lens(lm, pair.prompt, ids), rtol=1e-4, atol=1e-5
            )
            rest = np.delete(values[number, side], np.arange(own.start, own.stop), axis=-1)
            assert not rest.any(), "prompt and padding are zero"
            assert tensors["pair_ids"][number, side, : own.stop].tolist() == [*pair.prompt, *ids]
    np.testing.assert_allclose(tensors["pair_ref_logprobs"], values[:, :, -1].sum(-1), rtol=1e-4, atol=1e-4)


def test_pairs_that_are_too_long_or_empty_are_not_captured():
    long = TextPair([1] * MOST_TOKENS, [2], [3])
    assert short_pairs([long, TextPair([1], [], [2]), *PAIRS * 3]) == [*PAIRS, *PAIRS]


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, LM, LM]:
    """A run whose model learned the first chosen completion, with the model before and after."""
    before, lm = random_lm(), random_lm()
    instrument = PairLens(PAIRS, before.logits)
    optimizer = torch.optim.SGD(lm.model.parameters(), lr=0.05)
    about = {"prompts": ["the cat is"], "method": "dpo", "config": {"beta": 0.2}, "instruments": [instrument]}
    with watch(lm, tmp_path / "run", every=2, **about) as recorder:
        recorder.step(0)
        for step in range(1, 5):
            loss = -lm.logprobs([PAIRS[0].prompt], [[PAIRS[0].chosen]]).values.sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step(step, loss=loss.item())
    return tmp_path / "run", before, lm


def test_the_margin_of_the_last_layer_is_that_of_the_model(trained: tuple[Path, LM, LM]):
    run, before, lm = trained
    found = follow_pair_layers(run=run)
    assert found.steps == open_run(run).captures().steps
    sums, reference = (pair_sums(each.logits, PAIRS).numpy() for each in (lm, before))
    margins = found.margins[-1, :, -1]
    np.testing.assert_allclose(margins, sums[:, 0] - sums[:, 1], rtol=1e-4, atol=1e-4)
    own = found.table()
    last = own[(own["step"] == found.steps[-1]) & (own["layer"] == "block 1")].sort_values("pair")
    ratio = sums - reference
    np.testing.assert_allclose(last["implicit_margin"], 0.2 * (ratio[:, 0] - ratio[:, 1]), rtol=1e-4, atol=1e-4)
    start, end = (float(found.margins[at, :, -1].mean()) for at in (0, -1))
    assert f"from {start:+.2f} to {end:+.2f} nats".replace("-", "\u2212") in found.sentence().replace("-", "\u2212")
    drawn = found.figures(pair="1")["pair-layers"].data[0].z
    np.testing.assert_allclose(drawn, found.margins[:, 0].T, rtol=1e-4, atol=1e-5)
    tokens = found.data("pair-tokens", pair="2", step=0)
    assert list(tokens.loc[(tokens["side"] == "rejected") & (tokens["layer"] == "block 1"), "position"]) == [
        0,
        1,
        2,
        3,
        4,
    ]
    sides = tokens[tokens["layer"] == "block 1"].groupby("side")["logprob"].sum()
    assert sides["chosen"] - sides["rejected"] == pytest.approx(found.margins[0, 1, -1], rel=1e-4, abs=1e-4)


def test_steps_that_are_not_finite_are_left_out(trained: tuple[Path, LM, LM]):
    run, *_ = trained
    file = run / "captures" / "00000002.safetensors"
    tensors = load_file(file)
    tensors["pair_lens_logprobs"][0, 0, 1, 4] = torch.nan
    save_file(tensors, file)
    assert follow_pair_layers(run=run).steps == [0, 4]
    for step in (0, 2, 4):
        save_file(tensors | {"pair_prompt": torch.tensor([99, 99], dtype=torch.int32)}, file.with_stem(f"{step:08d}"))
    with pytest.raises(DataError, match="pairs that are not finite or damaged"):
        follow_pair_layers(run=run)
    tensors["pair_lens_logprobs"].zero_()
    save_file(tensors | {"pair_prompt": torch.tensor([99, 99], dtype=torch.int32)}, file)
    with pytest.raises(DataError, match="hold pairs without tokens"):
        follow_pair_layers(run=run)


def test_a_run_without_pairs_is_refused(tmp_path: Path):
    watch(random_lm(), tmp_path / "run", prompts=["the cat is"]).close()
    with pytest.raises(DataError, match="run captured no pairs through the layers: `probe train dpo` and TRL's"):
        follow_pair_layers(run=tmp_path / "run")
