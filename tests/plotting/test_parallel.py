"""Parallel coordinates: where the lines of runs cross the axes of their options and metrics."""

import numpy as np
import pandas as pd
import pytest

from probe.plotting import Paper, parallel_coordinates, put_on_paper
from probe.plotting.parallel import NOT_SET, option_axis
from probe.terms import Term

ABOUT = {"loss": Term("loss", "nats"), "right": Term("<b>right</b> answers of the whole evaluation", "share")}


def table(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def axis(values: list, order: list[int] | None = None) -> dict:
    return option_axis("option", values, np.array(order or range(len(values))))


def labelled(found: dict) -> dict[str, float]:
    """Place of each tick with a label."""
    return {text: at for at, text in zip(found["tickvals"], found["ticktext"], strict=True) if text}


def test_numbers_stand_on_a_logarithmic_axis_if_they_span_a_decade():
    assert labelled(axis([1e-3, 1e-5, 1e-4])) == pytest.approx({"1e-05": -5, "0.0001": -4, "0.001": -3})
    assert axis([1, 10])["label"] == "option (log scale)"
    assert labelled(axis([0.1, 0.5])) == {"0.1": 0.1, "0.5": 0.5}
    assert labelled(axis([0, 100])) == {"0": 0, "100": 100}
    assert labelled(axis([0, 1, 100])) == {"0": 0, "100": 100}, "a label would lie on that of 0"


@pytest.mark.parametrize("odd", [None, True, "x", float("inf"), 10**400, [1, 2], {"people": 4}])
def test_values_of_which_one_is_no_number_are_categories(odd: object):
    found = axis([2, odd, 2, 3])
    words = list(labelled(found))
    assert len(words) == 3
    assert list(labelled(found).values()) == [0, 1, 2]
    assert found["label"] == "option"
    if odd is None:
        assert words == [NOT_SET, "2", "3"]


def test_lines_that_share_a_value_are_spread_where_a_drag_selects_all_of_them():
    """A drag over a tick selects up to a quarter of the distance to the next one."""
    found = axis(["a", "a", "b", "a", "b"], order=[2, 0, 1, 1, 0])
    at, values = found["tickvals"], found["values"]
    assert np.argsort(values[[0, 1, 3]]).tolist() == [1, 2, 0], "in the order of the metric"
    assert len(set(values)) == 5
    for value, tick in zip(values, (1, 1, 2, 1, 2), strict=True):
        assert at[tick] - (at[tick] - at[tick - 1]) / 4 <= value <= at[tick] + (at[tick + 1] - at[tick]) / 4
    assert found["range"] == [at[0], at[-1]]


def test_a_figure_has_titles_units_and_a_legend():
    options = table(annotator=["agreeable", "<i>honest</i>"], beta=[0.1, 0.3])
    metrics = pd.DataFrame({"loss": [2.0, 1.0], "right": [0.5, 0.504]})
    figure = parallel_coordinates(options, metrics, ABOUT, "right")
    trace, bar = figure.data[0], figure.layout.coloraxis.colorbar
    names = [each.label.replace("<br>", " ") for each in trace.dimensions]
    right = "&lt;b&gt;right&lt;/b&gt; answers of the whole evaluation"
    assert names == ["annotator", "beta", "loss (nats)", right]
    assert "&lt;i&gt;honest&lt;/i&gt;" in trace.dimensions[0].ticktext
    assert [each.tickformat for each in trace.dimensions[2:]] == ["~g", ".2%"]
    assert list(trace.line.color) == [0.5, 0.504]
    assert bar.title.text.replace("<br>", " ").startswith(right)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0.5, 0.504)


def test_equal_metrics_have_an_axis():
    metrics = pd.DataFrame({"loss": [2.0, 2.0], "right": [0.0, 0.0]})
    figure = parallel_coordinates(table(seed=[0, 1]), metrics, ABOUT, "loss")
    assert [each.range for each in figure.data[0].dimensions[1:]] == [(1.8, 2.2), (0, 0.05)]


@pytest.mark.parametrize("width", ["single", "double", "slide"])
def test_on_paper_labels_are_inside(width: str):
    options = table(annotator=["agreeable", "honest"], a_long_name_of_an_option=[1, 2])
    figure = parallel_coordinates(options, pd.DataFrame({"right": [0.2, 0.5]}), ABOUT, "right")
    paper = Paper(width=width, show_title=True)  # type: ignore[arg-type]
    layout = put_on_paper(figure, paper, "Options and metrics").layout
    assert layout.width == round(paper.pixels)
    assert layout.margin.l > 0.5 * paper.text * len("agreeable")
    assert layout.margin.b > 2 * paper.text
    assert layout.height > layout.margin.t + layout.margin.b + 5 * paper.text
    assert layout.title.text == "Options and metrics"
