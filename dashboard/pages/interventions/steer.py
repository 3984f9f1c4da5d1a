"""Steering on the Interventions page: a direction, its doses, and what they cost."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.number import number_input
from dashboard.markdown import finding, note
from dashboard.pages.interventions import compute as source
from dashboard.pages.interventions.choices import AGAINST, ANSWER, text_line
from dashboard.pages.interventions.compute import Dosing, Question
from dashboard.sentences import duration
from dashboard.sides import Side
from dashboard.state import keep
from probe.errors import DataError
from probe.interventions.figures import dose_curves, probabilities

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.interventions.steering import Dose
    from probe.model.lm import LM

CHOSEN = "int_alpha"
"""The key of the alpha that sentence and right figure are about."""
ALPHAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
WHERES = ("all", "last")
UNITS = ("residual", "difference")
# Seconds of one run below which a model is quick.
QUICK_S = 0.01
# Runs that the controls of one dose take, on a model of a world and on another.
CONTROLS = 40, len(source.QUESTIONS) + 4
# Random directions of the first answer, on models that are quick and on those that are not; more are offered.
RANDOM = (4, 2)
HEIGHT = 350

DEFINITION = """
The direction is the mean residual at the last token of the positive texts minus that of the negative ones, after one
block. Alpha times it is added there while a text runs, at every token or at the last one; alpha = 1 is a vector as
long as the mean residual norm (*residual*), or the difference itself (*difference*). Bands are 95 % intervals:
bootstrap over texts for the target and the KL, Wilson's for the share of unrelated questions whose right answer comes
first. The grey band is the range of random directions of the same norm. A share that flips while unrelated questions
go wrong tells of damage, not of the direction.
"""
EQUATIONS = [
    r"v = \frac{1}{|P|}\sum_{x \in P} h^\ell_T(x) - \frac{1}{|N|}\sum_{x \in N} h^\ell_T(x)",
    r"h^\ell_t \leftarrow h^\ell_t + \alpha\, \bar r \, v / \lVert v \rVert, \quad \bar r = \text{mean residual norm}",
]


def choose(lm: "LM", column: "DeltaGenerator") -> Dosing:
    """Where and with what to steer."""
    depth = len(lm.bridge.blocks)
    usual = max(0, depth // 2 - 1)
    with column:
        key = keep("int_after", range(-1, depth), usual)
        layer = number_input("After block", -1, depth - 1, None, key=key)
    row = st.columns([11, 18, 45], gap="medium", vertical_alignment="bottom")
    with row[0]:
        key = keep("int_where", WHERES, "all")
        where = st.segmented_control("At tokens", WHERES, key=key, bind="query-params", required=True)
    with row[1]:
        hint = "residual: alpha 1 is as long as a residual is on average; difference: alpha 1 is the difference itself."
        key = keep("int_unit", UNITS, "residual")
        unit = st.segmented_control("Unit", UNITS, key=key, bind="query-params", required=True, help=hint)
    key = keep(CHOSEN, ALPHAS, -0.5 if source.worldly(lm) else 0.5)
    with row[2]:
        hint = "Of the sentence and the right figure; a click on a dose chooses it too."
        st.segmented_control(
            "Alpha", ALPHAS, format_func=_short, key=key, bind="query-params", required=True, help=hint
        )
    texts = typed_texts(lm)
    return Dosing(usual if layer is None else int(layer), str(where), str(unit), ALPHAS, *texts)


def _short(alpha: float) -> str:
    return f"{alpha:g}".replace("-", "\u2212")


def typed_texts(lm: "LM") -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str, str]:
    """Return the typed texts of the direction, texts to steer, and answers; empty where the defaults hold."""
    world = bool(source.claims(lm, 1))
    default = "the world's questions with a false claim" if world else "\n".join(source.POSITIVE)
    without = "the same without the claim" if world else "\n".join(source.NEGATIVE)
    others = "other questions with a false claim" if world else "\n".join(source.STEERED)
    with st.expander("Texts of the direction, and texts that are steered (one a line)", icon=":material/edit_note:"):
        columns = st.columns(3, gap="medium")
        texts = []
        for column, title, key, hint in (
            (columns[0], "With the property", "int_positive", default),
            (columns[1], "Without it", "int_negative", without),
            (columns[2], "Steered", "int_steered", others),
        ):
            with column:
                text = st.text_area(title, key=key, bind="query-params", placeholder=hint, height=120)
                texts.append(tuple(line.strip() for line in (text or "").splitlines() if line.strip()))
        first, second, _ = st.columns([2, 2, 4], gap="medium")
        with first:
            answer = text_line("Answer", ANSWER, "automatic")
        with second:
            against = text_line("against", AGAINST, "automatic")
        note("Answers hold for typed texts; the world's questions bring theirs: the claim against the truth.")
    return texts[0], texts[1], texts[2], answer, against


def steer(prompt: str, side: Side, column: "DeltaGenerator", answer: "DeltaGenerator") -> None:
    """Draw the page from the doses down."""
    lm, name = side.lm, side.name
    dosing = choose(lm, column)
    world = source.worldly(lm) and not dosing.texts
    alpha = float(st.session_state[CHOSEN])
    try:
        dose = doses(lm, dosing)
    except DataError as error:
        with answer:
            finding(str(error))
        return
    if dose is None:
        with answer:
            finding(f"Steer {name} after block {dosing.layer}: run the doses, which take a while on this model.")
        return
    at = ALPHAS.index(alpha)
    with answer:
        finding(sentence(dose, name, at, world, lm.readout))
    question = models.compute_once(
        source.resolve, lm, say="Reading the answers", do="ablate", prompt=prompt, corrupted="", answer="", against=""
    )
    label = label_of(lm, dosing, world)
    about: dict[str, object] = {"model": side.ref, "layer": dosing.layer, "where": dosing.where, "unit": dosing.unit}
    left, right = (st.columns([13, 7], gap="medium")) if lm.readout == "tokens" else (st.container(), None)
    with left:
        chart = dose_curves(
            dose.table(), label=label, colour=side.colour, chosen=alpha, unit="nats" if right is not None else ""
        )
        title = f"Dose and response over {len(dose.values)} texts"
        figure(chart, dose.table(), "int-dose", title=title, height=HEIGHT, source=about, on_select=take)
    if right is not None:
        with right:
            answers_figure(lm, question, dosing, alpha, side.colour, about)
    trust_badge((name, lm), text=question.clean)
    rest = (
        " Middle: the accuracy control on questions that have nothing to do with the direction, and the KL to the "
        "unsteered model on neutral texts. Right: the prompt at the chosen alpha."
    )
    note(
        f"{'Left: the' if right is not None else 'The'} mean of the target over texts with its 95 % interval, beside "
        f"random directions of the same norm.{rest if right is not None else ''}"
    )
    for each in dict.fromkeys((source.compared_tokens(lm, dosing), question.note)):
        if each:
            note(each)
    explain(side, dosing, dose)


def doses(lm: "LM", dosing: Dosing) -> "Dose | None":
    """Measure the dose-response, with few random directions until more are asked for; None while it is only offered."""
    from probe.interventions.controls import DRAWS

    texts = source.steering_texts(lm, dosing)[0]
    ids = tuple(encode(lm, max(texts, key=len)))
    seconds = models.compute_once(source.pace, lm, say="Timing one run", clean=ids)
    random = RANDOM[0] if models.is_quick(seconds, QUICK_S) else RANDOM[1]
    controls = CONTROLS[0] if source.worldly(lm) else CONTROLS[1]
    cost = seconds * len(ALPHAS) * (len(texts) * (1 + random) + controls)
    whole = models.ready(source.dose, lm, dosing=dosing, random=DRAWS)
    if whole is not None:
        return whole
    dose = models.ready(source.dose, lm, dosing=dosing, random=random)
    offer = st.empty()
    quick = models.is_quick(cost)
    if dose is None and not quick:
        title = f"Run {len(ALPHAS)} doses (about {duration(cost)})"
        if not offer.button(title, key="int_doses", icon=":material/play_arrow:"):
            return None
    if dose is None:
        dose = models.compute_once(source.dose, lm, say="Steering", steps=not quick, dosing=dosing, random=random)
        offer.empty()
    more = cost + seconds * len(ALPHAS) * len(texts) * (DRAWS - random)
    title = f"Draw {DRAWS} random directions (about {duration(more)})"
    hint = f"The range of {random} directions is narrower than that of many: draw {DRAWS} before you rely on it."
    if not offer.button(title, key="int_directions", icon=":material/play_arrow:", help=hint):
        return dose
    whole = models.compute_once(source.dose, lm, say="Steering", steps=True, dosing=dosing, random=DRAWS)
    offer.empty()
    return whole


def encode(lm: "LM", text: str) -> list[int]:
    """Ids of a text."""
    from probe.model.text import encode

    return encode(lm.tokenizer, text)


def take(points: list[dict]) -> None:
    """Choose the dose that was clicked."""
    x = points[0].get("x")
    if isinstance(x, int | float):
        st.session_state[CHOSEN] = min(ALPHAS, key=lambda alpha: abs(alpha - x))


def answers_figure(lm: "LM", question: Question, dosing: Dosing, alpha: float, colour: str, about: dict) -> None:
    """Draw the prompt at one dose: its answers before, after, and along random directions."""
    from probe.model.text import pieces

    seconds = models.compute_once(source.pace, lm, say="Timing one run", clean=question.clean)
    draws = 15 if models.is_quick(seconds, QUICK_S) else 3
    before, after, null = models.compute_once(
        source.steered_answers,
        lm,
        say="Steering the prompt",
        question=question,
        dosing=dosing,
        alpha=alpha,
        draws=draws,
    )
    names = pieces(lm.tokenizer, question.columns)
    chart = probabilities(names, before, after, [("other sites", null[:0]), ("random directions", null)], colour=colour)
    runs = ["before", "after", *["random direction"] * draws]
    table = pd.DataFrame(np.exp([before, after, *null]), columns=[f"p({name})" for name in names]).assign(run=runs)
    figure(
        chart, table, "int-steered", title=f"The prompt at alpha {signed_number(alpha)}", height=HEIGHT, source=about
    )


def label_of(lm: "LM", dosing: Dosing, world: bool) -> str:
    """Name the quantity that the doses are measured on."""
    if lm.readout != "tokens":
        return lm.readout
    if world:
        return "logit(claim) \u2212 logit(truth)"
    first, second = dosing.answer or source.ANSWERS[0], dosing.against or source.ANSWERS[1]
    return f"logit({first.strip()}) \u2212 logit({second.strip()})"


def sentence(dose: "Dose", name: str, at: int, world: bool, readout: str) -> str:
    """Say what the chosen dose does to the answers, and to unrelated questions."""
    table, zero = dose.table(), ALPHAS.index(0.0)
    row, plain = table.iloc[at], table.iloc[zero]
    effect, null = dose.effect(at), dose.null_effects(at)
    beside = f"random directions {signed_number(null.mean())}" if len(null) else ""
    cost = ""
    if dose.right is not None:
        right, before = (100 * float(part["accuracy"]) for part in (row, plain))
        cost = f", with {right:.0f} % of unrelated questions right ({before:.0f} % before)"
    if world and dose.right is not None:
        shares = [100 * float(table.iloc[index]["above_zero"]) for index in (zero, at)]
        null_share = 100 * float((dose.nulls[:, :, at] > 0).mean())
        return (
            f"Steering {name} by {signed_number(dose.alphas[at])} after block {dose.layer}, the false claim wins in "
            f"{shares[1]:.0f} % of {len(dose.values)} questions instead of {shares[0]:.0f} % (random directions "
            f"{null_share:.0f} %){cost}."
        )
    what, unit = ("the target", " nats") if readout == "tokens" else (f"the {readout}", "")
    return (
        f"Steering {name} by {signed_number(dose.alphas[at])} after block {dose.layer} moves {what} by "
        f"{signed_number(effect)}{unit} ({beside}){cost}."
    )


def signed_number(value: float) -> str:
    """Format a number with its sign, as it is printed in text."""
    return f"{value:+.2f}".replace("-", "\u2212")


def explain(side: Side, dosing: Dosing, dose: "Dose") -> None:
    """Draw the folded section."""
    positive, negative = (f"{list(dosing.positive)!r}", f"{list(dosing.negative)!r}")
    if not (dosing.positive and dosing.negative):
        positive, negative = f"{list(source.POSITIVE)!r}", f"{list(source.NEGATIVE)!r}"
    texts, answers, questions, neutral = source.steering_texts(side.lm, dosing)
    world = source.worldly(side.lm)
    if world and not (dosing.positive and dosing.negative):
        positive = f"[item.prompt for item in world.questions('opinion_false', {source.WORLD_TEXTS}, 1)]"
        negative = "[plain_prompt(text) for text in positive]"
    lines = [
        "from probe.interventions.steering import contrast, dose_response",
        "from probe.logits.targets import target_of",
        "from probe.model.rewards import analysable",
        *["from probe.world import of", "from probe.rewards.evaluation import plain_prompt"] * world,
        "",
        f"lm = analysable({side.ref!r})",
        *["world = of(lm)"] * world,
        f"positive = {positive}",
        f"negative = {negative}",
        f"direction = contrast(lm, positive, negative, {dosing.layer})",
        f"texts = {texts!r}",
        f"answers = {answers!r}",
        "targets = [target_of(lm, lm.tokenizer.encode(text), *pair) for text, pair in zip(texts, answers)]",
        f"dose_response(lm, texts, targets, direction, {dosing.alphas},",
        f"              {dosing.unit!r}, {dosing.where!r}, random={len(dose.nulls)},",
        f"              questions={questions if side.lm.readout == 'tokens' else []!r},",
        f"              neutral={neutral if side.lm.readout == 'tokens' else []!r}).table()",
    ]
    details(EQUATIONS, DEFINITION, "\n".join(lines), {"doses": dose.table()})
