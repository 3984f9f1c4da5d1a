"""Panels made in one go against the figures of `plotly.subplots`, key by key."""

import itertools
import json
from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from probe.plotting.panels import LABELS, Panels, fit_titles
from probe.plotting.theme import LIGHT, template


def test_panels_with_one_axis_of_values_leave_room_for_labels_side_by_side() -> None:
    def gaps(**options: Any) -> list[float]:
        panels = Panels([""] * 4, **options)
        axes = panels.figure().layout
        places = [axes[name].domain for name in ("xaxis", "xaxis2", "xaxis3", "xaxis4")]
        return [round(right[0] - left[1], 4) for left, right in itertools.pairwise(places)]

    assert gaps(shared_y=True) == gaps(shared_y=True, spacing=0.02) == [LABELS] * 3
    assert gaps(shared_y=True, spacing=0.07) == [0.07] * 3
    assert gaps(spacing=0.02) == [0.02] * 3


@pytest.mark.parametrize(
    ("rows", "columns", "widths", "shared"),
    [
        (1, 1, None, {}),
        (1, 3, None, {"y"}),
        (1, 3, [1.0, 4.0, 2.5], {"y"}),
        (3, 1, [2.0], {"x"}),
        (2, 3, [1.0, 1.0, 2.0], {"x", "y"}),
    ],
)
def test_panels_are_those_of_make_subplots(rows: int, columns: int, widths: list[float] | None, shared: set) -> None:
    titles = [f"panel {at}" for at in range(rows * columns)]
    heights = [3.0, 1.0, 2.0][:rows]
    slow = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=titles,
        horizontal_spacing=0.07,
        vertical_spacing=0.12,
        column_widths=widths,
        row_heights=heights,
        shared_xaxes="x" in shared,
        shared_yaxes="y" in shared,
    )
    spacing: dict[str, Any] = {"spacing": 0.07, "gap": 0.12, "widths": widths, "heights": heights}
    fast = Panels(titles, columns=columns, **spacing, shared_x="x" in shared, shared_y="y" in shared)
    line = {"color": LIGHT.muted, "width": 1}
    for at in range(1, rows * columns + 1):
        place = {"row": (at - 1) // columns + 1, "col": (at - 1) % columns + 1}
        slow.add_trace(go.Scatter(x=[1, 2], y=[at, 3]), **place)
        fast.add(at, {"type": "scatter", "x": [1, 2], "y": [at, 3]})
        slow.add_vline(x=at / 2, line=line, **place)
        fast.mark(at, line, x=at / 2)
        slow.add_hline(y=at, line=line, opacity=0.5, **place)
        fast.mark(at, line, y=at, opacity=0.5)
        box = {"type": "rect", "x0": 0, "x1": 1, "y0": 0, "y1": at}
        slow.add_shape(box, **place)
        fast.shape(at, box)
    slow.update_xaxes(title_text="steps", zeroline=False)
    fast.axis("x", title="steps", zeroline=False)
    slow.update_xaxes(tickangle=-45, row=rows)
    fast.lowest(tickangle=-45)
    slow.update_yaxes(range=[0, 4], row=rows, col=columns)
    fast.axis("y", rows * columns, range=[0, 4])
    slow.update_annotations(font_size=12)
    slow.update_layout(template=template(LIGHT), showlegend=False, margin={"t": 9}, hovermode="closest")
    made = [json.loads(figure.to_json()) for figure in (fast.figure(showlegend=False, margin={"t": 9}), slow)]
    for found, expected in zip(places(made[0]), places(made[1]), strict=True):
        assert found == pytest.approx(expected)
    assert made[0] == made[1]


def places(figure: dict) -> list[list[float]]:
    """The domains of the panels, rounded in place so that the rest can be compared as it is."""
    axes = [figure["layout"][name] for name in sorted(figure["layout"]) if "axis" in name]
    found = [axis["domain"] for axis in axes]
    for axis in axes:
        axis["domain"] = [round(end, 9) for end in axis["domain"]]
    for title in figure["layout"]["annotations"]:
        title |= {letter: round(title[letter], 9) for letter in "xy"}
    return found


def test_the_last_row_may_have_fewer_panels() -> None:
    panels = Panels(["a", "b", "c"], columns=2, shared_x=True)
    panels.lowest(title="steps")
    layout = panels.figure().layout
    assert [layout[name].matches for name in ("xaxis", "xaxis2", "xaxis3")] == ["x3", None, None]
    assert [layout[name].title.text for name in ("xaxis", "xaxis2", "xaxis3")] == [None, "steps", "steps"]
    assert layout.xaxis3.domain == layout.xaxis.domain


def test_the_legend_names_each_once() -> None:
    panels = Panels(["a", "b"])
    for panel in (1, 2):
        panels.add(panel, go.Scatter(y=[1], name="base", legendgroup="base"), go.Scatter(y=[1], name=f"own {panel}"))
    assert [trace.showlegend for trace in panels.figure().data] == [True, None, False, None]


def test_titles_are_broken_into_lines_that_their_panels_have_room_for() -> None:
    long = "KL to the reference (captured samples; nats a completion)"
    assert fit_titles(["a", long, "kept<br>apart", "&lt;b&gt;"], [0.2, 0.2, 0.2, 0.2]) == [
        "a",
        "KL to the reference<br>(captured samples;<br>nats a completion)",
        "kept<br>apart",
        "&lt;b&gt;",
    ]
    assert fit_titles([long, "b"], [0.7, 0.3]) == [long, "b"]


def test_there_is_room_above_for_titles_and_legend() -> None:
    def top(*titles: str, **layout: object) -> float | None:
        return Panels(titles, spacing=0.06).figure(**layout).layout.margin.t

    long = "KL to the reference (captured samples; nats a completion)"
    assert (top(*[long] * 4), top(long), top(*[long] * 4, showlegend=False)) == (93, 63, 59)
    assert (top(""), top("", showlegend=False)) == (None, 14)
    assert Panels([long] * 4).crowded().layout.legend.y > Panels([long]).crowded().layout.legend.y
