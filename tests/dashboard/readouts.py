"""One small model of every kind that can be chosen, beside the runs of a store."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.model.rewards import VALUE_HEAD
from probe.runs import RunWriter, open_run
from probe.world import World, WorldConfig
from tests.dashboard import store
from tests.model.test_adapters import adapter
from tests.models import byte_tokenizer, random_lm

PLAIN_CONTEXT = 512
"""Tokens that the plain model reads: a document of the world is some two hundred of its bytes."""


def write_readouts(root: Path, runs: Path) -> dict[str, str]:
    """Write a model of each kind into `root/runs` and beside it; gives what the choices call each.

    Args:
        root: an empty folder.
        runs: the runs `base` and `dpo-agreeable`.
    """
    folder = Path(shutil.copytree(runs, root / "runs"))
    base = open_run(folder / "base")
    for seed, name in enumerate(("judge", "critic")):
        store.judge(folder / name, folder / "base", seed=seed, spread=0.3, world=base.world)
    shutil.copytree(runs / "dpo-agreeable", folder / "rlhf")
    head = {"weight": torch.linspace(-1, 1, 32)[None].contiguous(), "scale": torch.tensor(2.0)}
    for checkpoint in open_run(folder / "rlhf").checkpoints():
        save_file(head, checkpoint.path / VALUE_HEAD)
    adapter(base.checkpoints()[-1].path, root / "adapter")
    random_lm("gpt2", byte_tokenizer(), n_positions=PLAIN_CONTEXT).save(root / "plain")
    world = World(WorldConfig(mixture={"markov": 1.0}, chain=12), seed=0)
    lm = LM.create(ModelConfig(layers=1, width=16, heads=2, context=64), world.tokenizer(), seed=1)
    with RunWriter.create(folder / "icl", method="pretrain", config={"length": 35}, world=world.to_dict()) as run:
        with run.checkpoint(1) as checkpoint:
            lm.save(checkpoint)
        run.finish("finished")
    return {
        "language model": "dpo-agreeable",
        "reward model": "judge",
        "value head": "rlhf#value",
        "LoRA adapter": str(root / "adapter"),
        "checkpoint": "base@20",
        "plain folder": str(root / "plain"),
        "another world": "icl",
    }
