"""What captures cost while training: blocks of steps at the default interval, with and without the recorder."""

import tempfile
from pathlib import Path

import torch

import probe
from benchmarks.harness import Row, compare
from benchmarks.models import tiny, world
from probe.world import pack
from trainers.pretrain import PretrainConfig


def run() -> tuple[list[Row], list[str]]:
    """One block is one default interval: that many training steps, and the capture that is due in it."""
    lm = probe.LM.create("tiny", tiny().tokenizer, seed=1)
    config = PretrainConfig(out=Path("unused"))
    rows = pack(world().documents(seed=0), lm.tokenizer, config.length)
    batch = torch.stack([torch.as_tensor(next(rows)[0], dtype=torch.long) for _ in range(config.batch_size)])
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=1e-4, fused=True)

    def steps() -> None:
        lm.model.train()
        for _ in range(config.capture_every):
            loss = lm.model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as directory:
        recorder = probe.watch(lm, Path(directory) / "run", prompts=world().probe_prompts(), every=config.capture_every)
        taken = iter(range(1000))

        def watched() -> None:
            steps()
            recorder.capture(next(taken))

        name = f"{config.capture_every} pretraining steps of {config.batch_size} x {config.length} tokens"
        row = compare(name, ("plain", steps), ("with a capture", watched), repeats=9, warmup=1, target="<= 1.05")
        recorder.close()
        share = recorder.seconds / next(taken) / row.seconds_a
    return [row], [
        f"A capture of {len(recorder.prompts)} prompts takes {100 * share:.2f} % of its interval's training."
    ]
