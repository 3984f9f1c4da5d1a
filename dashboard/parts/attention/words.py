"""The sentence that opens the Attention page: which head moved most, or which head does something one can name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dashboard.parts.attention.source import Head, Reading, Side

if TYPE_CHECKING:
    from probe.attention.long import AttentionStatistics

DOES = {
    "induction": "attends to what followed earlier copies of a token (induction)",
    "duplicate_token": "attends to earlier copies of a token",
    "previous_token": "attends to the token before",
}
"""What a score of patterns says of a head, the rarest behaviour first."""

STANDS_OUT = 0.3
"""Share of a head's attention from which a behaviour is named as what the head does."""

STILL = 0.005
"""Share of attention that went elsewhere below which two models are said to attend alike."""


def strongest(side: Side) -> tuple[Head, str]:
    """The head of one model that does something one can name, and what."""
    from probe.attention.scores import pattern_scores

    values = pattern_scores(side.read).values
    found = []
    for name in DOES:
        head = _argmax(values[name])
        found.append((float(values[name][head]), head, name))
    clear = [each for each in found if each[0] >= STANDS_OUT]
    if clear:
        share, head, name = clear[0] if clear[0][2] == "induction" else max(clear)
        more = [each for each in clear if each[2] != name]
        text = f"L{head[0]}H{head[1]} {DOES[name]} with {_percent(share)} of its attention"
        if more:
            share, other, second = max(more)
            text += f", L{other[0]}H{other[1]} {DOES[second].removeprefix('attends ')} with {_percent(share)}"
        return head, text
    sink = values["sink"]
    head = _argmax(-sink)
    words = (
        f"no head stands out; on average {_percent(float(sink.mean()))} of the attention rests on the first token, "
        f"least in L{head[0]}H{head[1]} ({_percent(float(sink[head]))})"
    )
    return head, words


def moved(first: Side, second: Side, of: str = "") -> tuple[Head, str]:
    """The head that moved most between two sides (steps of a run, if `of` names one), and how."""
    from probe.attention.patterns import difference, head_distance

    distance = head_distance(first.read, second.read)
    head = _argmax(distance)
    change = difference(first.read, second.read)[head]
    query, key = np.unravel_index(int(np.abs(change).argmax()), change.shape)
    names = [_quoted(second.read.tokens, int(index)) for index in (query, key)]
    names[1] = "itself" if query == key else names[1]
    before, after = (float(side.read.pattern[(*head, query, key)]) for side in (first, second))
    name, share = f"L{head[0]}H{head[1]}", float(distance[head])
    if share < STILL:
        return head, (
            f"Attention hardly moved between {first.name} and {second.name}{of}: even {name}, which moved most, sent "
            f"only {100 * share:.2g} % of it elsewhere"
        )
    return head, (
        f"Between {first.name} and {second.name}{of}, {name} moved most: {_percent(share)} of its attention went "
        f"elsewhere; the weight from {names[0]} to {names[1]} changed most ({before:.2f} \u2192 {after:.2f})"
    )


def told(reading: Reading) -> tuple[Head, str]:
    """The head that the finding is about, and the sentence."""
    if reading.comparable:
        first, second = reading.sides
        head, words = moved(first, second, f" of {reading.moment.label}" if reading.moment else "")
        return head, f"{words}."
    if len(reading.sides) == 2:
        said = [strongest(side) for side in reading.sides]
        parts = [f"in {side.name}, {words}" for side, (_, words) in zip(reading.sides, said, strict=True)]
        sentence = "; ".join(parts) + "."
        return said[1][0], sentence[0].upper() + sentence[1:]
    head, words = strongest(reading.last)
    where = f"at {reading.last.name} of {reading.moment.label}" if reading.moment else f"in {reading.last.name}"
    return head, f"On this prompt, {where}, {words}."


def why_apart(reading: Reading) -> str:
    """Why two sides have no difference, in a sentence; empty where they do."""
    if reading.comparable or len(reading.sides) < 2:
        return ""
    if not reading.alike:
        return "The two models split this prompt into different tokens, so their patterns have no difference."
    shapes = [
        f"{side.name} has {depth} layers of {heads} heads"
        for side in reading.sides
        for depth, heads in [side.read.pattern.shape[:2]]
    ]
    return f"{' and '.join(shapes)}: they stand side by side, without a difference."


def told_long(name: str, seen: "AttentionStatistics") -> tuple[Head, str]:
    """What stands out in the statistics of a long text."""
    previous, sink, distance = seen.mean("previous"), seen.mean("sink"), seen.mean("distance")
    near, far = _argmax(previous), _argmax(distance)
    return far, (
        f"Over {len(seen.tokens):,} tokens, in {name}, L{seen.layers[far[0]]}H{far[1]} looks back furthest "
        f"({distance[far]:,.0f} tokens on average), L{seen.layers[near[0]]}H{near[1]} attends most to the token before "
        f"({_percent(float(previous[near]))}), and the first token draws {_percent(float(sink.mean()))} of all "
        "attention."
    )


def _quoted(tokens: Sequence[str], index: int) -> str:
    """A token in quotes, with its position where the text holds it several times."""
    where = f" [{index}]" if list(tokens).count(tokens[index]) > 1 else ""
    return f"\u201c{tokens[index].strip()}\u201d{where}"


def _argmax(values: np.ndarray) -> Head:
    layer, head = np.unravel_index(int(values.argmax()), values.shape)
    return int(layer), int(head)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
