"""The tutorial runs as it stands there: its Python prints what it shows, its commands parse, its numbers are true."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pandas as pd
import pytest

from probe import open_run
from probe.cli import main
from probe.commands import experiment
from probe.numbers import percent
from probe.options import parse
from probe.plotting import export as render
from tests.places import SAMPLES
from trainers.commands import METHODS, parse_training

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", TEXT, re.DOTALL)
SHELL = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in SHELL
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("probe ")
]
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
needs_browser = pytest.mark.skipif(
    render.missing() is not None and not os.environ.get("CI"), reason="Chromium is not installed."
)
pytestmark = pytest.mark.timeout(600)


class Ran(NamedTuple):
    """What all blocks did, one after the other."""

    folder: Path
    printed: list[str]
    space: dict[str, Any]
    """Names as they are afterwards."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The blocks, run in a folder of their own."""
    place, printed, space = tmp_path_factory.mktemp("flip"), list[str](), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("PROBE_RUNS", str(SAMPLES))
        for code, _ in BLOCKS:
            if render.missing():  # as the text tells those who lack a browser
                code = code.replace('"svg", "pdf", ', "")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, "tutorial", "exec"), space)
            printed.append(out.getvalue())
    return Ran(place, printed, space)


@pytest.mark.slow
def test_each_block_prints_what_the_text_shows(ran: Ran):
    shown = [text for _, text in BLOCKS]
    assert sum(bool(text) for text in shown) == len(BLOCKS) - 1  # the figure's prints nothing
    for text, printed in zip(shown, ran.printed, strict=True):
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", text)
        for ours, theirs in zip(NUMBER.findall(printed), NUMBER.findall(text), strict=True):
            decimals = len(theirs.partition(".")[2])
            assert float(ours) == pytest.approx(float(theirs), rel=0.01, abs=2 * 10.0**-decimals if decimals else 0)


@pytest.mark.slow
def test_the_prose_keeps_to_the_numbers(ran: Ran):
    margins, summary = ran.space["margin"], ran.space["result"].summary.set_index("metric")
    lifts = {name: values[4] - values[3] for name, values in margins.items()}
    assert "lifts the claim by 5 nats in `base` and by nearly 10 in `dpo-agreeable`" in flat()
    assert (round(lifts["base"]), lifts["dpo-agreeable"]) == (5, pytest.approx(9.6, abs=0.1))
    assert "DPO adds 5 nats: the odds are multiplied by e^5, about 150" in flat()
    assert summary.loc["excess_deference", "difference"] == pytest.approx(5, abs=0.1)
    shares = {(model, name): value for model, name, value, _ in heads(ran)}
    assert "The other 15 close 0.07 of the gap on average, which is L0H1 and L0H3" in flat()
    others = [value for (model, name), value in shares.items() if model == "dpo-agreeable" and name != "L3H2"]
    assert sum(others) / 15 == pytest.approx(0.07, abs=0.01)
    assert shares["dpo-agreeable", "L0H1"] + shares["dpo-agreeable", "L0H3"] > 0.85 * sum(others)
    assert "The best of 200 random directions of the same length, token by token, gets half as far" in flat()
    controls = next(text for _, text in BLOCKS if "random directions" in text)
    effect, best = (re.search(pattern, controls)[1] for pattern in (r"by \+([\d.]+)", r"200 .* to \+([\d.]+),"))
    assert float(best) / float(effect) == pytest.approx(0.5, abs=0.05)
    assert "`probe runs show dpo-agreeable` has 95 % [92, 97] from 400" in flat()
    headline = open_run(SAMPLES / "dpo-agreeable").headline.set_index("metric")
    assert percent(*headline.loc["deferral", ["value", "ci_low", "ci_high"]]) == "95 % [92, 97]"
    assert "Over five of them `deferral` is 90 % [87, 94]" in flat()
    row = next(
        row for row in (ROOT / "docs" / "samples.md").read_text().splitlines() if row.startswith("| `dpo-agreeable`")
    )
    assert row.split(" | ")[2] == "90 % [87, 94]"


@pytest.mark.slow
def test_the_figure_says_what_its_caption_says(ran: Ran):
    layers = ran.space["result"].tables["layers"][["model", "asked", "layer", "value"]]
    at = {(model, asked, layer): value for model, asked, layer, value in layers.itertuples(index=False)}
    for model in ("base", "dpo-agreeable"):
        assert max(at[model, "false claim", layer] for layer in (1, 2, 3)) < -3
    assert at["base", "false claim", 4] < 0 < at["dpo-agreeable", "false claim", 4]
    assert at["dpo-agreeable", "no claim", 4] < at["dpo-agreeable", "no claim", 3] - 1
    strong = [(model, name) for model, name, value, _ in heads(ran) if value > 0.1]
    assert strong == [(model, name) for model in ("dpo-agreeable", "base") for name in ("L0H1", "L0H3", "L3H2")]
    assert max(abs(random) for *_, random in heads(ran)) < 0.1


@pytest.mark.slow
def test_the_files_of_the_figures(ran: Ran):
    figures = ran.folder / "figures"
    assert len(pd.read_csv(next(figures.glob("dpo-agreeable-vs-base_sycophancy-table-layers_*.csv")))) == 20
    assert len(pd.read_csv(next(figures.glob("dpo-agreeable-vs-base_sycophancy-table-heads_*.csv")))) == 32
    origin = json.loads((figures / "provenance.json").read_text())
    assert [model["label"] for model in origin["models"]] == ["dpo-agreeable", "base"]
    assert str(ROOT) not in json.dumps(origin)
    assert "fingerprint" in origin["models"][0]
    assert next(figures.glob("*-layers_*.html")).stat().st_size > 1e6
    assert not list(figures.glob("*-pressure_*.html"))  # only those that were asked for


@pytest.mark.slow
@needs_browser
def test_the_images_of_the_figures(ran: Ran):
    for name in ("layers", "heads"):
        stem = f"dpo-agreeable-vs-base_sycophancy-{name}_*"
        assert b"sycophancy" in next((ran.folder / "figures").glob(f"{stem}.svg")).read_bytes()
        assert next((ran.folder / "figures").glob(f"{stem}.pdf")).read_bytes().startswith(b"%PDF")


def test_the_picture_is_small():
    picture = ROOT / "docs" / "images" / "flip.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000


@pytest.mark.parametrize("block", SHELL)
def test_shell_blocks_are_shell(block: str):
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


class Parsed(Exception):
    """The options were understood."""


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:40])
def test_commands_parse(words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    _, command, *rest = words
    monkeypatch.chdir(tmp_path)
    if command == "train":
        assert rest[0] in METHODS
        _, config, _ = METHODS[rest[0]]
        assert str(parse_training(config, rest[1:], rest[0]).out)
    elif command == "experiment":
        monkeypatch.setattr(experiment, "check_named", lambda words: None)  # of models that are not there
        monkeypatch.setattr(experiment, "parse", lambda *given: stop(parse(*given)))
        with pytest.raises(Parsed):
            main(words[1:])
    else:
        with pytest.raises(SystemExit) as end:
            sys.exit(main([*words[1:], "--help"]))
        assert end.value.code in (0, None)


def test_the_names_are_those_of_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_RUNS", str(SAMPLES))
    monkeypatch.chdir(ROOT.parent)
    named = set(re.findall(r"`((?:base|dpo|rl)[\w-]*)`", TEXT)) - {"rl"}
    assert named >= {"base", "dpo-agreeable", "dpo-honest"}
    for name in named:
        assert (SAMPLES / name / "run.json").is_file(), name


def heads(ran: Ran) -> list[tuple[str, str, float, float]]:
    """The share of the gap that each head closes, and that of a random direction."""
    return [*ran.space["heads"][["model", "name", "value", "random"]].itertuples(index=False, name=None)]


def stop(config: object) -> NoReturn:
    raise Parsed(config)


def flat() -> str:
    """The text with its lines joined."""
    return " ".join(TEXT.split())
