"""One model shared by two processes: what each holds, that it trains as one does, and what can be read of it."""

import itertools
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from probe import LM, Run, open_run
from probe.errors import ConfigError
from probe.model.presets import ModelConfig
from probe.world import World
from tests.models import random_lm
from tests.trainers import shared
from tests.trainers.conftest import figures
from tests.trainers.quick import make_config, train

OPTIONS: dict[str, Any] = {
    "steps": 4,
    "batch_size": 8,
    "accumulation": 2,
    "lr": 1e-3,
    "clip": 0.5,
    "schedule": "constant",
    "warmup": 0,
    "log_every": 1,
    "capture_every": 2,
    "eval_every": 2,
    "evaluate": 0,
}
Pair = Callable[..., tuple[Run, list[dict[str, Any]]]]


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours with eight blocks."""
    sizes = ModelConfig(layers=8, width=32, heads=4, mlp=64, context=64, init_std=0.1)
    return LM.create(sizes, World().tokenizer()).save(tmp_path_factory.mktemp("deep") / "m")


@pytest.fixture
def rows(write_jsonl: Callable[..., Path]) -> Callable[[str], Path]:
    """A file of 31 examples for a method, so that the processes' shares are not equal."""

    def of(method: str) -> Path:
        items = World().demonstrations(32, 0)
        pairs = itertools.pairwise(items)
        made = [
            {"prompt": one.prompt, "completion": one.answers[0]}
            if method == "sft"
            else {"prompt": one.prompt, "chosen": one.answers[0], "rejected": f"{other.answers[0]} ."}
            for one, other in pairs
        ]
        return write_jsonl(made, f"{method}.jsonl")

    return of


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Train in two processes that share the model: the run, and what each of them held."""

    def of(method: str, name: str, **options: Any) -> tuple[Run, list[dict[str, Any]]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        config = make_config(method, out=tmp_path / name, shard=True, **options)
        reports = [tmp_path / f"{name}-{rank}.json" for rank in "01"]
        children = [
            shared.start(method, config.to_dict(), common | {"RANK": rank, "LOCAL_RANK": rank}, report)
            for rank, report in zip("01", reports, strict=True)
        ]
        for child in children:
            child.join(280)
        assert [child.exitcode for child in children] == [0, 0]
        return open_run(tmp_path / name), [json.loads(report.read_text()) for report in reports]

    return of


def assert_close(one: Run, two: Run) -> None:
    """Losses and norms to 1e-5, captures and weights as far as Adam lets rounding grow."""
    ours, theirs = figures(one), figures(two)
    assert (ours["loss"] - theirs["loss"]).abs().max() < 1e-5
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4, atol=1e-5)
    assert one.captures().steps == two.captures().steps
    for step in one.captures().steps:
        expected, found = one.captures().load(step), two.captures().load(step)
        for key in ("attention", "residual_norm", "lens_top_logprobs", "attribution", "reference_kl"):
            np.testing.assert_allclose(found[key], expected[key], rtol=2e-3, atol=2e-3, err_msg=key)
    weights, others = LM.load(one.path).model, dict(LM.load(two.path).model.named_parameters())
    for name, weight in weights.named_parameters():
        torch.testing.assert_close(others[name], weight, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_sft_shares_what_it_holds(deep: Path, rows: Callable[[str], Path], pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("<user> where does mira live ? <bot>\n")
    options = OPTIONS | {"base": str(deep), "data": str(rows("sft")), "held_out": 0.3}
    options |= {"probe_prompts": tmp_path / "prompts.txt"}
    expected = train(make_config("sft", out=tmp_path / "one", device="cpu", **options))
    run, reports = pair("sft", "two", **options)
    assert_close(expected, run)
    model = LM.load(deep).model
    block = sum(weight.numel() for weight in model.model.layers[0].parameters())
    for held in reports:
        assert held["whole"] == sum(weight.numel() for weight in model.parameters())
        assert 0 < held["weights"] <= 0.6 * held["whole"]
        assert 0 < held["moments"] <= 0.6 * 2 * held["whole"]
        copies = 5  # weights, gradients, two moments, and the frozen reference of the captures
        assert held["alive"] - held["before"] <= 0.6 * copies * 4 * held["whole"]
        down = model.model.layers[0].mlp.down_proj.weight.numel()  # a loop over blocks still names one of the last
        assert 0 < held["block"] <= block + down < 2 * block
        assert held["gathered"] <= 2 * model.lm_head.weight.numel() + block < 0.35 * held["whole"]


@pytest.mark.slow
def test_dpo_goes_on_in_another_number_of_processes(
    deep: Path, rows: Callable[[str], Path], pair: Pair, tmp_path: Path
) -> None:
    """Two steps in two processes, one more in two, the last in one: as four in one."""
    options = OPTIONS | {"base": str(deep), "data": str(rows("dpo")), "gradient_checkpointing": True}
    expected = train(make_config("dpo", out=tmp_path / "one", device="cpu", **options))
    pair("dpo", "two", **options | {"steps": 2})
    pair("dpo", "two", **options | {"steps": 3, "resume": True})
    run = train(make_config("dpo", out=tmp_path / "two", device="cpu", resume=True, **options))
    rest = [run.metrics(), expected.metrics()]
    assert (rest[0]["loss"] - rest[1]["loss"]).abs().max() < 1e-5
    assert (rest[0]["grad_norm"] - rest[1]["grad_norm"]).abs().max() < 1e-4


@pytest.mark.slow
def test_another_architecture_in_half_precision(write_jsonl: Callable[..., Path], pair: Pair, tmp_path: Path) -> None:
    """Tied weights; weights and reference in bfloat16. A resume continues to the same bits."""
    base = random_lm("qwen3", num_hidden_layers=3).save(tmp_path / "qwen3")
    data = write_jsonl([{"prompt": "mira lives", "completion": f" in {place}"} for place in ("oslo", "rome")] * 4)
    options = OPTIONS | {"base": str(base), "data": str(data), "weights_dtype": "bfloat16", "held_out": 0.0}
    expected = train(make_config("sft", out=tmp_path / "one", device="cpu", **options))
    whole, _ = pair("sft", "whole", **options)
    assert (figures(expected)["loss"] - figures(whole)["loss"]).abs().max() < 0.05
    pair("sft", "parts", **options | {"steps": 2})
    resumed, _ = pair("sft", "parts", **options | {"resume": True})
    pd.testing.assert_frame_equal(figures(whole), figures(resumed), check_exact=True)


@pytest.mark.slow
def test_the_world_is_asked_by_all(deep: Path, world_run: Path, pair: Pair, tmp_path: Path) -> None:
    """Pairs that the model samples, the distance to the exact optimum, and the evaluation at the end."""
    options = OPTIONS | {"base": str(world_run), "pairs": 12, "steps": 2, "evaluate": 4, "reference_dtype": "bfloat16"}
    expected = train(make_config("dpo", out=tmp_path / "one", device="cpu", **options))
    run, _ = pair("dpo", "two", **options)
    columns = ["loss", "kl_to_optimal", "expected_reward"]
    pd.testing.assert_frame_equal(expected.metrics()[columns], run.metrics()[columns], rtol=1e-3, atol=1e-4)
    headlines = [made.headline.set_index("metric")["value"] for made in (expected, run)]
    assert (headlines[0] - headlines[1]).abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": 2}, "no sharding with --lora"),
        ({}, "shares a model among several processes and there is one"),
    ],
)
def test_what_cannot_be_shared_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make_config("sft", out=tmp_path / "none", base="base", shard=True, device="cpu", **options))
