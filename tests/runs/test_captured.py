"""Captures made ready to be drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from probe.errors import RunError
from probe.runs.captured import most_moved
from probe.runs.captures import Captures
from probe.runs.schema import ProbePrompt


def prompt(name: str, answers: int, length: int) -> ProbePrompt:
    ids = list(range(length))
    words = [f" w{i}" for i in range(answers)]
    return ProbePrompt(
        id=name, text=name, token_ids=ids, tokens=list("abc"[:length]), answers=words, answer_ids=ids[:answers], kind=""
    )


def test_the_prompt_whose_answers_moved_most():
    """Probabilities count, not log-probabilities; padding and missing answers do not."""
    prompts = [prompt("far", 2, 3), prompt("near", 1, 2), prompt("none", 0, 3)]
    first = {"lens_answer_logprobs": np.full((3, 2, 3, 2), -20.0, np.float16)}
    last = {"lens_answer_logprobs": first["lens_answer_logprobs"].copy()}
    last["lens_answer_logprobs"][0, -1, 2, 1] = -9.0
    last["lens_answer_logprobs"][1, -1, 1, 0] = -1.0
    last["lens_answer_logprobs"][1, -1, 2, 0] = 0.0
    last["lens_answer_logprobs"][2, -1, 2, 0] = 0.0
    assert most_moved(first, last, prompts) == 1
    assert most_moved(first, first, prompts) == 0


def test_prompts_of_older_versions_share_nothing(tmp_path: Path) -> None:
    """Captures that were written before answers could share tokens are read as they were."""
    prompt = {"id": "a", "text": "x", "token_ids": [1, 2], "tokens": ["x", "y"], "answers": [" z"], "answer_ids": [3]}
    (tmp_path / "captures").mkdir()
    (tmp_path / "captures" / "prompts.json").write_text(json.dumps({"schema": 1, "prompts": [prompt | {"kind": ""}]}))
    (read,) = Captures(tmp_path).prompts
    assert (read.shared, read.note, read.text_ids) == (0, "", [1, 2])


@pytest.mark.parametrize("shared", [-1, 3, "1", True])
def test_a_number_of_shared_tokens_that_cannot_be(tmp_path: Path, shared: object) -> None:
    prompt = {"id": "a", "text": "x", "token_ids": [1, 2], "tokens": ["x", "y"], "shared": shared}
    (tmp_path / "captures").mkdir()
    (tmp_path / "captures" / "prompts.json").write_text(json.dumps({"schema": 1, "prompts": [prompt]}))
    with pytest.raises(RunError, match="is damaged"):
        list(Captures(tmp_path).prompts)
