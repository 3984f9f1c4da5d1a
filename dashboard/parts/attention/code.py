"""The folded section of the Attention page: equations, definitions, and Python lines that give what it shows."""

import streamlit as st

from dashboard.components.details import details
from dashboard.parts.attention.source import Head, Reading
from probe.runs.captured import attention_table

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
    """The folded section: the three stages, and what the open tab shows besides."""
    tab = st.session_state.get("att_tab")
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
    details(EQUATIONS + equations, f"{DEFINITION}\n{definition}", "\n".join(lines), tables)


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
