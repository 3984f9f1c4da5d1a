"""Files of features: SAELens' names, dtypes and shapes; what strangers may have written is refused in one sentence."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from probe.errors import DataError, RunError
from probe.features.autoencoder import Autoencoder
from probe.features.feature_files import CONFIG, WEIGHTS, Features, read_features, write_features

D, F = 6, 10


def some(models: int = 1, most: int | None = None) -> Autoencoder:
    model = Autoencoder.random(models, D, F, seed=3)
    model.threshold.fill_(0.2)
    model.most = most
    return model.requires_grad_(False)


def states(models: int = 1) -> torch.Tensor:
    return torch.randn(30, models, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("models", "most"), [(1, None), (2, None), (1, 3)])
def test_files_round_trip(models: int, most: int | None, tmp_path: Path):
    model = some(models, most)
    write_features(Features(model, 2, {"hook_name": "blocks.2.hook_resid_post", "model_name": "m"}), tmp_path / "f")
    found = read_features(tmp_path / "f")
    assert found.block == 2
    assert found.about["model_name"] == "m"
    assert found.model.most == most
    if most is None:
        torch.testing.assert_close(found.model(states(models)), model(states(models)), rtol=0, atol=0)
    write_features(found, tmp_path / "f")  # in place of the earlier ones
    assert sorted(os.listdir(tmp_path)) == ["f"]


def test_the_layout_is_that_of_saelens(tmp_path: Path):
    """As SAE.save_model of SAELens 6 writes a jumprelu SAE."""
    write_features(Features(some(), 1, {"hook_name": "blocks.1.hook_resid_post"}), tmp_path / "f")
    assert sorted(os.listdir(tmp_path / "f")) == ["cfg.json", "sae_weights.safetensors"]
    weights = load_file(tmp_path / "f" / "sae_weights.safetensors")
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,), "threshold": (F,)}
    assert {name: tuple(each.shape) for name, each in weights.items()} == shapes
    assert {each.dtype for each in weights.values()} == {torch.float32}
    config = json.loads((tmp_path / "f" / "cfg.json").read_text())
    metadata = config.pop("metadata")
    assert config == {
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "architecture": "jumprelu",
    }
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert int(metadata["sae_lens_version"].partition(".")[0]) >= 6  # else SAELens takes the names for older ones


def foreign_folder(folder: Path, config: dict[str, Any], **tensors: torch.Tensor) -> Path:
    """A folder as SAELens would have written it."""
    folder.mkdir()
    model = some()
    weights = {
        "W_enc": model.W_enc[0],
        "b_enc": model.b_enc + 0.1,
        "W_dec": 2 * model.W_dec[:, 0],
        "b_dec": model.b_dec[0] + 0.3,
    }
    save_file(
        {name: each.detach().contiguous().clone() for name, each in (weights | tensors).items()}, folder / WEIGHTS
    )
    (folder / CONFIG).write_text(json.dumps({"d_in": D, "d_sae": F} | config))
    return folder


def saelens(weights: dict[str, torch.Tensor], x: torch.Tensor, kind: str, **config: Any) -> torch.Tensor:
    """What SAELens computes (`encode` and `decode` of its classes), written out from its source."""
    W_enc, b_enc, W_dec, b_dec = (weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    pre = (x - b_dec * config.get("apply_b_dec_to_input", True)) @ W_enc + b_enc
    norms = W_dec.norm(dim=-1)
    rescaled = config.get("rescale_acts_by_decoder_norm", kind == "batchtopk")
    pre = pre * norms if rescaled else pre
    if kind == "standard":
        active = pre.relu()
    elif kind == "topk":
        top = pre.topk(config["k"], dim=-1)
        active = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    else:
        limit = weights["threshold"] if kind == "jumprelu" else weights["topk_threshold"].float()
        active = pre.relu() * (pre > limit)
    return (active / norms if rescaled else active) @ W_dec + b_dec


@pytest.mark.parametrize(
    ("kind", "config", "tensors"),
    [
        ("standard", {"architecture": "standard"}, {}),
        ("standard", {"hook_name": "blocks.3.hook_resid_pre", "activation_fn_str": "relu"}, {}),  # SAELens 3 to 5
        ("standard", {"architecture": "standard", "apply_b_dec_to_input": False}, {}),
        ("topk", {"architecture": "topk", "k": 2}, {}),
        ("topk", {"architecture": "topk", "k": 2, "rescale_acts_by_decoder_norm": True}, {}),
        ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}, "k": 2}, {}),
        ("jumprelu", {"architecture": "jumprelu"}, {"threshold": torch.linspace(0, 1, F)}),
        ("batchtopk", {"architecture": "batchtopk", "k": 2.5}, {"topk_threshold": torch.tensor(0.4).double()}),
    ],
)
def test_files_of_saelens_are_read(kind: str, config: dict[str, Any], tensors: dict[str, torch.Tensor], tmp_path: Path):
    folder = foreign_folder(tmp_path / "f", config, **tensors)
    found, x = read_features(folder), states()[:, 0]
    expected = saelens(load_file(folder / WEIGHTS), x, kind, **config)
    torch.testing.assert_close(found.model(x[:, None])[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert found.block == (2 if "hook_name" in config else None)


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"d_in": 5}, {}, r"`W_enc` has the shape \[6, 10\], and `cfg.json` says \[5, 10\]"),
        ({"d_sae": 10**12}, {}, "`d_sae` is 1000000000000, not the size of a layer"),
        ({"d_in": "6"}, {}, "`d_in` is 6, not the size"),
        ({"d_in": True}, {}, "`d_in` is True, not the size"),
        (
            {"architecture": "gated"},
            {},
            "its architecture is 'gated', and standard, jumprelu, topk, batchtopk are read",
        ),
        ({"architecture": ["topk"]}, {}, "its architecture is"),
        ({"architecture": "topk", "k": 99}, {}, "`k` is 99, not a number of features from 1 to 10"),
        ({"architecture": "topk", "k": {}}, {}, "`k` is {}, not a number"),
        ({"architecture": "jumprelu"}, {}, "`threshold` is missing"),
        ({"normalize_activations": "layer_norm"}, {}, "`normalize_activations` is 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, {}, "only plain residual streams"),
        ({"metadata": {"models": 4}}, {}, "`models` is 4, which does not divide the input of 6"),
        ({}, {"b_dec": torch.full((D,), torch.nan)}, "`b_dec` holds something other than finite numbers"),
        ({}, {"b_dec": torch.zeros(D, dtype=torch.int64)}, "`b_dec` holds something other"),
        ({}, {"W_gate": torch.zeros(D)}, "`W_gate` is a weight that a standard autoencoder does not have"),
    ],
)
def test_what_does_not_fit_is_refused(
    config: dict[str, Any], tensors: dict[str, torch.Tensor], said: str, tmp_path: Path
):
    folder = foreign_folder(tmp_path / "f", config, **tensors)
    with pytest.raises(DataError, match=said) as caught:
        read_features(folder)
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).endswith(": fit or copy them again.")


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no `cfg.json`, so it holds no features"):
        read_features(tmp_path)
    folder = foreign_folder(tmp_path / "f", {})
    torch.save({"W_enc": torch.zeros(D, F)}, folder / WEIGHTS)  # a pickle under the name
    with pytest.raises(DataError, match="cannot be read"):
        read_features(folder)
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(DataError, match="it is a named pipe"):
        read_features(folder)
    (folder / CONFIG).write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"nested more than|JSON"):
        read_features(folder)
    (folder / CONFIG).write_bytes(b"[]")
    with pytest.raises(DataError, match="is no JSON object"):
        read_features(folder)
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (folder / CONFIG).unlink()
    (folder / CONFIG).symlink_to(secret)
    with pytest.raises(DataError, match=r"`cfg.json` is a link out of the folder"):
        read_features(folder)


def test_a_header_that_promises_more_than_the_file_has_is_refused(tmp_path: Path):
    folder = foreign_folder(tmp_path / "f", {})
    header = json.dumps({"W_enc": {"dtype": "F32", "shape": [D, F], "data_offsets": [0, 4 * 10**15]}}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DataError, match="cannot be read"):
        read_features(folder)


def test_other_folders_are_not_written_to(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds `notes.txt`, which is no part of features"):
        write_features(Features(some(), 1), tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError):
        write_features(Features(some(), 1), tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
