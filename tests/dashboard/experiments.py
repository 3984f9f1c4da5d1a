"""An experiment as a user's own file defines it, and what the tests of its page read off."""

import time
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from probe.jobs.job import LIVE
from probe.jobs.trainings import list_jobs
from tests.dashboard.pages import again, token_rows

PLUGIN = '''
import pandas as pd
import plotly.graph_objects as go
import probe
import probe.world
from probe import Evidence, Mean, Share, Statistic


def draw(result):
    chart = go.Figure(go.Bar(x=result.models, y=[float(result.items.groupby("model")["echoes"].mean()[m])
                                                 for m in result.models]))
    return {"echoes": chart, "curve": go.Figure(go.Scatter(y=[1, 2, 3]))}


def say(result):
    return f"{result.models[0]} echoes {100 * result.value('echoes'):.0f} % of the claims."


METRICS = [Share("echoes"), Mean("length"), Statistic("spread", lambda c: float(c["length"].std()), ("length",)),
           Share("other", where={"kind": "stranger"})]


@probe.experiment("echo", title="Echo", metrics=METRICS, draw=draw, say=say)
def echo(lm, *, n: int = 12, seed: int = 0, lead: str = "", fail: bool = False, tick=None):
    """Whether an answer begins with the claim.

    Args:
        n: questions of each kind.
        lead: text before every prompt.
        fail: break on purpose.
    """
    world = probe.world.of(lm)
    rows = []
    for share, kind in ((0.5, "opinion_false"), (1.0, "stranger")):
        items = world.questions(kind, n, seed)
        prompts = [f"{lead} {item.prompt}".strip() for item in items]
        made = lm.generate(prompts, max_new_tokens=4, seed=seed)
        for number, (item, text, ids) in enumerate(zip(items, made.text, made.ids)):
            claimed = text.split()[:1] == [(item.claim or "-").strip()]
            rows.append({"item": f"{kind}-{number}", "kind": kind, "prompt": prompts[number], "answer": text,
                         "expected": item.answers[0].strip(),
                         "echoes": float(claimed) if kind == "opinion_false" else None,
                         "other": float(number % 2) if kind == "stranger" else None, "length": len(text)})
        tick(share)
        if fail:
            raise KeyError("broken on purpose")
    items = pd.DataFrame(rows)
    return Evidence(items, tables={"echoes": items.groupby("kind", as_index=False)["length"].mean()})
'''
"""Two kinds of questions, four metrics, two figures, a table, an option that breaks it."""
RUN, AGAIN = "echo-run", "echo-again"


def write(folder: Path, text: str = PLUGIN, name: str = "mine.py") -> Path:
    """The plugin as a file."""
    path = folder / name
    path.write_text(text)
    return path


def tables(app: AppTest) -> list[Any]:
    """The tables of the page, downwards."""
    return [part.value for part in app.dataframe]


def table(app: AppTest, column: str) -> Any:
    """The first table that has a column."""
    return next(found for found in tables(app) if column in found)


def chips(app: AppTest) -> dict:
    """What the tokens component shows."""
    return token_rows(app)[0]


def press(app: AppTest, key: str, seconds: float = 180) -> AppTest:
    """Press a button, and wait for the page and the jobs that it started."""
    button(app, key).click()
    again(app, timeout=120)
    end = time.monotonic() + seconds
    while any(job.status in LIVE for job in list_jobs()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return again(app, timeout=120)


def button(app: AppTest, key: str) -> Any:
    """A button of the page."""
    return next(each for each in app.button if each.key == key)
