"""The folded section of the Attention page: equations, definitions, and Python lines that give what it shows."""

from dashboard.components.details import details
from dashboard.parts.attention.source import Head, Reading
from probe.captured import attention_table

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
EQUATIONS = [
    r"\text{E3}\quad s_{t,s} = \langle R_t M h_t, R_s N h_s\rangle / \sqrt{d_h}",
    r"\text{E4}\quad \alpha_{t,\cdot} = \mathrm{softmax}(s_{t,\le t})",
    r"\text{E5}\quad o_t = \sum_s \alpha_{t,s} L h_s",
]


def explain(reading: Reading, head: Head) -> None:
    """The folded section."""
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
    details(EQUATIONS, DEFINITION, "\n".join(lines), tables)


def code(reading: Reading, head: Head) -> list[str]:
    """Python lines that give what the page shows of models."""
    ids = [int(token) for token in reading.last.read.ids]
    lines = [
        "from probe.analyses.attention import attention, distance_table, stages",
        "from probe.analyses.head_scores import pattern_scores",
        "from probe.readouts import analysable",
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
