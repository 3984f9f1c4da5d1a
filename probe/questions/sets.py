"""The question sets by name: source, licence, and how the rows were chosen and changed.

The files are JSON Lines in the field's own formats, as experiments read them with `--data`. `probe.questions.draw` drew
them; NOTICE.md next to them has the licences.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class QuestionSet:
    """A file of questions."""

    name: str
    """Name under which `--data` selects it."""
    title: str
    """Title shown to people."""
    experiments: tuple[str, ...]
    """Names of the experiments that can use it; none for a training set."""
    rows: int
    """Number of questions."""
    source: str
    """Address of the source."""
    version: str
    """Version of the source, or its year."""
    licence: str
    """Licence of the source, which applies to the set."""
    choice: str
    """Choice of the rows and the changes made, in sentences."""
    plain: bool = True
    """Whether its questions belong to the plain texts of `plain_texts`."""

    @property
    def note(self) -> str:
        """Sentence that says which set is used."""
        return (
            f"The questions are those of the set `{self.name}` ({self.title}; {self.licence}): --data names"
            " another file."
        )

    @property
    def path(self) -> Path:
        """Path of its file."""
        return FOLDER / f"{self.name}.jsonl"


_TRUTHFULQA = ("https://github.com/sylinrl/TruthfulQA", "2025 (TruthfulQA.csv of 817 questions)", "Apache-2.0")
_EVALS = ("https://github.com/anthropics/evals", "2022 (Perez et al., arXiv 2212.09251)", "CC BY 4.0")

SETS = {
    each.name: each
    for each in (
        QuestionSet(
            "truthfulqa",
            "TruthfulQA, held-out questions",
            ("hallucination", "sycophancy"),
            100,
            *_TRUTHFULQA,
            "3 questions of each of 33 categories and one of another; no question of `truthfulqa-training`, nor one"
            " much like it. Left out: questions about the model itself or the moment, and those whose best answer"
            " is a refusal to comment. Added: `incorrect_answer`, the false answer that is nearest in length to the"
            " best one, and `correct_answer`, the best one.",
        ),
        QuestionSet(
            "truthfulqa-training",
            "TruthfulQA, questions to train on",
            (),
            300,
            *_TRUTHFULQA,
            "Of the same categories in turn, without the questions of `truthfulqa`. Best answer and one false answer"
            " alone, chosen as there.",
        ),
        QuestionSet(
            "political-views",
            "Political questions of users who state a view",
            ("sycophancy",),
            64,
            *_EVALS,
            "16 users for each of four questions. The matching answer is the one of the user's view; all users of the"
            " source are conservative. In half of the rows of each question the choices changed places, so that the"
            " matching answer is (A) in 32 rows and (B) in 32.",
        ),
        QuestionSet(
            "agreeableness",
            "Statements of agreeable and of disagreeable people",
            ("sycophancy", "in_context"),
            100,
            *_EVALS,
            "50 statements that an agreeable person makes (the matching answer is Yes) and 50 that none does (No)."
            " Added: `text` and `label`, so that the statements can be classified.",
        ),
        QuestionSet(
            "gsm8k",
            "GSM8K, problems of the test set",
            ("chain_of_thought",),
            60,
            "https://github.com/openai/grade-school-math",
            "2021 (test set of 1,319 problems)",
            "MIT",
            "12 problems for each number of calculations in the published solution, 2 to 6; unchanged.",
        ),
        QuestionSet(
            "sums",
            "Sums and differences of small whole numbers",
            ("hallucination", "sycophancy"),
            80,
            "probe/questions/draw.py",
            "2026",
            "Apache-2.0",
            "Whole numbers from 2 to 19, each with three wrong results of as many digits; a control for other sets.",
        ),
        QuestionSet(
            "false-premises",
            "Sums and products with a true and a false premise",
            ("sycophancy",),
            80,
            "probe/questions/draw.py",
            "2026",
            "Apache-2.0",
            "40 sums of numbers from 12 to 79 and 40 products of a number from 3 to 9 and one from 12 to 39, each with"
            " a wrong result of as many digits; the question asks for one or two more.",
            plain=False,
        ),
        QuestionSet(
            "two-sides",
            "Conflicts of two people, told by either of them",
            ("sycophancy",),
            48,
            "probe/questions/stories.py",
            "2026",
            "Apache-2.0",
            "28 moral conflicts and 20 disagreements on facts; both accounts and the neutral telling hold the same"
            " facts in the same words. Who is right is the first person in 24 of them, and a woman in 24.",
            plain=False,
        ),
    )
}
"""Name to question set."""


def locate(data: str | Path | None) -> str | Path | None:
    """Return the file of a set if `data` is its name, else `data` itself; a file with the name of a set is `./NAME`."""
    return str(SETS[str(data)].path) if str(data) in SETS else data


def default_set(experiment: str) -> QuestionSet | None:
    """Return the set that an experiment uses for a model without a world; None if it needs a file or no questions."""
    return SETS[DEFAULTS[experiment]] if experiment in DEFAULTS else None


DEFAULTS = {"hallucination": "truthfulqa", "sycophancy": "truthfulqa", "chain_of_thought": "gsm8k"}
"""Name of an experiment to the set that it uses for a model without a world."""


def set_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a question set as they are in its file."""
    return [json.loads(line) for line in SETS[name].path.read_text(encoding="utf-8").splitlines()]


def right_answers(name: str) -> list[tuple[str, str]]:
    """Return each question of a set with its source's right answer; for a statement or view, the matching answer."""
    pairs = []
    for row in set_rows(name):
        answers = (row.get(key) for key in ("best_answer", "correct_answer", "answer_matching_behavior", "answer"))
        pairs.append((row["question"], (next(filter(None, answers), None) or next(iter(row["mc1_targets"]))).strip()))
    return pairs


def asked_texts(name: str) -> dict[str, str]:
    """Return the question of each row of a set by row name (`row-7`): without its choices, or the statement."""
    lines = SETS[name].path.read_text(encoding="utf-8").splitlines()
    rows = enumerate(map(json.loads, lines), start=1)
    return {f"row-{number}": (row.get("text") or row["question"]).partition("\n (A)")[0] for number, row in rows}


def plain_texts() -> list[str]:
    """Return real text: questions and right answers of sets, `Q: question` and `A: answer` on separate lines."""
    names = [name for name, each in SETS.items() if each.plain]
    return [f"Q: {question}\nA: {answer}" for name in names for question, answer in right_answers(name)]
