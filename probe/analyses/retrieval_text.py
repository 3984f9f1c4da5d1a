"""What any model answers to a file's questions under each context; see `probe.analyses.retrieval_files` for the files.

Contexts are those of `probe.analyses.retrieval_documents`, with one passage each but for what was retrieved:

- gold: the chunk of the named document with an answer in it that fits the question best;
- distractor: the best chunk of any other document, without an answer in it;
- unrelated: the chunk of any other document, without an answer in it, that fits worst;
- contradicting: the gold chunk with `substitute` in place of every answer;
- retrieved: the first k chunks of the search.

An answer is what is written greedily up to the first line break. It is right if a reference stands in it, both
normalised as SQuAD does (`semantic_entropy.normalised`), abstains if it says so, and is invented otherwise; no judge
model is asked.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.analyses.question_forms import CHUNK, Form, Turn, answer_logprobs, completion, dialogue, uses_chat
from probe.analyses.ranking import rank_of, reciprocal_rank
from probe.analyses.retrieval_contexts import DEPTHS
from probe.analyses.retrieval_documents import CONTEXTS
from probe.analyses.retrieval_files import Chunk, FileQuestion
from probe.analyses.retriever import Retriever
from probe.errors import DataError
from probe.hallucination.confidence import normalised
from probe.hallucination.files import IGNORANCE, first_line
from probe.model.text import context_length, encode
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    from probe.model.lm import LM

INSTRUCTION = 'Answer the question in a few words. If you cannot tell, answer "I do not know".'
ABSTAINS = ("i do not know", "i dont know")
"""Normalised phrases that make an answer an abstention wherever they stand in it."""


def key(text: str) -> str:
    """A text as it is compared: normalised, or only in lower case where nothing would be left of it."""
    return normalised(text) or text.strip().lower()


def says(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the text, as whole words."""
    said = f" {key(text)} "
    return any(f" {key(answer)} " in said for answer in answers)


def exact(text: str, answers: Sequence[str]) -> bool:
    """SQuAD's exact match: the text is one of the answers, both normalised."""
    return key(text) in {key(answer) for answer in answers}


def abstains(text: str) -> bool:
    """Whether a text says that it does not know."""
    return key(text) in IGNORANCE or says(text, ABSTAINS)


def prompt_of(lm: "LM", question: str, passages: Sequence[str], form: Form = "auto") -> str:
    """What the model reads: instruction, passages, question; in the tokenizer's chat template, or plain.

    Raises:
        ConfigError: a chat template is asked for and there is none.
    """
    shown = "".join(f"Passage: {passage.strip()}\n\n" for passage in passages)
    body = f"{INSTRUCTION}\n\n{shown}Question: {question}"
    return dialogue(lm, [Turn("user", body)], "chat") if uses_chat(lm, form) else f"{body}\nAnswer:"


def passages_of(
    question: FileQuestion, chunks: Sequence[Chunk], retriever: Retriever, k: int
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """The passages of a question by context, those that do not apply left out, and how its search went.

    The search: rank (of the named document's first chunk; NaN if not found), reciprocal_rank, recall_1, ... (all of
    them only where a document is named), and hit: whether an answer stands in what was retrieved.
    """
    scores = retriever.scores(question.question)
    order = [int(index) for index in np.argsort(-scores, kind="stable")]
    found = [index for index in order if scores[index] > 0]
    passages = {"none": [], "retrieved": [chunks[index].text for index in found[:k]]}
    about: dict[str, float] = {"hit": float(any(says(text, question.answers) for text in passages["retrieved"]))}
    if question.document is not None:
        rank = rank_of([chunks[index].document for index in found], {question.document})
        about |= {"rank": float("nan") if rank is None else float(rank), "reciprocal_rank": reciprocal_rank(rank)}
        about |= {f"recall_{depth}": float(rank is not None and rank <= depth) for depth in DEPTHS}
        own = [chunks[index].text for index in order if chunks[index].document == question.document]
        gold = next((text for text in own if says(text, question.answers)), own[0])
        passages["gold"] = [gold]
        if question.substitute is not None:
            against = _replaced(gold, question.answers, question.substitute)
            if against != gold:
                passages["contradicting"] = [against]
    others = (chunks[index] for index in order if chunks[index].document != question.document)
    without = [each.text for each in others if not says(each.text, question.answers)]
    if without:
        passages |= {"distractor": without[:1], "unrelated": without[-1:]}
    return passages, about


def file_items(
    lm: "LM",
    questions: Sequence[FileQuestion],
    chunks: Sequence[Chunk],
    k: int,
    max_new_tokens: int,
    form: Form = "auto",
    tick: Tick = ignore,
) -> pd.DataFrame:
    """One row a question and context.

    Args:
        lm: who answers.
        questions: of a file.
        chunks: what is searched.
        k: chunks that are retrieved.
        max_new_tokens: longest answer.
        form: of the prompts.
        tick: progress.

    Returns:
        item, kind (question), question, context, prompt, answer, expected, and zeros and ones: exact_match, p_true (an
        answer is contained), p_follows (the substitute is said and no answer; only under a contradicting passage),
        p_learned and p_context (the same two there, for the memorisation ratio), p_abstain, p_invented, hall (no
        answer and no abstention; not under a contradicting passage), knows (right without context). logprob is the
        log-probability in nats of the answer that the model finds likeliest, logprob_gain what the context adds to it.
        Rows with the retrieved passages have the columns of `passages_of`, hall_cut and invention_cut.

    Raises:
        DataError: a prompt with its answer is longer than the model's context.
    """
    retriever = Retriever([chunk.text for chunk in chunks])
    asked, rows = [], []
    for number, question in enumerate(questions):
        passages, about = passages_of(question, chunks, retriever, k)
        for context in (each for each in CONTEXTS if each in passages):
            prompt = prompt_of(lm, question.question, passages[context], form)
            row: dict[str, Any] = {"item": f"question-{number}-{context}", "kind": "question"}
            row |= {"question": f"question-{number}", "context": context, "prompt": prompt}
            rows.append(row | {"expected": question.answers[0]} | (about if context == "retrieved" else {}))
            asked.append((question, context))
    table = pd.DataFrame(rows)
    prompts = list(table["prompt"])
    _check_room(lm, prompts, asked, max_new_tokens)
    texts = _written(lm, prompts, max_new_tokens, part(tick, 0, 2))
    judged = [_judged(text, question, context) for text, (question, context) in zip(texts, asked, strict=True)]
    groups = [
        [completion(prompt, answer) for answer in question.answers]
        for prompt, (question, _) in zip(prompts, asked, strict=True)
    ]
    scores = answer_logprobs(lm, prompts, groups, part(tick, 1, 2))
    table = pd.concat([table, pd.DataFrame(judged)], axis=1)
    table["logprob"] = [float(score.max()) for score in scores]
    return _beside(table)


def _beside(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that compare a row with the same question's without context."""
    bare = table[table["context"] == "none"].set_index("question")
    alone, searched = table["context"] == "none", table["context"] == "retrieved"
    table["knows"] = table["question"].map(bare["p_true"])
    table["p_known"] = table["knows"]
    table["logprob_gain"] = (table["logprob"] - table["question"].map(bare["logprob"])).mask(alone)
    for name, column in (("hall_cut", "hall"), ("invention_cut", "p_invented")):
        table[name] = (table["question"].map(bare[column]) - table[column]).where(searched)
    return table


def _judged(text: str, question: FileQuestion, context: str) -> dict[str, Any]:
    right, silent = says(text, question.answers), abstains(text)
    against = context == "contradicting"
    follows = against and not right and says(text, [question.substitute or ""])
    nan = float("nan")
    row: dict[str, Any] = {"answer": text, "exact_match": float(exact(text, question.answers)), "p_true": float(right)}
    row |= {"p_follows": float(follows) if against else nan, "p_context": float(follows) if against else nan}
    row |= {"p_learned": float(right) if against else nan, "p_abstain": float(silent and not right and not follows)}
    invented = float(not (right or follows or silent))
    return row | {"p_invented": invented, "hall": nan if against else invented}


def _replaced(text: str, answers: Sequence[str], substitute: str) -> str:
    """The text with the substitute in place of every answer, the longest first, whatever their case."""
    longest = sorted(answers, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(answer)}(?!\w)" for answer in longest)
    return re.sub(pattern, lambda _: substitute, text, flags=re.IGNORECASE)


def _written(lm: "LM", prompts: Sequence[str], max_new_tokens: int, tick: Tick) -> list[str]:
    found: list[str] = []
    for start in range(0, len(prompts), CHUNK):
        texts = lm.generate(prompts[start : start + CHUNK], max_new_tokens=max_new_tokens, temperature=0.0).text
        found += [first_line(text) for text in texts]
        tick(min(1.0, (start + CHUNK) / len(prompts)))
    return found


def _check_room(lm: "LM", prompts: Sequence[str], asked: Sequence[tuple[FileQuestion, str]], new: int) -> None:
    limit = context_length(lm.model)
    if limit is None:
        return
    for prompt, (question, context) in zip(prompts, asked, strict=True):
        length = len(encode(lm.tokenizer, prompt)) + new
        if length > limit:
            raise DataError(
                f"With its passages ({context}) the question {question.question[:60]!r} and its answer take {length}"
                f" tokens, and the model reads at most {limit}: give smaller chunks or a smaller k."
            )
