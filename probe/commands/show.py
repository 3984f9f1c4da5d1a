"""`probe show ANALYSIS MODEL [BASE]`: runs an analysis of the pages on one model or two, in a terminal."""

import json
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from probe.commands.opened import open_models
from probe.commands.tables import at_terminal, draw, grid, remark, safe, tsv
from probe.errors import ConfigError, suggest
from probe.options import parse
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from rich.table import Table

    from probe.analyses.analysis_record import Analysis
    from probe.plotting.notebook import Drawable

ROWS = 10
"""Number of rows of each table on a terminal."""
COLUMNS = 8
"""Number of columns of each table on a terminal; files have all."""
ABOUT = """usage: probe show ANALYSIS MODEL [BASE] [--prompt TEXT] [--out FILE.pdf] [OPTIONS]

Show what an analysis says of a model, or of a model against its base: its sentence, its tables, and its figures with
`--out`. `--plugin FILE.py` adds your own. `probe show ANALYSIS --help` lists the options of one."""


def show(argv: list[str]) -> int:
    """Run an analysis of a model: `probe show ANALYSIS MODEL [BASE]`; without arguments it lists all analyses."""
    from probe.analyses.catalogue import find_analysis
    from probe.plugins import take

    words = take(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        list_analyses()
        return 0
    run(find_analysis(words[0]), words[1:])
    return 0


def list_analyses() -> None:
    """Print every analysis with its first line, grouped by page."""
    from probe.analyses.catalogue import summaries

    say(ABOUT)
    known = summaries()
    wide = max(map(len, known), default=0)
    for page in dict.fromkeys(page for page, _ in known.values()):
        say(f"\n{page}")
        for name, (own, summary) in known.items():
            if own == page:
                say(f"  {name:<{wide}}  {summary}")


def run(analysis: "Analysis", argv: "Sequence[str]") -> None:
    """Run one analysis as the command line asks.

    Raises:
        ProbeError: the options, the models or their inputs are not valid.
    """
    import tyro

    from probe.analyses.analysis_record import PAIR

    def arg(hint: Any, text: str, metavar: str | None = None, place: bool = False) -> Any:
        marks = [tyro.conf.Positional] if place else []
        return Annotated[(hint, tyro.conf.arg(help=text, metavar=metavar), *marks)]

    analysis = analysis.with_words(argv)
    own = analysis.form()
    what = "The model: a run, a checkpoint, a Hugging Face folder or hub id."
    first: list[Any] = [("model", arg(str, what, "MODEL", True))] if analysis.models else []
    if analysis.models == PAIR:
        first.append(("base", arg(str, "The model to compare against.", "BASE", True)))
    elif analysis.models:
        first.append(("base", arg(str | None, "A second model to show next to it.", "BASE", True), None))
    files = "File for a figure (.pdf, .png, .svg, .html) or its data (.csv, .tex); a folder for all figures and tables."
    last: list[Any] = [
        ("figure", arg(str | None, "Figure that --out writes (default: the first)."), None),
        ("out", arg(Path | None, files), None),
        ("json", arg(bool, "Print JSON, with all tables in full."), False),
        ("again", arg(bool, "Compute it even if its result is stored."), False),
    ]
    clash = {name for name, *_ in (*first, *last)} & {each.name for each in fields(own)}
    if clash:
        raise ConfigError(
            f"The input `{clash.pop()}` of the analysis `{analysis.name}` has the name of an option of the"
            " command: rename it."
        )
    kind = make_dataclass(analysis.name, [*first, *last], bases=(own,), kw_only=True, frozen=True)
    kind.__doc__ = analysis.about
    settings: Any = parse(kind, argv, f"probe show {analysis.name}")
    values = {name: getattr(settings, analysis.option_of(name)) for name in analysis.inputs | analysis.views}
    refs = [ref for ref in (getattr(settings, "base", None), getattr(settings, "model", None)) if ref]
    open_models(refs)

    from probe.analyses.stored_results import obtain_result
    from probe.commands.progress import Progress
    from probe.model.rewards import analysable_together
    from probe.plotting.notebook import Look
    from probe.plotting.theme import METHODS, OTHER
    from probe.runs.schema import jsonable

    lms = analysable_together(refs)
    values = analysis.settled(values, *lms)
    found = []
    for group in [lms] if analysis.models == PAIR else [[lm] for lm in lms] or [[]]:
        with Progress(analysis.title) as bar:
            result, stored = obtain_result(analysis, values, *group, again=settings.again, tick=bar.tick)
        found.append(result)
        if stored is not None:
            at = stored.created.replace("T", " ").removesuffix("+00:00")
            say(f"probe: note: this is the stored result of {at} UTC; --again computes it", error=True)
    names, colours = [_short(ref) for ref in refs], (METHODS["pretrain"], OTHER)
    shown = analysis.together(found, [Look(name, colour) for name, colour in zip(names, colours, strict=False)])
    for index, result in enumerate(shown):
        analysis.require_views(result, values)
        about = refs if len(shown) == 1 else refs[index : index + 1]
        if settings.out is not None:
            out = _apart(settings.out, names[index]) if len(shown) > 1 else settings.out
            write(analysis, result, values, out, settings.figure, about)
        if settings.json:
            tables = {name: table.astype(object).to_dict("records") for name, table in result.tables().items()}
            told = {"analysis": analysis.name, "models": about, "sentence": analysis.sentence(result, values)}
            say(json.dumps(jsonable({**told, "notes": list(result.notes), "tables": tables}), indent=2))
            continue
        sentence, opening = analysis.sentence(result, values), f"{names[index]}: " if len(shown) > 1 else ""
        remark(sentence if sentence.startswith(opening) else opening + sentence)
        texts = analysis.chips(result, values)
        for row in texts.rows if texts else ():
            remark(f"{row.label}: {' '.join(chip.text for chip in row.tokens)}")
        if texts and texts.caption:
            say(f"probe: note: {texts.caption}", error=True)
        for note in result.notes:
            say(f"probe: note: {note}", error=True)
        print_lists(analysis.lists(result, values))


def write(
    analysis: "Analysis",
    result: "Drawable",
    values: "Mapping[str, Any]",
    out: "Path",
    figure: str | None,
    refs: "Sequence[str]",
) -> None:
    """Write one figure or its data to a file, or all figures and tables to a folder.

    Raises:
        ConfigError: no figure has the name, or the file's extension is unknown.
    """
    from probe.plotting.export import FORMATS, missing, provenance, render_table, save, save_all, save_provenance
    from probe.plotting.notebook import title_of
    from probe.runs.storage import write_file

    figures = analysis.figures(result, values)
    if figure is not None and figure not in figures:
        hint = suggest(figure, figures, "name one of these.")
        raise ConfigError(f"--figure `{figure}` is none of {', '.join(figures)}: {hint}")
    name = figure or next(iter(figures), "")
    source = provenance(figure=name, models=list(refs), created_by=f"probe show {analysis.name}", **values)
    out = out.expanduser()
    if out.suffix:
        if not figures:
            raise ConfigError(f"{analysis.name} draws nothing here: give a folder for its tables.")
        save(
            figures[name],
            out,
            analysis.data(result, name, values),
            source=source,
            title=title_of(figures[name], analysis.title),
        )
        remark(f"Saved {out}")
        return
    formats = [each for each in FORMATS if each in ("html", "csv") or (each in ("png", "pdf") and not missing())]
    files = []
    for each, chart in figures.items():
        title = title_of(chart, analysis.title)
        files += save_all(
            chart, analysis.data(result, each, values), out, each, formats, source | {"figure": each}, title=title
        )
    for each, table in result.tables().items():
        files.append(out / f"{each}.csv")
        write_file(files[-1], render_table(table, "csv"))
    save_provenance(out, files, source)
    remark(f"Saved {len(set(files))} files in {out}")


def print_lists(lists: "Mapping[str, pd.DataFrame]") -> None:
    """Print the first rows of each table; if standard output is not a terminal, all rows of the first one as TSV."""
    if not at_terminal():
        for table in list(lists.values())[:1]:
            rows: list[Any] = table.to_dict("records")
            say(tsv(rows))
        return
    for title, table in lists.items():
        table = table.iloc[:, :COLUMNS]
        draw(_grid(title, table), optional=[safe(_head(name)) for name in reversed(table.columns[2:])])
        say("")


def _grid(title: str, table: "pd.DataFrame") -> "Table":
    from pandas import isna
    from pandas.api.types import is_float_dtype, is_numeric_dtype

    more = f", {ROWS} of {len(table):,}" if len(table) > ROWS else ""
    found = grid(safe(f"{title}{more}"))
    for name in table:
        justify: Any = "right" if is_numeric_dtype(table[name]) else "left"
        found.add_column(safe(_head(name)), justify=justify)
    floats = {name for name in table if is_float_dtype(table[name])}
    for row in table.head(ROWS).to_dict("records"):
        cells = ["" if isna(each) else f"{each:.3g}" if name in floats else str(each) for name, each in row.items()]
        found.add_row(*map(safe, cells))
    return found


def _head(name: object) -> str:
    return str(name).replace("_", " ")


def _short(ref: str) -> str:
    """Return the last part of a reference."""
    return Path(ref).name or ref


def _apart(out: "Path", name: str) -> "Path":
    """Return the path for the files of one of several models: the file or folder with the model's name."""
    return out.with_name(f"{out.stem}-{name}{out.suffix}") if out.suffix else out / name
