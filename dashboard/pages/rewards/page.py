"""Rewards: what alignment earned and what it cost, against the exact optimum, sample by sample and token by token."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard.analysis import draw, draw_below, draw_several, keys_of, say
from dashboard.components.details import TAB_DETAILS, details
from dashboard.components.figure import figure
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page, Values
from dashboard.markdown import finding, note, sentence_place
from dashboard.pages.rewards import compute as fields
from dashboard.pages.rewards import over_seeds
from dashboard.pages.rewards.choices import (
    BY,
    FORM,
    MODEL,
    RUNS,
    Detail,
    Placement,
    Scene,
    badges,
    choose_reward,
    load_scene,
    readers,
)
from dashboard.pages.rewards.figures import draw_overoptimisation
from dashboard.pages.rewards.words import DEFINITION, EQUATIONS, code_lines, place_words
from dashboard.sides import words_known
from dashboard.state import begin, current, keep
from probe.analyses.catalogue import find_analysis
from probe.errors import DataError
from probe.rewards.causes import has_causes, trainings_of
from probe.rewards.figures import reward_frontier, reward_gains
from probe.rewards.frontiers import KINDS
from probe.rewards.ground import OPEN, has_answers
from probe.seeds.t_intervals import UNKNOWN
from probe.terms import term
from probe.texts import visible
from probe.world import World, of

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

SAMPLES = ("compare_rewards", "follow_rewards")
"""Analyses of the tab on sampled answers."""
TOKENS = ("compare_completions", "follow_pairs")
"""Analyses of the tab on single tokens."""
DRAWN = (MODEL, "rew_kinds", BY)
"""Keys of inputs that the page itself asks for."""
AXES = {"\u221aKL": "d", "KL": "kl"}
# Pixels of the main figure, for its labels.
SIZE = (430, 330)


def choose_field(scene: Scene, world: World, columns: Any) -> tuple[tuple[str, ...], str, str]:
    """Kinds of questions, the reward of the frontier, and the axis."""
    options = [kind for kind in world.question_kinds if kind not in OPEN]
    with columns[1]:
        key = begin("rew_kinds", [kind for kind in KINDS if kind in options])
        kinds = st.multiselect(
            "Questions", options, key=key, bind="query-params", placeholder="choose kinds", format_func=visible
        )
    rewards = ["proxy", "gold"] if scene.reward else ["gold"]
    with columns[2]:
        key = keep(BY, rewards, "gold" if fields.wants_truth(scene.shared) else rewards[0])
        hint = "proxy: what the reward model gives; gold: the true reward, what the world's verifier gives."
        by = st.segmented_control(
            "Frontier of", rewards, key=key, bind="query-params", required=True, help=hint, format_func=visible
        )
    with columns[3]:
        first = next(iter(AXES))
        axis = st.segmented_control(
            "Axis", list(AXES), default=first, key="rew_axis", bind="query-params", required=True, format_func=visible
        )
    return tuple(kinds), by or rewards[0], AXES[axis or first]


def place_all(scene: Scene, kinds: tuple[str, ...], by: str, axis: str, answer: Any) -> Placement | None:
    """Show the sentence, the main figure and what explains it; None while the page waits for the reader's consent."""
    ground = fields.ground(scene.base, scene.reward_path, kinds)
    if ground is None:
        with answer:
            finding("The answers to the world's questions are listed once you ask for it.")
        return None
    every, name = fields.policies(scene.shared), scene.names[0]
    styles = fields.styles(scene.shared, every, name)
    shortlist = at_first(scene, every, kinds)
    left, right = st.columns([5, 4], gap="medium")
    below = st.container()
    with below:
        table, problems = fields.standings(scene.base, scene.reward_path, kinds, by, shortlist, name)
    with answer:
        finding(place_words(table, scene.shared.aligned, by, scene.proxy))
    curve, best = ground.curves[by], ground.best[by]
    with left:
        label = f"proxy reward ({scene.proxy}, exact), nats" if by == "proxy" else "true reward (exact)"
        chart = reward_frontier(
            curve,
            table,
            styles,
            reward=by,
            label=label,
            axis=axis,
            best_of_n=best,
            paths=fields.way(scene.shared, kinds, by, scene.reward_name),
            chosen=scene.shared.aligned,
            size=SIZE,
        )
        title = f"{len(table)} policies under the exact frontier"
        figure(chart.update_layout(height=375), table, "frontier", title=title, source=scene.source)
    with right:
        names = [*(f"gain_{reward}" for reward in ground.field.rewards), "excess"]
        gains = {each: term(each, "rewards").label for each in names}
        chart = reward_gains(table, styles, gains, scene.shared.aligned)
        figure(
            chart.update_layout(height=375),
            table,
            "gains",
            title="Gained over the base, KL in excess",
            source=scene.source,
        )
    later = len(every) - len(shortlist)
    waits = [f"{later} more {'method answers' if later == 1 else 'methods answer'} next."] if later else []
    missing = (f"{label} is not shown: {why}" for label, why in problems.items())
    with below:
        for remark in [*waits, *fields.unsure(table), *missing]:
            note(remark)
        note(
            f"Left: rewards and KL are exact sums over the answers to {len(ground.field.kinds)} questions; the line is"
            " the most reward that any policy has at a KL. Dotted: KL in excess of the optimum with the same reward,"
            " which is exactly KL(policy \u2225 pi*_beta), in nats behind each name. Dashed: best of N. Rings: a"
            " training trajectory, where the run logged the same. Right: differences to the base with 95 % intervals"
            " over questions." + ("" if over_seeds.groups_of(scene) else f" {UNKNOWN}")
        )
    tables = {"standings": table, "frontier": curve}
    return Placement(ground, by, styles, tables, complete=not later)


def at_first(scene: Scene, every: list[fields.Policy], kinds: tuple[str, ...]) -> list[fields.Policy]:
    """Return the policies to place: for new questions first the aligned one and those already known, then all."""
    memory, questions = "_rew_asked", (str(scene.base.directory), kinds)
    aligned = [policy.label for policy in every if policy.label == scene.shared.aligned]
    if not aligned or st.session_state.get(memory) == questions:
        return every
    st.session_state[memory] = questions
    return [each for each in every if each.label in aligned or has_answers(scene.base, kinds, each.directory)]


def sample(scene: Scene, own: Page, tab: bool = True) -> Detail:
    """Draw samples of both models, and what the run of the aligned one captured while it was trained."""
    samples, captured = map(find_analysis, SAMPLES)
    own = own.below(tell=say, section=TAB_DETAILS) if tab else own
    pair = [side for side in map(scene.side, ("base", "aligned")) if side is not None]
    unasked = ("each",) if own.given["kinds"] == () else ("prompt", "n")  # questions take the place of the prompt
    given = own.given | {name: samples.inputs[name].default for name in unasked}
    draw(samples, replace(own, sides=pair, given=given))
    if scene.run is not None:
        st.markdown(f"#### {captured.title}")
        section = f"{own.section}-{captured.name}"
        draw(captured, replace(own, sides=pair[1:], given={"run": scene.run.path}).below(tell=note, section=section))
    return Detail()


def tokens(scene: Scene, own: Page) -> Detail:
    """Draw two completions of the prompt token by token, and the pairs that the reward model was trained on."""
    if scene.reward is None:
        note(
            "Choose a reward model above to see which tokens earn its reward; the page New run makes one, and so does"
            " TRL's RewardTrainer with a ProbeCallback."
        )
        return Detail()
    asked = [side for side in map(scene.side, ("reward", "base", "aligned")) if side is not None]
    run = scene.shared.store.runs.get(scene.reward_name or "")
    given = {} if run is None else {"run": run.path}
    below = replace(own, sides=asked[:1], asked=asked, given=given).below(tell=say, section=TAB_DETAILS)
    draw_several(TOKENS if run else TOKENS[:1], below)
    return Detail()


def sections(scene: Scene, placement: Placement | None, own: Page) -> Detail:
    """Draw the tabs below the main figure; return what the open one shows."""
    tabs: dict[str, Callable[[], Detail]] = {}
    if placement and scene.aligned is not None:  # without a world they are the main figure
        tabs[find_analysis(SAMPLES[0]).title] = partial(sample, scene, own)
    if placement:
        tabs["Overoptimisation"] = partial(draw_overoptimisation, scene, placement)
    tabs[find_analysis(TOKENS[0]).title] = partial(tokens, scene, own)
    if placement and has_causes(scene.base):
        tabs[find_analysis("separate_causes").title] = partial(drawn, "separate_causes", own)
    seeds = over_seeds.groups_of(scene) if placement else []
    if seeds:
        tabs["Over trainings"] = partial(over_seeds.draw_over_seeds, scene, seeds)
    if placement:
        tabs[find_analysis("compare_best_of_n").title] = partial(drawn, "compare_best_of_n", own)
    choices = {
        find_analysis(SAMPLES[0]).title: [key for key in keys_of(SAMPLES) if key not in DRAWN],
        "Overoptimisation": (RUNS, FORM),
        find_analysis(TOKENS[0]).title: keys_of(TOKENS),
    }
    return open_tab("rew_tab", tabs, choices)


def page_of(scene: Scene, kinds: tuple[str, ...], by: str, answer: "DeltaGenerator") -> Page:
    """Return the page for analyses of the base model, with what its main figure shows."""
    given: Values = {"kinds": kinds, "by": by, "reward": scene.reward_path, "trainings": trainings_of(scene.base)}
    return Page(scene.shared, answer, given=given, sides=[*filter(None, [scene.side("base")])])


def drawn(name: str, own: Page) -> Detail:
    """Draw an analysis, which has a section of its own at its end."""
    draw_below(name, own)
    return Detail()


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    if not choices.reference(choices.base) or not choices.prompt.strip():
        with answer:
            finding(f"Choose {'a prompt' if choices.base else 'a base model'} above to see what alignment earned.")
            note("The base model is the reference that KL is counted from: the model that the others came from.")
        return
    columns = st.columns([6, 8, 5, 4], vertical_alignment="bottom", gap="medium")
    with columns[0]:
        reward_name = choose_reward(choices)
    try:
        scene = load_scene(choices, reward_name)
    except DataError as error:
        with answer:
            finding(str(error))
        return
    if scene is None:
        return
    if not words_known(choices, readers(scene), answer):
        return
    world, placement = of(scene.base), None
    kinds: tuple[str, ...] = ()
    if world is not None:
        kinds, by, axis = choose_field(scene, world, columns)
        if not kinds:
            with answer:
                finding("Choose at least one kind of question to place the methods.")
            return
        placement = place_all(scene, kinds, by, axis, answer)
    own = page_of(scene, kinds, placement.by if placement else "gold", answer)
    if world is None:
        if scene.aligned is not None:
            sample(scene, own, tab=False)
        with answer:
            if scene.aligned is None:
                finding("Choose an aligned model above to compare its answers with the base model's.")
            note("Without a world there is no true reward and no exact frontier: choose runs of a world for those.")
    badges(scene)
    detail = sections(scene, placement, own)
    if placement:
        code = code_lines(scene.source, kinds)
        details(EQUATIONS, DEFINITION, code, placement.tables | detail.tables)
    if placement and not placement.complete:
        st.rerun()


page()
