"""Lineages of several seeds, written as run directories."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe.experiments.result import Result
from probe.runs import Run

OPTIONS = {"lr": 1e-3, "steps": 30, "batch_size": 8, "seed": 0, "save_every": 500, "threads": 1, "data": "world"}
Write = Callable[..., Run]


def write_run(path: Path, method: str, seed: int = 0, parent: str = "", **more: Any) -> Run:
    """A finished run as a training leaves it, without weights."""
    meta: dict[str, Any] = {
        "schema": 1,
        "method": method,
        "created": f"2026-01-01T00:00:{seed:02}+00:00",
        "parent": parent or None,
        "reference": parent or None,
        "seed": seed,
        "config": OPTIONS | {"seed": seed, "out": str(path), "base": parent or None} | more.pop("config", {}),
        "world": {"hash": "w"},
        "data": {"source": "world", "hash": "w"} | ({"reference": f"weights of {parent}"} if parent else {}),
        "status": "finished",
        "step": 30,
    } | more
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(meta))
    return Run(path)


def name_of(name: str, seed: int) -> str:
    """As the sample runs are called."""
    return name if seed == 0 else f"{name}-seed{seed}"


def write_lineage(folder: Path, seeds: Sequence[int] = (0, 1, 2), shared: bool = False, **more: Any) -> list[Run]:
    """A base and a DPO of each seed; with `shared` all of the base of the first seed."""
    bases = [write_run(folder / name_of("base", s), "pretrain", s) for s in (seeds[:1] if shared else seeds)]
    starts = bases * len(seeds) if shared else bases
    return bases + [
        write_run(folder / name_of("dpo", s), "dpo", s, str(base.path), **more)
        for s, base in zip(seeds, starts, strict=False)
    ]


def store_result(run: Run, values: dict[str, float], name: str = "sycophancy", n: int = 40) -> None:
    """A stored result with some numbers, each with an interval over answers."""
    rows = [(m, v, v - 0.05, v + 0.05, n) for m, v in values.items()]
    summary = pd.DataFrame(rows, columns=["metric", "value", "ci_low", "ci_high", "n"])
    items = pd.DataFrame({"item": ["a", "b"], "model": run.name, "right": [0, 1]})
    meta = {"models": [{"label": run.name}], "n": n, "seed": 0, "options": {}, "world": "w", "version": 1}
    table = pd.DataFrame({"model": [run.name], "level": [1.0]})
    Result(name, summary, items, {"levels": table}, meta=meta).save(run.path / "results" / f"{name}-{n}")


@pytest.fixture
def lineage(tmp_path: Path) -> list[Run]:
    return write_lineage(tmp_path)
