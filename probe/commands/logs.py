"""`probe logs BASE ALIGNED`: compares the logs of two models on one task of another harness."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.audit.config import MARGIN
from probe.commands.tables import at_terminal, draw, grid, remark, safe, tsv
from probe.errors import ConfigError, RunError
from probe.options import parse
from probe.terms import SMALLEST
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from rich.table import Table

    from probe.logs.paired_logs import LogComparison

CHARACTERS = 1200
"""Largest number of characters of a prompt or an answer on the terminal; the saved result has all."""


def logs(argv: list[str]) -> int:
    """Compare the logs of two models on one task, by Inspect or another harness: `probe logs BASE ALIGNED`."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Logs:
        """Compare two models by their logs of one task: paired differences of all scores, and the items that differ.

        A log is an .eval or .json file of Inspect, a samples_*.jsonl of lm-evaluation-harness, or rows with the columns
        `id` and `score` (.jsonl, .json, .csv, .tsv, .parquet, or a folder of them). The result is saved, and the page
        "Your experiments" shows its items with both transcripts.
        """

        base: tyro.conf.Positional[Path]
        """Log of the model to compare against."""
        aligned: tyro.conf.Positional[Path]
        """Log of the other model."""
        score: tuple[str, ...] = ()
        """Scores to compare (default: all that both logs have)."""
        cluster: str = ""
        """Metadata field whose values are clusters of items that are not independent, such as a passage: whole clusters
        are resampled (default: each question)."""
        by: str = ""
        """Metadata field by whose values the items are also compared separately."""
        smallest_effect: float = SMALLEST
        """Smallest change of a rate that counts (0.01: one percentage point)."""
        margin: float = MARGIN
        """Margin of a rate within which the models are equivalent."""
        seed: int = 0
        """Seed of resampling."""
        show: int = 3
        """Number of items to print that differ, with both answers."""
        json: bool = False
        """Print JSON: the sentence, the differences, and all items that differ with both transcripts."""
        out: Path | None = None
        """Folder to save to (default: results/logs/BASE-ALIGNED-KEY)."""

    settings = parse(Logs, argv, "probe logs")
    if settings.show < 0:
        raise ConfigError(f"--show is {settings.show}; expected 0 or more.")

    from probe.experiments.result import check_target, records
    from probe.logs.log_formats import read_log
    from probe.logs.paired_logs import compare_logs, folder_of
    from probe.runs.schema import jsonable

    if settings.out is not None:
        check_target(settings.out)
    found = compare_logs(
        read_log(settings.base),
        read_log(settings.aligned),
        scores=settings.score,
        cluster=settings.cluster,
        by=settings.by,
        seed=settings.seed,
        smallest_effect=settings.smallest_effect,
        margin=settings.margin,
    )
    for note in found.notes:
        say(f"probe: note: {note}", error=True)
    folder, problem = None, ""
    try:
        folder = found.result.save(settings.out or folder_of(found))
    except RunError as error:
        if settings.out is not None:
            raise
        problem = str(error)
    if settings.json:
        answer: dict[str, Any] = {"models": found.names, "finding": found.sentence(), "notes": list(found.notes)}
        answer |= {"differences": records(found.rows), "differing": records(differing_items(found))}
        say(json.dumps(jsonable(answer | {"saved": str(folder) if folder else None}), indent=2))
        return 0
    show(found, settings.show)
    remark(f"Saved in {folder}" if folder else f"Not saved: {problem} `--out` names one.")
    return 0


def show(found: "LogComparison", items: int) -> None:
    """Print the sentence, the table of differences and some items; without a terminal, the differences as TSV."""
    remark(found.sentence())
    if not at_terminal():
        names = list(map(str, found.rows.columns))
        say(tsv([dict(zip(names, row, strict=True)) for row in found.rows.itertuples(index=False)]))
        return
    draw(differences_table(found), ("finds", "n"))
    rows = differing_items(found)
    for name in list(dict.fromkeys(rows["item"]))[:items]:
        say("")
        for line in transcript(rows[rows["item"] == name].to_dict("records"), found):
            say(line)
    count = rows["item"].nunique()
    if count:
        say("")
        remark(f"{count:,} items differ; the saved result and --json have all of them.")


def differences_table(found: "LogComparison") -> "Table":
    """Return the differences as a table for a terminal."""
    from probe.audit.change import change, shown_mde
    from probe.logs.paired_logs import SCORE, SLICE, words_of_limits
    from probe.numbers import in_unit

    output = grid("Scores of both models and their paired differences", safe(words_of_limits(found)))
    sliced = (found.rows[SLICE] != "").any()
    for name in ("score", *(("slice",) if sliced else ())):
        output.add_column(name)
    for name in (*found.names, "difference", "n"):
        output.add_column(safe(name), justify="right")
    output.add_column("verdict")
    output.add_column("finds", justify="right")
    for row in found.rows.to_dict("records"):
        values = [in_unit(row["unit"], *(row[f"{side}{end}"] for end in ("", "_low", "_high"))) for side in SIDES]
        first = (row[SCORE], *((row[SLICE] or "all items",) if sliced else ()))
        cells = (*first, *values, change(row), f"{int(row['n']):,}", row["verdict"], shown_mde(row))
        output.add_row(*map(safe, cells))
    return output


SIDES = ("base", "aligned")


def differing_items(found: "LogComparison") -> "pd.DataFrame":
    """Return the items whose scores differ, with both transcripts: two rows each, the base first."""
    from probe.experiments.metrics import ITEM
    from probe.experiments.result import MODEL

    items = found.result.items
    order = {name: index for index, name in enumerate(found.differing)}
    rows = items[items[ITEM].isin(order)]
    keys = [
        2 * order[str(name)] + (model != found.names[0]) for name, model in zip(rows[ITEM], rows[MODEL], strict=True)
    ]
    return rows.iloc[sorted(range(len(rows)), key=keys.__getitem__)]


def transcript(rows: "list[Mapping[Any, Any]]", found: "LogComparison") -> list[str]:
    """Return an item in lines: the prompt, and each model's answer with its scores."""
    from probe.experiments.metrics import EXPECTED, ITEM, PROMPT
    from probe.experiments.slices import ANSWER

    prompts = [_text(row.get(PROMPT)) for row in rows]
    lines = [f"Item {rows[0][ITEM]}"]
    shared = len(set(prompts)) == 1
    lines += _indented(prompts[0]) if shared and prompts[0] else []
    expected = _text(rows[0].get(EXPECTED))
    lines += [f"  expected: {expected}"] if expected else []
    for row, prompt in zip(rows, prompts, strict=True):
        scores = ", ".join(f"{name} {row[name]:g}" for name in found.result.meta["scores"] if row[name] == row[name])
        lines.append(f"  {row['model']} ({scores}):")
        lines += [] if shared or not prompt else _indented(prompt)
        lines += _indented(_text(row.get(ANSWER)) or "(no answer was logged)", "      ")
    return lines


def _indented(text: str, blanks: str = "    ") -> list[str]:
    from probe.model.messages import split_messages

    cut = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} \u2026"
    parts = [f"[{part.role}] {part.text}" if part.role else part.text for part in split_messages(cut)]
    return [blanks + line for part in parts for line in part.splitlines()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
