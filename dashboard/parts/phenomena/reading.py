"""How a model read a prompt and its own answer, token by token, and how that is shown as chips."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dashboard.components.tokens import Chip

if TYPE_CHECKING:
    from probe.model.lm import LM

STRONG_NATS = 6.0
"""Surprise at which a chip has its full colour."""
TOP = 3
"""Expected tokens that a chip names."""
ANSWERED_BY = "answered_by"
"""Column of items that names who answered, where that was another model than the one that the experiment was run on."""


@dataclass(frozen=True)
class Read:
    """How a model read a prompt and its own answer."""

    ids: tuple[int, ...]
    cut: int
    """Tokens of the prompt."""
    pieces: tuple[str, ...]
    values: tuple[float, ...]
    """Log-probability of each token in nats (the first one's is NaN); of a scalar model, what it reads there."""
    likeliest: tuple[tuple[tuple[str, float], ...], ...]
    """What the model expected in its place, with probabilities."""
    scalar: bool = False


def stand_ins(own: Mapping[str, Mapping[Any, Any]]) -> str:
    """A sentence on who answered in the place of the models that read the tokens; empty where each answered itself.

    Args:
        own: the item's row of each model, by label.
    """
    answered: dict[str, list[str]] = {}
    for label, row in own.items():
        if isinstance(row.get(ANSWERED_BY), str) and row[ANSWERED_BY]:
            answered.setdefault(row[ANSWERED_BY], []).append(label)
    if not answered:
        return ""
    said = "; ".join(f"{by} (in place of {' and '.join(labels)})" for by, labels in answered.items())
    readers = [label for labels in answered.values() for label in labels]
    own_reading = "itself reads it" if len(readers) == 1 else "themselves read it"
    return f"Answered by {said}; the text below is as {' and '.join(readers)} {own_reading}."


def joined(prompt: Any, answer: Any) -> tuple[str, str]:
    """Prompt and answer such that they follow each other; a space between words where neither has one."""
    first, second = str(prompt or ""), "" if answer is None or answer != answer else str(answer)
    if re.search(r"[\w.?!:,>]\Z", first) and re.match(r"\w", second):
        second = " " + second
    return first, second


def reading(lm: "LM", prompt: str, answer: str) -> Read:
    """Log-probabilities of the tokens of a prompt and an answer, and what was expected instead.

    Raises:
        DataError: the text is empty or too long for the model.
    """
    from probe.model.text import pieces, split

    head, tail = split(lm.tokenizer, prompt, answer)
    ids = (*head, *tail)
    logits = lm.logits(list(ids))[0].float()
    shown = tuple(pieces(lm.tokenizer, ids))
    if lm.readout != "tokens":
        return Read(ids, len(head), shown, tuple(logits[:, 0].tolist()), ((),) * len(ids), scalar=True)
    logprobs = logits[:-1].log_softmax(-1)
    own = logprobs.gather(1, logits.new_tensor(ids[1:]).long()[:, None])[:, 0]
    best = logprobs.topk(min(TOP, logprobs.shape[-1]), dim=-1)
    likeliest = [
        tuple(zip(pieces(lm.tokenizer, row), np.exp(values), strict=True))
        for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return Read(ids, len(head), shown, (float("nan"), *own.tolist()), ((), *likeliest))


def before(lm: "LM", read: Read, token: int) -> str:
    """The text before a token of an answer, so that its last token is where the model decides; or the whole prompt."""
    end = max(read.cut, token)
    tokenizer = lm.tokenizer
    ids = list(read.ids[:end])
    text = tokenizer.decode(ids)
    bos = tokenizer.bos_token
    if bos and ids and ids[0] == tokenizer.bos_token_id and text.startswith(bos):
        from probe.model.text import encode

        bare = text[len(bos) :].removeprefix(" ")
        return bare if encode(tokenizer, bare) == ids else text
    return str(text)


def prompt_chips(readings: Sequence[tuple[str, Read]]) -> list[Chip]:
    """The prompt that all models read, with what each thought of it."""
    made = []
    for j in range(readings[0][1].cut):
        lines = [f"token {j}: {readings[0][1].pieces[j]}"]
        for label, read in readings:
            lines += [f"{label}: {line}" for line in described(read, j)[:1]]
        made.append(Chip(text=readings[0][1].pieces[j], tip="\n".join(lines), prompt=True))
    return made


def chip(read: Read, j: int) -> Chip:
    """A token, coloured by how little it was expected."""
    lines = [f"token {j}: {read.pieces[j]}", *described(read, j)]
    value = read.values[j]
    if read.scalar:
        largest = max(abs(each) for each in read.values) or 1.0
        strength = 0.7 * value / largest
    else:
        strength = 0.75 * min(1.0, max(0.0, -value) / STRONG_NATS) ** 0.5 if value == value else 0.0
    return Chip(text=read.pieces[j], tip="\n".join(lines), strength=strength, prompt=j < read.cut)


def described(read: Read, j: int) -> list[str]:
    """Lines on a token."""
    value = read.values[j]
    if value != value:
        return ["the first token: nothing comes before it"]
    if read.scalar:
        return [f"reads {value:.3g} here"]
    return [
        f"log p = {value:.2f} nats, p = {np.exp(value):.3f}",
        *(f"   {piece}  {p:.3f}" for piece, p in read.likeliest[j]),
    ]
