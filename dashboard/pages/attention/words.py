"""The Attention page in words: its sentence, and the folded section of its main figure."""

from typing import TYPE_CHECKING

from dashboard.components.details import details
from dashboard.pages.attention.compute import Head, Reading
from probe.analyses.catalogue import find_analysis
from probe.attention.reading import argmax, most_moved_head, strongest
from probe.numbers import rate
from probe.runs.captured import attention_table

if TYPE_CHECKING:
    from probe.attention.long import AttentionStatistics


def head_finding(reading: Reading) -> tuple[Head, str]:
    """Return the head that the finding is about, and the finding's sentence."""
    if reading.comparable:
        first, second = reading.sides
        of = f" of {reading.moment.label}" if reading.moment else ""
        head, words = most_moved_head(first.read, second.read, (first.name, second.name), of)
        return head, f"{words}."
    if len(reading.sides) == 2:
        pairs = [strongest(side.read) for side in reading.sides]
        parts = [f"in {side.name}, {words}" for side, (_, words) in zip(reading.sides, pairs, strict=True)]
        sentence = "; ".join(parts) + "."
        return pairs[1][0], sentence[0].upper() + sentence[1:]
    head, words = strongest(reading.last.read)
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


def long_words(name: str, statistics: "AttentionStatistics") -> tuple[Head, str]:
    """Return the head that looks back furthest in a long text, and a sentence on what stands out in its statistics."""
    previous, sink, distance = statistics.mean("previous"), statistics.mean("sink"), statistics.mean("distance")
    near, far = argmax(previous), argmax(distance)
    return far, (
        f"Over {len(statistics.tokens):,} tokens, in {name}, L{statistics.layers[far[0]]}H{far[1]} looks back furthest "
        f"({distance[far]:,.0f} tokens on average), L{statistics.layers[near[0]]}H{near[1]} attends most to the "
        f"token before ({rate(float(previous[near]))}), and the first token draws "
        f"{rate(float(sink.mean()))} of all attention."
    )


def explain(reading: Reading, head: Head) -> None:
    """Draw the folded section of the patterns."""
    shown = find_analysis("read_attention")
    if reading.moment:
        moment = reading.moment
        lines = [
            "import probe",
            "",
            f"captures = probe.open_run({str(moment.run.path)!r}).captures()",
            f"captures.load({moment.step})['attention'][{moment.index}]  # [layers, heads, query, key]",
        ]
    else:
        lines = code(reading, head)
    tables = {
        f"attention-{index}-{side.name}": attention_table(
            side.read.pattern[head[0] : head[0] + 1, head[1] : head[1] + 1], side.read.tokens, [head[0]]
        ).assign(head=head[1])
        for index, side in enumerate(reading.sides)
    }
    details(shown.equations, shown.about, "\n".join(lines), tables)


def code(reading: Reading, head: Head) -> list[str]:
    """Python lines that give the patterns."""
    ids = [int(token) for token in reading.last.read.ids]
    lines = ["import probe", "from probe.model.rewards import analysable", "", f"ids = {ids}"]
    names = ["lm"] if len(reading.sides) == 1 else ["base", "aligned"]
    for name, side in zip(names, reading.sides, strict=True):
        own = "ids" if side.read.ids == reading.last.read.ids else str([int(token) for token in side.read.ids])
        lines += [f"{name} = analysable({side.ref!r})", f"read_{name} = probe.attention.attention({name}, {own})"]
    return [*lines, f"read_{names[-1]}.pattern[{head[0]}, {head[1]}]  # [query, key]"]
