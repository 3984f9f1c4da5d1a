"""Fault of the form of the rows: they are not as the chat template of the model writes them."""

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.run_reading import ENCODED, Reading
from probe.runs.encoded_rows import EncodedRow, EncodedRows, TemplateMarks
from probe.stats import Interval, wilson

FOREIGN = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>", "<\uff5cUser\uff5c>")
"""TemplateMarks of widespread chat templates; all are tokens or signs that no plain text has."""
SHOWN = 40
"""Most characters of a mark in a sentence."""
MOST = 0.5
"""Share of the recorded rows above which the rows of a training have the fault: data may mix kinds of rows."""


@fault(
    title="Template fault",
    needs=(ENCODED,),
    remedy="Print the ids of a row beside those of the tokenizer's `apply_chat_template` for the same messages: encode"
    " its text without special tokens, add the generation prompt, and keep the model's own template.",
    methods=("sft", "dpo", "reward-model", "rlhf", "rlvr", "rsft"),
    least=1,
)
def template_fault(reading: Reading) -> Sign | None:
    """Find rows with two tokens of beginning, without the opening of an answer, or in the form of another template."""
    record = reading.encoded
    if record is None:
        return None
    faults = [_fault(record, row) for row in record.rows]
    what = max(set(faults), key=faults.count)
    count = faults.count(what)
    if not what or count <= MOST * len(faults):
        return None
    sentence = f"{what}, in {count} of {len(faults)} recorded rows."
    none = Interval(0.0, float("nan"), float("nan"))
    return Sign(0, "", none, wilson(count, len(faults)), sentence, 0.6, also=("loss",))


def _fault(record: EncodedRows, row: EncodedRow) -> str:
    """Say what is wrong with a row; empty if nothing is."""
    if has_two_beginnings(record, row):
        return "The token that begins a text stands twice at the beginning of rows"
    if record.own is None:
        return ""
    text, own = _bare(row.text), record.own
    if _bare(own.header) in text:
        return _opening_fault(row, own)
    others = [mark for mark in FOREIGN if _bare(mark) not in _bare(own.header + own.opening)]
    others += [record.used.header] if record.used is not None and record.used != own else []
    found = next((mark for mark in others if _bare(mark) in text), None)
    if found is None:
        return ""
    return f"Rows have the form of another chat template (\u201c{found.strip()[:SHOWN]}\u201d), not that of the model"


def _opening_fault(row: EncodedRow, own: TemplateMarks) -> str:
    """Say that a row in the form of the template lacks the opening of an answer; empty if it does not."""
    text, header = _bare(row.text), _bare(own.header)
    after = text.partition(header)[2] if row.learned is None else text.rpartition(header)[2] + _bare(row.learned)
    if _bare(own.opening) in after:
        return ""
    return f"The opening of an answer (\u201c{own.opening.strip()[:SHOWN]}\u201d) is missing between prompt and answer"


def has_two_beginnings(record: EncodedRows, row: EncodedRow) -> bool:
    """Return whether the token that begins a text stands twice at the beginning of a row."""
    return record.bos is not None and row.ids[:2] == [record.bos, record.bos]


def _bare(text: str) -> str:
    """Return a text without white space, which tokenizers change."""
    return "".join(text.split())
