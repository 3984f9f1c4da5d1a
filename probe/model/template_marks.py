"""TemplateMarks of a chat template: what it writes before the words of a user, and before an answer."""

from collections.abc import Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from probe.errors import ProbeError
from probe.model.loading import read_tokenizer
from probe.model.references import cached_snapshot, look_up
from probe.model.text import chat_text
from probe.runs.encoded_rows import IDS, LETTERS, ROWS, EncodedRow, EncodedRows, TemplateMarks

ASKED, ANSWERED, AGAIN = "7391", "8462", "9573"
"""Contents of messages, which are found again in what a template makes of them."""
LEARNED = 16
"""Number of tokens of an answer that are recorded."""


def template_marks(tokenizer: PreTrainedTokenizerBase) -> TemplateMarks | None:
    """Return the marks of a tokenizer's chat template, as decoded text; None without a template that has such marks."""
    if tokenizer.chat_template is None:
        return None
    ask = {"role": "user", "content": ASKED}
    talk = [ask, {"role": "assistant", "content": ANSWERED}, {"role": "user", "content": AGAIN}]
    try:
        before, asked = chat_text(tokenizer, [ask]), chat_text(tokenizer, [ask], answer=True)
        whole = chat_text(tokenizer, talk)
        first, (_, rest) = before.split(ASKED)[0], whole.split(ANSWERED)
        second = rest.split(AGAIN)[0]
        header = _common(first[::-1], second[::-1])[::-1]
        answer = whole.split(ANSWERED)[0].removeprefix(before)
        opening = _common(asked.removeprefix(before), answer)
        if not header.strip() or not asked.startswith(before):
            return None
        marks = TemplateMarks(_decoded(tokenizer, header), _decoded(tokenizer, opening))
    except (ProbeError, ValueError):  # a template that takes other conversations only
        return None
    return marks if marks.header.strip() and len(marks.header + marks.opening) < LETTERS else None


def _common(a: str, b: str) -> str:
    """Return the beginning that two texts share."""
    return a[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))]


def _decoded(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text as the tokenizer decodes it.

    Raises:
        ValueError: it has words that the tokenizer does not know.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise ValueError("unknown words")
    return str(tokenizer.decode(ids))


def own_tokenizer(origin: str) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of the model that a reference names, without the network; None if it is not at hand."""
    try:
        place = look_up(origin)
        folder = place.directory if place is not None else cached_snapshot(origin)
        return read_tokenizer(folder) if folder is not None else None
    except ProbeError:
        return None


def encoded_rows(
    used: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase | None, rows: Sequence[EncodedRow], known: bool = True
) -> EncodedRows:
    """Return the record of rows.

    Args:
        used: tokenizer that the training uses.
        own: tokenizer of the model from which training started.
        rows: rows as the model reads them.
        known: whether that model is known; if it is a new one, it is known to have no template.
    """
    bos = used.bos_token_id
    bos = None if bos in (used.eos_token_id, used.pad_token_id) else bos
    marks = template_marks(used)
    mine = marks if own is used else template_marks(own) if own is not None else None
    return EncodedRows(list(rows[:ROWS]), bos, mine, marks, known)


def decoded_row(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], learned: Sequence[int] | None = None
) -> EncodedRow:
    """Return the record of a row.

    Args:
        tokenizer: tokenizer that decodes it.
        ids: ids before the answer, or of the whole row if it is unknown where the answer begins.
        learned: ids of the answer; None if its beginning is unknown.
    """
    if learned is None:
        return EncodedRow(list(ids[:IDS]), str(tokenizer.decode(list(ids[:LETTERS])))[:LETTERS])
    text = str(tokenizer.decode(list(ids[-LETTERS:])))[-LETTERS:]
    return EncodedRow(list(ids[:IDS]), text, str(tokenizer.decode(list(learned[:LEARNED])))[:LETTERS])
