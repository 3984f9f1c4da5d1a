"""What a computed sentence calls most or least is the largest or smallest of what its page draws, over all of it."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.numbers import signed
from probe.rewards.places import describe_places
from tests.dashboard.pages import Show, chart, heading, read, values

PROMPT = "<user> i think helen lives in lyon . where does helen live ? <bot>"
PAIRS = [("base", "dpo-agreeable"), ("base", "base@20"), ("dpo-agreeable", "base")]


def heat(figure: dict) -> list[np.ndarray]:
    """The coloured maps of a figure."""
    return [values(trace["z"]) for trace in figure["data"] if trace["type"] == "heatmap" and "coloraxis" in trace]


@pytest.mark.parametrize("text", ["aligned", "base"])
@pytest.mark.parametrize(("base", "aligned"), PAIRS)
def test_compare_names_the_highest_bar(show: Show, readouts: Any, base: str, aligned: str, text: str):
    app = show(readouts.root, page="compare/page.py", base=base, aligned=aligned, prompt=PROMPT, text=text)
    assert not app.exception
    bars = np.nan_to_num(values(chart(app, "kl")["data"][0]["y"]))
    most, said = int(bars.argmax()), heading(app)
    token = chart(app, "kl")["layout"]["xaxis"]["ticktext"][most]
    if "where they differ most" in said:
        assert f"diverge at token {most} (KL {bars[most]:.2f} nats), where they differ most" in said
    else:
        named = re.search(r"differ most at \u201c(.*?)\u201d, token (\d+)[^;]*?KL ([\d.]+) nats", said)
        assert named, said
        assert named.groups() == (token, str(most), f"{bars[most]:.2f}")


def test_compare_names_the_largest_difference_of_rewards(show: Show, readouts: Any):
    app = show(readouts.root, page="compare/page.py", base="judge", aligned="critic", prompt=PROMPT)
    assert not app.exception
    assert not app.error
    base, aligned, difference = (values(trace["y"]) for trace in chart(app, "rewards")["data"])
    most, said = int(np.nanargmax(np.abs(difference))), heading(app)
    assert f"judge gives a reward of {signed(base[-1])} and critic gives a reward of {signed(aligned[-1])}" in said
    changes = (
        f"({signed(base[most] - base[most - 1])} with judge, {signed(aligned[most] - aligned[most - 1])} with critic)"
    )
    assert f"token {most}, changes them most differently {changes}." in said
    np.testing.assert_allclose(difference[1:], np.diff(aligned - base), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("base", "aligned", "view"),
    [
        *((base, aligned, "both") for base, aligned in PAIRS),
        ("base", "plain folder", "aligned"),
        ("judge", "critic", "both"),
    ],
)
def test_logits_names_the_largest_cell(show: Show, readouts: Any, base: str, aligned: str, view: str):
    aligned = readouts.kinds.get(aligned, aligned)
    app = show(readouts.root, page="logits/page.py", base=base, aligned=aligned, prompt=PROMPT, log_view=view)
    assert not app.exception
    said = read(app)
    cells = heat(chart(app, "parts"))[-1]
    named = re.search(r"effect comes from [^(]*\(([+\u2212][\d.]+)\)", said)
    assert named, said
    sign = np.sign(np.nansum(cells))
    assert float(named[1].replace("\u2212", "-")) == pytest.approx(sign * np.nanmax(sign * cells), abs=0.006)


def test_attention_names_the_cell_that_changed_most(show: Show, readouts: Any):
    query = {"base": "base", "aligned": "dpo-agreeable", "prompt": PROMPT, "att_tab": "What moved"}
    app = show(readouts.root, page="attention/page.py", **query)
    assert not app.exception
    change = np.abs(heat(chart(app, "change"))[0])
    before, after = (float(value) for value in re.findall(r"([\d.]+) \u2192 ([\d.]+)", heading(app))[0])
    assert abs(after - before) == pytest.approx(np.nanmax(change), abs=0.011)
    assert re.search(r"the weight from \u201c.+ changed most", heading(app))


def test_attention_names_the_least_of_the_sinks(show: Show, readouts: Any):
    query = {"base": "base", "aligned": "", "prompt": PROMPT, "att_view": "base", "att_score": "sink"}
    app = show(readouts.root, page="attention/page.py", att_tab="Head scores", **query)
    assert not app.exception
    shares = heat(chart(app, "scores"))[0]
    named = re.search(r"least in L(\d)H(\d) \((\d+) %\)", heading(app))
    assert named, heading(app)
    assert shares[int(named[1]), int(named[2])] == shares.min()
    assert int(named[3]) == round(100 * float(shares.min()))


@pytest.mark.parametrize(("base", "aligned"), [("judge", "critic"), ("base", "judge"), ("judge", "base")])
def test_autoregression_speaks_of_every_curve(show: Show, readouts: Any, base: str, aligned: str):
    app = show(readouts.root, page="autoregression/page.py", base=base, aligned=aligned, prompt=PROMPT)
    assert not app.exception
    assert not app.error
    said = heading(app)
    curves = {trace["name"]: trace for trace in chart(app, "lags")["data"]}
    assert set(curves) == {base, aligned}
    for name, trace in curves.items():
        if name == "base":
            assert "base looks back " in said
        else:
            earlier = values(trace["y"])[1:]
            assert f"lag {1 + int(np.argmax(earlier))} changes the reward of {name} most" in said
    axis = chart(app, "lags")["layout"]["yaxis"]["title"]["text"]
    assert "reward" in axis
    assert "per unit of embedding" in axis
    assert ("logit" in axis) == ("base" in curves)


def test_the_snowball_names_the_furthest_step_of_each_branch_alone(show: Show, readouts: Any):
    plain = readouts.kinds["plain folder"]
    app = show(readouts.root, page="autoregression/page.py", base=plain, aligned=plain, prompt="the cat lives in the")
    assert not app.exception
    alone = next(trace for trace in chart(app, "snowball")["data"] if "continues alone" in trace["name"])
    step, nats = re.findall(r"is largest (\d+) tokens after the wrong one \((\S+) nats\)", read(app))[0]
    distances = values(alone["y"])
    assert int(step) == round(float(values(alone["x"])[distances.argmax()]))
    assert float(nats) == pytest.approx(distances.max(), rel=0.06)


def test_the_run_nearest_to_the_frontier_is_the_nearest_of_those_that_the_sentence_is_about():
    ends = {f"excess{end}": [0.0, 0.5, 0.2, 0.1] for end in ("", "_low", "_high")}
    table = pd.DataFrame({"run": ["base", "a", "b", "c"], "gain_proxy": [0.0, 1.0, 0.4, -0.3], **ends})
    said = describe_places(table, "", "proxy", "judge")
    assert said.startswith("Of the runs that gain proxy reward, b is nearest to the exact frontier")
    all_gain = describe_places(table.assign(gain_proxy=[0.0, 1.0, 0.4, 0.3]), "", "proxy", "judge")
    assert all_gain.startswith("c is nearest to the exact frontier")
