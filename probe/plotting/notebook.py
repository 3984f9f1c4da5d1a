"""Analysis results that a notebook shows as figures, and the titles and click targets of figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from probe.plotting.chips import TokenRows

NAME = "model"
"""Name of a single model in a legend."""


def titled(chart: "go.Figure", title: str, height: int | None = None) -> "go.Figure":
    """Set the title that a page and a caption show for a figure, and optionally its height in pixels.

    The title is not part of the drawing.
    """
    return chart.update_layout(
        meta={**meta_of(chart), "title": title}, **({} if height is None else {"height": height})
    )


def title_of(chart: "go.Figure", otherwise: str = "") -> str:
    """Return the title that a page and a caption show for a figure."""
    return str(meta_of(chart).get("title", otherwise))


def clickable(chart: "go.Figure", **inputs: str) -> "go.Figure":
    """Set the inputs that a click on a point of a figure changes: `clickable(chart, position="x")`.

    Args:
        chart: the figure.
        inputs: field of the point (`x`, `y`, `customdata`) that holds the value, by input of the analysis.
    """
    return chart.update_layout(meta={**meta_of(chart), "inputs": inputs}, clickmode="event+select")


def meta_of(chart: "go.Figure") -> dict[str, Any]:
    """Return what is stored with a figure besides its drawing: `title`, `inputs`."""
    return dict(chart.layout.meta) if isinstance(chart.layout.meta, dict) else {}


def opening(table: "pd.DataFrame", analysis: str, inputs: "Sequence[Mapping[str, Any]]") -> "pd.DataFrame":
    """Return a table whose rows open another analysis of the page, each with the given inputs."""
    table.attrs["opens"] = analysis, list(inputs)
    return table


class Drawable:
    """Result of an analysis: a sentence, notes, tables and figures; a notebook shows the main figure.

    A subclass defines `figure` and `table` if it has one of each, and `figures` and `tables`, the main one first, if it
    has several. Arguments of `sentence`, `chips`, `figures` and `lists` select what is shown; `data` takes those of
    `figures` that it needs.
    """

    notes: tuple[str, ...] = ()
    """Sentences that a reader of the figures must know."""

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of a text that was read with hooks; a page compares its logits with and without hooks."""
        return ()

    def sentence(self) -> str:
        """Return the finding in one sentence; empty if there is none."""
        return ""

    def chips(self) -> "TokenRows | None":
        """Return texts as rows of tokens; None if there are none."""
        return None

    def figures(self) -> "Mapping[str, go.Figure]":
        """Return all figures by name, in the light theme; the table of the same name holds a figure's data."""
        return {"figure": self.figure()}

    def tables(self) -> "Mapping[str, pd.DataFrame]":
        """Return all tables by name, with full precision."""
        return {"table": self.table()}

    def lists(self) -> "Mapping[str, pd.DataFrame]":
        """Return the tables for reading by title: largest rows first, numbers with their units."""
        return self.tables()

    def figure(self) -> "go.Figure":
        """Return the main figure, in the light theme."""
        return next(iter(self.figures().values()))

    def table(self) -> "pd.DataFrame":
        """Return the data of the main figure."""
        return next(iter(self.tables().values()))

    def data(self, figure: str) -> "pd.DataFrame":
        """Return the data of a figure: the table of the same name, otherwise the first."""
        tables = self.tables()
        return tables[figure] if figure in tables else next(iter(tables.values()))

    def save(self, path: str | Path, *, title: str = "", **options: Any) -> Path:
        """Write the figure, or its data as .csv or .tex, for a paper: `save("lens.pdf", width="single")`.

        Args:
            path: path of the file; its suffix is one of `probe.plotting.export.FORMATS`.
            title: title in words: the caption of a table.
            options: fields of `probe.plotting.Paper`: width, height, font_size, font, dpi, show_title, theme.
        """
        from probe.plotting.export import save

        return save(self.figure(), path, self.table(), title=title, **options)

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> Mapping[str, Any]:
        bundle: Mapping[str, Any] = self.figure()._repr_mimebundle_(*args, **options)
        return bundle


@dataclass(frozen=True)
class Look:
    """Name, colour and dash of a model in a figure."""

    name: str
    """Name of the model in legends."""
    colour: str
    """Colour of the model's method."""
    dash: str = "solid"
    """Dash of the model's lines, which distinguishes two models of one method."""


def pair() -> "tuple[Look, Look]":
    """Return the default looks of a base and an aligned model."""
    from probe.plotting.theme import METHODS

    return Look("base", METHODS["pretrain"]), Look("aligned", METHODS["dpo"])


def alone() -> tuple[Look, ...]:
    """Return the default look of a single model."""
    from probe.plotting.theme import METHODS

    return (Look(NAME, METHODS["dpo"]),)


R = TypeVar("R", bound=Drawable)


@dataclass(frozen=True)
class Beside(Drawable, Generic[R]):
    """Results of one analysis for one or more models, reported and drawn together."""

    results: tuple[R, ...]
    """Result of each model, the base first."""
    looks: tuple[Look, ...]
    """Name, colour and dash of each model."""

    def tables(self) -> "Mapping[str, pd.DataFrame]":
        """Return the joined tables of all models by name; their first column is `model`."""
        import pandas as pd

        joined: dict[str, list[pd.DataFrame]] = {}
        for look, result in zip(self.looks, self.results, strict=True):
            for name, table in result.tables().items():
                copy = table.copy()
                copy.insert(0, "model", look.name)
                joined.setdefault(name, []).append(copy)
        return {name: pd.concat(tables, ignore_index=True) for name, tables in joined.items()}
