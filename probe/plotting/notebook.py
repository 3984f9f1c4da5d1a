"""Results that draw themselves: `figure()`, which a notebook shows in the place of their values."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAME = "model"
"""What a single model is called in a legend."""


class Drawable:
    """What an analysis returns, with a main figure; `table()` gives the numbers behind it."""

    def figure(self) -> "go.Figure":
        """The main figure, in the light theme."""
        raise NotImplementedError

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> Mapping[str, Any]:
        bundle: Mapping[str, Any] = self.figure()._repr_mimebundle_(*args, **options)
        return bundle
