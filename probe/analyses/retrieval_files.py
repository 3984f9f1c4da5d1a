"""Documents and questions from a folder: what the experiment `retrieval` reads for models that have no world.

    folder/
        questions.jsonl     {"question": "...", "answers": ["...", ...], "document": "id", "substitute": "..."} a line
        documents.jsonl     {"text": "...", "id": "...", "title": "..."} a line; or
        *.txt, *.md         one document a file, also in folders below, called by its path such as `notes/oslo.txt`

A question has `answers` or one `answer`. `document` names the one that has the answer, with or without the suffix of
its file, and is needed for recall and for passages that are known to be right; `substitute` is a wrong answer that is
put in place of the right one where a passage shall contradict what was learned. Without `id` a document is called by
its place in the file, counted from 1.

Long documents are cut into chunks of some words that overlap, so that an answer at a border is whole in one of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from probe.errors import ConfigError, DataError
from probe.rows import Row, Rows, field, read_rows, sift

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


def read_folder(data: str | Path, strict: bool = False) -> tuple[Rows[Source], Rows[FileQuestion]]:
    """The documents and the questions of a folder; see the module.

    Args:
        data: the folder.
        strict: refuse it where a document or a question cannot be used, which is left out otherwise.

    Raises:
        DataError: something is missing, or no document or no question can be used.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise DataError(f"`{data}` is no folder: give {LAYOUT}.")
    if not (folder / QUESTIONS).is_file():
        raise DataError(f"`{data}` has no {QUESTIONS}: give {LAYOUT}.")
    documents = read_documents(folder, strict)
    names = document_names([each.id for each in documents])
    return documents, read_rows(folder / QUESTIONS, lambda row: _question(row, names), strict)


def document_names(ids: Sequence[str]) -> dict[str, list[str]]:
    """Every name that a document can be called by, its id or that without `.txt` or `.md`, to the ids it may mean."""
    found = {each: [each] for each in ids}
    for each in ids:
        bare = _bare(each)
        if bare not in ids:
            found.setdefault(bare, []).append(each)
    return found


def _bare(name: str) -> str:
    """A name without the suffix of a text file."""
    return next((name[: -len(suffix)] for suffix in TEXTS if name.lower().endswith(suffix)), name)


def read_documents(folder: Path, strict: bool = False) -> Rows[Source]:
    """The documents of a folder, from its JSON Lines or its text files.

    Raises:
        DataError: there is none, or none can be used: it has no text, or the id of one before.
    """
    seen: set[str] = set()

    def once(source: Source) -> Source:
        if source.id in seen:
            raise DataError(f"Two documents of `{folder}` are called {source.id!r}: give each an id of its own.")
        seen.add(source.id)
        return source

    if (folder / DOCUMENTS).is_file():
        return read_rows(
            folder / DOCUMENTS, lambda row: once(_source(row)), strict, "one document a line, with a `text`"
        )
    texts = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in TEXTS and path.is_file()]
    if not texts:
        raise DataError(f"`{folder}` has no documents: give {LAYOUT}.")
    return sift(folder, (partial(_file, folder, path) for path in texts), strict)


def _source(row: Row) -> Source:
    told = row.values.get("id", row.number)
    if not isinstance(told, str | int):
        raise DataError(f"{row.where} has an `id` that is neither a text nor a number: change it.")
    title = field(row, "title") if row.values.get("title") else ""
    return Source(str(told), field(row, "text"), title.strip())


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
    if not text.strip():
        raise DataError(f"The document `{path}` is empty: write its text, or take it away.")
    return Source(path.relative_to(folder).as_posix(), text)


def _question(row: Row, names: Mapping[str, Sequence[str]]) -> FileQuestion:
    values = row.values
    if "answers" in values:
        told = values["answers"]
        if not isinstance(told, list) or not told or not all(isinstance(a, str) and a.strip() for a in told):
            raise DataError(f"{row.where} needs a list of texts in the field `answers`: give at least one.")
        answers = tuple(answer.strip() for answer in told)
    else:
        answers = (field(row, "answer").strip(),)
    substitute = field(row, "substitute").strip() if values.get("substitute") is not None else None
    return FileQuestion(field(row, "question").strip(), answers, _document(row, names), substitute)


def _document(row: Row, names: Mapping[str, Sequence[str]]) -> str | None:
    """The id of the document that a question names, with or without its suffix."""
    told = row.values.get("document")
    if told is None:
        return None
    if not isinstance(told, str | int):
        raise DataError(f"{row.where} has a `document` that is neither a text nor a number: give one id.")
    name = str(told)
    found = names.get(name) or names.get(_bare(name)) or []
    if len(found) != 1:
        which = f"could be {' or '.join(found)}" if found else "is none of those that are there"
        raise DataError(f"{row.where} names the document {name!r}, which {which}: correct the name.")
    return found[0]
