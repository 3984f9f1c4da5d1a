"""Features of models: states against transformers, losses against transformers, the command from texts to files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from probe import cli
from probe.commands.features import features
from probe.errors import ConfigError, DataError
from probe.features.autoencoder import Autoencoder
from probe.features.feature_files import read_features
from probe.features.fitted_features import fit_features
from probe.features.fitting import FitSettings
from probe.features.measures import measure
from probe.features.streamed_states import Piece, StateBuffer, hold_out, read_pieces, states_of
from probe.features.variables import last_activations, world_variables
from probe.model.lm import LM
from probe.world import World
from tests.models import ARCHITECTURES, random_lm, saved_lm

TEXTS = ["mira lives in rome .", "tom works at the cat", "where does ana lives ? oslo", "the dog is in paris ."] * 6
IDS = [[5, 6, 7, 8, 9], [10, 4, 12], [6, 5, 13, 14]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_are_those_of_transformers(name: str):
    lm = random_lm(name)
    read = states_of([lm, lm], IDS, 0)
    for ids, states in zip(IDS, read, strict=True):
        plain = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        assert states.shape == (len(ids), 2, plain.shape[-1])
        torch.testing.assert_close(states[:, 0], plain.detach(), rtol=1e-4, atol=1e-4)
        assert torch.equal(states[:, 0], states[:, 1])


def test_a_buffer_mixes_all_states_but_the_first_of_each_text():
    lm = random_lm()
    pieces = [Piece(ids, str(at)) for at, ids in enumerate(IDS)]
    wanted = torch.cat([states[1:, 0] for states in states_of([lm], IDS, 1)])
    for size in (2**28, 0):  # all at once; and the smallest buffer, which reads the texts again and again
        batches = StateBuffer([lm], pieces, 1, size=size).batches(3)
        found = torch.cat([next(batches)[:, 0] for _ in range(30)])
        distances = (found[:, None] - wanted).norm(dim=-1)
        assert float(distances.min(1).values.max()) < 1e-3
        assert float(distances.min(0).values.max()) < 1e-3


def test_whole_texts_are_held_out():
    pieces = [Piece([1, 2, 3], f"row-{at // 2}") for at in range(40)]
    learned, held = hold_out(pieces, 0)
    assert len(held) == 4
    assert not {piece.row for piece in held} & {piece.row for piece in learned}
    learned, held = hold_out([Piece([1, 2], "one")] * 20, 0)  # one text: its pieces
    assert (len(learned), len(held)) == (18, 2)


def plain_loss(lm: LM, ids: list[int]) -> float:
    """Sum of the losses of a text by transformers."""
    row = torch.tensor([ids])
    return lm.model(row, labels=row).loss.item() * (len(ids) - 1)


def test_measures_of_known_autoencoders():
    """One that loses nothing recovers all, and one that returns 0 recovers nothing and explains less than nothing."""
    lm = random_lm()
    width = lm.bridge.cfg.d_model
    pieces = [Piece(ids, str(at)) for at, ids in enumerate(IDS)]
    eye = torch.eye(width)
    exact = Autoencoder(
        torch.cat([eye, -eye], 1)[None], torch.zeros(2 * width), torch.cat([eye, -eye])[:, None], torch.zeros(1, width)
    ).requires_grad_(False)
    found = measure([lm], exact, pieces, 0)
    own = found.models[0]
    assert own.explained == pytest.approx(1, abs=1e-5)
    assert own.loss == pytest.approx(sum(plain_loss(lm, ids) for ids in IDS) / found.tokens, rel=1e-4)
    assert own.spliced == pytest.approx(own.loss, rel=1e-4)
    assert own.recovered == pytest.approx(1, abs=1e-3)
    assert found.active == pytest.approx(width, rel=1e-3)  # one of the two directions of each axis
    nothing = Autoencoder.random(1, width, 4).requires_grad_(False)
    nothing.threshold.fill_(1e9)
    found = measure([lm], nothing, pieces, 0)
    own = found.models[0]
    assert (found.active, found.dead, own.recovered) == (0, 1, 0)
    states = torch.cat([each[1:, 0] for each in states_of([lm], IDS, 0)]).double()
    variance = (states - states.mean(0)).square().sum()
    assert own.explained == pytest.approx(1 - (states.square().sum() / variance).item(), rel=1e-4)


def test_zero_ablation_is_the_loss_without_the_states_of_transformers():
    lm = random_lm()
    pieces = [Piece(ids, str(at)) for at, ids in enumerate(IDS)]
    nothing = Autoencoder.random(1, lm.bridge.cfg.d_model, 4).requires_grad_(False)
    found = measure([lm], nothing, pieces, 0).models[0]

    def zero(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        changed = (output[0] if isinstance(output, tuple) else output).clone()
        changed[:, 1:] = 0
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    block = next(module for name, module in lm.model.named_modules() if name.endswith("layers.0"))
    handle = block.register_forward_hook(zero)
    total = sum(plain_loss(lm, ids) for ids in IDS)
    handle.remove()
    assert found.zeroed == pytest.approx(total / sum(len(ids) - 1 for ids in IDS), rel=1e-4)


@pytest.mark.parametrize("models", [1, 2])
def test_the_command_writes_what_it_measured(
    models: int, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    refs = [str(saved_lm(tmp_path / f"m{at}", seed=at)) for at in range(models)]
    out = tmp_path / "found"
    words = [*refs, "--data", str(corpus), "--block", "1", "--out", str(out), "--steps", "40", "--k", "4", "--json"]
    assert features(["fit", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == 40
    assert len(told["models"]) == models
    found = read_features(out)
    lms = [LM.load(ref) for ref in refs]
    assert found.block == 1
    assert found.about["fingerprints"] == [lm.fingerprint for lm in lms]
    assert found.model.shape == (models, lms[0].bridge.cfg.d_model, 8 * lms[0].bridge.cfg.d_model)
    again = measure(lms, found.model, hold_out(read_pieces(lms, corpus)[0], 0)[1], 1)
    assert [one.explained for one in again.models] == pytest.approx([one["explained"] for one in told["models"]])
    assert again.active == pytest.approx(told["active"])


def test_a_fit_that_is_stopped_keeps_what_it_has(corpus: Path):
    found = fit_features([random_lm()], 1, FitSettings(16, k=4, steps=500), corpus, stop=lambda: True)
    assert found.fit.steps == 1
    assert "After block 1," in found.sentence()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit {m} --out {o} --data {d} --block 9", "Block 9 was requested in a model of"),
        ("fit {m} --out {o} --data {d} --k 500 --features 20", "k is 500, more than the 20 features"),
        ("fit {m} --out {o} --data {d} --steps 0", "--steps is 0; expected 1 or more"),
        ("fit {m} --out {o} --limit 3", "--limit and --strict are about the rows of a file"),
        ("fit {m} --out {o} --data no.jsonl", "There is no file `no.jsonl`"),
        ("fit {m} --out {m} --data {d}", "which is no part of features: choose another folder"),
        ("fti {m}", "did you mean `fit`?"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: str, said: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = saved_lm(tmp_path / "m")
    places = {"m": model, "o": tmp_path / "o", "d": corpus}
    with pytest.raises((ConfigError, DataError), match=said.replace("?", r"\?")):
        features(words.format(**places).split())
    assert not (tmp_path / "o").exists()


def test_models_that_do_not_go_together_are_refused(corpus: Path):
    with pytest.raises(ConfigError, match="The models have the widths"):
        fit_features([random_lm(), random_lm("llama", hidden_size=48)], 0, data=corpus)
    short = corpus.with_name("short.jsonl")
    short.write_text('{"text": "mira"}\n')
    with pytest.raises(DataError, match="pieces of two tokens"):
        fit_features([random_lm()], 0, data=short)


def test_variables_of_a_world_hold_where_its_questions_say():
    world = World(seed=0)
    prompts, variables = world_variables(world, n=200)
    assert variables["unseen person"].sum() == 100
    relations = [each for name, each in variables.items() if name.startswith("relation: ")]
    assert np.all(sum(each.astype(int) for each in relations) <= 1)
    lm = LM.create("tiny", world.tokenizer())
    model = Autoencoder.random(1, lm.bridge.cfg.d_model, 8).requires_grad_(False)
    active = last_activations([lm], model, prompts[:5], 0)
    ids = lm.tokenizer.encode(prompts[3])
    torch.testing.assert_close(
        torch.tensor(active[3]), model.encode(states_of([lm], [ids], 0)[0][-1:])[0], rtol=1e-4, atol=1e-5
    )


def test_the_command_is_listed():
    assert cli.commands()["features"].load() is features
