"""Documents and questions from a folder: what the experiment `retrieval` reads for models that have no world.

    folder/
        questions.jsonl     {"question": "...", "answers": ["...", ...], "document": "id", "substitute": "..."} a line
        documents.jsonl     {"text": "...", "id": "...", "title": "..."} a line; or
        *.txt, *.md         one document a file, also in folders below, called by its path such as `notes/oslo.txt`

A question has `answers` or one `answer`. `document` names the one that has the answer, and is needed for recall and for
passages that are known to be right; `substitute` is a wrong answer that is put in place of the right one where a
passage shall contradict what was learned. Without `id` a document is called by its place in the file, counted from 1.

Long documents are cut into chunks of some words that overlap, so that an answer at a border is whole in one of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.analyses.question_forms import Record, field, read_records
from probe.errors import ConfigError, DataError

QUESTIONS, DOCUMENTS = "questions.jsonl", "documents.jsonl"
TEXTS = (".txt", ".md")
LAYOUT = (
    "a folder with questions.jsonl (`question`, `answers` or `answer`, optional `document` and `substitute`) and with"
    " documents.jsonl (`text`, optional `id` and `title`) or text files *.txt, *.md"
)


@dataclass(frozen=True)
class Source:
    """A document."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Chunk:
    """A part of a document, as it is searched and shown."""

    document: str
    """Id of the document."""
    text: str
    """Its words, behind the title if there is one."""


@dataclass(frozen=True)
class FileQuestion:
    """A question of a file."""

    question: str
    answers: tuple[str, ...]
    document: str | None = None
    substitute: str | None = None


def read_folder(data: str | Path) -> tuple[list[Source], list[FileQuestion]]:
    """The documents and the questions of a folder; see the module.

    Raises:
        DataError: something is missing or malformed; the message names the file and the line.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise DataError(f"`{data}` is no folder: give {LAYOUT}.")
    if not (folder / QUESTIONS).is_file():
        raise DataError(f"`{data}` has no {QUESTIONS}: give {LAYOUT}.")
    documents = read_documents(folder)
    known = {each.id for each in documents}
    questions = []
    for record in read_records(folder / QUESTIONS):
        question = _question(record)
        if question.document is not None and question.document not in known:
            raise DataError(
                f"{record.where} names the document {question.document!r}, which is none of the {len(known)} that are"
                " there: correct the name, or add the document."
            )
        questions.append(question)
    return documents, questions


def read_documents(folder: Path) -> list[Source]:
    """The documents of a folder, from its JSON Lines or its text files.

    Raises:
        DataError: there is none, one has no text, or two have one id.
    """
    if (folder / DOCUMENTS).is_file():
        if not (folder / DOCUMENTS).read_bytes().strip():
            raise DataError(f"`{folder / DOCUMENTS}` is empty: write one document a line, with a `text`.")
        found = []
        for number, record in enumerate(read_records(folder / DOCUMENTS), start=1):
            told = record.values.get("id", number)
            if not isinstance(told, str | int):
                raise DataError(f"{record.where} has an `id` that is neither a text nor a number: change it.")
            title = field(record, "title") if record.values.get("title") else ""
            found.append(Source(str(told), field(record, "text"), title.strip()))
    else:
        found = [_file(folder, path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in TEXTS]
    if not found:
        raise DataError(f"`{folder}` has no documents: give {LAYOUT}.")
    seen: set[str] = set()
    for each in found:
        if each.id in seen:
            raise DataError(f"Two documents of `{folder}` are called {each.id!r}: give each an id of its own.")
        seen.add(each.id)
    return found


def chunks_of(documents: Sequence[Source], size: int, overlap: int) -> list[Chunk]:
    """The documents in chunks of at most `size` words, each beginning with the last `overlap` words of the one before.

    Raises:
        ConfigError: the size is below 1, or the overlap is negative or no less than the size.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ConfigError(
            f"Chunks of {size} words with an overlap of {overlap} are not possible: give a size from 1 on and a smaller"
            " overlap."
        )
    found = []
    for each in documents:
        # A chunk keeps its line breaks and blanks: it is cut out of the text, not joined from words.
        spans = [match.span() for match in re.finditer(r"\S+", each.text)]
        for start in range(0, max(len(spans) - overlap, 1), size - overlap):
            part = spans[start : start + size]
            text = each.text[part[0][0] : part[-1][1]] if part else ""
            found.append(Chunk(each.id, f"{each.title}\n{text}" if each.title else text))
    return found


def _file(folder: Path, path: Path) -> Source:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The document `{path}` cannot be read ({error}): give a text in UTF-8.") from None
    return Source(path.relative_to(folder).as_posix(), text)


def _question(record: Record) -> FileQuestion:
    values = record.values
    if "answers" in values:
        told = values["answers"]
        if not isinstance(told, list) or not told or not all(isinstance(a, str) and a.strip() for a in told):
            raise DataError(f"{record.where} needs a list of texts in the field `answers`: give at least one.")
        answers = tuple(answer.strip() for answer in told)
    else:
        answers = (field(record, "answer").strip(),)
    document = values.get("document")
    if document is not None and not isinstance(document, str | int):
        raise DataError(f"{record.where} has a `document` that is neither a text nor a number: give one id.")
    substitute = field(record, "substitute").strip() if values.get("substitute") is not None else None
    name = None if document is None else str(document)
    return FileQuestion(field(record, "question").strip(), answers, name, substitute)
