"""Curves of the sample runs as the site shows them, drawn by the project's own plotting whenever the site is built.

In a page `<!-- curves: dpo-agreeable dpo-honest | loss rewards/margins -->` is a figure of two runs and two metrics.
"""

import json
import re
from pathlib import Path

import plotly.graph_objects as go
from plotly.utils import PlotlyJSONEncoder

from probe.plotting import metric_curves, styles
from probe.plotting.theme import DARK, LIGHT, template
from probe.runs import open_run

SAMPLES = Path(__file__).resolve().parent.parent / "sample_runs"
PLACE = re.compile(r"^<!-- curves: (?P<runs>[^|]+) \| (?P<metrics>[^|]+) -->$", re.MULTILINE)
CLASS = 'class="curves"'
"""By which docs/assets/figures.js finds a figure."""
HEIGHT = 240
"""Pixels of a row of panels."""


def curves(runs: list[str], metrics: list[str]) -> go.Figure:
    """Metrics of sample runs over steps, one panel a metric.

    Raises:
        ValueError: none of the runs has logged a metric.
    """
    tables = {name: open_run(SAMPLES / name) for name in runs}
    frames = {name: run.metrics() for name, run in tables.items()}
    for metric in metrics:
        if not any(metric in frame for frame in frames.values()):
            raise ValueError(f"The runs {', '.join(runs)} have not logged `{metric}`.")
    methods = {name: run.meta["method"] for name, run in tables.items()}
    return metric_curves(frames, metrics, styles(methods), methods=methods)


def html(figure: go.Figure, caption: str) -> str:
    """A figure for docs/assets/figures.js, which draws it in the theme of the page."""
    rows = figure.layout.yaxis.domain
    height = round(HEIGHT / (rows[1] - rows[0]) if rows else HEIGHT) + 60
    themes = {
        "default": template(LIGHT).to_plotly_json(),
        "slate": template(DARK).to_plotly_json(),
    }
    figure.update_layout(height=height, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
    shown = figure.to_plotly_json()
    data = json.dumps({"data": shown["data"], "layout": shown["layout"], "themes": themes}, cls=PlotlyJSONEncoder)
    safe = data.replace("</", "<\\/")
    return (
        f'<figure {CLASS}><div style="height:{height}px"></div>'
        f'<script type="application/json">{safe}</script><figcaption>{caption}</figcaption></figure>'
    )


def draw(page: str, up: str) -> str:
    """A page with its figures in their places.

    Args:
        page: its HTML, in which a comment stands for each figure.
        up: the way from the page to the top of the site, such as `../`.
    """

    def replace(match: re.Match[str]) -> str:
        runs, metrics = match["runs"].split(), match["metrics"].split()
        caption = f"Sample run{'s' if len(runs) > 1 else ''} {', '.join(runs)}: metrics as they were logged."
        return html(curves(runs, metrics), caption)

    drawn = PLACE.sub(replace, page)
    scripts = [f'<script src="{up}assets/{name}"></script>' for name in ("plotly.min.js", "figures.js")]
    return drawn + "\n\n" + "\n".join(scripts) if CLASS in drawn else page
