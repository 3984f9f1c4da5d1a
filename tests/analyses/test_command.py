"""`probe show`: the sentence, tables and files of an analysis, and one sentence for whatever is wrong."""

import json
from pathlib import Path

import pandas as pd
import pytest

import probe
from probe.analyses.catalogue import MODULES
from probe.cli import main
from probe.model.lm import LM
from tests.places import SAMPLES
from tests.terminal import in_terminal


@pytest.fixture
def two() -> list[str]:
    return [str(SAMPLES / "dpo-agreeable"), str(SAMPLES / "base")]


def test_it_lists_all(capsys: pytest.CaptureFixture[str]):
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in MODULES)
    assert "Measure how much every matrix, head and block changed" in out


def test_it_shows_what_python_gives(two: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    change = probe.compare.weight_change(LM.load(two[1]), LM.load(two[0]))
    assert main(["show", "weight_change", *two]) == 0
    shown = capsys.readouterr()
    assert change.sentence() in " ".join(shown.err.split())
    assert "probe: note: Each cell is the norm of the change" in shown.err
    assert len(shown.out.splitlines()) == 1 + len(change.matrices)
    assert main(["show", "weight_change", *two, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sentence"] == change.sentence()
    assert [row["norm"] for row in told["tables"]["weight-blocks"]] == pytest.approx(change.blocks["norm"].tolist())


def test_what_a_run_captured_needs_no_model(capsys: pytest.CaptureFixture[str]):
    words = ["show", "follow_logits", "--run", str(SAMPLES / "dpo-agreeable")]
    assert main(words) == 0
    told = capsys.readouterr()
    assert " of dpo-agreeable went from " in told.err
    assert told.out.splitlines()[0].split() == ["step", "promoted", "suppressed"]
    assert main([*words, "--part", "L9H9"]) == 2
    assert "`part` of follow_logits is 'L9H9'; expected one of L0H0, " in capsys.readouterr().err
    assert main([*words, "--measure", "taste"]) == 2
    assert "`measure` of follow_logits is 'taste'; expected one of log p(" in capsys.readouterr().err


@pytest.mark.slow
def test_its_files(two: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["show", "weight_change", *two, "--out", str(tmp_path / "w.csv"), "--figure", "weight-heads"]) == 0
    assert set(pd.read_csv(tmp_path / "w.csv")) >= {"block", "head", "ov_relative"}
    assert main(["show", "weight_change", *two, "--out", str(tmp_path / "all")]) == 0
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert {"weights.html", "weight-heads.html", "weights.csv", "weight-blocks.csv", "provenance.json"} <= names
    capsys.readouterr()
    assert main(["show", "weight_change", *two, "--out", str(tmp_path / "w.xyz")]) == 2
    assert "`w.xyz` ends in .xyz: end it in" in capsys.readouterr().err
    assert main(["show", "weight_change", *two, "--out", str(tmp_path / "w.pdf"), "--figure", "weight-head"]) == 2
    assert (
        "--figure `weight-head` is none of weights, weight-heads: did you mean `weight-heads`"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["weight_chang"], "There is no analysis `weight_chang`, only"),
        (["weight_change"], "MODEL"),
        (["weight_change", "no-such-run", "no-such-run"], "no-such-run"),
        (["weight_change", "BASE", "BASE", "--part", "QV"], "takes QK, OV, query, key, value, output for --part"),
        (["weight_change", "BASE", "BASE", "--parts", "QK"], "has no option `--parts`: did you mean `--part`"),
    ],
)
def test_what_is_wrong_is_one_sentence(words: list[str], said: str, two: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["show", *(two[1] if word == "BASE" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("probe: error:") == 1


@pytest.mark.slow
def test_on_a_terminal(two: list[str]):
    status, shown = in_terminal(["show", "weight_change", *two])
    assert status == 0
    assert "Matrices, 10 of" in shown
    assert "Left out on a terminal of this width" in shown


def test_a_prompt_may_be_a_conversation(two: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path):
    turns = [{"role": "user", "content": "where does helen live ?"}, {"role": "assistant", "content": "oslo"}]
    turns.append({"role": "user", "content": "i think helen lives in lyon . where does helen live ?"})
    lm = LM.load(two[0])
    for name in ("logit_lens", "read_attention", "steer_answers"):
        words = ["show", name, *two[:1], "--json"] + ["--random", "1"] * (name == "steer_answers")
        assert main([*words, "--prompt", json.dumps(turns)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert main([*words, "--prompt", lm.prompt_text(turns)]) == 0
        assert told == json.loads(capsys.readouterr().out), name
    lm.tokenizer.chat_template = None
    lm.save(tmp_path / "plain")
    assert main(["show", "logit_lens", str(tmp_path / "plain"), "--prompt", json.dumps(turns)]) == 2
    assert "This model's tokenizer has no chat template for messages: give the prompt as" in capsys.readouterr().err
