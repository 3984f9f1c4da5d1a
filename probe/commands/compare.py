"""`probe compare BASE ALIGNED --data FILE`: what changed from one model to the other over a corpus."""

import json
from typing import TYPE_CHECKING, Any

from probe.commands.opened import open_models
from probe.commands.tables import at_terminal, draw, grid, remark, tsv
from probe.commands.terminal import safe
from probe.errors import ConfigError
from probe.numbers import chance, in_unit, signed
from probe.options import parse
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd
    from rich.table import Table

    from probe.compare.corpus_shift import CorpusShift

ROWS = 10
"""Rows of each table on a terminal."""
WORLD_N = 100
"""Questions of each kind of a world, or of each shipped set."""


def compare(argv: list[str]) -> int:
    """Compare two models over a corpus: `probe compare BASE ALIGNED --data FILE`."""
    from dataclasses import dataclass
    from pathlib import Path

    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Compare:
        """Compare two language models with one tokenizer over a corpus: KL a token, and the tokens that gain and lose.

        It prints which kinds, texts and positions changed most, and which tokens are promoted and suppressed.
        """

        base: tyro.conf.Positional[str]
        """The model that is compared against: a run, a checkpoint, a Hugging Face folder or hub id."""
        aligned: tyro.conf.Positional[str]
        """The other one."""
        data: Path | None = None
        """Texts: rows with `text`, `messages`, or `prompt` (and `completion` or `chosen`), and `kind`; or a text file.
        Without it the questions of the world that both models belong to, or of the shipped sets."""
        answers: bool = False
        """Count only what an assistant says: the token behind each prompt, and completions."""
        n: int | None = None
        """Rows that are drawn (default: all); without a file the questions of each kind or set (default: 100)."""
        limit: int | None = None
        """The first rows of the file, of which n are drawn; all of them by default."""
        seed: int = 0
        """Seed of everything random."""
        strict: bool = False
        """Refuse a file with a row that cannot be used; otherwise such rows are left out and counted."""
        top: int = 10
        """Tokens that are promoted and suppressed most, of each score."""
        json: bool = False
        """Print JSON, with all tables in full."""
        out: Path | None = None
        """Folder to write the tables (CSV) and the figure (HTML) to; files of the same names are replaced."""

    settings = parse(Compare, argv, "probe compare")

    for name in ("n", "limit", "top"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; expected 1 or more.")
    if settings.data is None and (settings.limit is not None or settings.strict):
        raise ConfigError("--limit and --strict are about the rows of a file: give one with --data, or leave them out.")
    open_models((settings.base, settings.aligned))

    from probe.commands.progress import Progress
    from probe.compare.corpus_shift import compare_corpus, read_texts, shared_texts
    from probe.model.rewards import analysable
    from probe.rows import Selection
    from probe.runs.schema import jsonable
    from probe.runs.storage import check_folder

    if settings.out is not None:
        check_folder(settings.out)
    selection = Selection(settings.n, settings.seed, settings.limit)
    rows = None if settings.data is None else read_texts(settings.data, settings.strict, selection)
    base, aligned = (analysable(ref) for ref in (settings.base, settings.aligned))
    texts = shared_texts(base, aligned, settings.n or WORLD_N, settings.seed) if rows is None else rows
    with Progress("Comparing") as bar:
        shift = compare_corpus(
            base, aligned, texts, settings.answers, k=settings.top, seed=settings.seed, tick=bar.tick
        )
    for note in shift.notes:
        say(f"probe: note: {note}", error=True)
    if settings.out is not None:
        write(shift, settings.out)
    if settings.json:
        tables = {name: table.astype(object).to_dict("records") for name, table in shift.tables().items()}
        ends = {"kl": shift.kl.row(), "kl_reverse": shift.kl_reverse.row()}
        say(json.dumps(jsonable({"models": shift.names, "finding": shift.sentence(), **ends, **tables}), indent=2))
        return 0
    show(shift)
    if settings.out is not None:
        remark(f"Saved in {settings.out}")
    return 0


def write(shift: "CorpusShift", folder: "Path") -> None:
    """Write each table as CSV and the figure as HTML, with where they come from."""
    from probe.plotting.export import provenance, render_table, save_all, save_provenance
    from probe.runs.storage import disk

    source = provenance(figure="compare", models=list(shift.names), created_by="probe compare")
    with disk(folder):
        files = save_all(shift.figure(), shift.table(), folder, "figure", ("html", "csv"), source)
        for name, table in shift.tables().items():
            files.append(folder / f"{name}.csv")
            files[-1].write_bytes(render_table(table, "csv"))
        save_provenance(folder, files, source)


def show(shift: "CorpusShift") -> None:
    """Print the finding and the first rows of each table; where a program reads, one table of values as TSV."""
    remark(shift.sentence())
    if not at_terminal():
        say(tsv(list(lines(shift))))
        return
    for table in grids(shift):
        draw(table)
        say("")


def lines(shift: "CorpusShift") -> "Iterator[dict[str, Any]]":
    """Yield one row per kind, text, position, and token that is promoted or suppressed.

    Its fields are `table`, `name`, `where`, `value`, `ci_low`, `ci_high` and `tokens` (how many it is a mean of).
    """
    ends = dict.fromkeys(("ci_low", "ci_high"))
    for row in shift.kinds.to_dict("records"):
        interval = {"value": row["kl"], "ci_low": row["kl_low"], "ci_high": row["kl_high"]}
        yield {"table": "kind", "name": row["kind"], "where": None, **interval, "tokens": row["tokens"]}
    for row in shift.texts.to_dict("records"):
        about = {"table": "text", "name": row["row"], "where": row["position"], "value": row["kl"]}
        yield {**about, **ends, "tokens": row["tokens"]}
    for row in shift.tokens.to_dict("records"):
        about = {"table": "position", "name": row["row"], "where": row["position"], "value": row["kl"]}
        yield {**about, **ends, "tokens": 1}
    total = int(shift.kinds["tokens"].sum())
    for row in shift.promoted.to_dict("records"):
        interval = {name: row[name] for name in ("value", *ends)}
        yield {"table": row["score"], "name": row["token"], "where": row["rank"], **interval, "tokens": total}


def grids(shift: "CorpusShift") -> "Iterator[Table]":
    """Yield the first rows of each table for a terminal."""
    kinds, texts, tokens = shift.kinds, shift.texts, shift.tokens
    ends = zip(kinds.kl, kinds.kl_low, kinds.kl_high, strict=True)
    columns = {"kind": kinds.kind, "KL, nats a token [95 %]": [in_unit("nats", *each) for each in ends]}
    yield _grid("Kinds", columns | {"texts": kinds.texts, "tokens": kinds.tokens}, len(kinds))
    columns = {"text": texts.row, "kind": texts.kind, "KL": _nats(texts.kl), "largest": _nats(texts.kl_max)}
    yield _grid("Texts that changed most", columns | {"at": texts.position, "token": texts.token})
    nexts = {
        name: [f"{token} {chance(p)}" for token, p in zip(tokens[f"{name}_next"], tokens[f"{name}_p"], strict=True)]
        for name in ("base", "aligned")
    }
    columns = {"text": tokens.row, "at": tokens.position, "behind": tokens.context, "KL": _nats(tokens.kl)}
    yield _grid("Positions that changed most, with the likeliest next token", columns | nexts)
    for direction in ("promoted", "suppressed"):
        rows = shift.listed("difference").query("direction == @direction")
        ends = zip(100 * rows.value, 100 * rows.ci_low, 100 * rows.ci_high, strict=True)
        columns = {"token": rows.token, "mean probability, pp [95 %]": [_points(*each) for each in ends]}
        columns |= {"base": [chance(p) for p in rows.p_base], "aligned": [chance(p) for p in rows.p_aligned]}
        columns |= {"same sign": [_share(each) for each in rows.same_sign]}
        columns |= {"same rank": [_share(each) for each in rows.same_rank]}
        columns |= {"beyond null": ["yes" if each else "no" for each in rows.beyond_null]}
        yield _grid(f"Tokens {direction} most; in both halves of the texts", columns, len(rows))


def _grid(title: str, columns: "dict[str, Any]", count: int = ROWS) -> "Table":
    table = grid(safe(title))
    for name, values in columns.items():
        table.add_column(safe(name), justify="left" if isinstance(next(iter(values), ""), str) else "right")
    for cells in list(zip(*columns.values(), strict=True))[:count]:
        table.add_row(*(safe(str(cell)) for cell in cells))
    return table


def _nats(values: "pd.Series") -> list[str]:
    return [f"{value:.3g}" for value in values]


def _points(value: float, low: float, high: float) -> str:
    return signed(value) + ("" if low != low else f" [{signed(low)}, {signed(high)}]")


def _share(value: float) -> str:
    return "" if value != value else f"{value:.0%}".replace("%", " %")
