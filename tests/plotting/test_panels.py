"""Panels made in one go against the figures of `plotly.subplots`, key by key."""

import json

import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from probe.plotting.panels import Panels, fit_titles, panels
from probe.plotting.theme import LIGHT, template


@pytest.mark.parametrize(("count", "widths", "shared"), [(1, None, False), (3, None, True), (3, [1.0, 4.0, 2.5], True)])
def test_panels_are_those_of_make_subplots(count: int, widths: list[float] | None, shared: bool) -> None:
    titles = [f"panel {column}" for column in range(count)]
    slow = make_subplots(
        rows=1,
        cols=count,
        subplot_titles=titles,
        horizontal_spacing=0.07,
        column_widths=widths,
        shared_yaxes=shared,
    )
    fast = Panels(titles, spacing=0.07, widths=widths, shared_y=shared)
    line = {"color": LIGHT.muted, "width": 1}
    for column in range(1, count + 1):
        slow.add_trace(go.Scatter(x=[1, 2], y=[column, 3]), row=1, col=column)
        fast.add(column, {"type": "scatter", "x": [1, 2], "y": [column, 3]})
        slow.add_vline(x=column / 2, line=line, row=1, col=column)
        fast.mark(column, column / 2, line)
    slow.update_xaxes(title_text="steps", zeroline=False)
    fast.axis("x", title={"text": "steps"}, zeroline=False)
    slow.update_yaxes(range=[0, 4], row=1, col=count)
    fast.axis("y", count, range=[0, 4])
    slow.update_annotations(font_size=12)
    slow.update_layout(template=template(LIGHT), showlegend=False, margin={"t": 9})
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
        title["x"] = round(title["x"], 9)
    return found


def test_titles_are_broken_into_lines_that_their_panels_have_room_for():
    long = "KL to the reference (captured samples; nats a completion)"
    four, grown = fit_titles(["a", long, "kept<br>apart", "&lt;b&gt;"], [0.2, 0.2, 0.2, 0.2])
    assert four == [
        "a",
        "KL to the reference<br>(captured samples;<br>nats a completion)",
        "kept<br>apart",
        "&lt;b&gt;",
    ]
    assert grown == 1
    assert fit_titles([long, "b"], [0.7, 0.3]) == ([long, "b"], 0)
    narrow, wide = (Panels([long] * count, spacing=0.06).figure(margin={"t": 40}) for count in (4, 1))
    assert (narrow.layout.margin.t, wide.layout.margin.t) == (70, 40)
    assert "<br>" in panels([long] * 4).layout.annotations[0].text
    assert panels([long] * 4).layout.margin.t > panels([long]).layout.margin.t
