"""A prompt as models read it: unchanged, or as a user's message in their chat template."""

from collections.abc import Sequence

from probe.model.lm import LM
from probe.model.messages import parse_conversation
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


def last_token(*lms: LM, prompt: str, chat: bool) -> int:
    """Return the position of a prompt's last token, for the model that splits it into the fewest tokens."""
    return max(0, min(len(asked_ids(lm, prompt, chat)) for lm in lms) - 1)


def every_token(*lms: LM, prompt: str, chat: bool) -> tuple[int, int]:
    """Return the positions of the first and the last token of a prompt."""
    return 0, last_token(*lms, prompt=prompt, chat=chat)
