"""Runs to test with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probe.runs import RunWriter

Make = Callable[..., RunWriter]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Start runs `make("name")` in one folder; those still open at the end are finished."""
    writers = []

    def start(name: str = "run", **options: object) -> RunWriter:
        settings = {"method": "pretrain", "config": {"lr": 1e-3}} | options
        writers.append(RunWriter.create(tmp_path / name, **settings))  # type: ignore[arg-type]
        return writers[-1]

    yield start
    for writer in writers:
        writer.finish("interrupted")


HEADLINE = [{"metric": "accuracy", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 400}]
