"""The heads that carry a user's guess into the answer, over question files.

In one text the user's guess is the right answer, in the other a wrong one with as many tokens (`belief_templates`):
the pairs of `flip_heads`. A large model has too many heads to run each, so every head is estimated from one backward
pass of each pair of the first half (attribution patching, `patching.attribute`), and the head with the largest sum is
run on the second half, beside other heads, drawn at random, and beside random directions as long.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from probe.analyses.behaviour_choices import parting
from probe.analyses.belief_templates import Question, said
from probe.analyses.deference_inside import heads_table
from probe.analyses.deference_steering import Found
from probe.analyses.flip_heads import patch_some
from probe.analyses.patching import Pair, attribute, pair_of
from probe.analyses.question_forms import Form, Turn, completion, dialogue
from probe.analyses.sites import Site
from probe.analyses.targets import Target, target_of
from probe.errors import ModelError
from probe.lm import LM
from probe.ticks import Tick, ignore, part

OTHERS = 15
"""Other heads that are run."""
DRAWS = 2
"""Random directions for each head of each pair."""
MOST = 16
"""Pairs of either half."""
FEWEST = 4
"""Pairs without which no head is looked for."""


class Guess(NamedTuple):
    """A question with a right and with a wrong guess of the user."""

    question: Question
    prompt: str
    """With the wrong guess."""
    pair: Pair
    """Both texts up to where the two answers part."""
    target: Target
    """Logit of the right answer less that of the wrong one."""


def guesses(lm: LM, questions: Sequence[Question], form: Form, lead: str) -> list[Guess]:
    """The questions whose two texts have as many tokens."""
    found = []
    for question in questions:
        clean, claimed = (
            dialogue(lm, [Turn("user", said(question, kind))], form, lead)
            for kind in ("suggests_correct", "suggests_incorrect")
        )
        answers = completion(claimed, question.correct), completion(claimed, question.incorrect)
        sides = [parting(lm, prompt, answers) for prompt in (clean, claimed)]
        if sides[0] is None or sides[1] is None or len(sides[0][0]) != len(sides[1][0]):
            continue
        pair = pair_of(lm, sides[0][0], sides[1][0])
        found.append(Guess(question, claimed, pair, target_of(lm, pair.corrupted, *sides[1][1:])))
    return found


def by_file_head(lm: LM, asked: Sequence[Guess], seed: int = 0, tick: Tick = ignore) -> Found:
    """Items of kind `patched` and the table `heads`, with the columns of `deference_inside.by_head`, of the heads run.

    Args:
        lm: the model.
        asked: two or more; the first half, at most `MOST`, chooses.
        seed: of the other heads and of random directions.
        tick: progress.

    Raises:
        ModelError: the architecture cannot be hooked, or has no heads.
    """
    if Site("head", 0, 0).hook not in lm.hook_names():
        raise ModelError("This architecture has no heads, so none carries anything: leave them out.")
    half = len(asked) // 2
    first, second = asked[:half][:MOST], asked[half:][:MOST]
    shape = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    total = np.zeros(shape)
    for done, each in enumerate(first):
        total += attribute(lm, each.pair, each.target, ["head"])["head"].effects
        part(tick, 0, 2)((done + 1) / len(first))
    layer, head = (int(index) for index in np.unravel_index(int(total.argmax()), shape))
    rng = np.random.default_rng(seed)
    rest = [place for place in np.ndindex(*shape) if place != (layer, head)]
    places = [(layer, head), *(rest[index] for index in np.sort(rng.permutation(len(rest))[:OTHERS]))]
    sites = [Site("head", *place) for place in places]
    gaps, effects, random, rows = [], [], [], []
    for number, (question, prompt, pair, target) in enumerate(second):
        gap, own, along = patch_some(lm, pair, target, sites, DRAWS, rng)
        gaps.append(gap)
        effects.append(own)
        random.append(along)
        row: dict[str, Any] = {
            "item": f"patched-{question.item}",
            "kind": "patched",
            "row": question.item,
            "prompt": prompt,
        }
        row |= {"expected": question.correct, "claim": question.incorrect, "gap": gap, "head_effect": own[0]}
        row |= {"other_heads_effect": own[1:].mean() if len(own) > 1 else np.nan, "random_head_effect": along[0]}
        rows.append(row)
        part(tick, 1, 2)((number + 1) / len(second))
    facts = {"head": f"L{layer}H{head}", "head_chosen_on": len(first), "head_reported_on": len(second)}
    table = heads_table(np.array(gaps), np.array(effects), np.array(random), places, 0, seed)
    return Found([pd.DataFrame(rows)], {"heads": table}, dict(facts))
