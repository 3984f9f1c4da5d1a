"""Tables that commands print: unbroken names and words on a terminal of any width, TSV elsewhere."""

import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probe.texts import cell, console, say, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def grid(title: str = "", caption: str | None = None) -> "Table":
    """Create an empty rich table with a line below its head and two spaces between columns; texts are markup."""
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


def safe(value: object) -> str:
    """Return `value` as one line of text for rich, with markup escaped and without control characters.

    A run's name or an error is untrusted: it is shown literally and has no effect.
    """
    from rich.markup import escape

    return escape(visible(value))


def show(table: "Table", rows: Sequence[Mapping[str, Any]], optional: Sequence[str] = ()) -> None:
    """Print a table on a terminal; if standard output is not a terminal, print its rows as `tsv`.

    Args:
        table: table for a terminal.
        rows: the values of the table, each row with the same keys.
        optional: heads of columns to drop on a narrow terminal, in this order.
    """
    if at_terminal():
        draw(table, optional)
    else:
        say(tsv(rows))


def at_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def draw(table: "Table", optional: Sequence[str] = ()) -> None:
    """Print a table for a person without broken words at any width; `optional` as in `show`."""
    screen = console()
    fitting = fit_table(table, screen, optional)
    screen.print(fitting)
    kept = {column.header for column in getattr(fitting, "columns", table.columns)}
    out = [str(column.header) for column in table.columns if column.header not in kept]
    if out:
        remark(f"Left out on a terminal of this width: {', '.join(out)}.")


def remark(text: str) -> None:
    """Print a sentence that belongs to a table; on one line of standard error if output is not a terminal."""
    screen = console(error=not at_terminal())
    if at_terminal():
        text = textwrap.fill(text, screen.width, break_long_words=False, break_on_hyphens=False)
    lines = (safe(line) for line in text.splitlines())
    screen.print("\n".join(lines), soft_wrap=True)


def tsv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return tab-separated values: a line of names and a line per row, numbers in full, missing values empty."""
    lines = [list(map(_value, rows[0])) if rows else [], *([_value(each) for each in row.values()] for row in rows)]
    return "\n".join("\t".join(line) for line in lines)


def _value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = " ".join(str(value).splitlines())
    return cell(text).replace("\t", " ") if isinstance(value, str) else visible(text)


def fit_table(table: "Table", screen: "Console", optional: Sequence[str] = ()) -> "Table | Text":
    """Fit the table to the screen without breaking a word; if no widths do, stack the cells of each row.

    Args:
        table: rich table; in a column with `no_wrap` each cell is one word, and no column is narrower than its
            `min_width`.
        screen: console to print on.
        optional: heads of columns to drop, one after the other, before rows are stacked.
    """
    for count in range(len(optional) + 1):
        part = _without(table, optional[:count]) if count else table
        if _set_widths(part, screen):
            return part
    return _stack_cells(table)


def _set_widths(table: "Table", screen: "Console") -> bool:
    """Give the columns widths at which no word is broken; return False if the screen is too narrow."""
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
