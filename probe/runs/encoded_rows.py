"""Sample of the rows that a training reads, as the model sees them, beside the marks of its chat template.

encoded_rows.json       schema, known, bos, own, used (marks or null), rows (ids, text, learned)

From it `probe.diagnosis.template_faults` says whether rows have the form of the model's own template. The marks were
made when the training began, so that a reader needs no tokenizer.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from probe.runs.schema import dumps
from probe.runs.storage import write_inside
from probe.untrusted import MB, read_json

ENCODED_ROWS = "encoded_rows.json"
SCHEMA = 1
MOST_BYTES = MB
ROWS = 4
"""Number of rows that are recorded."""
IDS, LETTERS = 8, 4000
"""Numbers of ids and of characters of a row that are recorded."""


@dataclass(frozen=True)
class TemplateMarks:
    """TemplateMarks by which a conversation in the form of a chat template is known."""

    header: str
    """Text before the words of a user."""
    opening: str
    """Text before an answer, or its beginning if the template opens answers in several ways; may be empty."""


@dataclass(frozen=True)
class EncodedRow:
    """A row as the model reads it."""

    ids: list[int]
    """Its first `IDS` ids."""
    text: str
    """Decoded text with special tokens: the end of what stands before the answer, or the beginning of a whole row."""
    learned: str | None = None
    """Decoded beginning of the answer; None if the boundary of the answer is unknown, so that `text` holds it too."""


@dataclass(frozen=True)
class EncodedRows:
    """Rows of a training with the marks that they may have."""

    rows: list[EncodedRow]
    bos: int | None
    """Id of the token that begins a text; None if the model has none, or uses it at other places too."""
    own: TemplateMarks | None
    """TemplateMarks of the template of the model from which training started; None if it has none."""
    used: TemplateMarks | None
    """TemplateMarks of the template of the tokenizer that the training uses."""
    known: bool = True
    """Whether the tokenizer of the model from which training started could be read."""


def write_encoded_rows(run: Path, record: EncodedRows) -> None:
    """Write a record into a run directory.

    Raises:
        RunError: the disk refuses the file.
    """
    write_inside(run, ENCODED_ROWS, (dumps({"schema": SCHEMA} | asdict(record)) + "\n").encode())


def read_encoded_rows(run: Path) -> EncodedRows | None:
    """Return the record of a run directory; None if there is none, or it is damaged or newer."""
    try:
        content = read_json(run / ENCODED_ROWS, MOST_BYTES)
        rows = [EncodedRow(**each) for each in content["rows"][:ROWS]]
        own, used = (None if content[name] is None else TemplateMarks(**content[name]) for name in ("own", "used"))
        bos, known = content["bos"], content["known"]
        texts = [*(each.text for each in rows), *(each.learned for each in rows if each.learned is not None)]
        texts += [text for marks in (own, used) if marks for text in (marks.header, marks.opening)]
        sound = content["schema"] == SCHEMA and all(isinstance(text, str) and len(text) <= LETTERS for text in texts)
        sound = sound and all(type(each.ids) is list and len(each.ids) <= IDS for each in rows)
        if not sound or not (bos is None or type(bos) is int) or type(known) is not bool:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return EncodedRows(rows, bos, own, used, known)
