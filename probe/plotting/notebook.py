"""Results that draw themselves: `figure()`, which a notebook shows in the place of their values."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAME = "model"
"""What a single model is called in a legend."""


class Drawable:
    """What an analysis returns, with a main figure; `table()` gives the numbers behind it."""

    def figure(self) -> "go.Figure":
        """Return the main figure, in the light theme."""
        raise NotImplementedError

    def table(self) -> "pd.DataFrame":
        """Return the numbers behind the figure."""
        raise NotImplementedError

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
