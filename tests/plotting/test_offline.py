"""Figures of a stranger's result: what reaches for the network goes, what draws by itself stays."""

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.basedatatypes import BaseTraceType

from probe.experiments.result import figure_text, read_figure
from probe.plotting.export import to_html
from probe.plotting.offline import TRACES, offline

AWAY = "https://away.example"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LINK = f'<a href="{AWAY}/link">press</a>'
BACK = {"images[0].source": f"{AWAY}/button.png"}
HOSTILE: dict[str, Any] = {
    "data": [
        {
            "type": "scatter",
            "x": [1, 2],
            "y": [1, 2],
            "text": [LINK, "b"],
            "name": LINK,
            "hovertemplate": f"{LINK}<extra></extra>",
        },
        {"type": "scattermap", "lat": [1], "lon": [2]},
        {"type": "scattermapbox", "lat": [1], "lon": [2]},
        {"type": "scattergeo", "lat": [1], "lon": [2]},
        {"type": "choropleth", "geojson": f"{AWAY}/geo.json", "locations": ["a"], "z": [1]},
        {"type": "image", "source": f"{AWAY}/trace.png"},
        {"type": "image", "source": PIXEL},
        {"type": "pie", "labels": [LINK], "values": [1]},
        {"type": "unheard-of", "x": [1]},
        "no trace",
    ],
    "layout": {
        "title": {"text": f"<b>bold</b> {LINK}", "subtitle": {"text": LINK}},
        "images": [
            {"source": f"{AWAY}/layout.png", "sizex": 1, "sizey": 1, "x": 0, "y": 1},
            {"source": PIXEL},
            {"source": "data:image/svg+xml;base64,AA"},
            7,
        ],
        "annotations": [
            {"text": f"<span style='color:red; background:url({AWAY}/style.png)'>x</span> {LINK}", "hovertext": LINK}
        ],
        "mapbox": {"style": f"{AWAY}/style.json", "accesstoken": "x"},
        "map2": {"style": f"{AWAY}/style.json"},
        "geo": {"scope": "world"},
        "meta": ["a href='https://away.example/meta'"],
        "xaxis": {"title": {"text": "<%{meta[0]}>go</a> <"}, "ticktext": [LINK], "tickvals": [1]},
        "template": {"layout": {"images": [{"source": f"{AWAY}/template.png"}]}, "data": {"scatter": [{"name": LINK}]}},
        "updatemenus": [{"buttons": [{"method": "relayout", "label": "go", "args": [BACK]}]}],
        "sliders": [{"steps": [{"method": "relayout", "label": "go", "args": [BACK]}]}],
    },
    "frames": [{"layout": {"images": [{"source": f"{AWAY}/frame.png"}]}}],
    "config": {"topojsonURL": AWAY, "plotlyServerURL": AWAY},
}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "figure.json"
    path.write_text(json.dumps(HOSTILE))
    return path


def test_nothing_that_is_kept_reaches_for_the_network(hostile: Path):
    chart = read_figure(hostile)
    assert [trace.type for trace in chart.data] == ["scatter", "image", "pie"]
    assert [image.source for image in chart.layout.images] == [PIXEL]
    held = json.loads(chart.to_json())
    assert not {"map2", "mapbox", "geo", "updatemenus", "sliders"} & set(held["layout"])
    assert not held.get("frames")
    assert "away.example" not in json.dumps(held["layout"].get("template", {}))
    texts = list(strings(held))
    assert any("away.example" in text for text in texts)  # shown, and not followed
    for text in texts:
        assert "<a" not in text.lower()
        assert "<%" not in text
        assert "url(" not in text or "&lt;span" in text
    assert chart.layout.title.text.startswith("<b>bold</b> &lt;a href")
    assert chart.data[0].hovertemplate.endswith("<extra></extra>")


def strings(value: Any):
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


@pytest.mark.parametrize(
    "tag",
    [
        "<A HREF='x'>",
        "<a\thref='x'>",
        "<a\nhref=x>",
        "< a href=x>",
        "</a>",
        "<b onclick=x>",
        "<img src=x>",
        "<span style='fill:url(x)'>",
        "<span style='a:rgb(1) url(x)'>",
        '<span style="x\\75rl(y)">',
        "<span style='x' href='y'>",
        "<a",
        "<",
    ],
)
def test_other_tags_are_text(tag: str):
    told = offline({"layout": {"title": {"text": f"1 {tag} 2"}}})["layout"]["title"]["text"]
    assert told == f"1 {tag} 2".replace("<", "&lt;")


@pytest.mark.parametrize(
    "text",
    [
        "<b>a</b><br>c<br/>",
        "x<sub>1</sub><sup>2</sup>",
        "<i>a</i>",
        '<span style="color: rgb(1, 2, 3); font-size:9px">a</span>',
        "a > b",
        "&lt;a&gt;",
    ],
)
def test_type_is_set_as_before(text: str):
    assert offline({"layout": {"title": {"text": text}}})["layout"]["title"]["text"] == text


def test_traces_that_draw_themselves_come_back_as_they_were(tmp_path: Path):
    known = {
        name.lower()
        for name in dir(go)
        if isinstance(kind := getattr(go, name), type) and issubclass(kind, BaseTraceType)
    }
    assert TRACES - {"quiver"} < known  # which newer versions of plotly have
    maps = {name for name in known if name.endswith(("map", "mapbox", "geo")) or name.startswith("choropleth")}
    assert known - TRACES == maps - {"heatmap", "treemap"}
    for name in sorted((TRACES & known) - {"image"}):
        chart = go.Figure(
            {"data": [{"type": name, "name": "a"}], "layout": {"height": 300, "xaxis": {"title": {"text": "x"}}}}
        )
        (tmp_path / "f.json").write_text(figure_text(chart))
        back = read_figure(tmp_path / "f.json")
        assert back.to_plotly_json()["data"] == chart.to_plotly_json()["data"]
        assert back.layout.height == 300


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000])
def test_what_is_no_figure_is_said(tmp_path: Path, text: str):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not a figure|nested more than"):
        read_figure(tmp_path / "f.json")


@pytest.mark.parametrize("text", ["{}", '{"data": 3, "layout": []}', '{"layout": {"images": 5}}'])
def test_a_figure_of_nothing_is_empty(tmp_path: Path, text: str):
    (tmp_path / "f.json").write_text(text)
    assert not read_figure(tmp_path / "f.json").data


def test_an_exported_page_holds_all_that_it_needs(hostile: Path):
    page = to_html(read_figure(hostile), {"figure": "x"}).decode()
    assert '<script src="http' not in page
    assert "layout.png" not in page
    assert "trace.png" not in page
