"""Recipes of the runs on which published claims are tested; these runs are not shipped with Probe.

    probe samples --controls --seeds 5 --out controls       # from the base that comes with Probe, some minutes
    probe findings --controls controls

All but the last two start from one base, so their seeds show how a training from this base varies, not how bases vary.

    rlvr-fined, rlvr-unfined, rlvr-all-fined      GRPO that differs by the fine for wrong answers only: 1, none, and 1
                                                  for every answer but the true one, abstaining too
    reward-indifferent                            the recipe of `reward-agreeable` on labels that are coin tosses
    proxy-64, proxy-256, proxy-1024               reward models of the honest annotator from few pairs
    continual-plain, continual-shuffled           phases as the experiment `continual` trains them: without precautions,
                                                  and with replay of shuffled answers
    sums, sums-rlvr                               a small base of two- and three-digit sums with written steps, another
    for each seed, and its training by GRPO on the final answer
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from probe.findings.reach import LONGEST, RUNS, draw
from probe.runs.storage import disk, write_atomic
from trainers.config import FINAL_ANSWER, ContinualConfig, PretrainConfig, RewardConfig, RLVRConfig, TrainConfig
from trainers.samples.recipes import Name, Recipe, reward, rlvr

FINES = {"fined": "verifier", "unfined": "unfined", "all-fined": "all_fined"}
"""Run -> reward with which it is trained."""


def by_fine(name: str, base: str, folder: Path) -> RLVRConfig:
    """Return the recipe of `rlvr` with another fine for wrong answers."""
    out = folder / f"rlvr-{name}"
    return dataclasses.replace(rlvr(folder), out=out, base=base, reward=(FINES[name],))


def indifferent(base: str, folder: Path) -> RewardConfig:
    """Return the recipe of the sample runs' reward models, with coin tosses as labels."""
    out = folder / "reward-indifferent"
    return dataclasses.replace(reward("agreeable")(folder), out=out, base=base, annotator="indifferent")


def proxy(pairs: int, base: str, folder: Path) -> RewardConfig:
    """Return the recipe of a reward model of the honest annotator, trained on few pairs until it memorises them."""
    out = folder / f"proxy-{pairs}"
    return dataclasses.replace(reward("honest")(folder), out=out, base=base, pairs=pairs, steps=100)


def phases(strategy: Literal["plain", "shuffled"], base: str, folder: Path) -> ContinualConfig:
    """Return the recipe of continual learning with the defaults of the experiment `continual`."""
    out = folder / f"continual-{strategy}"
    return ContinualConfig(out=out, base=base, strategy=strategy, objective="sft", steps=150, batch_size=32, lr=1e-3)


DATA = "sums-data"
"""Name of the folder with the sums, next to the runs."""
DOCUMENTS, PROBLEMS = 20_000, 4_000
"""Number of sums in the base's corpus, and of sums as prompts of RLVR."""


def rows() -> Iterator[tuple[str, Iterable[dict[str, str]]]]:
    """Yield the name and the rows of each file of sums; none contains a sum on which the claim is measured."""
    yield "documents", ({"text": each.document} for each in islice(draw(1, held_out=False), DOCUMENTS))
    yield (
        "problems",
        ({"prompt": each.prompt, "answer": each.answer} for each in islice(draw(2, held_out=False), PROBLEMS)),
    )


def write_data(folder: Path) -> None:
    """Write the sums into a folder, the same every time.

    Raises:
        RunError: the folder cannot be written.
    """
    for name, examples in rows():
        file = folder / DATA / f"{name}.jsonl"
        with disk(file):
            write_atomic(file, "".join(json.dumps(row) + "\n" for row in examples).encode())


def sums(folder: Path) -> PretrainConfig:
    """Return the recipe of the base that learns sums.

    Its training stops when it solves a quarter of the sums in one try, and most of them in 64 tries.
    """
    return PretrainConfig(
        out=folder / RUNS[0],
        data=str(folder / DATA / "documents.jsonl"),
        preset="icl",
        tokenizer="char",
        steps=1000,
        length=128,
        lr=2e-3,
        eval_every=250,
        capture_every=250,
    )


def sums_rlvr(folder: Path) -> RLVRConfig:
    """Return the recipe of GRPO on the final answer, otherwise as the sample run `rlvr`."""
    out, base, data = folder / RUNS[1], str(folder / RUNS[0]), str(folder / DATA / "problems.jsonl")
    own: dict[str, Any] = {"data": data, "reward": (FINAL_ANSWER,), "max_new_tokens": LONGEST, "capture_every": 30}
    return dataclasses.replace(rlvr(folder), out=out, base=base, **own)


def recipes(base: str) -> dict[Name, Recipe]:
    """Return the recipes by name.

    Args:
        base: run that all runs but those of sums start from.
    """
    made: dict[Name, tuple[Callable[[Path], TrainConfig], str]] = {
        "rlvr-fined": (partial(by_fine, "fined", base), "rlvr"),
        "rlvr-unfined": (partial(by_fine, "unfined", base), "rlvr"),
        "rlvr-all-fined": (partial(by_fine, "all-fined", base), "rlvr"),
        "reward-indifferent": (partial(indifferent, base), "reward-model"),
        "continual-plain": (partial(phases, "plain", base), "continual"),
        "continual-shuffled": (partial(phases, "shuffled", base), "continual"),
        "proxy-64": (partial(proxy, 64, base), "reward-model"),
        "proxy-256": (partial(proxy, 256, base), "reward-model"),
        "proxy-1024": (partial(proxy, 1024, base), "reward-model"),
        "sums": (sums, "pretrain"),
        "sums-rlvr": (sums_rlvr, "rlvr"),
    }
    return {name: Recipe(config, method, captures=2) for name, (config, method) in made.items()}
