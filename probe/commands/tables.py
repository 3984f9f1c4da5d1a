"""Tables that commands print: whole names and whole words on a terminal of any width, TSV where a program reads."""

import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probe.commands.terminal import safe
from probe.texts import cell, console, say, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def grid(title: str = "", caption: str | None = None) -> "Table":
    """Make an empty table of rich with a line below its head and two spaces between columns; texts are markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(
        title=title or None,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def show(table: "Table", rows: Sequence[Mapping[str, Any]], optional: Sequence[str] = ()) -> None:
    """Print a table on a terminal; where standard output goes elsewhere, its rows as `tsv`.

    Args:
        table: the table as a person sees it.
        rows: the same as values, each row with the same keys.
        optional: heads of columns that a narrow terminal does without, the first of them first.
    """
    if at_terminal():
        draw(table, optional)
    else:
        say(tsv(rows))


def at_terminal() -> bool:
    """Return whether standard output is read by a person."""
    return sys.stdout.isatty()


def draw(table: "Table", optional: Sequence[str] = ()) -> None:
    """Print a table for a person, at any width without a broken word; `optional` as in `show`."""
    screen = console()
    fitting = fit_table(table, screen, optional)
    screen.print(fitting)
    kept = {column.header for column in getattr(fitting, "columns", table.columns)}
    out = [str(column.header) for column in table.columns if column.header not in kept]
    if out:
        remark(f"Left out on a terminal of this width: {', '.join(out)}.")


def remark(text: str) -> None:
    """Print a sentence that belongs to a table; to standard error, on one line, where a program reads the table."""
    screen = console(error=not at_terminal())
    if at_terminal():
        text = textwrap.fill(text, screen.width, break_long_words=False, break_on_hyphens=False)
    lines = (safe(line) for line in text.splitlines())
    screen.print("\n".join(lines), soft_wrap=True)


def tsv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return tab-separated values: a line of names and a line per row, numbers in full, nothing for a missing value."""
    lines = [list(map(_value, rows[0])) if rows else [], *([_value(each) for each in row.values()] for row in rows)]
    return "\n".join("\t".join(line) for line in lines)


def _value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = " ".join(str(value).splitlines())
    return cell(text).replace("\t", " ") if isinstance(value, str) else visible(text)


def fit_table(table: "Table", screen: "Console", optional: Sequence[str] = ()) -> "Table | Text":
    """Fit the table to the screen without breaking a word; where no widths do, stack its rows one below the other.

    Args:
        table: of rich; in a column with `no_wrap` each cell is one word, and none is narrower than its `min_width`.
        screen: what it is printed on.
        optional: heads of columns that are left out, one after the other, before the rows are stacked.
    """
    for count in range(len(optional) + 1):
        part = _without(table, optional[:count]) if count else table
        if _set_widths(part, screen):
            return part
    return _stack_cells(table)


def _set_widths(table: "Table", screen: "Console") -> bool:
    """Give the columns widths at which no word is broken; False where the screen is too narrow for them."""
    from rich.measure import Measurement

    endless = screen.options.update(width=100_000)
    least, most = [], []
    for column in table.columns:
        cells = [Measurement.get(screen, endless, cell) for cell in (column.header, *column.cells)]
        most.append(max(cell.maximum for cell in cells))
        words = most[-1] if column.no_wrap else max(cell.minimum for cell in cells)
        least.append(max(words, min(column.min_width or 0, most[-1])))
    frame = Measurement.get(screen, endless, table).maximum - sum(most)
    spare = screen.width - frame - sum(least)
    if spare < 0:
        return False
    share = min(1.0, spare / max(sum(most) - sum(least), 1))
    for column, low, high in zip(table.columns, least, most, strict=True):
        column.width = low + int((high - low) * share)
    return True


def _without(table: "Table", heads: Sequence[str]) -> "Table":
    """Return the table without the columns that have these heads."""
    less, kept = grid(), [column for column in table.columns if column.header not in heads]
    less.title, less.caption = table.title, table.caption
    for column in kept:
        look: Any = {"justify": column.justify, "no_wrap": column.no_wrap, "style": column.style}
        less.add_column(column.header, min_width=column.min_width, **look)
    for cells in zip(*(column.cells for column in kept), strict=True):
        less.add_row(*cells)
    return less


def _stack_cells(table: "Table") -> "Text":
    """Write each row as a heading, its first cell, and one line for each further cell."""
    from rich.text import Text

    blocks = [Text.from_markup(f"[bold]{table.title}[/]")] if table.title else []
    names = [str(column.header) for column in table.columns]
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        lines = [
            f"[bold]{first}[/]",
            *(f"  {name} {cell}" for name, cell in zip(names[1:], others, strict=True) if cell),
        ]
        blocks.append(Text.from_markup("\n".join(lines)))
    blocks += [Text.from_markup(str(table.caption))] if table.caption else []
    return Text("\n").join(blocks)
