"""Scoring of TruthfulQA's choices on SmolLM2-135M-Instruct, against lm-evaluation-harness on the same questions.

    TRUTHFULQA=TruthfulQA.csv python -m benchmarks choices

It needs the model (`make real-model`), the file, and `lm-eval` in the environment; without them nothing is measured.
"""

import os
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Row, compare
from probe.hallucination.files import PREAMBLES, choice_scores, prompts_of, read_questions
from probe.model.lm import LM

MODEL = Path(".cache/SmolLM2-135M-Instruct")
BATCH = 16
CASES = (("", "", 80), (", its preamble before each", PREAMBLES["truthfulqa"], 20))
"""Cases: name, preamble, and number of questions; the preamble of six answered questions makes prompts longer."""


def run() -> tuple[list[Row], list[str]]:
    """Measure the first questions of the file without the harness's preamble, and fewer with it."""
    file = os.environ.get("TRUTHFULQA")
    if file is None or not MODEL.is_dir() or find_spec("lm_eval") is None:
        return [], ["choices: not measured, which needs TRUTHFULQA=FILE, `make real-model` and lm-eval."]
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = LM.load(str(MODEL), dtype="float32")
    harness = HFLM(pretrained=str(MODEL), device="cpu", dtype="float32", batch_size=BATCH)
    rows, gaps = [], []
    for name, preamble, count in CASES:
        questions = read_questions(file)[:count]
        choices = [list(dict.fromkeys([*each.mc1.choices, *each.mc2.choices])) for each in questions]
        prompts = prompts_of(lm, questions, preamble)
        pairs = [(prompt, f" {each}") for prompt, group in zip(prompts, choices, strict=True) for each in group]
        requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        ends = [0, *np.cumsum([len(group) for group in choices])]

        def theirs(requests: list[Instance] = requests, ends: list[int] = ends) -> list[np.ndarray]:
            sums = np.array([score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)])
            return [sums[start:end] for start, end in pairwise(ends)]

        def ours(prompts: list[str] = prompts, choices: list[list[str]] = choices) -> list[np.ndarray]:
            return choice_scores(lm, prompts, choices)

        gaps.append(max(float(np.abs(a - b).max()) for a, b in zip(theirs(), ours(), strict=True)))
        title = f"{len(pairs)} choices of {count} questions{name}"
        sides = (f"lm-eval, batches of {BATCH}", theirs), ("choice_scores", ours)
        rows.append(compare(title, *sides, repeats=2, warmup=0, target="at most 1"))
    note = f"choices: both ways differ by at most {max(gaps):.1e} nats ({torch.get_num_threads()} torch threads)."
    return rows, [note]
