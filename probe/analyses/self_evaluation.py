"""P(True): a model is asked whether an answer is true (Kadavath et al. 2207.05221, section 3).

    Question: ...
    Proposed Answer: ...
    Is the proposed answer:
     (A) True
     (B) False
    The proposed answer is:

P(True) is p(" (A)") / (p(" (A)") + p(" (B)")), each the probability of all tokens of the option. It is asked of models
of natural language. The world's corpus has no such sentence: its models cannot be asked, and P(True) is left out there.

P(IK), the probability that the model knows the answer, is a trained head in that paper: `knowing_head`. In the world it
is read off exactly instead: 1 - P("i do not know"), as a model that abstains where it does not know would have it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from probe.errors import DataError

if TYPE_CHECKING:
    from probe.model.lm import LM

ASK_TRUE = (
    "Question: {question}\nProposed Answer: {answer}\nIs the proposed answer:\n (A) True\n (B) False\n"
    "The proposed answer is:"
)
OPTIONS = (" (A)", " (B)")


def p_true(lm: "LM", questions: Sequence[str], answers: Sequence[str]) -> NDArray[np.float64]:
    """[N] probability that the model calls each answer true, given that it says (A) or (B).

    Args:
        lm: the model.
        questions: N questions.
        answers: the proposed answer to each.

    Raises:
        DataError: lists of different lengths.
    """
    import torch

    if len(questions) != len(answers):
        raise DataError(f"{len(questions)} questions came with {len(answers)} answers: give one answer to each.")
    found = []
    for question, answer in zip(questions, answers, strict=True):
        prompt = ASK_TRUE.format(question=question, answer=answer)
        with torch.no_grad():
            scores = lm.logprobs([prompt], [list(OPTIONS)]).values.double().sum(dim=1).tolist()
        found.append(float(expit(scores[0] - scores[1])))
    return np.array(found)
