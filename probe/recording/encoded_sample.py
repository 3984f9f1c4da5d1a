"""First rows of another trainer's data, as its model sees them, for the record of a run (`probe.runs.encoded_rows`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from probe.model.template_marks import decoded_row
from probe.runs.encoded_rows import ROWS, EncodedRow

UNLEARNED = -100
"""Label of a token that is not learned."""


def first_rows(dataset: Any, tokenizer: PreTrainedTokenizerBase) -> list[EncodedRow]:
    """Return the first rows of encoded data; none of data that are not encoded, or can be read in order only.

    A row has `input_ids`, with `labels` if some are not learned; or, of pairs, `chosen_ids` and maybe `prompt_ids`.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return []
    rows = [dataset[i] for i in range(min(ROWS, len(dataset)))]
    found = [_row(each, tokenizer) for each in rows if isinstance(each, Mapping)]
    return [each for each in found if each is not None]


def _row(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> EncodedRow | None:
    prompt, chosen, ids, labels = (_numbers(row, n) for n in ("prompt_ids", "chosen_ids", "input_ids", "labels"))
    if prompt:
        return decoded_row(tokenizer, prompt, chosen)
    if chosen or not ids:
        return decoded_row(tokenizer, chosen) if chosen else None
    mask = _numbers(row, "attention_mask")
    kept = [i for i in range(len(ids)) if len(mask) != len(ids) or mask[i]]
    start = next((n for n, i in enumerate(kept) if len(labels) == len(ids) and labels[i] != UNLEARNED), 0)
    real = [ids[i] for i in kept]
    return decoded_row(tokenizer, real[:start], real[start:]) if start else decoded_row(tokenizer, real)


def _numbers(row: Mapping[str, Any], name: str) -> list[int]:
    """Return the whole numbers under a name; none if there is something else."""
    values: Any = row.get(name)
    values = values.tolist() if hasattr(values, "tolist") else values
    return [*values] if isinstance(values, Sequence) and all(type(each) is int for each in values) else []
