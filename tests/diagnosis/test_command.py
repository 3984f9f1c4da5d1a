"""`probe diagnose`: table, JSON, HTML, exit status, and faults of a plugin."""

import json
import re
from pathlib import Path

import pytest

from probe import plugins
from probe.cli import main
from probe.commands.diagnose import diagnose
from tests.places import SAMPLES
from tests.terminal import in_terminal

PLUGIN = '''
import probe
from probe.diagnosis import Reading, Sign
from probe.diagnosis.levels import beginning, end, level

@probe.fault(title="Loss is a loss", needs=("loss",), remedy="Nothing.", methods=("sft",), least=2)
def any_loss(reading: Reading) -> Sign | None:
    """Find any loss."""
    loss = reading.series("loss").coarse()
    return Sign(1, "loss", level(beginning(loss).values), level(end(loss).values), "There is a loss.", severity=0.1)
'''
WEAK, SOUND = str(SAMPLES / "rlhf-weak-kl"), str(SAMPLES / "sft")


def test_json_has_findings_and_what_could_not_be_seen(capsys: pytest.CaptureFixture[str]):
    assert diagnose([WEAK, SOUND, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first = found["findings"][0]
    assert (first["run"], first["fault"], first["step"]) == ("rlhf-weak-kl", "over_optimisation", 5)
    assert {"evidence", "remedy", "before", "after", "metric"} <= first.keys()
    unseen = {(each["run"], each["fault"]): each for each in found["unseen"]}
    assert unseen["sft", "leak"]["lacks"] == ["held_out"]
    assert unseen["sft", "sudden_change"] == unseen["sft", "sudden_change"] | {"logged": [16], "needed": 32}
    assert [each["run"] for each in found["runs"]] == ["rlhf-weak-kl", "sft"]
    assert "numbers_die" in found["clear"][1]["faults"]


@pytest.mark.parametrize(
    ("runs", "names", "status"),
    [
        ([WEAK], ["any"], 1),
        ([WEAK], ["over_optimisation"], 1),
        ([WEAK], ["no_signal"], 0),
        ([SOUND], ["any"], 0),
        ([SOUND, WEAK], ["memorising", "over_optimisation"], 1),
        ([WEAK], [], 0),
    ],
)
def test_exit_status(runs: list[str], names: list[str], status: int):
    assert diagnose([*runs, *(["--fail-on", *names] if names else [])]) == status


def test_a_fault_to_fail_on_that_cannot_be_seen_is_told(capsys: pytest.CaptureFixture[str]):
    assert diagnose([SOUND, "--fail-on", "leak"]) == 0
    assert "`leak` cannot be seen in sft, which lacks held_out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name at least one"),
        ([SOUND, "--fail-on", "hacking"], "did you mean `reward_hacking`"),
        ([SOUND, "--html", "x.txt"], "let it end in .html"),
        (["nowhere"], "There is no run `nowhere`"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["diagnose", *words]) == 2
    assert said in capsys.readouterr().err


def test_rows_for_programs_have_every_digit(capsys: pytest.CaptureFixture[str]):
    diagnose([WEAK, SOUND])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:4] == ["run", "fault", "title", "step"]
    found = [("rlhf-weak-kl", "over_optimisation"), ("rlhf-weak-kl", "rate_too_high"), ("sft", "")]
    assert [(line[0], line[1]) for line in lines[1:]] == found


@pytest.mark.parametrize("width", [60, 80, 120])
def test_table_fits_a_terminal(width: int):
    status, text = in_terminal(["diagnose", WEAK, SOUND], width)
    assert status == 0
    assert all(len(line) <= width for line in text.splitlines() if "probe: run" not in line)
    words = " ".join(text.split())
    assert "Over-optimisation over_optimisation" in words
    assert "nothing found" in words
    assert "sft: could not be seen: Template fault, without encoded_rows; Leak, without held_out" in words


def test_html_has_sentence_curves_and_remedy(tmp_path: Path):
    file = tmp_path / "found.html"
    diagnose([WEAK, "--html", str(file)])
    text = file.read_text()
    assert "Over-optimisation, from step 5" in text
    assert "What to try: Raise the weight of the KL" in text
    assert len(re.findall('class="chart"', text)) == 2
    assert "Sampler is not the trainer" in text


def test_a_plugin_adds_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    with plugins.aside():
        assert diagnose([SOUND, "--plugin", str(file), "--json", "--fail-on", "any_loss"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["title"] == "Loss is a loss"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def any_loss", "def no_signal", "A fault `no_signal` exists already"),
        ('needs=("loss",)', "needs=()", "needs nothing"),
        ("    loss = ", "    1 / 0\n    loss = ", "The fault `any_loss` fails with ZeroDivisionError"),
    ],
)
def test_a_broken_plugin_is_one_sentence(old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.replace(old, new))
    with plugins.aside():
        assert main(["diagnose", SOUND, "--plugin", str(file)]) == 2
    assert said in capsys.readouterr().err
