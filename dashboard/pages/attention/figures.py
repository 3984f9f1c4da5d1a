"""Figures of the Attention page: one head in its stages, all heads as numbers, the rollout, and the weights alone."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import data, models
from dashboard.components.figure import figure
from dashboard.markdown import escape_markdown, note
from dashboard.pages.attention.choices import QUERY, SCORE, WEIGHTED, take_head
from dashboard.pages.attention.compute import Head, Reading, Side, captured_read
from dashboard.sentences import duration
from dashboard.state import has_changed, keep
from probe.attention import figures as plots
from probe.attention.figures import change_map
from probe.attention.head_figures import head_grids, head_ranking, rollout_map, score_curves, spectra
from probe.numbers import rate
from probe.texts import visible

if TYPE_CHECKING:
    from probe.attention.circuits import Composition, Spectra
    from probe.attention.patterns import Stages
    from probe.attention.scores import HeadScores
    from probe.model.lm import LM

WORDS = 5
"""Tokens that are named on each side of what a head writes."""


def choose_query(reading: Reading) -> int:
    """Let the reader choose the query token of the figures; at first the one that predicts what follows the prompt."""
    tokens = reading.tokens
    names = [f"{index}: {token}" for index, token in enumerate(tokens)]
    default = reading.last.read.prompt_length - 1
    if has_changed("_att_asked", tuple(reading.last.read.ids)):
        st.session_state[QUERY] = default
    return int(
        st.selectbox(
            "Query (the token that looks)",
            range(len(tokens)),
            format_func=lambda at: visible(names[at]),
            key=keep(QUERY, range(len(tokens)), default),
            bind="query-params",
        )
    )


def stages(reading: Reading, head: Head) -> None:
    """Scores, softmax and mixed values of the chosen head, and what it writes after each token."""
    name = f"L{head[0]}H{head[1]}"
    stage_pairs = [(side, stages_of(side, head)) for side in reading.sides_with(head)]
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        query = choose_query(reading)
    if len(stage_pairs) < len(reading.sides):
        with right:
            note(f"The stages are those of {reading.last.name}: the other model has other tokens, or no {name}.")
    panels = [
        plots.Stages(name=side.name, scores=one.scores, pattern=one.pattern, written=one.contribution)
        for side, one in stage_pairs
    ]
    chart = plots.head_stages(panels, reading.tokens, query=query, boundary=reading.boundary)
    table = pd.concat([one.table().assign(of=side.name) for side, one in stage_pairs], ignore_index=True)
    hint = " (click a cell to choose its query)" if len(reading.tokens) <= plots.MOST_CLICKABLE else ""
    title = f"{name}: bilinear, softmax, linear{hint}"
    figure(chart, table, "att-stages", title=title, source=reading.source, on_select=_take_query)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        bars = [(side.name, one.share, one.written) for side, one in stage_pairs]
        colours = [side.colour for side, _ in stage_pairs]
        chart = plots.written_bars(bars, reading.tokens, query=query, colours=colours, boundary=reading.boundary)
        table = pd.concat([one.written_table().assign(of=side.name) for side, one in stage_pairs], ignore_index=True)
        title = f"What {name} writes after each token (click one)"
        figure(chart, table, "att-written", title=title, height=330, source=reading.source, on_select=_take_query)
    with right:
        words(stage_pairs, reading, name, query)
    note(
        "Left: length of what the head adds at each token, as a share of the residual stream that it is added to. "
        "Right: the tokens whose logits that output moves most, through the final norm (its scale held fixed) and the "
        "unembedding."
    )


def words(stage_pairs: "list[tuple[Side, Stages]]", reading: Reading, name: str, query: int) -> None:
    """Draw the tokens that the head's output at one position promotes and suppresses, for each side."""
    groups = []
    for side, one in stage_pairs:
        up = list(zip(one.promoted.tokens[query], one.promoted.logits[query], strict=True))
        down = list(zip(one.suppressed.tokens[query], one.suppressed.logits[query], strict=True))
        groups.append((side.name, [*up, *reversed(down)]))
    chart = plots.word_bars(
        [(label, [str(word) for word, _ in rows], np.array([value for _, value in rows])) for label, rows in groups],
        label="change of the logit, nats" if _tokens(stage_pairs) else "change of the logit or scalar",
    )
    table = pd.DataFrame(
        [{"of": label, "token": word, "logit_change": float(value)} for label, rows in groups for word, value in rows]
    )
    token = reading.tokens[query].strip()
    title = f"What its output after \u201c{token}\u201d moves"
    figure(chart, table, "att-words", title=title, height=330, source=reading.source | {"head": name, "query": query})


def stages_of(side: Side, head: Head) -> "Stages":
    """Compute the stages of one head of a live side."""
    assert side.lm is not None
    text = tuple(int(token) for token in side.read.ids)
    return models.compute_once(_stages, side.lm, say="Taking the head apart", text=text, layer=head[0], head=head[1])


def _stages(lm: "LM", text: tuple[int, ...], layer: int, head: int) -> "Stages":
    from probe.attention.patterns import stages

    return stages(lm, text, layer, head, k=WORDS)


def _tokens(stage_pairs: "list[tuple[Side, Stages]]") -> bool:
    return all(side.lm is not None and side.lm.readout == "tokens" for side, _ in stage_pairs)


def through_training(reading: Reading, head: Head) -> None:
    """How the chosen head changed over all captures of its run."""
    from probe.attention.patterns import head_distance
    from probe.attention.scores import pattern_scores

    moment = reading.moment
    assert moment is not None
    name, steps = f"L{head[0]}H{head[1]}", data.captures(moment.run).steps
    reads = [captured_read(moment, step) for step in steps]
    scores = [pattern_scores(read).values for read in reads]
    shares = ("previous_token", "duplicate_token", "induction", "sink")
    lines = {kind.replace("_", " "): np.array([float(one[kind][head]) for one in scores]) for kind in shares}
    lines["moved since the first step"] = np.array([float(head_distance(reads[0], read)[head]) for read in reads])
    chart = score_curves(steps, lines, marker=moment.step)
    table = pd.DataFrame({"step": steps, "head": name, **lines})
    title = f"{name} of {moment.label} through training, on this prompt"
    figure(chart, table, "att-training", title=title, height=340, source=reading.source)
    note(
        "Shares of the head's attention on the token before, on earlier copies, on what followed them, and on the "
        "first token; and the share that went elsewhere since the first capture. Captures hold patterns only: for "
        "scores, values and circuits choose the run, or one of its checkpoints (RUN@STEP), above."
    )


def rollout(reading: Reading, head: Head) -> None:
    """From which tokens of the input the state of one position comes, layer by layer, if attention were all."""
    from probe.attention import patterns as rolled

    left, middle = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        query = choose_query(reading)
    with middle:
        weighting = not reading.moment and st.toggle(
            "Weigh heads and keys by what they write", key=WEIGHTED, bind="query-params"
        )
    columns = st.columns(len(reading.sides), gap="medium")
    for index, (column, side) in enumerate(zip(columns, reading.sides, strict=True)):
        norms = None
        if weighting and side.lm is not None:
            text = tuple(int(token) for token in side.read.ids)
            norms = models.compute_once(_value_norms, side.lm, say="Reading values", text=text)
        shares = rolled.rollout(side.read, value_norms=norms)
        at = min(query, len(side.read.tokens) - 1)
        with column:
            chart = rollout_map(shares[:, at], side.read.tokens, boundary=reading.boundary)
            title = f"{side.name}: what \u201c{side.read.tokens[at].strip()}\u201d can have seen"
            table = rolled.rollout_table(shares, side.read.tokens)
            height = 130 + 26 * min(len(shares), 16)
            figure(chart, table, f"att-rollout-{index}", title=title, height=height, source=reading.source)
    note(
        "Rollout multiplies the mean attention of the heads through the layers, half of each state passing unmixed "
        "(Abnar and Zuidema 2020). It knows nothing of MLPs and of what the values hold: where states could come from, "
        "not what they hold."
    )


def _value_norms(lm: "LM", text: tuple[int, ...]) -> np.ndarray:
    from probe.attention.patterns import value_norms

    return value_norms(lm, text)


def _take_query(points: list[dict]) -> None:
    custom = points[0].get("customdata")
    if custom and isinstance(custom[0], int | float):
        st.session_state[QUERY] = int(custom[0])


ON_TEXT = {
    "previous_token": ("previous token", "share", "Share of all attention on the token before."),
    "duplicate_token": ("duplicate token", "share", "Share of all attention on earlier copies of the token."),
    "induction": ("induction", "share", "Share of all attention on the tokens that followed earlier copies."),
    "entropy": ("entropy", "nats", "Mean entropy of a row: 0 looks at one token only."),
    "distance": ("distance", "tokens", "How far back a head looks, on average."),
    "sink": ("sink", "share", "Mean attention on the first token."),
    "self": ("itself", "share", "Mean attention of a token on itself."),
}
"""Scores of the patterns on the page: how they are called, their unit, what they say."""

ON_REPEATS = {
    "prefix_matching": (
        "prefix matching",
        "share",
        "On repeated random tokens: attention on what followed the earlier occurrence (Olsson et al. 2022).",
    ),
    "copying": (
        "copying",
        "\u22121 to 1",
        "On repeated random tokens: whether what a head writes raises the token that it attends to most.",
    ),
}
"""Scores that run the model on texts of their own."""

SMOL_PARAMETERS = 1.35e8
"""Size of SmolLM2-135M, on which seconds were measured (one core): costs of other models are scaled."""

RANKED = 16
"""Heads that a ranking shows."""


def scores(reading: Reading, head: Head) -> None:
    """Draw a score of every head on a grid, for both sides and their difference; a click chooses the head."""
    live = all(side.lm is not None for side in reading.sides)
    options = ON_TEXT | (ON_REPEATS if live else {})
    if any(side.lm is not None and side.lm.readout != "tokens" for side in reading.sides):
        options = {name: about for name, about in options.items() if name != "copying"}
    key = keep(SCORE, options, "previous_token")
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        name = st.selectbox(
            "Score", list(options), format_func=lambda name: options[name][0], key=key, bind="query-params"
        )
    label, unit, says = options[name]
    with right:
        note(says)
    if name in ON_REPEATS and not affordable(reading):
        return
    score_pairs = [(side, scores_of(side, repeats=name in ON_REPEATS)) for side in reading.sides]
    panels = [(side.name, one.values[name]) for side, one in score_pairs]
    signs = [False] * len(panels)
    if len(panels) == 2 and panels[0][1].shape == panels[1][1].shape:
        panels.append(("difference", panels[1][1] - panels[0][1]))
        signs.append(True)
    if name == "copying":
        signs = [True] * len(panels)
    chart = head_grids(panels, f"{label}<br>{unit}", signed=signs, chosen=head)
    table = pd.concat([one.table().assign(of=side.name) for side, one in score_pairs], ignore_index=True)
    title = f"{label.capitalize()} of every head (click one)"
    figure(chart, table, "att-scores", title=title, source=reading.source, on_select=take_head)


def scores_of(side: Side, *, repeats: bool) -> "HeadScores":
    """Scores of one side on the page's text, or on repeated random tokens."""
    from probe.attention.scores import pattern_scores

    if not repeats:
        return pattern_scores(side.read)
    assert side.lm is not None
    return models.compute_once(_repeats, side.lm, say="Reading repeated random tokens")


def _repeats(lm: "LM") -> "HeadScores":
    from probe.attention.scores import repeat_scores

    return repeat_scores(lm)


def affordable(reading: Reading) -> bool:
    """Whether the scores on repeats are there, are quick, or were asked for; else a button says what they cost."""
    waiting = [side for side in reading.sides if side.lm and models.ready(_repeats, side.lm) is None]
    seconds = sum(1.8 * side.lm.n_parameters / SMOL_PARAMETERS for side in waiting if side.lm)
    names = " and ".join(side.name for side in waiting)
    return may_compute("att-repeats", seconds, f"Scores on repeated random tokens of {names}")


def may_compute(key: str, seconds: float, what: str) -> bool:
    """Whether a computation may begin: it is cheap, or the reader has agreed to what it costs."""
    consents = st.session_state.setdefault("_att_agreed", set())
    if models.is_quick(seconds) or (key, what) in consents:
        return True
    cost = f"about {duration(seconds)}"
    note(f"{what}: {cost}, then kept.")
    if st.button(escape_markdown(f"Compute ({cost})"), key=f"{key}-compute", icon=":material/play_arrow:"):
        consents.add((key, what))
        st.rerun()
    return False


def ranking(reading: Reading, head: Head) -> None:
    """Which heads moved most between the two sides, and where the chosen one did."""
    from probe.attention.patterns import difference, distance_table
    from probe.runs.captured import attention_table

    first, second = reading.sides
    table = distance_table(first.read, second.read)
    top = table.head(RANKED)
    pairs = [(int(layer), int(number)) for layer, number in zip(top["layer"], top["head"], strict=True)]
    left, right = st.columns([4, 5], gap="medium")
    with left:
        values = top["total_variation"].to_numpy()
        chart = head_ranking(pairs, values, "share of attention that went elsewhere", chosen=head, colour=second.colour)
        title = f"Heads that moved most, of {len(table)} (click one)"
        figure(chart, table, "att-moved", title=title, height=430, source=reading.source, on_select=take_head)
    with right:
        change = difference(first.read, second.read)[head]
        chart = change_map(change, reading.tokens, boundary=reading.boundary)
        rows = attention_table(change[None, None], reading.tokens, [head[0]]).assign(head=head[1])
        title = f"L{head[0]}H{head[1]}: {second.name} minus {first.name}"
        figure(
            chart,
            rows.rename(columns={"weight": "change"}),
            "att-change",
            title=title,
            height=430,
            source=reading.source,
        )
    place = int(table.index[(table["layer"] == head[0]) & (table["head"] == head[1])][0])
    note(
        f"L{head[0]}H{head[1]} is number {place + 1} of {len(table)}: {rate(table['total_variation'][place])} of "
        f"its attention went elsewhere (Jensen-Shannon divergence {table['jensen_shannon'][place]:.3f} nats), mean "
        "over the tokens that have a choice."
    )


SMOL_HEADS = 270
"""Heads of SmolLM2-135M, on which the seconds below were measured (one core): costs of other models are scaled."""


def circuits(reading: Reading, head: Head) -> None:
    """Draw what the weights alone say about the chosen head: spectra, copying, composition with other heads."""
    name, sides = f"L{head[0]}H{head[1]}", [side for side in reading.sides if side.lm is not None and side.has(head)]
    what = f"Spectra of all heads of {' and '.join(side.name for side in sides)}"
    if not may_compute("att-circuits", _spectra_seconds(sides), what):
        return
    maps = [(side, models.compute_once(_spectra, side.lm, say="Decomposing QK and OV")) for side in sides if side.lm]
    left, right = st.columns([5, 4], gap="medium")
    with left:
        panels = [
            ("QK", [(side.name, circuit.qk[head]) for side, circuit in maps]),
            ("OV", [(side.name, circuit.ov[head]) for side, circuit in maps]),
        ]
        chart = spectra(panels, colours=[side.colour for side, _ in maps])
        table = pd.concat([circuit.table().assign(of=side.name) for side, circuit in maps], ignore_index=True)
        figure(chart, table, "att-spectra", title=f"Singular values of {name}", height=300, source=reading.source)
        ranks = "; ".join(
            f"{side.name}: QK {circuit.qk_rank[head]:.1f}, OV {circuit.ov_rank[head]:.1f} of {circuit.qk.shape[-1]}"
            for side, circuit in maps
        )
        note(f"Effective rank (exponential of the entropy of the singular values): {ranks}.")
    with right:
        copying(reading, sides, head)
    draw_composition(reading, head)


def copying(reading: Reading, sides: list[Side], head: Head) -> None:
    """Draw the copying score of all heads from their weights."""
    readers = [side for side in sides if side.lm is not None and side.lm.readout == "tokens"]
    if not readers:
        note("A model of one number has no output tokens to copy to.")
        return
    panels = [
        (side.name, models.compute_once(_copying, side.lm, say="Eigenvalues of the OV circuits"))
        for side in readers
        if side.lm
    ]
    chart = head_grids(panels, "copying", signed=(True,), chosen=head, width=400)
    table = pd.concat(
        [
            pd.DataFrame(values)
            .rename_axis("layer")
            .reset_index()
            .melt("layer", var_name="head", value_name="copying")
            .assign(of=label)
            for label, values in panels
        ],
        ignore_index=True,
    )
    title = "Copying by the weights (click one)"
    figure(chart, table, "att-copying", title=title, source=reading.source, on_select=take_head)
    note(
        "Sum of the real parts over the sum of the sizes of the eigenvalues of W_E W_OV W_U: 1 copies, \u22121 inverts."
    )


def draw_composition(reading: Reading, head: Head) -> None:
    """How the chosen head reads earlier heads and is read by later ones, above random maps of the same shapes."""
    side, name = reading.last, f"L{head[0]}H{head[1]}"
    if side.lm is None:
        return
    if not may_compute(
        "att-composition", _composition_seconds(side), f"Composition of all pairs of heads of {side.name}"
    ):
        return
    panels, parts = [], []
    for kind in ("Q", "K", "V"):
        strengths = models.compute_once(_composition, side.lm, say=f"Composing heads ({kind})", steps=True, kind=kind)
        grid = partners(strengths.excess, head)
        panels.append((f"{kind} (random {strengths.baseline[0]:.3f} \u00b1 {strengths.baseline[1]:.3f})", grid))
        layers, heads = np.nonzero(np.isfinite(grid))
        ways = ["writes into" if layer > head[0] else "is read by" for layer in layers]
        parts.append(
            pd.DataFrame(
                {"kind": kind, "layer": layers, "head": heads, "way": ways, "excess": grid[layers, heads]}
            ).assign(chosen=name)
        )
    chart = head_grids(panels, "excess", signed=(True,), chosen=head, digits=3)
    title = f"Composition of {name} of {side.name}: with earlier heads above its row, with later ones below (click one)"
    table = pd.concat(parts, ignore_index=True)
    figure(chart, table, "att-composition", title=title, source=reading.source, on_select=take_head)
    note(
        f"Above its row: how strongly {name} reads, as query, key or value, what an earlier head writes. Below: how "
        "strongly later heads read what it writes. Frobenius norm of the product over the product of the norms (Elhage "
        "et al. 2021), minus the mean for random maps of the same shapes; that mean and its standard deviation stand "
        "in the titles."
    )


def partners(excess: np.ndarray, head: Head) -> np.ndarray:
    """[D H] excess composition of one head with every other: as the reader above its own layer, as the writer below.

    Args:
        excess: [D H D H] writer, then reader; NaN where the reader is not later.
        head: the one.
    """
    reads, writes = excess[:, :, head[0], head[1]], excess[head[0], head[1]]
    return np.where(np.isfinite(reads), reads, writes)


def _spectra_seconds(sides: list[Side]) -> float:
    """Estimate the seconds that spectra and copying of all heads take, where they are not yet computed."""
    total = 0.0
    for side in sides:
        if side.lm is None or models.ready(_copying, side.lm) is not None:
            continue
        heads = side.read.pattern.shape[0] * side.read.pattern.shape[1]
        vocabulary, width = side.lm.model.get_input_embeddings().weight.shape
        total += 1.4 * heads / SMOL_HEADS * width / 576 * (side.lm.bridge.cfg.d_head / 64) ** 2
        total += 0.8 * vocabulary / 49152 * (width / 576) ** 2
    return total


def _composition_seconds(side: Side) -> float:
    """Estimate the seconds that the composition of all pairs of heads takes, where it is not yet computed."""
    if side.lm is None or models.ready(_composition, side.lm, kind="V") is not None:
        return 0.0
    heads = side.read.pattern.shape[0] * side.read.pattern.shape[1]
    return 3 * 1.7 * (heads / SMOL_HEADS) ** 2 * (side.lm.bridge.cfg.d_head / 64) ** 2


def _spectra(lm: "LM") -> "Spectra":
    from probe.attention.circuits import spectra

    return spectra(lm)


def _copying(lm: "LM") -> np.ndarray:
    from probe.attention.circuits import copying_score

    return copying_score(lm)


def _composition(lm: "LM", kind: str, tick: object) -> "Composition":
    from probe.attention.circuits import composition

    return composition(lm, kind, tick=tick)  # type: ignore[arg-type]
