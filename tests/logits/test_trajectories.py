"""Trajectories: entropy, margin, rank and log-probability over layers, written tokens and training steps."""

import numpy as np
import pytest
import scipy.stats
import torch

from probe.compare.side_by_side import read_both
from probe.errors import ConfigError, DataError, ProbeError
from probe.logits.attribution import attribute
from probe.logits.lens import target_of
from probe.logits.parts import promoted_tokens
from probe.logits.trained import (
    attribution_over_training,
    kl_over_training,
    neurons_over_training,
    over_training,
    promoted_over_training,
)
from probe.logits.trajectories import follow, margin, over_layers, over_writing, pair_over_layers, rank, scalar_lens
from probe.model.rewards import reward_lm
from probe.recording import recorder as recording
from probe.recording.recorder import watch
from probe.runs import RunWriter, open_run
from tests.models import ARCHITECTURES, byte_tokenizer, random_lm, random_reward_model

TEXT = "mira lives in oslo ."


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_are_those_of_the_plain_model(name):
    """The reference reads hidden states of transformers, sorts all probabilities, and counts."""
    lm = random_lm(name)
    ids = lm.tokenizer.encode(TEXT)
    found = over_layers(lm, TEXT, ["rome", lm.tokenizer.convert_tokens_to_ids("oslo")], k=3)
    states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    norm = getattr(lm.model.base_model, "norm", None) or getattr(lm.model.base_model, "ln_f", None)
    norm = norm or lm.model.base_model.final_layer_norm
    for row in range(3):
        stream = states[row][0] if row == 2 else norm(states[row][0])  # transformers norms the last state itself
        probabilities = lm.model.get_output_embeddings()(stream).double().softmax(-1).numpy()
        for t in range(len(ids)):
            ordered = np.sort(probabilities[t])[::-1]
            assert found.entropy[row, t] == pytest.approx(scipy.stats.entropy(probabilities[t]), abs=1e-4)
            assert found.margin[row, t] == pytest.approx(np.log(ordered[0] / ordered[1]), abs=1e-4)
            for a, answer in enumerate(("rome", "oslo")):
                p = probabilities[t, lm.tokenizer.convert_tokens_to_ids(answer)]
                assert found.logprobs[row, t, a] == pytest.approx(np.log(p), abs=1e-4)
                assert found.ranks[row, t, a] == np.flatnonzero(ordered == p)[0]
    assert found.answers == ["rome", "oslo"]


def test_ranks_and_margins_of_known_distributions():
    logprobs = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    assert rank(logprobs, [0, 2]).tolist() == [[0, 2], [1, 0]]
    assert margin(logprobs).tolist() == pytest.approx([np.log(5 / 3), np.log(8)])
    assert margin(torch.zeros(2, 1)).tolist() == [0, 0]
    assert rank(logprobs, []).shape == (2, 0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_window_reads_the_same_columns(name):
    lm = random_lm(name)
    whole, part = (over_layers(lm, TEXT, ["rome"], window=window) for window in (None, (2, 5)))
    for measure in ("entropy", "margin", "logprobs", "ranks"):
        np.testing.assert_allclose(getattr(part, measure), getattr(whole, measure)[:, 2:5], atol=1e-5)
    assert part.lens.top_ids.tolist() == whole.lens.top_ids[:, 2:5].tolist()
    assert part.decision_row(3) == whole.decision_row(3)
    table = whole.table(4)
    merged = table.merge(part.table(4), on=["layer", "name", "position", "token", "measure", "answer"])
    assert len(merged) == len(table)
    np.testing.assert_allclose(merged.value_x, merged.value_y, atol=1e-5)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gemma2"])
def test_other_answers_are_followed_as_if_they_had_been_asked_for(name):
    lm = random_lm(name)
    expected = over_layers(lm, TEXT, ["rome", "oslo"], window=(1, 5))
    found = follow(lm, over_layers(lm, TEXT, window=(1, 5)), ["rome", "oslo"])
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
    np.testing.assert_array_equal(found.ranks, expected.ranks)
    assert found.answers == expected.answers == found.lens.answers
    one = follow(lm, over_layers(lm, TEXT, window=(1, 5)), ["rome", "oslo"], position=3)
    np.testing.assert_array_equal(one.ranks[:, 2], expected.ranks[:, 2])
    assert np.isnan(one.ranks[:, [0, 1, 3]]).all()


def test_two_models_are_compared_as_on_the_compare_page():
    """KL of output and lenses against `read_both`, whose columns belong to the token that follows."""
    base, aligned = random_lm(), random_lm(seed=1)
    ids = base.tokenizer.encode(TEXT)
    found, known = pair_over_layers(base, aligned, TEXT, ["rome"]), read_both(base, aligned, ids, len(ids), "aligned")
    np.testing.assert_allclose(found.token_kl[:-1], known.kl[1:], atol=1e-5)
    np.testing.assert_allclose(found.kl, known.lens_kl, atol=1e-5)
    np.testing.assert_allclose(found.kl[-1], found.token_kl, atol=1e-6)
    assert found.token_kl.max() > 0.1
    part = pair_over_layers(base, aligned, TEXT, ["rome"], window=(1, 4))
    np.testing.assert_allclose(part.kl, found.kl[:, 1:4], atol=1e-5)
    assert len(part.token_kl) == len(ids)
    np.testing.assert_allclose(found.aligned.ranks, over_layers(aligned, TEXT, ["rome"]).ranks)
    table = part.table(2)
    assert table[(table.measure == "kl") & (table.layer == 1)].value.item() == part.kl[1, 1]
    assert set(table.model) == {"base", "aligned", "aligned || base"}
    deeper = pair_over_layers(base, random_lm(num_hidden_layers=3), TEXT)
    assert deeper.kl is None
    assert len(deeper.aligned.entropy) == 4
    with pytest.raises(DataError, match="different tokenizers"):
        pair_over_layers(base, random_lm(tokenizer=byte_tokenizer()), TEXT)


def test_the_row_of_decision_is_the_first_that_stays():
    found = over_layers(random_lm(), TEXT)
    for t in range(6):
        favourites, decided = found.lens.top_ids[:, t, 0], found.decision_row(t)
        assert set(favourites[decided:]) == {favourites[-1]}
        assert decided == 0 or favourites[decided - 1] != favourites[-1]


@torch.no_grad()
def test_writing_is_measured_step_by_step():
    lm = random_lm()
    found = over_writing(lm, TEXT, ["rome"], n=5, temperature=1.0, seed=3, k=4)
    ids, rome = lm.tokenizer.encode(TEXT), lm.tokenizer.convert_tokens_to_ids("rome")
    assert 1 <= len(found.tokens) <= 5
    for step, token in enumerate(found.ids):
        logprobs = lm.model(torch.tensor([ids + found.ids[:step]])).logits[0, -1].log_softmax(-1)
        assert found.entropy[step] == pytest.approx(float(-(logprobs.exp() * logprobs).sum()), abs=1e-4)
        assert found.chosen[step] == pytest.approx(float(logprobs[token]), abs=1e-4)
        assert found.logprobs[step, 0] == pytest.approx(float(logprobs[rome]), abs=1e-4)
        assert found.ranks[step, 0] == int((logprobs > logprobs[rome]).sum())
        assert found.top_tokens[step].tolist() == lm.tokenizer.convert_ids_to_tokens(logprobs.topk(4).indices.tolist())
        assert found.margin[step] == pytest.approx(found.top_logprobs[step, 0] - found.top_logprobs[step, 1], abs=1e-6)


def test_greedy_writing_takes_the_favourites():
    found = over_writing(random_lm(), TEXT, n=4)
    assert found.tokens == found.top_tokens[:, 0].tolist()
    np.testing.assert_allclose(found.chosen, found.top_logprobs[:, 0], atol=1e-6)


def test_training_steps_come_from_the_captures(tmp_path):
    """Each captured number is what the model gave at that step, to the precision that captures are stored in."""
    lm = random_lm()
    prompts = [
        {"id": "a", "text": "tom works", "answers": ["rome"]},
        {"id": "b", "text": TEXT, "answers": ["rome", "in"]},
    ]
    expected = {}
    with RunWriter.create(tmp_path / "run", method="pretrain", config={}) as run:
        recorder = watch(lm, run, prompts=prompts, every=1)
        for step in (0, 1):
            recorder.capture(step)
            expected[step] = over_layers(lm, TEXT, ["rome", "in"])
            norms = lm.run_with_cache(TEXT, ["blocks.0.hook_resid_post"])[1]["blocks.0.hook_resid_post"].norm(dim=-1)
            lm.model.model.embed_tokens.weight.data *= 1.5
        run.finish("finished")
    table = over_training(open_run(tmp_path / "run"), prompt=1, position=4)
    assert list(table.columns) == ["step", "layer", "position", "measure", "answer", "value"]
    assert set(table.step) == {0, 1}
    known = set()
    for row in table.itertuples():
        own = expected[row.step]
        answer = ["rome", "in"].index(row.answer) if row.answer else None
        if row.measure == "rank":
            assert row.value == own.ranks[row.layer, 4, answer]
        elif row.measure == "logprob":
            assert row.value == pytest.approx(own.logprobs[row.layer, 4, answer], abs=0.01)
        elif row.measure in ("margin", "entropy"):
            assert row.value == pytest.approx(getattr(own, row.measure)[row.layer, 4], abs=0.01)
        known.add((row.measure, row.layer))
    for measured in ("entropy", "rank", "margin", "logprob", "residual_norm"):
        assert {layer for measure, layer in known if measure == measured} == {0, 1, 2}
    assert max(own.ranks[:, 4].max() for own in expected.values()) > 5
    last = table[(table.measure == "residual_norm") & (table.layer == 1) & (table.step == 1)]
    assert last.value.item() == pytest.approx(float(norms[0, 4]), rel=1e-4)
    assert over_training(open_run(tmp_path / "run"), prompt=1).position.unique().tolist() == [5]


NEW = ("lens_entropy", "lens_margin", "lens_answer_ranks", "attribution", "attribution_total", "promoted_ids")
NEW += ("neuron_ids", "neuron_attribution")
"""What captures of older versions lack."""


def test_older_captures_are_read_as_before(tmp_path):
    """Ranks among the five captured favourites, entropy of the output alone; a run that went on has both kinds."""
    lm = random_lm()
    with RunWriter.create(tmp_path / "run", method="pretrain", config={}) as run:
        recorder = watch(lm, run, prompts=[{"text": TEXT, "answers": ["rome", "in"]}], every=1)
        tensors = recording.measure(lm, recorder.prompts)
        run.capture(0, {name: tensor for name, tensor in tensors.items() if name not in NEW})
        old = over_training(open_run(tmp_path / "run"))
        with pytest.raises(DataError, match="hold no attribution"):
            attribution_over_training(open_run(tmp_path / "run"))
        with pytest.raises(DataError, match="hold no promoted tokens"):
            promoted_over_training(open_run(tmp_path / "run"))
        with pytest.raises(DataError, match="hold no neurons"):
            neurons_over_training(open_run(tmp_path / "run"))
        recorder.capture(1)
        run.finish("finished")
    own = over_layers(lm, TEXT, ["rome", "in"])
    assert set(old[old.measure == "entropy"].layer) == {2}
    ranks = old[old.measure == "rank"]
    true = [own.ranks[row.layer, 5, ["rome", "in"].index(row.answer)] for row in ranks.itertuples()]
    np.testing.assert_array_equal(ranks.value, np.where(np.array(true) < 5, true, np.nan))
    assert 0 < ranks.value.isna().sum() < len(ranks)
    margins = old[old.measure == "margin"]
    np.testing.assert_allclose(margins.value, own.margin[margins.layer, 5], atol=0.01)
    both = over_training(open_run(tmp_path / "run"))
    assert both.groupby("step").measure.value_counts().unstack().entropy.tolist() == [1, 3]
    for ask in (attribution_over_training, neurons_over_training):
        assert ask(open_run(tmp_path / "run")).step.unique().tolist() == [1]


def test_parts_over_training_are_those_of_the_model_at_each_step(tmp_path):
    lm = random_lm()
    prompts = [{"id": "a", "text": "tom works"}, {"id": "b", "text": TEXT, "answers": ["rome", "in"]}]
    expected, named = {}, {}
    with RunWriter.create(tmp_path / "run", method="pretrain", config={}) as run:
        recorder = watch(lm, run, prompts=prompts, every=1)
        for step in (0, 3):
            recorder.capture(step)
            expected[step] = attribute(lm, TEXT, target_of(lm, lm.tokenizer.encode(TEXT), "rome", "in"))
            named[step] = {head: promoted_tokens(lm, TEXT, 1, head, k=5) for head in (2, None)}
            with run.checkpoint(step) as folder:
                lm.save(folder)
            lm.model.model.embed_tokens.weight.data *= 1.5
        run.finish("finished")
    table = attribution_over_training(open_run(tmp_path / "run"), prompt=1)
    assert list(table.columns) == ["step", "layer", "part", "value"]
    assert len(table) == 2 * (2 * 5 + 1)
    for (step, layer, part), rows in table.groupby(["step", "layer", "part"]):
        own = expected[step]
        if part == "rest":
            true = own.total - own.heads.sum() - own.mlps.sum()
        else:
            true = own.mlps[layer] if part == "MLP" else own.heads[layer, int(part[1:])]
        assert rows.value.item() == pytest.approx(true, abs=1e-4)
    sums = table.groupby("step").value.sum()
    assert sums.tolist() == pytest.approx([own.total for own in expected.values()], abs=1e-4)
    words = promoted_over_training(open_run(tmp_path / "run"), prompt=1)
    assert len(words) == 2 * 2 * 5 * 2 * 5
    for step, own in named.items():
        for head, found in own.items():
            rows = words[(words.step == step) & (words.layer == 1) & (words.part == ("MLP" if head is None else "H2"))]
            rows = rows.sort_values("rank")
            assert rows[rows.kind == "promoted"].token.tolist() == found.pieces
            assert rows[rows.kind == "suppressed"].token.tolist() == found.suppressed_pieces
    neurons = neurons_over_training(open_run(tmp_path / "run"), prompt=1)
    assert list(neurons.columns) == ["step", "layer", "rank", "neuron", "value"]
    assert len(neurons) == 2 * 2 * 10
    for (step, layer), rows in neurons.groupby(["step", "layer"]):
        listed = expected[step].neuron_table(layer, 10)
        assert rows["rank"].tolist() == list(range(10))
        assert rows.neuron.tolist() == listed.neuron.tolist()
        np.testing.assert_allclose(rows.value, listed.value, atol=1e-4)
    for ask in (attribution_over_training, neurons_over_training):
        with pytest.raises(DataError, match="Prompt 0 of `run` has no answers"):
            ask(open_run(tmp_path / "run"))


@torch.no_grad()
def test_a_scalar_is_read_after_each_layer():
    rewards = random_reward_model("llama")
    lm, head = reward_lm(rewards), rewards.model.score
    found = scalar_lens(lm, TEXT)
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    states = lm.model(ids, output_hidden_states=True).hidden_states
    scores, _ = rewards.token_scores([ids[0, :1].tolist()], [ids[0, 1:].tolist()])
    np.testing.assert_allclose(found.values[-1, 1:], scores[0], atol=1e-5)
    for row in (0, 1):
        np.testing.assert_allclose(found.values[row], head(lm.model.model.norm(states[row]))[0, :, 0], atol=1e-5)
    table = found.table()
    assert table[(table.layer == 2) & (table.position == 3)].value.item() == found.values[2, 3]
    for ask in (lambda: over_layers(lm, TEXT), lambda: over_writing(lm, TEXT)):
        with pytest.raises(DataError, match="one number"):
            ask()


def test_tables_are_tidy():
    layers = over_layers(random_lm(), TEXT, ["rome", "oslo"])
    table = layers.table(position=3)
    assert list(table.columns) == ["layer", "name", "position", "token", "measure", "answer", "value"]
    assert len(table) == 3 * (2 + 2 * 2)
    assert len(layers.table()) == 6 * len(table)
    row = table[(table.layer == 1) & (table.measure == "rank") & (table.answer == "oslo")].iloc[0]
    assert (row["name"], row.token, row.value) == ("block 0", "in", layers.ranks[1, 3, 1])
    written = over_writing(random_lm(), TEXT, ["rome"], n=3)
    assert len(written.table()) == len(written.tokens) * 5
    assert len(written.top_table()) == len(written.tokens) * 5


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda: over_writing(random_lm(), TEXT, n=0), ConfigError, "0 tokens"),
        (lambda: over_layers(random_lm(), TEXT, window=(2, 9)), DataError, "window"),
        (lambda: over_layers(random_lm(), TEXT, [""]), DataError, "no tokens"),
        (lambda: over_layers(random_lm(), TEXT, [27]), DataError, "token 27 was asked for and the model has 27"),
        (lambda: over_writing(random_lm(), TEXT, [-1]), DataError, "token -1 was asked for"),
        (lambda: follow(random_lm(), over_layers(random_lm(), TEXT), [99]), DataError, "token 99 was asked for"),
        (lambda: over_layers(random_lm(), []), DataError, "has no tokens"),
        (lambda: scalar_lens(random_lm(), TEXT), DataError, "over_layers"),
    ],
)
def test_what_is_not_possible_is_one_sentence(ask, error, says):
    with pytest.raises(error, match=says):
        ask()


def test_a_run_without_what_is_asked_for(tmp_path):
    lm = random_lm()
    with RunWriter.create(tmp_path / "bare", method="pretrain", config={}) as run:
        run.finish("finished")
    with RunWriter.create(tmp_path / "run", method="pretrain", config={}) as run:
        watch(lm, run, prompts=[{"id": "a", "text": TEXT, "answers": []}], every=1).capture(0)
        run.finish("finished")
    for name, choice, says in (
        ("bare", {}, "no captures"),
        ("run", {"prompt": 1}, "Prompt 1"),
        ("run", {"position": 6}, "Position 6"),
    ):
        with pytest.raises(ProbeError, match=says):
            over_training(open_run(tmp_path / name), **choice)
    for name, choice in (("bare", {}), ("run", {"prompt": 1})):
        for ask in (attribution_over_training, neurons_over_training, kl_over_training):
            with pytest.raises(DataError, match=r"no captures|Prompt 1"):
                ask(open_run(tmp_path / name), **choice)
