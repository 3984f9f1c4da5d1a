"""A model's answers to a folder's questions under each context of its documents, without a judge model.

    folder/
        questions.jsonl     {"question": "...", "answers": ["...", ...], "document": "id", "substitute": "..."} a line
        documents.jsonl     {"text": "...", "id": "...", "title": "..."} a line; or
        *.txt, *.md         one document per file, also in subfolders, with its path as id, such as `notes/oslo.txt`

A question has `answers` or one `answer`; if it has both, `answers` count. `document` names the document with the
answer, with or without the suffix of its file; it is needed for recall and for passages that are known to be right.
`substitute` is a wrong answer that replaces the right one in a contradicting passage. The default `id` of a document is
its number in the file, from 1. Long documents are cut into overlapping chunks, so an answer at a border is complete in
one of them.

Contexts are those of `probe.retrieval.world`, with one passage each, except for `retrieved`:

- gold: the best-matching chunk of the named document that contains an answer;
- distractor: the best-matching chunk of any other document without an answer;
- unrelated: the worst-matching chunk of any other document without an answer;
- contradicting: the gold chunk with `substitute` in place of every answer;
- retrieved: the first k chunks of the search.

An answer is generated greedily up to the first line break. It is right if it contains a reference, both normalised as
in SQuAD (`probe.hallucination.confidence.normalise`), an abstention if it contains one of `ABSTAINS`, and invented
otherwise.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as field_of
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.errors import ConfigError, DataError
from probe.hallucination.confidence import normalise
from probe.hallucination.files import IGNORANCE, first_line
from probe.model.dialogues import CHUNK, Form, Turn, answer_logprobs, completion, dialogue, uses_chat
from probe.model.text import context_length, encode
from probe.retrieval.search import Retriever, rank_of, reciprocal_rank
from probe.retrieval.world import CONTEXTS, DEPTHS
from probe.rows import EVERY, Row, Rows, Selection, field, read_rows, sift
from probe.ticks import Tick, ignore, part
from probe.untrusted import DOCUMENT, read_file, short

if TYPE_CHECKING:
    from probe.model.lm import LM

QUESTIONS, DOCUMENTS = "questions.jsonl", "documents.jsonl"
TEXTS = (".txt", ".md")
LAYOUT = (
    "a folder with questions.jsonl (`question`, `answers` or `answer`, optional `document` and `substitute`) and with"
    " documents.jsonl (`text`, optional `id` and `title`) or text files *.txt, *.md"
)


@dataclass(frozen=True)
class TitledDocument:
    """A document with an id and a title."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Chunk:
    """Part of a document, as it is searched and shown."""

    document: str
    """Id of the document."""
    text: str
    """Words of the part, after the title if there is one."""


@dataclass(frozen=True)
class FileQuestion:
    """A question of a file."""

    question: str
    answers: tuple[str, ...]
    document: str | None = None
    substitute: str | None = None
    row: str = field_of(default="", compare=False)
    """Name of its row in the file, from 1: `row-7`."""


def read_folder(
    data: str | Path, strict: bool = False, selection: Selection = EVERY
) -> tuple[Rows[TitledDocument], Rows[FileQuestion]]:
    """Read the documents and the questions of a folder; see the module.

    Args:
        data: the folder.
        strict: refuse the folder if a document or a question cannot be used; otherwise such rows are skipped.
        selection: choice of the questions.

    Raises:
        DataError: something is missing, or no document or no question can be used.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise DataError(f"`{data}` is not a folder: give {LAYOUT}.")
    if not (folder / QUESTIONS).is_file():
        raise DataError(f"`{data}` has no {QUESTIONS}: give {LAYOUT}.")
    documents = read_documents(folder, strict)
    names = document_names([each.id for each in documents])
    questions = read_rows(folder / QUESTIONS, lambda row: _question(row, names), strict, selection=selection)
    return documents, questions


def document_names(ids: Sequence[str]) -> dict[str, list[str]]:
    """Map every name of a document (its id, also without `.txt` or `.md`) to the ids that it may stand for."""
    ids_by_name = {each: [each] for each in ids}
    for each in ids:
        bare = _bare(each)
        if bare not in ids:
            ids_by_name.setdefault(bare, []).append(each)
    return ids_by_name


def _bare(name: str) -> str:
    """Return a name without the suffix of a text file."""
    return next((name[: -len(suffix)] for suffix in TEXTS if name.lower().endswith(suffix)), name)


def read_documents(folder: Path, strict: bool = False) -> Rows[TitledDocument]:
    """Read the documents of a folder, from its JSON Lines or its text files.

    Raises:
        DataError: there is no document, or none can be used: it has no text, or a repeated id.
    """
    ids: set[str] = set()

    def once(source: TitledDocument) -> TitledDocument:
        if source.id in ids:
            raise DataError(f"Two documents of `{folder}` are called {source.id!r}: give each an id of its own.")
        ids.add(source.id)
        return source

    if (folder / DOCUMENTS).is_file():
        return read_rows(
            folder / DOCUMENTS, lambda row: once(_source(row)), strict, "one document a line, with a `text`"
        )
    texts = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in TEXTS and path.is_file()]
    if not texts:
        raise DataError(f"`{folder}` has no documents: give {LAYOUT}.")
    return sift(folder, (partial(_file, folder, path) for path in texts), strict)


def _source(row: Row) -> TitledDocument:
    identifier = row.values.get("id", row.number)
    if not isinstance(identifier, str | int):
        raise DataError(f"{row.where} has an `id` that is neither a text nor a number: change it.")
    title = field(row, "title") if row.values.get("title") else ""
    return TitledDocument(str(identifier), field(row, "text"), title.strip())


def chunks_of(documents: Sequence[TitledDocument], size: int, overlap: int) -> list[Chunk]:
    """Cut documents into chunks of at most `size` words; each begins with the last `overlap` words of the previous one.

    Raises:
        ConfigError: the size is below 1, or the overlap is negative or not below the size.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ConfigError(
            f"Chunks of {size} words with an overlap of {overlap} are not possible: give a size from 1 on and a smaller"
            " overlap."
        )
    chunks = []
    for each in documents:
        # A chunk keeps its line breaks and blanks: it is cut out of the text, not joined from words.
        spans = [match.span() for match in re.finditer(r"\S+", each.text)]
        for start in range(0, max(len(spans) - overlap, 1), size - overlap):
            part = spans[start : start + size]
            text = each.text[part[0][0] : part[-1][1]] if part else ""
            chunks.append(Chunk(each.id, f"{each.title}\n{text}" if each.title else text))
    return chunks


def _file(folder: Path, path: Path) -> TitledDocument:
    try:
        text = read_file(path, DOCUMENT).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The document `{path}` cannot be read ({short(error)}): give a text in UTF-8.") from None
    if not text.strip():
        raise DataError(f"The document `{path}` is empty: write its text, or remove it.")
    return TitledDocument(path.relative_to(folder).as_posix(), text)


def _question(row: Row, names: Mapping[str, Sequence[str]]) -> FileQuestion:
    values = row.values
    if values.get("answers") is not None:
        texts = values["answers"]
        if not isinstance(texts, list) or not texts or not all(isinstance(a, str) and a.strip() for a in texts):
            raise DataError(f"{row.where} needs a list of texts in the field `answers`: give at least one.")
        answers = tuple(answer.strip() for answer in texts)
    else:
        answers = (field(row, "answer").strip(),)
    substitute = field(row, "substitute").strip() if values.get("substitute") is not None else None
    return FileQuestion(field(row, "question").strip(), answers, _document(row, names), substitute, row.label)


def _document(row: Row, names: Mapping[str, Sequence[str]]) -> str | None:
    """Return the id of the document that a question names, with or without its suffix."""
    reference = row.values.get("document")
    if reference is None:
        return None
    if not isinstance(reference, str | int):
        raise DataError(f"{row.where} has a `document` that is neither a text nor a number: give one id.")
    name = str(reference)
    matches = names.get(name) or names.get(_bare(name)) or []
    if len(matches) != 1:
        problem = f"could be {' or '.join(matches)}" if matches else "does not exist"
        raise DataError(f"{row.where} names the document {name!r}, which {problem}: correct the name.")
    return matches[0]


INSTRUCTION = 'Answer the question in a few words. If you cannot tell, answer "I do not know".'
ABSTAINS = ("i do not know", "i dont know")
"""Normalised phrases; an answer that contains one of them is an abstention."""


def key(text: str) -> str:
    """Return the form in which texts are compared: normalised, or lower case if normalising would empty it."""
    return normalise(text) or text.strip().lower()


def says(text: str, answers: Sequence[str]) -> bool:
    """Return whether the text contains one of the answers as whole words."""
    words = f" {key(text)} "
    return any(f" {key(answer)} " in words for answer in answers)


def exact(text: str, answers: Sequence[str]) -> bool:
    """Return SQuAD's exact match: whether the text equals one of the answers, both normalised."""
    return key(text) in {key(answer) for answer in answers}


def abstains(text: str) -> bool:
    """Return whether a text is an abstention."""
    return key(text) in IGNORANCE or says(text, ABSTAINS)


def prompt_of(lm: "LM", question: str, passages: Sequence[str], form: Form = "auto") -> str:
    """Return the prompt: instruction, passages and question, in the tokenizer's chat template or plain.

    Raises:
        ConfigError: a chat template is requested and there is none.
    """
    context = "".join(f"Passage: {passage.strip()}\n\n" for passage in passages)
    body = f"{INSTRUCTION}\n\n{context}Question: {question}"
    return dialogue(lm, [Turn("user", body)], "chat") if uses_chat(lm, form) else f"{body}\nAnswer:"


def passages_of(
    question: FileQuestion, chunks: Sequence[Chunk], retriever: Retriever, k: int
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Return the passages of a question by context, except those that do not apply, and measures of its search.

    The measures: rank (of the named document's first chunk; NaN if not found), reciprocal_rank, recall_1, ... (all of
    them only if a document is named), and hit: whether a retrieved text contains an answer.
    """
    scores = retriever.scores(question.question)
    order = [int(index) for index in np.argsort(-scores, kind="stable")]
    ranking = [index for index in order if scores[index] > 0]
    passages = {"none": [], "retrieved": [chunks[index].text for index in ranking[:k]]}
    measures: dict[str, float] = {"hit": float(any(says(text, question.answers) for text in passages["retrieved"]))}
    if question.document is not None:
        rank = rank_of([chunks[index].document for index in ranking], {question.document})
        measures |= {"rank": float("nan") if rank is None else float(rank), "reciprocal_rank": reciprocal_rank(rank)}
        measures |= {f"recall_{depth}": float(rank is not None and rank <= depth) for depth in DEPTHS}
        own = [chunks[index].text for index in order if chunks[index].document == question.document]
        gold = next((text for text in own if says(text, question.answers)), own[0])
        passages["gold"] = [gold]
        if question.substitute is not None:
            against = _replace_answers(gold, question.answers, question.substitute)
            if against != gold:
                passages["contradicting"] = [against]
    others = (chunks[index] for index in order if chunks[index].document != question.document)
    without = [each.text for each in others if not says(each.text, question.answers)]
    if without:
        passages |= {"distractor": without[:1], "unrelated": without[-1:]}
    return passages, measures


def file_items(
    lm: "LM",
    questions: Sequence[FileQuestion],
    chunks: Sequence[Chunk],
    k: int,
    max_new_tokens: int,
    form: Form = "auto",
    tick: Tick = ignore,
) -> pd.DataFrame:
    """Ask the questions under every context; return one row per question and context.

    Args:
        lm: the model.
        questions: questions of a file.
        chunks: the collection.
        k: number of chunks to retrieve.
        max_new_tokens: maximum number of tokens of an answer.
        form: form of the prompts.
        tick: progress.

    Returns:
        item, kind (question), question, context, prompt, answer, expected, and zeros and ones: exact_match, p_true (an
        answer is contained), p_follows (the substitute is contained and no answer is; only under a contradicting
        passage), p_learned and p_context (the same two there, for the memorisation ratio), p_abstain, p_invented, hall
        (no answer and no abstention; not under a contradicting passage), knows (right without context). logprob is the
        log-probability in nats of the most probable reference answer, logprob_gain its gain by the context. Rows with
        the retrieved passages have the columns of `passages_of`, hall_cut and invention_cut.

    Raises:
        DataError: a prompt with its answer is longer than the model's context.
    """
    retriever = Retriever([chunk.text for chunk in chunks])
    pairs, rows = [], []
    for number, question in enumerate(questions):
        passages, measures = passages_of(question, chunks, retriever, k)
        for context in (each for each in CONTEXTS if each in passages):
            prompt = prompt_of(lm, question.question, passages[context], form)
            row: dict[str, Any] = {"item": f"question-{number}-{context}", "kind": "question"}
            row |= {"question": f"question-{number}", "row": question.row, "context": context, "prompt": prompt}
            rows.append(row | {"expected": question.answers[0]} | (measures if context == "retrieved" else {}))
            pairs.append((question, context))
    table = pd.DataFrame(rows)
    prompts = list(table["prompt"])
    _check_room(lm, prompts, pairs, max_new_tokens)
    texts = _write_answers(lm, prompts, max_new_tokens, part(tick, 0, 2))
    verdicts = [_judge_answer(text, question, context) for text, (question, context) in zip(texts, pairs, strict=True)]
    groups = [
        [completion(prompt, answer) for answer in question.answers]
        for prompt, (question, _) in zip(prompts, pairs, strict=True)
    ]
    scores = answer_logprobs(lm, prompts, groups, part(tick, 1, 2))
    table = pd.concat([table, pd.DataFrame(verdicts)], axis=1)
    table["logprob"] = [float(score.max()) for score in scores]
    return _beside(table)


def _beside(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that compare each row with the row of the same question without context."""
    base_rows = table[table["context"] == "none"].set_index("question")
    no_context, from_search = table["context"] == "none", table["context"] == "retrieved"
    table["knows"] = table["question"].map(base_rows["p_true"])
    table["p_known"] = table["knows"]
    table["logprob_gain"] = (table["logprob"] - table["question"].map(base_rows["logprob"])).mask(no_context)
    for name, column in (("hall_cut", "hall"), ("invention_cut", "p_invented")):
        table[name] = (table["question"].map(base_rows[column]) - table[column]).where(from_search)
    return table


def _judge_answer(text: str, question: FileQuestion, context: str) -> dict[str, Any]:
    right, silent = says(text, question.answers), abstains(text)
    conflict = context == "contradicting"
    follows = conflict and not right and says(text, [question.substitute or ""])
    nan = float("nan")
    row: dict[str, Any] = {"answer": text, "exact_match": float(exact(text, question.answers)), "p_true": float(right)}
    row |= {"p_follows": float(follows) if conflict else nan, "p_context": float(follows) if conflict else nan}
    row |= {"p_learned": float(right) if conflict else nan, "p_abstain": float(silent and not right and not follows)}
    invention = float(not (right or follows or silent))
    return row | {"p_invented": invention, "hall": nan if conflict else invention}


def _replace_answers(text: str, answers: Sequence[str], substitute: str) -> str:
    """Replace every answer in the text by the substitute, longest first, ignoring case."""
    longest = sorted(answers, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(answer)}(?!\w)" for answer in longest)
    return re.sub(pattern, lambda _: substitute, text, flags=re.IGNORECASE)


def _write_answers(lm: "LM", prompts: Sequence[str], max_new_tokens: int, tick: Tick) -> list[str]:
    answers: list[str] = []
    for start in range(0, len(prompts), CHUNK):
        texts = lm.generate(prompts[start : start + CHUNK], max_new_tokens=max_new_tokens, temperature=0.0).text
        answers += [first_line(text) for text in texts]
        tick(min(1.0, (start + CHUNK) / len(prompts)))
    return answers


def _check_room(lm: "LM", prompts: Sequence[str], pairs: Sequence[tuple[FileQuestion, str]], new: int) -> None:
    limit = context_length(lm.model)
    if limit is None:
        return
    for prompt, (question, context) in zip(prompts, pairs, strict=True):
        length = len(encode(lm.tokenizer, prompt)) + new
        if length > limit:
            raise DataError(
                f"With its passages ({context}) the question {question.question[:60]!r} and its answer take {length}"
                f" tokens, and the model reads at most {limit}: give smaller chunks or a smaller k."
            )
