"""Messages of a dialogue: read back from a text by the markers of common chat templates, or given as JSON."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from probe.rows import is_messages
from probe.untrusted import parse_json

_BEGIN = re.compile(
    r"<\|im_start\|>(?P<chatml>\w+)\n?"  # ChatML: SmolLM, Qwen
    r"|<\|start_header_id\|>(?P<llama>\w+)<\|end_header_id\|>\n*"
    r"|<start_of_turn>(?P<gemma>\w+)\n?"
    r"|<\|(?P<zephyr>system|user|assistant)\|>\n?"
    r"|<(?P<world>user|bot|ctx)>(?!\S)"  # Probe's world
    r"|(?:\A|(?<=\n\n))(?P<plain>Human|Assistant):(?!\S)"  # without a template: probe.model.dialogues
)
"""Patterns of the beginning of a message; the group is its role."""
_END = re.compile(r"<\|(?:im_end|eot_id|end)\|>|<end_of_turn>|(?<!\S)(?:<end>|<bos>)(?!\S)|<\|begin_of_text\|>")
"""Patterns of tokens that end a message or begin a text."""


class Message(NamedTuple):
    """A message of a dialogue."""

    role: str
    """Role of the speaker as the text spells it; empty for text outside of messages."""
    text: str
    """Text of the message, without its markers and the white space around it."""


def split_messages(text: str) -> list[Message]:
    """Split a text into the messages of a dialogue; a text without markers is one message without a role.

    Messages without text are left out, such as the one that the model is to write. The markers are only those of
    common templates: an unknown one stays in the text.
    """
    begins = list(_BEGIN.finditer(text))
    starts = [0, *(begin.end() for begin in begins)]
    ends = [*(begin.start() for begin in begins), len(text)]
    roles = ["", *(str(begin[begin.lastgroup or 0]) for begin in begins)]
    messages = [
        Message(role, _END.sub("", text[start:end]).strip())
        for role, start, end in zip(roles, starts, ends, strict=True)
    ]
    return [message for message in messages if message.text]


def last_words(text: str, length: int) -> str:
    """Return the end of a prompt's last message, on one line of at most `length` characters.

    A text that is short enough is returned as it is; else an ellipsis replaces the words before the end.
    """
    if len(text) <= length:
        return text
    messages = split_messages(text)
    whole = " ".join((messages[-1].text if messages else text).split())
    if len(whole) <= length:
        return whole
    cut, _, words = whole[1 - length :].partition(" ")
    return f"\u2026 {words}" if words else f"\u2026{cut}"


MOST_MESSAGES = 100
"""Largest number of messages of a conversation."""


def parse_conversation(text: str) -> list[Message]:
    """Return the messages of a prompt that is a conversation in JSON: `[{"role": "user", "content": "Hi"}, ...]`.

    It is empty for any other text, and for more than `MOST_MESSAGES` messages.
    """
    if not text.lstrip().startswith("["):
        return []
    try:
        value = parse_json(text)
    except ValueError:
        return []
    known = is_messages(value) and len(value) <= MOST_MESSAGES
    return [Message(each["role"], each["content"]) for each in value] if known else []


def write_conversation(messages: Sequence[Message]) -> str:
    """Return messages as the JSON that `parse_conversation` reads."""
    return json.dumps([{"role": each.role, "content": each.text} for each in messages], ensure_ascii=False)
