"""Rewards: reward and KL of alignment against the exact optimum, by sample and by token."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import streamlit as st

from dashboard import data
from dashboard.analysis import draw, draw_below, draw_several, keys_of
from dashboard.components.details import TAB_DETAILS
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page, Values
from dashboard.markdown import finding, note, say, sentence_place
from dashboard.pages.rewards.choices import Scene, badges, choose_policies, choose_reward, load_scene, unloaded_reward
from dashboard.sides import words_known, written
from dashboard.state import current
from dashboard.without_base import draw_stored
from probe.analyses.catalogue import find_analysis
from probe.errors import DataError, MissingBaseError
from probe.rewards.causes import has_causes, trainings_of
from probe.rewards.ground import kinds_of, usual_kinds

MAIN = "place_policies"
"""Main analysis: policies under the frontier."""
SAMPLES = ("compare_rewards", "follow_rewards")
"""Analyses of the tab on sampled answers, which are the main analyses without a world."""
FITS, TOKENS = ("fit_overoptimisation",), ("compare_completions", "follow_pairs")
LAYERS = ("follow_pair_layers",)
CAUSES, TRAININGS, RANKED = ("separate_causes",), ("compare_trainings",), ("compare_best_of_n",)


def page_of(scene: Scene, answer: "st.delta_generator.DeltaGenerator") -> Page:
    """Return the settings for analyses of the base model."""
    runs = scene.shared.store.runs.values()
    given: Values = {"reward": scene.reward, "policy": scene.chosen, "among": tuple(run.path for run in runs)}
    given |= {"trainings": trainings_of(scene.base, runs)} | ({} if scene.reward else {"by": "gold"})
    return Page(scene.shared, answer, given=given, sides=[scene.sides["base"]], lists=False)


def place(scene: Scene, own: Page) -> tuple[bool, bool]:
    """Draw the policies under the frontier; return whether they are shown, and whether more follow."""
    key = find_analysis(MAIN).about_input("kinds").key
    kinds = tuple(st.session_state.get(key, st.query_params.get_all(key) or usual_kinds(scene.base)))
    waiting = st.container(horizontal=True)
    with waiting:
        policies, later = choose_policies(scene, kinds) if kinds else ((), 0)
    shown = draw(find_analysis(MAIN), replace(own, given=own.given | {"policies": policies}))
    if later and shown:
        note(f"{later} more {'method answers' if later == 1 else 'methods answer'} next.")
    return bool(shown), bool(later)


def sample(scene: Scene, own: Page) -> None:
    """Draw samples of both models, and the captures of the aligned run."""
    samples, captured = map(find_analysis, SAMPLES)
    unasked = ("each",) if own.given.get("kinds") == () else ("prompt", "n")  # the world's questions replace the prompt
    given = own.given | {name: samples.inputs[name].default for name in unasked}
    draw(samples, replace(own, sides=[scene.sides["base"], scene.sides["aligned"]], given=given))
    if (run := scene.run("aligned")) is not None:
        st.markdown(f"#### {captured.title}")
        below = own.below(tell=note, section=f"{own.section}-{captured.name}")
        draw(captured, replace(below, sides=[scene.sides["aligned"]], given={"run": run.path}))


def read_tokens(scene: Scene, own: Page) -> None:
    """Draw two completions of the prompt token by token, and pairs that the reward model was trained on."""
    if scene.reward is None:
        note(
            "Choose a reward model above to see which tokens earn its reward; the page New run makes one, and so does"
            " TRL's RewardTrainer with a ProbeCallback."
        )
        return
    asked = [scene.sides[role] for role in ("reward", "base", "aligned") if role in scene.sides]
    run = scene.run("reward")
    below = replace(own, sides=asked[:1], asked=asked, given={} if run is None else {"run": run.path})
    draw_several(TOKENS if run else TOKENS[:1], below)


def sections(scene: Scene, own: Page, world: bool) -> None:
    """Draw the tabs below the main figure; only the open one is computed."""

    def below() -> Page:
        return own.below(tell=say, section=TAB_DETAILS)

    def alone(names: tuple[str, ...]) -> None:
        draw_below(names[0], own)

    tabs: dict[tuple[str, ...], Callable[[], None]] = {}
    if world and "aligned" in scene.sides:
        tabs[SAMPLES] = lambda: sample(scene, below())
    if world:
        tabs[FITS] = partial(alone, FITS)
    tabs[TOKENS] = lambda: read_tokens(scene, below())
    run = scene.run("aligned")
    if run is not None and data.has_pairs(run):
        tabs[LAYERS] = lambda: draw_below(LAYERS[0], replace(own, sides=(), given={"run": run.path}))
    if world and has_causes(scene.base):
        tabs[CAUSES] = partial(alone, CAUSES)
    if world and several_trainings(scene):
        tabs[TRAININGS] = partial(alone, TRAININGS)
    if world:
        tabs[RANKED] = partial(alone, RANKED)
    taken = {*own.drawn, *keys_of([MAIN])}
    open_tab(
        "rew_tab",
        {find_analysis(names[0]).title: act for names, act in tabs.items()},
        {find_analysis(names[0]).title: [key for key in keys_of(names) if key not in taken] for names in tabs},
    )


def several_trainings(scene: Scene) -> bool:
    """Return whether a policy trained from the base has more than one training."""
    store = scene.shared.store
    children = {*trainings_of(scene.base, store.runs.values())}
    return any(each.count > 1 and children & {run.path for run in each.runs} for each in store.groups)


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    if not choices.reference(choices.base) or not choices.prompt.strip():
        with answer:
            finding(f"Choose {'a prompt' if choices.base else 'a base model'} above to see what alignment earned.")
            note("The base model is the reference of the KL: the model from which the others were trained.")
        return
    left, row = st.columns([6, 17], vertical_alignment="bottom", gap="medium")
    with left:
        reward_name = choose_reward(choices)
    try:
        scene = load_scene(choices, reward_name)
    except MissingBaseError:
        ref = choices.reference(reward_name)
        if not draw_stored("rewards", choices, *unloaded_reward(choices, reward_name), reward=ref and Path(ref)):
            raise
        return
    except DataError as error:
        with answer:
            finding(str(error))
        return
    if scene is not None:
        choices = written(choices, [scene.sides[role].lm for role in ("base", "aligned") if role in scene.sides])
        scene = replace(scene, shared=choices)
    if scene is None or not words_known(choices, ((side.name, side.lm) for side in scene.sides.values()), answer):
        return
    own, more, world = page_of(scene, answer), False, bool(kinds_of(scene.base))
    if world:
        shown, more = place(scene, replace(own, row=row))
        if not shown:
            return
    else:
        own = replace(own, given=own.given | {"kinds": ()}, lists=True)
        if "aligned" in scene.sides:
            sample(scene, own)
        with answer:
            if "aligned" not in scene.sides:
                finding("Choose an aligned model above to compare its answers with the base model's.")
            note("Without a world there is no true reward and no exact frontier: choose runs of a world for those.")
    badges(scene)
    sections(scene, own, world)
    if more:
        st.rerun()


page()
