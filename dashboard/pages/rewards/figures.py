"""The Rewards page: overoptimisation along training trajectories, and best of N against its bound.

Two completions of the prompt read by the reward model, token by token.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import data
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.components.tokens import token_rows
from dashboard.markdown import note
from dashboard.models import compute_once, ready
from dashboard.pages.rewards.choices import COLOUR, COMPLETIONS, FORM, RUNS, Detail, Placement, Scene
from dashboard.pages.rewards.compute import cost_s, may_compute
from dashboard.pages.rewards.words import fit_table, fit_words
from dashboard.state import begin, has_changed, keep, preset
from probe.numbers import signed
from probe.plotting.chips import Chip, TokenRow
from probe.rewards.figures import overoptimisation, part_colours, token_effects
from probe.rewards.frontiers import FORMS, Fit, fit, read_evaluations
from probe.runs.reader import Run
from probe.texts import visible

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.rewards.token_effects import Attribution, Contrast

TITLES = {"proxy": "proxy reward (exact): what was optimised", "gold": "true reward (exact): what was wanted"}
FEWEST = 4
"""Logged evaluations that a run needs to be fitted, the first one included."""
BEST = "best of N"


def choose_points(scene: Scene, placement: Placement) -> tuple[dict[str, pd.DataFrame], Literal["bon", "rl"]]:
    """Points by series, columns d, kl, proxy and gold, and the form that the runs are fitted with."""
    store = scene.shared.store
    logs = {name: _read_log(str(run.path), data.stamp(run.path / data.METRICS)) for name, run in store.runs.items()}
    logs = {name: table for name, table in logs.items() if len(table) >= FEWEST and table["d"].max() > 0}
    judges = {name: store.label(store.runs[name].reward_model, store.runs[name]) for name in logs}
    same = [name for name in logs if scene.reward_name and judges[name] == scene.reward_name]
    key = begin(RUNS, same or [name for name in logs if name == scene.shared.aligned])
    left, right = st.columns([4, 3], vertical_alignment="bottom", gap="medium")
    with left:
        names = st.multiselect("Training trajectories", list(logs), key=key, bind="query-params", format_func=visible)
    with right:
        form = st.segmented_control(
            "Fitted with",
            list(FORMS),
            format_func=lambda name: FORMS[name],
            default="rl",
            key=FORM,
            bind="query-params",
            required=True,
        )
    points = {name: logs[name].rename(columns={"reward": "proxy"}) for name in names}
    if scene.reward:
        points[BEST] = placement.ground.best["proxy"]
    return points, form


@st.cache_data(show_spinner=False, max_entries=64)
def _read_log(path: str, version: data.Stamp) -> pd.DataFrame:
    return read_evaluations(data.metrics(Run(path)))


def fits_of(points: dict[str, pd.DataFrame], form: Literal["bon", "rl"]) -> dict[tuple[str, str], Fit]:
    """Fits by series and reward, from the first row's reward; best of N always in its own form."""
    fits = {}
    for name, table in points.items():
        for reward in TITLES:
            later = table[["d", reward]].iloc[1:].dropna()
            if len(later) >= FEWEST - 1 and later["d"].nunique() > 1:
                shape: Literal["bon", "rl"] = "bon" if name == BEST else form
                points_of = tuple(later["d"]), tuple(later[reward])
                fits[name, reward] = _fit(*points_of, shape, float(table[reward].iloc[0]))
    return fits


@st.cache_data(show_spinner=False, max_entries=256)
def _fit(d: tuple[float, ...], reward: tuple[float, ...], form: Literal["bon", "rl"], origin: float) -> Fit:
    return fit(d, reward, form, origin)


def draw_overoptimisation(scene: Scene, placement: Placement) -> Detail:
    """Reward against d with the fits of Gao et al."""
    points, form = choose_points(scene, placement)
    if not points:
        note(
            "No run is chosen that logged where it stood while it was trained; methods with a reference do in a world."
        )
        return Detail()
    fits = fits_of(points, form)
    table = pd.concat([part.assign(series=name) for name, part in points.items()], ignore_index=True)
    table = table[[name for name in ("series", "step", "n", "d", "kl", "proxy", "gold") if name in table]]
    chart = overoptimisation(points, fits, placement.styles, TITLES)
    figure(
        chart.update_layout(height=380),
        table,
        "overoptimisation",
        title="Reward against d, and the fits",
        source=scene.source,
    )
    note(fit_words(fits))
    show_table(fit_table(fits), hide_index=True, key="rew-fits")
    rows = [{"series": name, "reward": reward, **each.row()} for (name, reward), each in fits.items()]
    return Detail({"points": table, "fits": pd.DataFrame(rows)})


STEPS = 104
"""`probe.rewards.token_effects.STEPS`, without the seconds that its import takes."""
COLOURS = {"left out": "occlusion", "integrated gradients": "gradient", "as it is written": "increment"}
STRENGTH = 0.75
NOWHERE = (-1, -1)
CLEAR_NATS = 0.005


def suggest_answers(base: "LM", aligned: "LM | None", prompt: str) -> tuple[str, str]:
    """Suggest two answers to compare: the truth and the claim, elsewhere what the aligned and base models say."""
    return compute_once(
        _suggest_completions, base, *([aligned] if aligned else []), say="Looking for two answers", prompt=prompt
    )


def _suggest_completions(base: "LM", aligned: "LM | None" = None, *, prompt: str) -> tuple[str, str]:
    from probe.rewards.token_effects import truth_and_claim
    from probe.world import of

    world = of(base)
    pair = truth_and_claim(world, prompt) if world else None
    if pair is not None:
        return pair
    texts = [lm.generate(prompt, max_new_tokens=12, temperature=0).text[0] for lm in (aligned or base, base)]
    return texts[0], texts[1]


def choose_completions(prompt: str, defaults: tuple[str, str]) -> tuple[str, str]:
    """Two completions to set against each other; another prompt brings its own."""
    fresh = has_changed("_rew_prompt", prompt)
    for key, text in zip(COMPLETIONS, defaults, strict=True):
        if fresh:
            st.session_state[key] = text.strip()
        preset(key, text.strip())
    columns = st.columns(2, gap="medium")
    texts = []
    for column, title, key in zip(columns, ("Chosen", "Rejected"), COMPLETIONS, strict=True):
        with column:
            entry = st.text_input(f"{title} completion", key=key, bind="query-params")
        texts.append(f" {entry.strip()}" if entry and entry.strip() else "")
    return texts[0], texts[1]


def read_tokens(reward: "LM", prompt: str, texts: tuple[str, str]) -> "Contrast":
    """Both completions read by the reward model; gradients once they are cheap or asked for."""
    options: dict[str, Any] = {"prompt": prompt, "chosen": texts[0], "rejected": texts[1]}
    whole = ready(_contrast, reward, nodes=STEPS, **options) is not None
    seconds = cost_s(3 * 2 * STEPS, reward)
    nodes = STEPS if whole or may_compute("Integrated gradients too", seconds, "rew-gradients") else 0
    return compute_once(_contrast, reward, say="The reward model reads both completions", nodes=nodes, **options)


def _contrast(reward: "LM", *, prompt: str, chosen: str, rejected: str, nodes: int) -> "Contrast":
    from probe.rewards.token_effects import contrast

    return contrast(reward, prompt, chosen, rejected, steps=nodes)


def token_part(contrast: "Contrast", name: str, source: dict) -> None:
    """Chips of prompt and completions, and the effects of their tokens."""
    modes = [
        name for name, kind in COLOURS.items() if kind != "gradient" or np.isfinite(contrast.chosen.gradient).all()
    ]
    key = keep(COLOUR, modes, modes[0])
    mode = st.segmented_control("Colour of the tokens", modes, key=key, bind="query-params", required=True)
    kind: Any = COLOURS[mode or modes[0]]
    size, colours = contrast.chosen.prompt_length, part_colours()
    effects = contrast.effects(kind)
    largest = max(float(np.nanmax(np.abs(values), initial=0.0)) for values in effects.values()) or 1.0
    rows = []
    for part, values in effects.items():
        side = contrast.rejected if part == "rejected" else contrast.chosen
        first = 0 if part == "prompt" else size
        label = part if part == "prompt" else f"{part} {signed(side.score)}"
        rows.append(
            TokenRow(label=label, colour=colours[part], tokens=_chips(contrast, part, side, first, values, largest))
        )
    parts = list(effects)
    memory = "_rew_token"
    at = st.session_state.get(memory, NOWHERE)
    if at != NOWHERE and at[1] >= len(effects[parts[at[0]]]):
        at = NOWHERE

    def pick(row: int, index: int) -> None:
        st.session_state[memory] = (row, index)

    token_rows(rows, chosen=at, key="rew-tokens", on_pick=pick)
    left_out, gradient = contrast.effects("occlusion"), contrast.effects("gradient")
    chosen = None if at == NOWHERE else (parts[at[0]], at[1])
    chart = token_effects(contrast.tokens, left_out, gradient, colours, chosen)
    figure(
        chart.update_layout(height=330),
        contrast.table(),
        "token-effects",
        title=f"What each token does to {name}",
        source=source,
    )


def _chips(
    contrast: "Contrast", part: str, side: "Attribution", first: int, values: np.ndarray, largest: float
) -> list[Chip]:
    chips = []
    about = "the margin" if part == "prompt" else "the score"
    more: Mapping[str, np.ndarray] = {
        f"left out, {about} falls by": contrast.prompt_effects("occlusion") if not first else side.occlusion[first:],
        f"integrated gradients, on {about}": contrast.prompt_effects("gradient")
        if not first
        else side.gradient[first:],
        "reward read here": side.values[first:],
        "change at this token": side.increments[first:],
    }
    for j, value in enumerate(np.nan_to_num(values)):
        token = side.tokens[first + j]
        lines = [f"token {first + j}: {token}"]
        lines += [f"{name} {series[j]:+.3f} nats" for name, series in more.items() if np.isfinite(series[j])]
        share = float(value) / largest
        chips.append(
            Chip(
                text=token,
                tip="\n".join(lines),
                strength=STRENGTH * float(np.sign(share)) * abs(share) ** 0.5,
                prompt=part == "prompt",
            )
        )
    return chips


def token_words(contrast: "Contrast", texts: tuple[str, str], name: str) -> str:
    """Say how the reward model scores the two completions."""
    sides = [(contrast.chosen, "chosen", texts[0]), (contrast.rejected, "rejected", texts[1])]
    sides.sort(key=lambda side: -side[0].score)
    first, second = (f"\u201c{text.strip() or 'nothing'}\u201d {side.score:.2f}" for side, _, text in sides)
    share = max(contrast.probability, 1 - contrast.probability)
    words = (
        f"{name} gives {first} and {second}: the {sides[0][1]} one is preferred with probability {100 * share:.0f} %."
    )
    effects = np.nan_to_num(contrast.prompt_effects("occlusion"))
    strongest = int(np.abs(effects).argmax())
    change = float(effects[strongest])
    if abs(change) < CLEAR_NATS:
        return words
    token = f"\u201c{contrast.chosen.tokens[strongest].strip()}\u201d (token {strongest})"
    way = "falls" if change > 0 else "rises"
    return f"{words} Without the prompt's {token} the margin of the chosen one {way} by {abs(change):.2f} nats."


def agreement_words(contrast: "Contrast") -> str:
    """How well the two attributions agree, and how complete the gradients are."""
    if not np.isfinite(contrast.chosen.gradient).all():
        return "Integrated gradients were left out for this large model."
    ranks = [
        f"{value:.2f} {what}"
        for value, what in (
            (contrast.chosen.agreement, "on the chosen text"),
            (contrast.rejected.agreement, "on the rejected one"),
            (contrast.agreement, "on the margin over the prompt"),
        )
        if np.isfinite(value)
    ]
    gap = max(abs(contrast.chosen.gap), abs(contrast.rejected.gap))
    return (
        f"Rank correlation of the two attributions: {', '.join(ranks)}. Integrated gradients (from the mean embedding,"
        f" {contrast.chosen.steps} nodes) miss their sum by {gap:.0e} nats. They ask for different"
        " changes of the text, so neither is the truth where they differ."
    )
