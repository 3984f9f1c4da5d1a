"""Captures made ready to be drawn."""

import numpy as np

from probe.runs.captured import most_moved
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
