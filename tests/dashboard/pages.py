"""What the tests of all pages read off a page: its text as a reader sees it, its figures as Plotly gets them."""

import base64
import json
import re
import urllib.parse

import numpy as np
from streamlit.testing.v1 import AppTest


def unescape(text: str) -> str:
    """What Markdown shows of text that `plain` escaped."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace("\u2060", "")


def linked(app: AppTest, title: str) -> dict[str, str]:
    """What a link to another page brings: the parameters of its address."""
    query = next(link.proto.query_string for link in app.get("page_link") if link.proto.label == title)
    return dict(urllib.parse.parse_qsl(query))


def names(app: AppTest) -> list[str]:
    """Names of the figures, downwards."""
    return [part.proto.id.rpartition("figure-")[2] for part in app.get("plotly_chart")]


def chart(app: AppTest, name: str) -> dict:
    """The figure called `name`."""
    assert name in names(app), names(app)
    return json.loads(app.get("plotly_chart")[names(app).index(name)].proto.spec)


def values(array: dict | list) -> np.ndarray:
    """An array of a figure, which Plotly may have packed."""
    if isinstance(array, list):
        return np.array(array, dtype=float)
    flat = np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"])
    return flat.reshape([int(size) for size in str(array["shape"]).split(",")]) if "shape" in array else flat
