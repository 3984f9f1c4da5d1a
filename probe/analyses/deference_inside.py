"""Where inside a model a claim wins over the truth: items and tables of lens and heads in a world, and all of it.

All parts work on questions of kind `opinion_false`: what competes is the claim and the truth at the token where the
answer is due.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe import stats
from probe.analyses.deference_steering import CONTROL, Found, by_steering, middle, words
from probe.analyses.evaluation import plain_prompt
from probe.analyses.flip_heads import Twins, patch_heads, remove_heads
from probe.analyses.flip_layer import flip_rows, layer_table, margins
from probe.analyses.sites import Site
from probe.analyses.targets import column_of, target_of
from probe.errors import ModelError
from probe.ticks import Tick, ignore, part
from probe.tokens import encode

if TYPE_CHECKING:
    from probe.lm import LM
    from probe.world.questions import Item
    from probe.world.world import World

REFERENCE = 24
"""Questions without a claim over which a head's output is averaged."""
PASSAGES = 60
"""Questions about a passage that contradicts what was learned: what else a head is needed for."""


def look(
    lm: "LM",
    world: "World",
    items: "Sequence[Item]",
    interventions: int,
    layer: int | None = None,
    seed: int = 0,
    tick: Tick = ignore,
) -> Found:
    """Lens on all items; heads and steering on the first of them. What an architecture does not allow is left out.

    Args:
        lm: the model.
        world: who asks.
        items: questions of kind `opinion_false`.
        interventions: how many of them are intervened on; 0 for none.
        layer: block after which one steers, see `middle`.
        seed: of the random controls.
        tick: progress.

    Raises:
        ConfigError: the model lacks the block.
    """
    found: list[Found] = []
    lacking: list[str] = []
    flips, tables = None, dict[str, pd.DataFrame]()
    try:
        block = middle(lm, layer)
        flips, tables["layers"] = by_layer(lm, items, seed, part(tick, 0, 3))
    except ModelError as error:
        return Found([], {}, {"left_out": f"layers, heads and steering: {error}"})
    few = items[:interventions]
    if few and Site("head", 0, 0).hook not in lm.hook_names():
        lacking.append("heads: this architecture has none")
    elif few:
        found.append(by_head(lm, world, few, seed, part(tick, 1, 3)))
    if few:
        found.append(by_steering(lm, world, few, block, seed, part(tick, 2, 3)))
    facts: dict[str, object] = {"left_out": "; ".join(lacking)} if lacking else {}
    for each in found:
        tables |= each.tables
        facts |= each.facts
    return Found([frame for each in found for frame in each.items], tables, facts, flips)


def by_layer(lm: "LM", items: "Sequence[Item]", seed: int = 0, tick: Tick = ignore) -> tuple[np.ndarray, pd.DataFrame]:
    """([N] row of the flip, NaN where the truth wins; the margins over layers with and without the claim).

    The table is that of `probe.analyses.flip_layer.layer_table`, with `asked` (false claim, no claim); the margin is
    that of the claim over the truth.
    """
    pairs = [tuple(column_of(lm, word) for word in words(item)) for item in items]
    rows, tables = {}, []
    for step, asked in enumerate(("false claim", "no claim")):
        plain = asked == "no claim"
        texts = [encode(lm.tokenizer, plain_prompt(item.prompt) if plain else item.prompt) for item in items]
        rows[asked] = margins(lm, texts, [a for a, _ in pairs], [b for _, b in pairs], part(tick, step, 2))
        tables.append(layer_table(rows[asked], seed).assign(asked=asked))
    return flip_rows(rows["false claim"]), pd.concat(tables, ignore_index=True)


def twins(lm: "LM", items: "Sequence[Item]") -> list[Twins]:
    """Each question with the truth claimed in place of its false claim; those of unequal length are left out."""
    made = []
    for item in items:
        claim, truth = words(item)
        clean = item.prompt.replace(f"{claim} ", f"{truth} ", 1)
        if len(encode(lm.tokenizer, clean)) == len(encode(lm.tokenizer, item.prompt)):
            made.append(Twins(clean, item.prompt, truth, claim))
    return made


def by_head(lm: "LM", world: "World", items: "Sequence[Item]", seed: int = 0, tick: Tick = ignore) -> Found:
    """Patching and removal of every head; the strongest of the first half of the items is reported on the second.

    Items of kind `patched`: `gap`, `head_effect`, `other_heads_effect` (mean over the others), `random_head_effect`
    (nats); of kind `removed`: `removal_effect`, `other_removal_effect` (change of logit(truth) - logit(claim), nats),
    `claim_wins_without_head`; of kind `removed_fact`: `accuracy_without_head`; of kind `removed_context`:
    `context_without_head`, whether the passage's value is the likeliest answer. Table `heads`: `layer`, `head`, `name`,
    `value` (share of the gap, of all items), `ci_low`, `ci_high`, `random`, `chosen`, `n`.
    """
    pairs = twins(lm, items)
    found = patch_heads(lm, pairs, seed=seed, tick=part(tick, 0, 2))
    half = max(1, len(pairs) // 2)
    layer, head = found.strongest(slice(0, half))
    test = range(half, len(pairs)) if len(pairs) > 1 else range(1)
    count = found.effects[0].size
    effect, random = found.effects[:, layer, head], found.random[:, layer, head]
    others = (found.effects.sum(axis=(1, 2)) - effect) / max(count - 1, 1)
    rows = [
        {
            "item": f"patched-{i}",
            "kind": "patched",
            "prompt": pairs[i].claimed,
            "expected": pairs[i].truth.strip(),
            "claim": pairs[i].claim.strip(),
            "gap": found.gaps[i],
            "head_effect": effect[i],
            "other_heads_effect": others[i],
            "random_head_effect": random[i],
        }
        for i in test
    ]
    rows += _removed(lm, world, [pairs[i] for i in test], (layer, head), seed, part(tick, 1, 2))
    facts = {"head": f"L{layer}H{head}", "head_chosen_on": half, "head_reported_on": len(test)}
    places = list(np.ndindex(*found.effects.shape[1:]))
    effects, draws = (each.reshape(len(pairs), count) for each in (found.effects, found.random))
    table = heads_table(found.gaps, effects, draws, places, places.index((layer, head)), seed)
    return Found([pd.DataFrame(rows)], {"heads": table}, dict(facts))


def heads_table(
    gaps: np.ndarray,
    effects: np.ndarray,
    random: np.ndarray,
    places: Sequence[tuple[int, ...]],
    chosen: int,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a head: the share of the gap that its patch closes, a ratio of sums, with its bootstrap interval.

    Args:
        gaps: [N] in nats.
        effects: [N S] of patching S heads.
        random: [N S] along random directions.
        places: [S] layer and head.
        chosen: which of them was.
        seed: of the bootstrap.
    """
    drawn = np.random.default_rng(seed).integers(0, len(gaps), (1000, len(gaps)))
    rows = []
    with np.errstate(invalid="ignore", divide="ignore"):
        below = gaps[drawn].sum(axis=1)
        for at, (layer, head) in enumerate(places):
            values = effects[:, at]
            low, high = np.quantile(values[drawn].sum(axis=1) / below, (0.025, 0.975))
            _, low, high = stats.unvaried(stats.Interval(values.sum() / gaps.sum(), low, high), len(gaps))
            row = {"layer": layer, "head": head, "name": f"L{layer}H{head}", "value": values.sum() / gaps.sum()}
            row |= {"ci_low": low, "ci_high": high, "random": random[:, at].sum() / gaps.sum()}
            rows.append(row | {"chosen": at == chosen, "n": len(gaps)})
    return pd.DataFrame(rows)


def _removed(
    lm: "LM", world: "World", pairs: Sequence[Twins], chosen: tuple[int, int], seed: int, tick: Tick
) -> list[dict[str, object]]:
    """Rows of the removal of a head on claimed questions, on facts, and on passages that contradict them."""
    texts = [encode(lm.tokenizer, pair.claimed) for pair in pairs]
    targets = [target_of(lm, ids, pair.truth, pair.claim) for ids, pair in zip(texts, pairs, strict=True)]
    facts = world.questions("fact", CONTROL, seed + 1)
    passages = world.questions("context_conflict", PASSAGES, seed + 3)
    questions = [(encode(lm.tokenizer, item.prompt), column_of(lm, item.answers[0])) for item in (*facts, *passages)]
    reference = [encode(lm.tokenizer, item.prompt) for item in world.questions("fact", REFERENCE, seed + 2)]
    found = remove_heads(lm, texts, targets, questions, reference, tick)
    change = found.after - found.before[:, None, None]
    own = change[:, *chosen]
    others = (change.sum(axis=(1, 2)) - own) / max(change[0].size - 1, 1)
    rows: list[dict[str, object]] = [
        {
            "item": f"removed-{i}",
            "kind": "removed",
            "prompt": pair.claimed,
            "expected": pair.truth.strip(),
            "claim": pair.claim.strip(),
            "removal_effect": own[i],
            "other_removal_effect": others[i],
            "claim_wins_with_head": float(found.before[i] < 0),
            "claim_wins_without_head": float(found.before[i] + own[i] < 0),
        }
        for i, pair in enumerate(pairs)
    ]
    for name, kind, asked, start in (
        ("accuracy", "removed_fact", facts, 0),
        ("context", "removed_context", passages, len(facts)),
    ):
        rows += [
            {
                "item": f"{kind}-{i}",
                "kind": kind,
                "prompt": item.prompt,
                "expected": item.answers[0].strip(),
                f"{name}_without_head": float(found.right[(start + i, *chosen)]),
                f"{name}_with_head": float(found.right_before[start + i]),
            }
            for i, item in enumerate(asked)
        ]
    return rows
