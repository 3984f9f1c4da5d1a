"""`probe compare BASE ALIGNED --data FILE`: compares two models over a corpus."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.commands.opened import open_models
from probe.commands.show import print_lists, write
from probe.commands.tables import at_terminal, remark, tsv
from probe.errors import ConfigError
from probe.options import parse
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from probe.compare.corpus_shift import CorpusShift

WORLD_N = 100
"""Number of questions of each kind of a world, or of each built-in set."""


def compare(argv: list[str]) -> int:
    """Compare two models over a corpus: `probe compare BASE ALIGNED --data FILE`."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Compare:
        """Compare two language models with one tokenizer over a corpus: KL per token, tokens that gain and lose.

        It prints which kinds, texts and positions changed most, and which tokens are promoted and suppressed.
        """

        base: tyro.conf.Positional[str]
        """Model to compare against: a run, a checkpoint, a Hugging Face folder or hub id."""
        aligned: tyro.conf.Positional[str]
        """Aligned model, in the same forms."""
        data: Path | None = None
        """Texts to read: rows with `text`, `messages`, or `prompt` (and `completion` or `chosen`), and `kind`; or a
        text file. By default the questions of the world that both models belong to, or of the built-in sets.
        """
        answers: bool = True
        """Count only tokens that an assistant generates: the token after each prompt, and completions."""
        n: int | None = None
        """Number of rows to draw (default: all); without a file, of questions of each kind or set (default: 100)."""
        limit: int | None = None
        """Number of first rows of the file from which n are drawn (default: all)."""
        seed: int = 0
        """Seed of all random draws."""
        strict: bool = False
        """Refuse a file with an invalid row; otherwise such rows are skipped and counted."""
        top: int = 12
        """Number of promoted and of suppressed tokens to list for each score."""
        json: bool = False
        """Print JSON with all tables in full."""
        out: Path | None = None
        """File for the figure (.pdf, .png, .svg, .html) or its data (.csv, .tex); or a folder for the figure and all
        tables.
        """

    settings = parse(Compare, argv, "probe compare")

    for name in ("n", "limit", "top"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; expected 1 or more.")
    if settings.data is None and (settings.limit is not None or settings.strict):
        raise ConfigError("--limit and --strict are about the rows of a file: give one with --data, or leave them out.")
    open_models((settings.base, settings.aligned))

    from probe.analyses.catalogue import find_analysis
    from probe.commands.progress import Progress
    from probe.compare.corpus_shift import compare_corpus, read_texts, shared_texts
    from probe.model.rewards import analysable_together
    from probe.rows import Selection
    from probe.runs.schema import jsonable
    from probe.runs.storage import check_folder

    if settings.out is not None:
        check_folder(settings.out.parent if settings.out.suffix else settings.out)
    selection = Selection(settings.n, settings.seed, settings.limit)
    rows = None if settings.data is None else read_texts(settings.data, settings.strict, selection)
    base, aligned = analysable_together((settings.base, settings.aligned))
    texts = shared_texts(base, aligned, settings.n or WORLD_N, settings.seed) if rows is None else rows
    with Progress("Comparing") as bar:
        shift = compare_corpus(
            base, aligned, texts, settings.answers, k=settings.top, seed=settings.seed, tick=bar.tick
        )
    for note in shift.notes:
        say(f"probe: note: {note}", error=True)
    if settings.out is not None:
        refs = [settings.base, settings.aligned]
        write(find_analysis("compare_corpus"), shift, {}, settings.out, None, refs)
    if settings.json:
        tables = {name: table.astype(object).to_dict("records") for name, table in shift.tables().items()}
        ends = {"kl": shift.kl.row(), "kl_reverse": shift.kl_reverse.row()}
        say(json.dumps(jsonable({"models": shift.names, "finding": shift.sentence(), **ends, **tables}), indent=2))
        return 0
    show(shift)
    return 0


def show(shift: "CorpusShift") -> None:
    """Print the finding and the first rows of each table; if standard output is not a terminal, one table as TSV."""
    remark(shift.sentence())
    if not at_terminal():
        say(tsv(list(lines(shift))))
        return
    print_lists(shift.lists())


def lines(shift: "CorpusShift") -> "Iterator[dict[str, Any]]":
    """Yield one row per kind, text, position, and promoted or suppressed token.

    Its fields are `table`, `name`, `where`, `value`, `ci_low`, `ci_high` and `tokens` (the number that it averages
    over).
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
