"""The Interventions page in words: what the chosen site does beside chance, definitions and the Python lines."""

from typing import TYPE_CHECKING

import numpy as np

from dashboard.pages.interventions import compute as source
from dashboard.pages.interventions.compute import GridView, Question, Way, nulls_of
from probe.numbers import rate, signed

if TYPE_CHECKING:
    from probe.interventions.controls import Null, Outcome
    from probe.interventions.sites import Site

DEFINITION = """
A *site* is the residual stream after a block, a head's output before $W_O$, or the output of attention or MLP, at one
token or at every one. **Patching** runs one text and puts in the activation that the other text has at the site:
*denoise* puts the clean activation into the corrupted run (is it enough?), *noise* the corrupted one into the clean run
(is it needed?). On the share scale 0 is the run as it was and 1 the other run. **Ablation** puts zero, the mean over
reference texts, or the activation of another text (8 draws) there. **Null controls** are drawn with every effect: other
sites of the same kind get what *they* have in the same source; random directions move the site as far as it was moved,
token by token. z is in standard deviations of the null; p = (1 + draws at least as large) / (1 + draws).
The estimate is the gradient of the target in the run that is changed, times the change: exact to first order only.
"""
EQUATIONS = [
    r"\text{effect}(s) = m\big(x \mid a_s \leftarrow a'_s\big) - m(x), \quad m = \mathrm{logit}(\text{answer}) - "
    r"\mathrm{logit}(\text{against})",
    r"\text{share}(s) = \frac{m(x_{corr} \mid a_s \leftarrow a_s^{clean}) - m(x_{corr})}{m(x_{clean}) - m(x_{corr})}",
    r"\widehat{\text{effect}}(s) = \big\langle \nabla_{a_s} m(x),\; a'_s - a_s \big\rangle",
]


def explain_effect(do: str, way: Way, question: Question) -> str:
    """Write the one paragraph under the main figure."""
    where = "every token" if way.at is None else f"token {way.at}"
    unit = f"a head at {where}" if way.kind == "head" else "one block at one token"
    if do == "ablate":
        how = {"mean": "its mean over reference texts", "zero": "zeros", "resample": "what other texts have there"}[
            way.how
        ]
        return (
            f"Each cell replaces {unit} by {how} and shows how far {question.name} moves at the last token: blue up, "
            "orange down. The right side takes the chosen cell: every point is a null intervention."
        )
    into = (
        "clean activation into the corrupted run" if way.how == "denoise" else "corrupted activation into the clean run"
    )
    return (
        f"Each cell puts the {into}, for {unit}, and shows how far {question.name} goes towards the other run (1 = all "
        "the way). The right side takes the chosen cell: every point is a null intervention."
    )


def code(
    ref: str, question: Question, way: Way, reference: tuple[str, ...], site: "Site", draws: int, worldly: bool
) -> str:
    """Python lines that give what the page shows."""
    kind, how = repr(way.kind), repr(way.how)
    first = ["from probe.interventions.patching import ablate, sources"]
    if way.do == "patch":
        first = [
            "from probe.interventions.patching import agreement",
            "from probe.interventions.patching import attribute, pair_of, patch",
        ]
    lines = [
        *first,
        "from probe.interventions.controls import intervene",
        "from probe.interventions.sites import Site, activations, hooks_of",
        "from probe.logits.targets import Target",
        "from probe.model.rewards import analysable",
        *["from probe.world import of"] * (way.do == "ablate" and worldly and not reference),
        "",
        f"lm = analysable({ref!r})",
        f"target = Target({len(question.clean) - 1}, {question.answer}, {question.against}, {question.name!r})",
        f"site = Site({site.kind!r}, {site.layer}, {site.head}, {site.position})",
        f"clean = {list(question.clean)}",
    ]
    if way.do == "patch":
        lines += [
            f"pair = pair_of(lm, clean, {list(question.corrupted or ())})",
            f"grid = patch(lm, pair, target, {kind}, {how}, position={way.at})",
            f"estimate = attribute(lm, pair, target, [{kind}], {how}, position={way.at})[{kind}]",
            "grid.table(), agreement(grid.effects, estimate.effects)",
            f"own, other = pair.run({how})",
            f"found = [activations(lm, other, hooks_of(lm, [{kind}]))]",
        ]
    else:
        texts = repr(list(reference or source.REFERENCE))
        if worldly and not reference:
            texts = f"[item.prompt for kind in {source.REFERENCE_KINDS} for item in of(lm).questions(kind, 8, 5)]"
        lines += [
            f"own, texts = clean, {texts}",
            f"grid = ablate(lm, own, target, {kind}, {how}, texts, position={way.at})",
            "grid.table()",
            f"found = sources(lm, own, hooks_of(lm, [{kind}]), {how}, texts)",
        ]
    lines.append(f"intervene(lm, own, [site], found, target, {list(question.columns)}, draws={draws}).table()")
    return "\n".join(lines)


def sentence(outcome: "Outcome", view: GridView, site: "Site", model: str) -> str:
    """Write the page's answer: what the chosen intervention does, and what its nulls do."""
    from probe.interventions.controls import place

    where = ("the " if site.kind == "resid" else "") + place(site, outcome.tokens)
    others, directions = nulls_of(outcome, view)
    share = view.share
    target = view.question.words

    def number(effect: float) -> str:
        text = f"{100 * effect / view.unit:.0f} %" if share else f"{signed(effect)}{view.question.nats}"
        return "0 %" if text == "-0 %" else text.replace("-", "\u2212")

    nulls = []
    if len(others.effects):
        count, mean = len(others.effects), number(float(others.effects.mean()))
        name = others.name if count > 1 else others.name.removesuffix("s")
        nulls.append(f"{count} {name} {mean} on average")
    if len(directions.effects):
        nulls.append(f"random directions as long {number(float(directions.effects.mean()))}")
    controls = f"; {', '.join(nulls)}" if nulls else ""
    if not view.grid.exact:
        controls += f" (exact; the grid estimates {number(estimate_at(view, site))})"
    if view.way.do == "patch":
        verb = "restores" if view.way.how == "denoise" else "removes"
        if share:
            return f"{model}: patching {where} {verb} {number(outcome.effect)} of {target}{controls}."
        return f"{model}: patching {where} moves {target} by {number(outcome.effect)}{controls}."
    odds = ""
    if outcome.answers:
        before, after = (100 * float(np.exp(values[0])) for values in (outcome.before, outcome.after))
        odds = f" (p({outcome.answers[0].strip('·')}) {before:.0f} % \u2192 {after:.0f} %)"
    way = "rises" if outcome.effect > 0 else "falls"
    return f"{model}: without {where}, {target} {way} by {abs(outcome.effect):.2f}{view.question.nats}{odds}{controls}."


def estimate_at(view: GridView, site: "Site") -> float:
    """Return the effect that a grid of estimates has at a site, in nats."""
    column = site.head if site.head is not None else site.position or 0
    return float(view.grid.effects[list(view.grid.layers).index(site.layer), column])


def larger(null: "Null", outcome: "Outcome") -> str:
    """How many of a null's effects are smaller than the one that was found."""
    return f"larger than {rate(null.share_below(outcome.effect))} of them"


def surprise(outcome: "Outcome", view: GridView) -> str:
    """How far the effect stands out from its nulls, empty without any; a p-value only where it can be small."""
    from probe.interventions.controls import DRAWS

    parts = []
    for null in nulls_of(outcome, view):
        if len(null.effects) < 2:
            continue
        if len(null.effects) < DRAWS:
            parts.append(f"against {len(null.effects)} {null.name}, too few for a p-value: {larger(null, outcome)}")
            continue
        z = null.z(outcome.effect)
        far = "" if np.isnan(z) else f"z = {z:.1f}, ".replace("-", "\u2212")
        parts.append(
            f"against {len(null.effects)} {null.name}: {far}{larger(null, outcome)} "
            f"(p = {null.p_value(outcome.effect):.3f})"
        )
    return f"The effect {'; '.join(parts)}." if parts else ""
