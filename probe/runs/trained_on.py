"""Hashes of the sentences of a run's training data, by which questions are found without storing texts.

trained_on.json         schema, whole (whether every sentence is there), sentences (their hashes, sorted)

A sentence is hashed without details that differ between files: case, white space, quotes and marks at its ends, and the
name of the speaker. A paraphrase is another sentence. The whole data file counts, including held-out rows and rows of
later steps.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from probe.runs.schema import dumps
from probe.runs.storage import write_inside
from probe.untrusted import MB, read_json

TRAINED_ON = "trained_on.json"
SCHEMA = 1
MOST = 200_000
"""Maximum number of sentences; of more, those with the smallest hashes are kept, a random choice."""
MOST_BYTES = 8 * MB
"""Maximum bytes of the file; the maximum number of sentences takes half of it."""
BYTES = 8
"""Number of bytes of a hash."""
_END = re.compile(r"(?<=[.?!])[\"')\]\u2019\u201d]*\s+|<[^<>\s]{1,40}>")
"""Boundary between two sentences of a line, or a sign of a chat template."""
_WHO = re.compile(r"^(?:q|question|problem|prompt|user|human) ?: ")
_EDGES = " .,:;?!\"'`*_#()[]{}\u2018\u2019\u201c\u201d"
_HASH = re.compile(rf"[0-9a-f]{{{2 * BYTES}}}")


@dataclass(frozen=True)
class TrainedOn:
    """Sentences of a run's data."""

    sentences: frozenset[str]
    """Hashes of the sentences, in hexadecimal."""
    whole: bool = True
    """Whether these are all sentences; otherwise there were more than `MOST`."""

    def holds(self, text: str) -> bool:
        """Return whether every sentence of a text is in the record; False for a text without letters."""
        found = list(map(sentence_hash, sentences(text)))
        return bool(found) and self.sentences.issuperset(found)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text in their normalised form."""
    for line in text.splitlines():
        for part in _END.split(unicodedata.normalize("NFKC", line)):
            words = " ".join(part.casefold().split()).strip(_EDGES)
            if found := _WHO.sub("", words).strip(_EDGES):
                yield found


def sentence_hash(sentence: str) -> str:
    """Return the hash of a sentence, in hexadecimal."""
    return hashlib.blake2b(sentence.encode("utf-8", "surrogatepass"), digest_size=BYTES).hexdigest()


def collect(texts: Iterable[str]) -> TrainedOn:
    """Return the record of some texts, which are read once in order."""
    hashes = (sentence_hash(sentence) for text in texts for sentence in sentences(text))
    found, whole = set[str](), True
    while part := set(islice(hashes, MOST)):
        found |= part
        if len(found) > MOST:
            found, whole = set(sorted(found)[:MOST]), False
    return TrainedOn(frozenset(found), whole)


def repeated(held_out: Sequence[str], training: Iterable[str]) -> int:
    """Count the held-out texts whose sentences, in order, are those of a training text: exact and near matches."""
    wanted = [tuple(sentences(text)) for text in held_out]
    found = {form for text in training if (form := tuple(sentences(text)))}
    return sum(form in found for form in wanted)


def write_trained_on(run: Path, record: TrainedOn) -> None:
    """Write a record into a run directory.

    Raises:
        RunError: the disk refuses the file.
    """
    content = {"schema": SCHEMA, "whole": record.whole, "sentences": sorted(record.sentences)}
    write_inside(run, TRAINED_ON, (dumps(content) + "\n").encode())


def read_trained_on(run: Path) -> TrainedOn | None:
    """Return the record of a run directory; None if there is none, or it is damaged or newer."""
    try:
        content = read_json(run / TRAINED_ON, MOST_BYTES)
        found = content["sentences"]
        sound = content["schema"] == SCHEMA and isinstance(content["whole"], bool) and isinstance(found, list)
        if not sound or len(found) > MOST or not all(isinstance(each, str) and _HASH.fullmatch(each) for each in found):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return TrainedOn(frozenset(found), content["whole"])
