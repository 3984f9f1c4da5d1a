"""The Rewards page: rewards of samples before and after alignment, and while it was trained."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.components.figure import figure
from dashboard.components.metric_words import COLUMNS, after_numbers
from dashboard.components.table import show_table
from dashboard.markdown import note
from dashboard.models import compute_once, compute_part, ready
from dashboard.pages.rewards.choices import KIND
from dashboard.pages.rewards.compute import QUESTIONS, cost_s, judge_answers, known_scores, may_compute
from dashboard.state import keep
from probe.numbers import in_unit
from probe.rewards.figures import reward_distributions, shift_curves
from probe.terms import DIFFERENCE, PROBABILITY, RATES, term
from probe.texts import visible
from probe.ticks import Tick

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.rewards.answers import AnswerLogprobs
    from probe.rewards.shift import Draws
    from probe.runs.reader import Run
    from probe.world import Item, World

MEASURES = ("proxy", "gold", "implicit")
"""Rewards whose distributions are drawn."""


def draw_samples(base: "LM", aligned: "LM", reward: "LM | None", **options: Any) -> pd.DataFrame | None:
    """Return the samples of both models, if they are known, cheap to draw or asked for; else None.

    Args:
        base: the reference.
        aligned: the other model.
        reward: a scalar LM.
        options: kinds of the world's questions (a tuple; empty: the prompt), prompt, n, beta.
    """
    lms = [base, aligned, *([reward] if reward else [])]
    count = options["n"] * (QUESTIONS if options["kinds"] else 1)
    if ready(_samples, *lms, **options) is None and not may_compute(
        "Draw the samples", cost_s(count, *lms), "rew-draw"
    ):
        return None
    return compute_once(_samples, *lms, say="Both models answer, every answer is judged", steps=True, **options)


def _samples(base: "LM", aligned: "LM", *reward: "LM", tick: Tick, beta: float, **options: Any) -> pd.DataFrame:
    """`shift.samples`, of which each model's own part is kept for other pairs and other reward models."""
    from probe.logits.lens import require_same_tokens
    from probe.rewards.shift import compare_samples
    from probe.world import of

    require_same_tokens(base, aligned)
    # The steps are of about equal length; what was drawn for another choice is passed at once.
    before = compute_part(_draws, base, base, **options)
    tick(0.25)
    after = compute_part(_draws, base, aligned, **options)
    tick(0.5)
    rewards = None
    if reward:
        rewards = (
            compute_part(_proxies, base, base, *reward, **options),
            compute_part(_proxies, base, aligned, *reward, **options),
        )
        tick(0.75)
    kinds = [item.kind for item in _questions(of(base), options["kinds"])]
    logprobs = _answer_logprobs(base, base, options["kinds"]), _answer_logprobs(base, aligned, options["kinds"])
    return compare_samples(base, aligned, before, after, rewards, beta, kinds, logprobs)


def _questions(world: "World | None", kinds: tuple[str, ...]) -> "list[Item]":
    from probe.rewards.frontiers import ask

    return ask(world, kinds) if world and kinds else []


def _draws(base: "LM", lm: "LM", *, kinds: tuple[str, ...], prompt: str, n: int) -> "Draws":
    """Sample one model's answers to the questions of the base's world, or to the prompt."""
    from probe.rewards.shift import draw
    from probe.world import of

    world = of(base)
    prompts = [item.prompt for item in _questions(world, kinds)] or [prompt]
    return draw(lm, prompts, world, n=n, known=_answer_logprobs(base, lm, kinds))


def _answer_logprobs(base: "LM", lm: "LM", kinds: tuple[str, ...]) -> "AnswerLogprobs":
    """Return a model's known log-probabilities of the frontier's answers; most samples are among these answers."""
    return known_scores(base, lm, kinds) if kinds else {}


def _proxies(base: "LM", lm: "LM", reward: "LM", **options: Any) -> np.ndarray:
    """[P n] what a reward model makes of them."""
    from probe.rewards.frontiers import model_reward
    from probe.rewards.shift import proxy_rewards

    # Most samples are answers that the frontier was made of.
    memory = compute_part(judge_answers, base, reward, kinds=options["kinds"]).memory if options["kinds"] else None
    return proxy_rewards(compute_part(_draws, base, lm, **options), model_reward(reward, memory))


@st.cache_data(show_spinner=False, max_entries=32)
def format_summary(table: pd.DataFrame) -> pd.DataFrame:
    """`shift.summary` as it is shown: one line a measure, numbers with their intervals as their unit is shown."""
    from probe.rewards.shift import summary

    rows = []
    for row in summary(table).to_dict("records"):
        about = term(row["measure"], "rewards")
        unit = DIFFERENCE if about.unit in RATES else about.unit

        def number(name: str, unit: str, sign: bool = False, row: Any = row) -> str:
            return in_unit(unit, *(row[name + end] for end in ("", "_low", "_high")), sign=sign)

        rows.append(
            {
                "metric": about.label,
                "base": number("base", about.unit),
                "aligned": number("aligned", about.unit),
                "aligned \u2212 base": number("difference", unit, sign=True),
                "aligned higher": number("win", PROBABILITY),
                **after_numbers(row["measure"], about),
            }
        )
    return pd.DataFrame(rows)


def distributions(table: pd.DataFrame, names: tuple[str, str], colours: tuple[str, str], source: dict) -> None:
    """Figure and table of rewards before and after, of all questions or those of one kind."""
    kinds = [kind for kind in dict.fromkeys(table["kind"]) if kind]
    if len(kinds) > 1:
        key = keep(KIND, ["all", *kinds], "all")
        kind = st.segmented_control(
            "Kind", ["all", *kinds], key=key, bind="query-params", required=True, format_func=visible
        )
        table = table if kind == "all" else table[table["kind"] == kind]
    measures = [measure for measure in MEASURES if measure in table and table[measure].notna().any()]
    chart = reward_distributions(table, names, colours, measures)
    title = f"Rewards of {len(table):,} answers to {table['prompt'].nunique()} prompts"
    figure(chart.update_layout(height=300), table, "distributions", title=title, source=source)
    rows = format_summary(table).rename(columns={"base": names[0], "aligned": names[1]})
    show_table(rows, hide_index=True, key="rew-summary", column_config=COLUMNS)


def over_training(run: "Run", colour: str) -> None:
    """Draw the rewards of the samples that a run captured, step by step; the model is not loaded."""
    table = _curve(str(run.path), run.steps, run.status)
    if table is None:
        note(
            f"{run.name} captured no reward shift: train with --capture-every by a method that has a reference, or give"
            " probe.watch the instrument probe.recording.RewardShift."
        )
        return
    measures = [name for name in ("proxy", "gold", "kl", "implicit") if name in set(table["measure"])]
    chart = shift_curves(table, colour, measures)
    title = f"Samples that {run.name} captured while it was trained"
    figure(chart.update_layout(height=270), table, "shift-curve", title=title, source={"run": str(run.path)})


@st.cache_data(show_spinner="Reading the captures", max_entries=16)
def _curve(path: str, steps: int, status: str) -> pd.DataFrame | None:
    from probe.rewards.shift import shift_curve, shift_steps
    from probe.runs.reader import Run

    run = Run(path)
    return shift_curve(run) if shift_steps(run) else None
