"""Results that draw themselves: `figure()`, which a notebook shows in the place of their values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from probe.plotting.chips import TokenRows

NAME = "model"
"""What a single model is called in a legend."""


def titled(chart: "go.Figure", title: str, height: int | None = None) -> "go.Figure":
    """Give a figure the words that stand above it on a page and in its caption, and perhaps another height in pixels.

    The words are no part of the drawing.
    """
    return chart.update_layout(
        meta={**meta_of(chart), "title": title}, **({} if height is None else {"height": height})
    )


def title_of(chart: "go.Figure", otherwise: str = "") -> str:
    """Return the words that stand above a figure."""
    return str(meta_of(chart).get("title", otherwise))


def clickable(chart: "go.Figure", **inputs: str) -> "go.Figure":
    """Say which inputs a click on a point of a figure gives values: `clickable(chart, position="x")`.

    Args:
        chart: the figure.
        inputs: of the analysis, each with the field of the point that has the value (`x`, `y`, `customdata`).
    """
    return chart.update_layout(meta={**meta_of(chart), "inputs": inputs}, clickmode="event+select")


def meta_of(chart: "go.Figure") -> dict[str, Any]:
    """Return what a figure has beside its drawing: `title`, `inputs`."""
    return dict(chart.layout.meta) if isinstance(chart.layout.meta, dict) else {}


def opening(table: "pd.DataFrame", analysis: str, inputs: "Sequence[Mapping[str, Any]]") -> "pd.DataFrame":
    """Return a table whose rows open another analysis of the page, each with its inputs by name."""
    table.attrs["opens"] = analysis, list(inputs)
    return table


class Drawable:
    """What an analysis returns: a sentence, notes, tables and figures; a notebook shows its main figure.

    A class gives `figure` and `table` where it has one of each, `figures` and `tables` where it has several, the main
    one first. The arguments of `sentence`, `chips`, `figures` and `lists`, if any, choose what is looked at; `data`
    takes those of `figures` that it needs.
    """

    notes: tuple[str, ...] = ()
    """What a reader of the figures must know besides, in sentences."""

    @property
    def hooked(self) -> Sequence[int]:
        """Ids of a text that was read with hooks, on which a page compares hooked and plain logits."""
        return ()

    def sentence(self) -> str:
        """Return the finding in one sentence; empty where there is none."""
        return ""

    def chips(self) -> "TokenRows | None":
        """Return texts as rows of tokens; None where there are none."""
        return None

    def figures(self) -> "Mapping[str, go.Figure]":
        """Return all figures by name, in the light theme; the data of one are in the table of its name."""
        return {"figure": self.figure()}

    def tables(self) -> "Mapping[str, pd.DataFrame]":
        """Return all tables by name, with every number in full."""
        return {"table": self.table()}

    def lists(self) -> "Mapping[str, pd.DataFrame]":
        """Return the tables as they are read, by title: the largest first, numbers with their units."""
        return self.tables()

    def figure(self) -> "go.Figure":
        """Return the main figure, in the light theme."""
        return next(iter(self.figures().values()))

    def table(self) -> "pd.DataFrame":
        """Return the numbers behind the main figure."""
        return next(iter(self.tables().values()))

    def data(self, figure: str) -> "pd.DataFrame":
        """Return the table behind a figure: that of its name, else the first one."""
        tables = self.tables()
        return tables[figure] if figure in tables else next(iter(tables.values()))

    def save(self, path: str | Path, *, title: str = "", **options: Any) -> Path:
        """Write the figure, or its numbers as .csv and .tex, for a paper: `save("lens.pdf", width="single")`.

        Args:
            path: of the file; it ends in one of `probe.plotting.export.FORMATS`.
            title: what is shown, in words: the caption of a table.
            options: of `probe.plotting.Paper`: width, height, font_size, font, dpi, show_title, theme.
        """
        from probe.plotting.export import save

        return save(self.figure(), path, self.table(), title=title, **options)

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> Mapping[str, Any]:
        bundle: Mapping[str, Any] = self.figure()._repr_mimebundle_(*args, **options)
        return bundle


@dataclass(frozen=True)
class Look:
    """How one model is drawn."""

    name: str
    """What it is called."""
    colour: str
    """Of its method."""
    dash: str = "solid"
    """Of its lines, to tell two models of one method apart."""


def pair() -> "tuple[Look, Look]":
    """Return how two models are drawn that have no names."""
    from probe.plotting.theme import METHODS

    return Look("base", METHODS["pretrain"]), Look("aligned", METHODS["dpo"])


def alone() -> tuple[Look, ...]:
    """Return how a model is drawn that stands for itself."""
    from probe.plotting.theme import METHODS

    return (Look(NAME, METHODS["dpo"]),)


R = TypeVar("R", bound=Drawable)


@dataclass(frozen=True)
class Beside(Drawable, Generic[R]):
    """Results of one analysis for one model or several, said and drawn together."""

    results: tuple[R, ...]
    """One for each model, the base first."""
    looks: tuple[Look, ...]
    """Names and colours of the models."""

    def tables(self) -> "Mapping[str, pd.DataFrame]":
        """Return the tables of all models by name, with the column `model` first."""
        import pandas as pd

        joined: dict[str, list[pd.DataFrame]] = {}
        for look, result in zip(self.looks, self.results, strict=True):
            for name, table in result.tables().items():
                copy = table.copy()
                copy.insert(0, "model", look.name)
                joined.setdefault(name, []).append(copy)
        return {name: pd.concat(tables, ignore_index=True) for name, tables in joined.items()}
