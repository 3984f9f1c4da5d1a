"""The Attention page in words: its sentence, and the folded section with equations, definitions, Python lines."""

from typing import TYPE_CHECKING

import streamlit as st

from dashboard.components.details import details
from dashboard.pages.attention.choices import TAB
from dashboard.pages.attention.compute import Head, Reading
from probe.attention.reading import STAGES, argmax, most_moved_head, strongest
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


DEFINITION = """
A head compares the query of token *t* with the keys of the tokens up to it (scores, E3: a bilinear form of the two
residual streams; with rotary positions it depends on their lag), turns the scores of a row into weights that sum to 1
(softmax, E4), and adds the mixture of the values that the weights give to the residual stream of *t* (linear, E5).
Rows are queries (destination), columns keys (source), grey is what the causal mask hides. The norm of
$\\alpha_{t,s} L h_s$ says how much a source writes: a large weight on a token with a small value writes little.
Attention during generation is the rows from the last token of the prompt on: row *t* is what the step that chose token
*t* + 1 attended to. *Went elsewhere* is the total variation distance, half the sum of absolute changes of a row, mean
over the rows that have a choice.
"""
ABOUT = {
    "Head scores": (
        [r"\text{induction} = \sum_t \sum_{s:\, x_{s-1} = x_t} \alpha_{t,s} \Big/ \sum_{t,s} \alpha_{t,s}"],
        "Previous token and duplicate token are the same share on $s = t - 1$ and on earlier $x_s = x_t$ "
        "(transformer-lens); prefix matching and copying are those of Olsson et al. (2022).",
    ),
    "Circuits": (
        [
            r"\mathrm{copying} = \sum_i \mathrm{Re}\, \lambda_i \Big/ \sum_i |\lambda_i|,\quad \lambda \text{ of } "
            r"W_E W_{OV} W_U",
            r"\mathrm{composition} = \lVert A L \rVert_F / (\lVert A \rVert_F \lVert L \rVert_F),\quad A = M^T N "
            r"\text{ (by its query or key side) or } O V",
        ],
        "*L* is what the earlier head writes, *A* what the later one reads with; gains of norms are part of both.",
    ),
    "Rollout": (
        [r"\tilde A_l = \prod_{k \le l} \Big(\tfrac12 I + \tfrac12 \tfrac1H \sum_h \alpha^{kh}\Big)"],
        "Weighed by what heads write, heads and keys count by $|\\alpha_{t,s} L h_s|$ and rows are scaled to sum 1.",
    ),
}
"""Equations and a sentence beside the three stages, by the tab that is open."""


def explain(reading: Reading, head: Head) -> None:
    """Draw the folded section: the three stages, and what the open tab adds."""
    tab = st.session_state.get(TAB)
    equations, definition = ABOUT.get(str(tab), ([], ""))
    if reading.moment:
        moment = reading.moment
        lines = [
            "import probe",
            "",
            f"captures = probe.open_run({str(moment.run.path)!r}).captures()",
            f"captures.load({moment.step})['attention'][{moment.index}]  # [layers, heads, query, key]",
        ]
    else:
        lines = code(reading, head) + tab_code(reading, str(tab))
    tables = {
        f"attention-{index}-{side.name}": attention_table(
            side.read.pattern[head[0] : head[0] + 1, head[1] : head[1] + 1], side.read.tokens, [head[0]]
        ).assign(head=head[1])
        for index, side in enumerate(reading.sides)
    }
    details([*STAGES, *equations], f"{DEFINITION}\n{definition}", "\n".join(lines), tables)


def code(reading: Reading, head: Head) -> list[str]:
    """Python lines that give what the page shows of models."""
    ids = [int(token) for token in reading.last.read.ids]
    lines = [
        "from probe.attention.patterns import attention, distance_table, stages",
        "from probe.attention.scores import pattern_scores",
        "from probe.model.rewards import analysable",
        "",
        f"ids = {ids}",
    ]
    names = ["lm"] if len(reading.sides) == 1 else ["base", "aligned"]
    for name, side in zip(names, reading.sides, strict=True):
        own = "ids" if side.read.ids == reading.last.read.ids else str([int(token) for token in side.read.ids])
        lines += [f"{name} = analysable({side.ref!r})", f"read_{name} = attention({name}, {own})"]
    last = names[-1]
    lines += [
        f"read_{last}.pattern[{head[0]}, {head[1]}]  # [query, key]",
        f"stages({last}, ids, {head[0]}, {head[1]}).table()",
        f"pattern_scores(read_{last}).table()",
    ]
    if reading.comparable:
        lines.append("distance_table(read_base, read_aligned)")
    return lines


def tab_code(reading: Reading, tab: str) -> list[str]:
    """Python lines that give what the open tab shows of the last model."""
    last = "lm" if len(reading.sides) == 1 else "aligned"
    writes = reading.last.lm is not None and reading.last.lm.readout == "tokens"
    lines = {
        "Head scores": ["from probe.attention.scores import repeat_scores", f"repeat_scores({last}).table()"],
        "Circuits": [
            "from probe.attention.circuits import composition, copying_score, spectra",
            f"spectra({last}).rank_table()",
            *([f"copying_score({last})"] if writes else []),
            f'composition({last}, "K").table()  # or "Q", "V"',
        ],
        "Rollout": [
            "from probe.attention.patterns import rollout",
            "from probe.attention.patterns import value_norms",
            f"rollout(read_{last})  # [layers, position, source]",
            f"rollout(read_{last}, value_norms=value_norms({last}, ids))  # weighed by what heads write",
        ],
    }
    return ["", *lines[tab]] if tab in lines else []
