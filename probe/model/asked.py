"""A prompt as models read it: unchanged, or as a user's message in their chat template."""

from collections.abc import Sequence
from typing import Any

from probe.model.lm import LM
from probe.model.messages import parse_conversation
from probe.model.pace import WRITTEN, seconds_to_read
from probe.model.text import encode


def written_out(prompt: str, *lms: LM) -> str:
    """Return a prompt as text: a conversation in JSON in the last model's chat template, any other text unchanged.

    The template opens the answer that the model is to write (`probe.model.messages.parse_conversation`).

    Raises:
        DataError: it is a conversation, and there is no template, or the template refuses it.
    """
    messages = parse_conversation(prompt) if lms else []
    return lms[-1].prompt_text([{"role": each.role, "content": each.text} for each in messages]) if messages else prompt


def asked_ids(lm: LM, prompt: str | Sequence[int], chat: bool) -> list[int]:
    """Return the ids of a prompt, unchanged or as a user's message in the model's chat template.

    Raises:
        DataError: the tokenizer does not know a word.
    """
    if not isinstance(prompt, str):
        return [int(token) for token in prompt]
    return encode(lm.tokenizer, lm.prompt_text([{"role": "user", "content": prompt}]) if chat else prompt)


def asked_seconds(
    *lms: LM, prompt: str | Sequence[int], chat: bool = False, max_new_tokens: int = 0, passes: float = 1, **rest: Any
) -> float:
    """Estimate the seconds in which the last model continues a prompt, and each model reads all of it.

    Args:
        lms: the models.
        prompt: a text or its token ids.
        chat: whether it is sent as a user's message in the model's chat template.
        max_new_tokens: maximum number of tokens that the last model writes.
        passes: number of times that each model reads it, or of readings that take as long as what is computed.
        rest: inputs of an analysis on which its time does not depend.

    Raises:
        DataError: the tokenizer does not know a word.
    """
    tokens = len(asked_ids(lms[-1], prompt, chat)) + max_new_tokens
    return seconds_to_read(lms[-1], WRITTEN * max_new_tokens) + sum(seconds_to_read(lm, passes * tokens) for lm in lms)


def last_token(*lms: LM, prompt: str, chat: bool) -> int:
    """Return the position of a prompt's last token, for the model that splits it into the fewest tokens."""
    return max(0, min(len(asked_ids(lm, prompt, chat)) for lm in lms) - 1)


def every_token(*lms: LM, prompt: str, chat: bool) -> tuple[int, int]:
    """Return the positions of the first and the last token of a prompt."""
    return 0, last_token(*lms, prompt=prompt, chat=chat)
