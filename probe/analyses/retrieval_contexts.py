"""What a model answers to a world's questions under each context, exactly: sums over the finite answer sets.

The answers to a question part into five: the true one, the passage's where it is another, "i do not know", every other
value (an invention), and what is no answer at all. True is what the collection of documents says, in every context: the
world's fact of known and rare people, and of a stranger what nothing but its document says. A guess about a stranger is
thus right by luck once in as many as there are values (elsewhere, where no documents exist, any value is an invention);
in return a model that does not read passages has the same numbers in every context.

Axes: R rows, one a question and context; P different prompts among them; A answers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.analyses.answers import enumerate_answers
from probe.analyses.evaluation import ANSWER_TOKENS, answer
from probe.analyses.persuasion import persuasion
from probe.analyses.ranking import reciprocal_rank
from probe.analyses.retrieval_documents import CONTEXTS, Asked
from probe.ticks import Tick, ignore
from probe.world.verifier import answer_words
from probe.world.vocabulary import ABSTENTION

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world.world import World

GROUPS = {
    "fact": "known",
    "rare": "rare",
    "stranger": "stranger",
    "stranger_heldout": "heldout",
    "question": "questions",
}
"""Name of each kind of question; the last one is that of a file's."""
DEPTHS = (1, 3, 5, 10)
"""k of the columns `recall_k`."""
PART = 256
"""Prompts between two ticks."""


def context_items(lm: "LM", world: "World", asked: Sequence[Asked], k: int, tick: Tick = ignore) -> pd.DataFrame:
    """One row a question and context.

    Args:
        lm: who answers.
        world: who asks.
        asked: the questions with their passages.
        k: documents that a retrieved passage has.
        tick: progress.

    Returns:
        item, kind, question, context, person, relation, exposure, prompt, answer (the likeliest), expected (the truth),
        learned and stated (by the world and by the passage; None where nothing is), and probabilities:
        p_true: of the true answer.
        p_learned: of the world's fact; NaN about strangers. p_known: the same without any context.
        p_context: of the value that the passage names; NaN where it names none.
        p_follows: p_context where the passage contradicts the world, else NaN.
        p_abstain, p_invented: see the module. answer_mass: of all answers of the set. p_no_answer: the rest, such as
            a value of another relation that the passage says.
        p_copied: of values that the passage says of others only, those that are true left out; NaN without any.
        hall: 1 - p_true - p_abstain (E17); NaN under a contradicting passage, where it depends on whom one believes.
        knows: 1 if the likeliest answer without context is the learned one; NaN about strangers.
        persuasion: nats, see `probe.analyses.persuasion`; NaN without context.
        On rows with the retrieved passage: rank (NaN if not found), reciprocal_rank, recall_1, ..., hit (rank <= k),
        hall_cut and invention_cut, what retrieval takes away from hall and p_invented.
    """
    pairs = [
        (number, one, context) for context in CONTEXTS for number, one in _numbered(asked) if context in one.passages
    ]
    table = pd.DataFrame([_about(number, one, context, k) for number, one, context in pairs])
    answers, logprobs = _scored(lm, world, list(table["prompt"]), tick)
    shares = [_shares(world, one, context, answers[row], logprobs[row]) for row, (_, one, context) in enumerate(pairs)]
    table = pd.concat([table, pd.DataFrame(shares)], axis=1)
    alone = {question: row for row, (question, *_) in enumerate(pairs) if table["context"][row] == "none"}
    base = np.array([alone[question] for question in table["question"]])  # [R] the row of the same question alone
    bare, searched = table["context"] == "none", table["context"] == "retrieved"
    table["persuasion"] = np.where(bare, np.nan, persuasion(logprobs, logprobs[base]))
    table["p_known"] = table["p_learned"].to_numpy()[base]
    table["knows"] = (table["answer"] == table["learned"]).astype(float).to_numpy()[base]
    table.loc[table["learned"].isna(), "knows"] = np.nan
    for name, column in (("hall_cut", "hall"), ("invention_cut", "p_invented")):
        table[name] = (table[column].to_numpy()[base] - table[column]).where(searched)
    return table


def _numbered(asked: Sequence[Asked]) -> list[tuple[str, Asked]]:
    """The questions with their names, such as fact-17."""
    count: dict[str, int] = {}
    found = []
    for one in asked:
        number = count[one.item.kind] = count.get(one.item.kind, -1) + 1
        found.append((f"{one.item.kind}-{number}", one))
    return found


def _about(question: str, one: Asked, context: str, k: int) -> dict[str, Any]:
    """What a row says before a model is asked."""
    row: dict[str, Any] = {"item": f"{question}-{context}", "kind": one.item.kind, "question": question}
    row |= {"context": context} | {name: one.item.meta[name] for name in ("person", "relation", "exposure")}
    row["prompt"] = one.prompt(context)
    if context == "retrieved":
        rank = float("nan") if one.rank is None else float(one.rank)
        row |= {"rank": rank, "hit": float(rank <= k), "reciprocal_rank": reciprocal_rank(rank)}
        row |= {f"recall_{depth}": float(rank <= depth) for depth in DEPTHS}
    return row


def _scored(
    lm: "LM", world: "World", prompts: Sequence[str], tick: Tick
) -> tuple[list[list[str]], NDArray[np.float64]]:
    """The answers to R prompts and their [R A] log-probabilities; equal prompts are scored once."""
    codes, unique = pd.factorize(np.array(prompts, dtype=object))
    answers: list[list[str]] = []
    parts = []
    for start in range(0, len(unique), PART):
        found = enumerate_answers(lm, world, [str(prompt) for prompt in unique[start : start + PART]])
        answers += [[each.strip() for each in group] for group in found.answers]
        parts.append(found.logprobs)
        tick(min(start + PART, len(unique)) / len(unique))
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-np.inf) for part in parts]
    return [answers[code] for code in codes], np.concatenate(padded)[codes]


def _shares(
    world: "World", one: Asked, context: str, answers: Sequence[str], logprobs: NDArray[np.float64]
) -> dict[str, Any]:
    """How the probabilities of the answers to a row's prompt add up."""
    subject, relation = one.item.meta["person"], one.item.meta["relation"]
    learned, passage = world.truth(subject, relation), one.passages[context]
    said = {each.person: each.value for each in passage if each.relation == relation}
    stated = said.pop(subject, None)
    p = dict(zip(answers, np.exp(logprobs[: len(answers)]).tolist(), strict=True))
    supported = {each for each in (one.truth, stated) if each}
    invented = [value for value in answers if value != ABSTENTION and value not in supported]
    others = [value for value in set(said.values()) if value not in supported]
    contradicts, nan = stated is not None and stated != one.truth, float("nan")
    row: dict[str, Any] = {"answer": max(p, key=lambda value: p[value]), "expected": one.truth}
    row |= {"learned": learned, "stated": stated, "p_true": p[one.truth]}
    row |= {"p_learned": p[learned] if learned else nan, "p_context": p[stated] if stated else nan}
    row |= {"p_follows": p[stated or ""] if contradicts else nan, "p_abstain": p[ABSTENTION]}
    row["p_invented"] = sum(p[value] for value in invented)
    row["p_copied"] = sum(p[value] for value in others) if others else nan
    row["hall"] = nan if contradicts else max(1 - p[one.truth] - p[ABSTENTION], 0.0)
    mass = sum(p.values())
    return row | {"answer_mass": mass, "p_no_answer": max(1 - mass, 0.0)}


def passage_items(lm: "LM", world: "World", n: int, seed: int) -> pd.DataFrame:
    """Samples on the corpus's own kinds of passages, as `probe.analyses.evaluation` draws and judges them.

    Returns:
        item, kind (context_conflict, context_stranger), person, relation, prompt, answer, expected, is_true (1 if it is
        what the passage says); no row where the world asks no such questions.
    """
    rows = []
    for kind in ("context_conflict", "context_stranger"):
        if kind not in world.question_kinds:
            continue
        found = answer(lm, world, world.questions(kind, n, seed), ANSWER_TOKENS, seed)
        for index, (item, text, judged) in enumerate(zip(*found, strict=True)):
            row: dict[str, Any] = {"item": f"{kind}-{index}", "kind": kind, "person": item.meta["person"]}
            row |= {"relation": item.meta["relation"], "prompt": item.prompt, "answer": " ".join(answer_words(text))}
            rows.append(row | {"expected": item.answers[0].strip(), "is_true": float(judged.kind == "true")})
    return pd.DataFrame(rows)
