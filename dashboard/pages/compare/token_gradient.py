"""Gradient, on Side by side: which tokens of answers to one prompt each method pushes up or down, and how much."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.analysis import compute_when_asked
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import note
from dashboard.pages.compare.choices import (
    LENGTH,
    POLICY,
    REPLIES,
    REWARD,
    SCALE,
    TYPED_REWARDS,
    Pair,
)
from dashboard.pages.rewards.compute import cost_s, reward_runs, world_hash
from dashboard.sides import ask_for_model, choose_chat, note_form, words_known
from dashboard.state import has_changed, keep, preset
from probe.errors import DataError
from probe.rewards.figures import token_weights as draw_weights
from probe.texts import visible

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.ticks import Tick
    from trainers.gradient import SideBySide

VERIFIER, TYPED = "the world's verifier", "typed"
ONE_SCALE, OWN_SCALE = SCALES = ("one scale", "own scale")
PRETRAIN = "pretrain"
"""The method that learns the prompt too."""
COLUMNS = 18
"""Tokens that are drawn side by side, where answers are no longer."""
SAMPLES, OFFERED = 8, 3
"""Samples that are drawn where both models answer alike, and answers at first, at most."""
PASSES = 12
"""How often each answer is read."""
EQUATIONS = [
    r"-\nabla \mathcal{L} = \sum_t w_t \nabla \log \pi(y_t \mid x, y_{<t}), \quad"
    r"w_t = -\frac{\partial \mathcal{L}}{\partial \log \pi(y_t \mid x, y_{<t})}",
]
DEFINITION = """
One gradient for all methods (E25): a token with w > 0 becomes more probable in a step, one with w < 0 less. Methods
differ in w and in where the text comes from. Here all learn from the same answers, each with the end token: pretraining
and SFT from the one with the highest reward, pretraining with its prompt; DPO has it with that of the lowest reward as
a pair; RSFT, RLHF and RLVR have all answers as their samples. Options are those of `probe train METHOD` by default, the
step is the first of a batch (the policy is the one that sampled), and RLHF's value head is a new one, which predicts 0.
The reference is the base. Optimiser, learning rate and the clipping of the norm come after all this.
"""


def draw(pair: Pair) -> None:
    """Draw the tab from its choices to its folded section."""
    if not pair.write("token to push up or down"):
        return
    shared = pair.shared
    if not shared.prompt.strip():
        ask_for_model(pair.answer, "Choose a prompt above to see what each method does to its answers.")
        return
    if not words_known(shared, zip(pair.names, pair.lms, strict=True), pair.answer):
        return
    row = st.columns([4, 4, 4, 3], vertical_alignment="bottom", gap="medium")
    with row[0]:
        names = dict(zip(("base", "aligned"), pair.names, strict=True))
        hint = "The model that takes the step. The reference is the base."
        policy = st.segmented_control(
            "Step of",
            list(names),
            key=keep(POLICY, names, "base"),
            bind="query-params",
            required=True,
            help=hint,
        )
    with row[1]:
        source = choose_source(pair)
    with row[2]:
        key = keep(SCALE, SCALES, ONE_SCALE)
        hint = (
            "One scale for all methods, or each by the share of its own largest weight, where sizes differ by orders."
        )
        scale = st.segmented_control("Colour", SCALES, key=key, bind="query-params", required=True, help=hint)
    with row[3]:
        chat = choose_chat("compare", [pair.aligned], shared.prompt)
    prompt = pair.aligned.prompt_text([{"role": "user", "content": shared.prompt}]) if chat else shared.prompt
    lm = pair.lms[policy == "aligned"]
    try:
        answers, rewards = choose_answers(pair, prompt, chat, source)
        found = compute_when_asked(
            weigh,
            lm,
            pair.base,
            button="Run every method",
            seconds=cost_s(PASSES * len(answers), lm, pair.base),
            key="gradient-run",
            say="Weighing every token by every method",
            prompt=prompt,
            answers=tuple(answers),
            rewards=rewards,
        )
    except DataError as error:
        pair.tell(str(error))
        return
    if found is None:
        pair.tell("Press the button to see which tokens each method pushes up or down, and how much.")
        return
    table = found.table()
    pair.tell(sentence(table, names[str(policy)], answers))
    note_form([pair.aligned], chat)
    about = pair.source | {"policy": str(policy), "prompt": prompt, "answers": answers, "rewards": list(rewards)}
    title = f"What each token weighs in a step of {names[str(policy)]}"
    figure(draw_weights(end_of(table), scale == OWN_SCALE), table, "gradient", title=title, source=about)
    note(
        "Rows are answers with their reward. Blue tokens become more probable, orange ones less; hover for the weight. "
        "A method that does not learn from an answer has no row of it."
        + " Of the prompt only the last tokens are drawn; the CSV holds all."
        * (len(end_of(table)) < len(table))
    )
    show_table(summary(table), hide_index=True, height="content", key="gradient-table")
    code = [
        "import probe",
        "from trainers.gradient import side_by_side",
        "",
        pair.loads,
        f"found = side_by_side({policy}, {prompt!r}, {answers!r},",
        f"                     rewards={list(rewards)!r}, reference=base)",
        f"found.figure(relative={scale == OWN_SCALE}), found.table()",
    ]
    details(EQUATIONS, DEFINITION, "\n".join(code), {"gradient": table})


def end_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the weights without the tokens of a long prompt that are far before the answers."""
    start = table.loc[table["method"] != PRETRAIN, "position"].min()
    return table[table["position"] >= start - max(2, COLUMNS - (table["position"].max() - start))]


def choose_source(pair: Pair) -> str:
    """Who rewards the answers: the world's verifier, a reward model of it, or the reader."""
    from probe.world import of

    store = pair.shared.store
    judges = reward_runs(store, world_hash(store, pair.shared.label(pair.shared.base)))
    options = [VERIFIER, *judges, TYPED] if of(pair.base) is not None else [TYPED, *judges]
    key = keep(REWARD, options, options[0])
    return str(st.selectbox("Reward", options, key=key, bind="query-params", format_func=visible))


def choose_answers(pair: Pair, prompt: str, chat: bool, source: str) -> tuple[list[str], tuple[float, ...]]:
    """Let the reader type the answers; return them with their leading blanks, and their rewards.

    Raises:
        DataError: fewer than two answers, or no reward for one of them.
    """
    default = models.compute_once(
        propose,
        *pair.lms,
        say="Both models answer",
        prompt=prompt,
        length=int(st.session_state.get(LENGTH, 12)),
    )
    if has_changed("_gradient_for", (prompt, pair.refs)):
        st.session_state[REPLIES] = "\n".join(default)
        st.session_state[TYPED_REWARDS] = ""
    left, right = st.columns([7, 5], gap="medium")
    with left:
        key = preset(REPLIES, "\n".join(default))
        hint = (
            "At first the likeliest answers of the aligned and the base model and, in a world, the truth; where they "
            "are alike, samples of the aligned model. \\n is a new line."
        )
        text = st.text_area("Answers, one a line", key=key, bind="query-params", height=100, help=hint) or ""
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    answers = [("" if chat else " ") + line.replace("\\n", "\n") for line in lines]
    if len(answers) < 2:
        raise DataError("Give at least two answers, one a line, to see which of their tokens each method pushes.")
    with right:
        if source == TYPED:
            hint = "One number for each answer, in their order; at first 1 for the first answer and 0 for the others."
            typed = st.text_input("Rewards", key=TYPED_REWARDS, bind="query-params", help=hint, placeholder="1 0 ...")
            rewards = read_rewards(typed or "", len(answers))
        else:
            rewards = score(pair, prompt, answers, source)
        scores = pd.DataFrame({"answer": lines, "reward": rewards[: len(lines)]}, index=range(1, len(lines) + 1))
        show_table(scores, key="gradient-rewards", height="content" if len(lines) < 4 else 143)
    return answers, tuple(rewards)


def propose(base: "LM", aligned: "LM", prompt: str, length: int) -> list[str]:
    """Different answers, a line each: the likeliest of both models, in a world truth and claim; else samples."""
    from probe.rewards.token_effects import truth_and_claim
    from probe.world import of

    world = of(base)
    texts = [lm.generate([prompt], max_new_tokens=length, temperature=0.0).text[0] for lm in (aligned, base)]
    texts += (truth_and_claim(world, prompt) or ()) if world else ()
    if len({text.strip() for text in texts}) < 2:
        texts += aligned.generate([prompt], n=SAMPLES, max_new_tokens=length, temperature=0.7, seed=0).text
    lines = list(dict.fromkeys(text.strip().replace("\n", "\\n") for text in texts if text.strip()))
    return lines[:OFFERED]


def read_rewards(typed: str, count: int) -> list[float]:
    """Typed rewards; 1 for the first answer and 0 for the others where nothing is typed.

    Raises:
        DataError: another number of them, or something that is no number.
    """
    if not typed.strip():
        return [float(index == 0) for index in range(count)]
    try:
        rewards = [float(each) for each in typed.replace(",", " ").split()]
    except ValueError:
        rewards = []
    if len(rewards) != count:
        raise DataError(
            f"`{typed}` was given as the rewards of {count} answers: give a number for each, such as `1 0`."
        )
    return rewards


def score(pair: Pair, prompt: str, answers: Sequence[str], source: str) -> list[float]:
    """Return the rewards that the verifier or a reward model gives the answers."""
    if source == VERIFIER:
        rewards = models.compute_once(verify, pair.base, say="Verifying", prompt=prompt, answers=tuple(answers))
    else:
        judge = models.load(str(pair.shared.reference(source)))
        if judge is None:
            raise DataError(f"The reward model `{source}` is not loaded: load it, or choose another reward.")
        say = "The reward model reads the answers"
        rewards = models.compute_once(judge_answers, judge, say=say, prompt=prompt, answers=tuple(answers))
    known = [reward for reward in rewards if reward is not None]
    if len(known) < len(answers):
        raise DataError(f"Not every answer has a reward by {source}: choose another prompt, or type the rewards.")
    return known


def verify(base: "LM", prompt: str, answers: tuple[str, ...]) -> list[float | None]:
    """Score the answers with the verifier: 1 true, 0 abstains, -1 otherwise."""
    from probe.rewards.answers import verifier_reward
    from probe.world import of

    world = of(base)
    assert world is not None
    return list(verifier_reward(world)([prompt] * len(answers), list(answers)))


def judge_answers(judge: "LM", prompt: str, answers: tuple[str, ...]) -> list[float | None]:
    """Score the answers with a reward model."""
    from probe.rewards.frontiers import model_reward

    return list(model_reward(judge)([prompt] * len(answers), list(answers)))


def weigh(
    lm: "LM", reference: "LM", tick: "Tick", prompt: str, answers: tuple[str, ...], rewards: tuple[float, ...]
) -> "SideBySide":
    """`side_by_side` of all methods."""
    from trainers.gradient import side_by_side

    found = side_by_side(lm, prompt, answers, rewards, reference)
    tick(1.0)
    return found


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a method: how many tokens it raises and lowers, by how much in all, and where it weighs most."""
    rows = []
    for method, part in table.groupby("method", sort=False):
        most = part.iloc[int(part["weight"].abs().to_numpy().argmax())]
        up, down = part["weight"] > 0, part["weight"] < 0
        rows.append(
            {
                "method": method,
                "learns from": most["source"],
                "tokens raised": int(up.sum()),
                "tokens lowered": int(down.sum()),
                "sum of weights up": f"{part.loc[up, 'weight'].sum():.3g}",
                "sum down": f"{part.loc[down, 'weight'].sum():.3g}",
                "largest weight": f"{most['weight']:+.3g}",
                "at": f"{most['token']} (answer {most['completion'] + 1})",
            }
        )
    return pd.DataFrame(rows).replace("-", "\u2212", regex=False)


def sentence(table: pd.DataFrame, policy: str, answers: Sequence[str]) -> str:
    """Which methods only push up, which push down too, and where the largest weight is."""
    lowest = {str(method): part["weight"].min() for method, part in table.groupby("method", sort=False)}
    up, down = ([name for name, weight in lowest.items() if (weight < 0) == lowers] for lowers in (False, True))
    most = table.iloc[int(table["weight"].abs().to_numpy().argmax())]
    parts = [
        f"{join(up)} only push tokens up" if up else "",
        f"{join(down)} push some up and some down" if down else "",
    ]
    return (
        f"In a step of {policy} on {len(answers)} answers {', and '.join(filter(None, parts))}; the largest weight is "
        f"that of {most['method']} at \u201c{str(most['token']).strip()}\u201d of answer {most['completion'] + 1} "
        f"({most['weight']:+.2g})."
    ).replace("(-", "(\u2212")


def join(names: Sequence[str]) -> str:
    """Names in a row."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
