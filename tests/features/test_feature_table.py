"""All features of a fit, features of a crosscoder, steering by one, and where fits are found."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import probe
from probe.commands.features import features as command
from probe.errors import ConfigError, DataError
from probe.features.activating_texts import distinct_pieces, top_texts
from probe.features.autoencoder import Autoencoder
from probe.features.feature_changes import compare_features
from probe.features.feature_files import WEIGHTS, Features, read_features, write_features
from probe.features.feature_table import list_features
from probe.features.known_fits import SHIPPED, fingerprints_of, known_fits, open_fit, usual_fit, usual_folder
from probe.features.latent_scaling import scale_latents
from probe.features.steered_feature import ALPHAS, steer_feature
from probe.interventions.steering import steered_logits
from tests.models import random_lm, saved_lm
from tests.places import SAMPLES

TEXTS = ["mira lives in rome .", "tom works at the cat", "where does ana lives ? oslo", "the dog is in paris ."]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{text} {end}"}) + "\n" for text in TEXTS for end in ("one", "two .")))
    return path


def random_features(lm: probe.LM, models: int = 1) -> Features:
    return Features(Autoencoder.random(models, lm.bridge.cfg.d_model, 12, seed=3).requires_grad_(False), 1)


def test_a_row_of_the_table_says_what_top_texts_say(corpus: Path):
    lm = random_lm()
    features = random_features(lm)
    found = list_features(lm, features=features, data=corpus, n=16)
    for row in found.features.itertuples():
        one = top_texts(lm, features=features, unit=row.feature, data=corpus, n=16)
        assert row.active == pytest.approx(one.active)
        assert row.largest == pytest.approx(one.largest, rel=1e-4)
        assert row.promotes.split() == one.promoted["token"][:5].tolist()
        assert row.share <= one.shared["share"].max() + 1e-9
    assert f"{(found.features['active'] > 0).sum()} of 12 features after block 1" in found.sentence()
    (title,) = found.lists()
    listed = found.lists()[title]
    assert listed.attrs["opens"][0] == "top_texts"
    assert listed.attrs["opens"][1][0] == {"unit": listed["feature"].iloc[0]}
    assert len(found.figures(unit="F3")["features"].data) >= 3


def test_base_against_aligned_has_the_kinds_of_latent_scaling(corpus: Path):
    base, aligned = random_lm(seed=0), random_lm(seed=1)
    features = random_features(base, 2)
    found = compare_features(base, aligned, features=features, data=corpus, n=16)
    pieces, _ = distinct_pieces([base, aligned], corpus, 16, 1)
    plain = scale_latents(base, aligned, features.model, pieces, 1)
    assert found.features["kind"].tolist() == plain["kind"].tolist()
    np.testing.assert_allclose(found.features["cosine"], plain["cosine"], rtol=1e-4, atol=1e-6)
    assert int(found.counts.sum()) == 12
    assert "that base and aligned were fitted to together" in found.sentence()
    assert set(found.lists()) <= {"New", "Lost", "Changed", "Artefact", "Shared", "Silent"}
    assert sum(map(len, found.lists().values())) == 12
    assert found.figures()


def test_steering_adds_the_decoder():
    lm = random_lm()
    features = random_features(lm)
    found = steer_feature(lm, features=features, unit="F2", prompt="mira lives in")
    assert found.dose.alphas.tolist() == list(ALPHAS)
    ids = lm.tokenizer.encode("mira lives in")
    rows = found.continuations.set_index(["alpha", "direction"])["continuation"]
    plain = lm.model.generate(
        torch.tensor([ids]), max_new_tokens=1, do_sample=False, pad_token_id=lm.tokenizer.pad_token_id
    )
    assert lm.tokenizer.decode(plain[0, len(ids) :]).strip() in rows[0.0, "none"]
    decoder = features.model.W_dec[2, 0]
    norm = float(np.linalg.norm(decoder))
    step = decoder / norm * found.residual_norm
    first = steered_logits(lm, [ids], 1, 2.0 * step, "all", [len(ids) - 1])[0, 0].argmax()
    assert rows[2.0, "F2"].startswith(lm.tokenizer.decode([int(first)]).strip())
    assert "F2 added after block 1" in found.sentence()
    assert found.figures()
    with pytest.raises(ConfigError, match="L0N1 is no feature"):
        steer_feature(lm, features=features, unit="L0N1")


def test_without_features_a_sentence_says_how_to_fit_some(corpus: Path):
    lm = random_lm()
    for run in (lambda: list_features(lm, data=corpus), lambda: steer_feature(lm)):
        with pytest.raises(ConfigError, match="fit some with `probe features fit MODEL`"):
            run()
    with pytest.raises(ConfigError, match="fit one with `probe features fit BASE ALIGNED`"):
        compare_features(lm, random_lm(seed=1), data=corpus)


def test_a_fit_without_a_folder_is_found_by_the_model(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    model = saved_lm(tmp_path / "mine")
    command(f"fit {model} --data {corpus} --steps 3 --features 16 --k 4 --block 0".split())
    lm = probe.LM.load(str(model))
    assert known_fits(lm) == [str(usual_folder(lm, block=0))]
    found = open_fit(None, lm)
    assert found is not None
    assert found.block == 0
    other = random_lm(seed=5)
    assert usual_fit(other) is None
    with pytest.raises(DataError, match="were fitted to mine: choose features of this model"):
        open_fit(usual_fit(lm), other)


def test_features_that_do_not_fit_are_one_sentence():
    lm = random_lm()
    with pytest.raises(ConfigError, match="are of 2 models and 1 was given"):
        open_fit(random_features(lm, 2), lm)
    with pytest.raises(ConfigError, match="read 16 numbers and the residual stream has 32"):
        open_fit(Features(Autoencoder.random(1, 16, 4), 0), lm)
    with pytest.raises(ConfigError, match="read block 7 and the model has 2 blocks"):
        open_fit(Features(Autoencoder.random(1, 32, 4), 7), lm)
    with pytest.raises(ConfigError, match="name no block"):
        list_features(lm, features=Features(Autoencoder.random(1, 32, 4), None))


def test_folders_of_strangers_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    lm = probe.LM.load(str(saved_lm(tmp_path / "mine")))
    about = {"fingerprints": [lm.fingerprint]}
    home = usual_folder(lm, block=0).parent
    write_features(Features(random_features(lm).model, 0, about), tmp_path / "elsewhere")
    home.mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", home / "link")
    (home / "broken").mkdir()
    (home / "broken" / "cfg.json").write_text("[[[")
    (home / "odd").mkdir()
    (home / "odd" / "cfg.json").write_text(json.dumps({"metadata": {"fingerprints": {"a": 1}}}))
    assert known_fits(lm) == []


def test_half_precision_takes_half_and_is_read(tmp_path: Path):
    lm = random_lm()
    features = random_features(lm)
    for name, dtype in {"whole": torch.float32, "half": torch.float16}.items():
        write_features(features, tmp_path / name, dtype)
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    read = read_features(tmp_path / "half").model
    torch.testing.assert_close(read.W_dec, features.model.W_dec, rtol=1e-3, atol=1e-3)


def test_the_fits_that_come_with_probe_are_those_of_the_sample_pair():
    base, aligned = (probe.LM.load(str(SAMPLES / name)) for name in ("base", "dpo-agreeable"))
    assert known_fits(base) == ["base-block-2"]
    assert known_fits(base, aligned) == ["base-and-dpo-agreeable-block-2"]
    assert known_fits(aligned) == []
    for folder in SHIPPED.iterdir():
        assert sum(file.stat().st_size for file in folder.iterdir()) < 600_000
        assert fingerprints_of(folder)
        assert str(SAMPLES) not in (folder / "cfg.json").read_text()
    found = open_fit("base-block-2", base)
    assert found is not None
    assert found.block == 2
