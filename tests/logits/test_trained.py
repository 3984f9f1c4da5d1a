"""What captures tell of the steps of a training: layers, parts, promoted tokens, neurons."""

import numpy as np
import pytest

from probe.errors import DataError, ProbeError
from probe.logits.attribution import attribute
from probe.logits.lens import logit_lens
from probe.logits.parts import promoted_tokens
from probe.logits.targets import target_of
from probe.logits.trained import (
    attribution_over_training,
    kl_over_training,
    neurons_over_training,
    over_training,
    promoted_over_training,
)
from probe.logits.trained_logits import follow_logits
from probe.recording import recorder as recording
from probe.recording.recorder import watch
from probe.runs import RunWriter, open_run
from tests.models import random_lm

TEXT = "mira lives in oslo ."


def lens_of_two(lm):
    """Entropy, margin, and log-probabilities and ranks of two answers, after every layer at every token."""
    return logit_lens(lm, TEXT, answer="rome", against="in")


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
            expected[step] = lens_of_two(lm)
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
            assert row.value == own.answer_ranks[row.layer, 4, answer]
        elif row.measure == "logprob":
            assert row.value == pytest.approx(own.answer_logprobs[row.layer, 4, answer], abs=0.01)
        elif row.measure in ("margin", "entropy"):
            assert row.value == pytest.approx(getattr(own, row.measure)[row.layer, 4], abs=0.01)
        known.add((row.measure, row.layer))
    for measured in ("entropy", "rank", "margin", "logprob", "residual_norm"):
        assert {layer for measure, layer in known if measure == measured} == {0, 1, 2}
    assert max(own.answer_ranks[:, 4].max() for own in expected.values()) > 5
    last = table[(table.measure == "residual_norm") & (table.layer == 1) & (table.step == 1)]
    assert last.value.item() == pytest.approx(float(norms[0, 4]), rel=1e-4)
    assert over_training(open_run(tmp_path / "run"), prompt=1).position.unique().tolist() == [5]


def test_a_training_is_said_and_drawn_from_its_captures(tmp_path):
    lm = random_lm()
    prompts = [{"id": "a", "text": "tom works", "answers": ["rome"]}, {"id": "b", "text": TEXT}]
    with RunWriter.create(tmp_path / "run", method="pretrain", config={}) as run:
        recorder = watch(lm, run, prompts=prompts, every=1)
        for step in (0, 1):
            recorder.capture(step)
            lm.model.model.embed_tokens.weight.data *= 1.5
        run.finish("finished")
    found = follow_logits(run=tmp_path / "run")
    table = over_training(open_run(tmp_path / "run"), prompt=0)
    own = table[(table.measure == "logprob") & (table.layer == table.layer.max())].set_index("step").value
    ends = [f"{own[step]:.2f}".replace("-", "\u2212") for step in (0, 1)]
    assert found.sentence() == f"After \u201ctom works\u201d, log p(rome) of run went from {ends[0]} to {ends[1]} nats."
    assert list(found.figures()) == ["training-layers", "training", "training-parts", "training-neurons"]
    assert found.figures(measure="entropy")["training-layers"].layout.meta["title"] == "run: entropy by layer"
    (listed,) = found.lists(part="L1H0").values()
    words = promoted_over_training(open_run(tmp_path / "run"), 0)
    own = words[(words.step == 1) & (words.layer == 1) & (words.part == "H0") & (words.kind == "promoted")]
    assert listed["promoted"].tolist()[1] == "  ".join(own.sort_values("rank").token)
    bare = follow_logits(run=tmp_path / "run", captured=TEXT)
    assert list(bare.figures()) == ["training-layers", "training"]
    assert bare.lists() == {}
    assert any("captured without answers" in note for note in bare.notes)
    assert follow_logits(run=tmp_path / "run", prompt=TEXT).prompt == bare.prompt
    with pytest.raises(DataError, match="did not capture the prompt 'nothing'"):
        follow_logits(run=tmp_path / "run", captured="nothing")
    RunWriter.create(tmp_path / "bare", method="pretrain", config={}).finish("finished")
    with pytest.raises(DataError, match="`bare` has no captures"):
        follow_logits(run=tmp_path / "bare")


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
    own = lens_of_two(lm)
    assert set(old[old.measure == "entropy"].layer) == {2}
    ranks = old[old.measure == "rank"]
    true = [own.answer_ranks[row.layer, 5, ["rome", "in"].index(row.answer)] for row in ranks.itertuples()]
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
