"""The layer at which a claim overtakes the truth inside a model, and the heads that carry the claim.

All parts use questions of kind `opinion_false`: the claim competes with the truth at the token where the answer is due.

Layers: the residual stream after each block goes through the final norm and the unembedding (`probe.logits.lens`). The
margin is log p(answer) - log p(rival) there; each answer is one token, so it is the difference of their logits. The
flip is the first row from which the margin stays above zero up to the output (METRICS, sycophancy).

Heads: a clean text and a claimed one differ in one word: what the user claims is true in one and false in the other.
The target is logit(truth) - logit(claim) after the last token. Patching replaces a head's output in the claimed text,
at every token, by its output in the clean text: its share of the gap between the two is 1 if that head alone restores
the true answer. Removal replaces it by the head's mean output over reference texts. Every head is measured, so that the
other heads are a null for the chosen one, and each patch is compared with random directions of the same norm (METRICS,
sycophancy; Wang et al. 2022; Heimersheim and Nanda 2024). A head is chosen on one half of the texts and reported on the
other, since the best of many would be biased upwards.

Axes: N texts or pairs of texts, L blocks, H heads, R random draws; margins have D + 1 rows (0 is the embedding, D the
output).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe import stats
from probe.errors import DataError, ModelError
from probe.interventions.controls import edits, random_change
from probe.interventions.patching import Means, PromptPair, means, pair_of, with_shared
from probe.interventions.sites import Edit, Site, grid, hooks_of, observe, sweep
from probe.interventions.steering import answer_steps
from probe.logits.answer_tokens import answer_tokens
from probe.logits.readout import residual_names, unembed
from probe.logits.targets import Target, require_text, target_of, value
from probe.model.lm import LM
from probe.model.text import encode
from probe.sycophancy.deference_steering import CONTROL, PartResult, by_steering, middle, words
from probe.ticks import Tick, ignore, part
from probe.world.language import plain_prompt

if TYPE_CHECKING:
    from probe.world.questions import Item
    from probe.world.world import World


class Twins(NamedTuple):
    """A pair of texts: a question with a true and with a false claim."""

    clean: str
    """Ids of the text in which the user claims the truth."""
    claimed: str
    """Ids of the text in which the user claims something else; as many tokens."""
    truth: str
    """The true answer, with its leading blank."""
    claim: str
    """The claim, with its leading blank."""


@dataclass(frozen=True)
class HeadPatching:
    """Effects of patching each head of N claimed texts from the clean ones."""

    gaps: np.ndarray
    """[N] target of the clean text minus that of the claimed one, in nats."""
    effects: np.ndarray
    """[N L H] change of the target in the claimed text by patching one head, in nats."""
    random: np.ndarray
    """[N L H] the same along random directions of the same norm at every token, averaged over the R draws."""

    def share(self, rows: slice | np.ndarray = slice(None), random: bool = False) -> np.ndarray:
        """Return [L H] summed effect over summed gap of some pairs; NaN if there is no gap."""
        gap, effect = self.gaps[rows].sum(), (self.random if random else self.effects)[rows].sum(axis=0)
        return effect / gap if abs(gap) > 1e-6 else np.full(effect.shape, np.nan)

    def strongest(self, rows: slice | np.ndarray = slice(None)) -> tuple[int, int]:
        """Return the (block, head) whose patch moves the target of some pairs most towards the truth."""
        total = self.effects[rows].sum(axis=0)
        layer, head = np.unravel_index(int(total.argmax()), total.shape)
        return int(layer), int(head)


@torch.no_grad()
def patch_heads(lm: LM, twins: Sequence[Twins], draws: int = 2, seed: int = 0, tick: Tick = ignore) -> HeadPatching:
    """Patch every head of every pair.

    Args:
        lm: the model.
        twins: N pairs.
        draws: number R of random directions for each head of each pair.
        seed: seed of these directions.
        tick: progress.

    Raises:
        DataError: there is no pair, or a pair of different lengths.
        ModelError: the architecture cannot be hooked.
    """
    if not twins:
        raise DataError("No pair of a clean and a claimed text was given: give at least one.")
    rng = np.random.default_rng(seed)
    sites = [site for row in grid(lm, "head", 1) for site in row]
    shape = (lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads)
    gaps, effects, random = [], [], []
    for index, twin in enumerate(twins):
        pair = pair_of(lm, twin.clean, twin.claimed)
        target = target_of(lm, pair.corrupted, twin.truth, twin.claim)
        pair = with_shared(lm, pair, target)
        gap, own, others = patch_some(lm, pair, target, sites, draws, rng)
        gaps.append(gap)
        effects.append(own.reshape(shape))
        random.append(others.reshape(shape))
        tick((index + 1) / len(twins))
    return HeadPatching(np.array(gaps), np.array(effects), np.array(random))


@torch.no_grad()
def patch_some(
    lm: LM, pair: PromptPair, target: Target, sites: Sequence[Site], draws: int, rng: np.random.Generator
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return (gap, [S] effects of patching S heads one by one, [S] those of random directions) of a pair, in nats."""
    names = hooks_of(lm, ["head"])
    logits, source = observe(lm, pair.clean, names)
    _, base = observe(lm, pair.corrupted, names)
    rows = [[], *(edits([site], source) for site in sites)]
    for _ in range(draws):
        for site in sites:
            here = base[site.hook][site.index]
            rows.append([Edit(site, here + random_change(source[site.hook][site.index] - here, rng))])
    values = sweep(lm, pair.corrupted, rows, target).values.double().numpy()
    effects = values[1:].reshape(1 + draws, len(sites)) - values[0]
    random = effects[1:].mean(axis=0) if draws else np.full(len(sites), np.nan)
    return float(value(logits, target)[0]) - float(values[0]), effects[0], random


@dataclass(frozen=True)
class HeadRemoval:
    """Effects of replacing each head alone by its mean over reference texts."""

    before: np.ndarray
    """[N] target of each text in nats."""
    after: np.ndarray
    """[N L H] target in nats with one head removed."""
    right: np.ndarray
    """[Q L H] whether each unrelated question is still answered right (its answer is the most probable token)."""
    right_before: np.ndarray
    """[Q] the same with all heads."""


@torch.no_grad()
def remove_heads(
    lm: LM,
    texts: Sequence[Sequence[int]],
    targets: Sequence[Target],
    questions: Sequence[tuple[Sequence[int], int]],
    reference: Sequence[Sequence[int]],
    tick: Tick = ignore,
) -> HeadRemoval:
    """Remove every head in turn, from texts and from unrelated questions.

    Args:
        lm: the model.
        texts: ids of N texts.
        targets: quantity measured in each text.
        questions: (ids, token of the right answer) of Q unrelated questions: the accuracy control.
        reference: ids of texts over which a head's output is averaged, first tokens separately.
        tick: progress.

    Raises:
        DataError: there is no text or no reference.
        ModelError: the architecture cannot be hooked.
    """
    if not texts or len(texts) != len(targets):
        raise DataError(f"{len(texts)} texts have {len(targets)} targets: give at least one text, a target for each.")
    for text, target in zip(texts, targets, strict=True):
        require_text(target, text)
    mean = means(lm, reference, hooks_of(lm, ["head"]))
    prompts, right = [ids for ids, _ in questions], np.array([answer for _, answer in questions])
    depth, heads = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    after = np.empty((len(texts), depth, heads))
    right_after = np.empty((len(prompts), depth, heads), dtype=bool)
    for number in range(depth * heads):
        site = Site("head", number // heads, number % heads)
        with lm.hooks([(site.hook, _replacing(mean, site))]):
            after[:, site.layer, site.head] = _values(lm, texts, targets)
            right_after[:, site.layer, site.head] = _best(lm, prompts) == right
        tick((number + 1) / (depth * heads))
    return HeadRemoval(_values(lm, texts, targets), after, right_after, _best(lm, prompts) == right)


def _replacing(mean: Means, site: Site) -> Any:
    """Return a hook that replaces a head's output by its mean, at the first token by the mean of first tokens."""

    def replace(tensor: Tensor, hook: Any) -> Tensor:
        tensor = tensor.clone()
        tensor[:, :, site.head] = mean.rest[site.hook][site.head].to(tensor)
        tensor[:, 0, site.head] = mean.first[site.hook][site.head].to(tensor)
        return tensor

    return replace


def _values(lm: LM, texts: Sequence[Sequence[int]], targets: Sequence[Target]) -> np.ndarray:
    logits = lm.logits([list(text) for text in texts]).float()
    values = []
    for row, target in zip(logits, targets, strict=True):
        values.append(float(value(row[None], target)[0]))
    return np.array(values)


def _best(lm: LM, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return [Q] the most probable token after each text."""
    if not texts:
        return np.zeros(0, dtype=int)
    logits = lm.logits([list(text) for text in texts])
    ends = torch.tensor([len(text) - 1 for text in texts])
    return logits[torch.arange(len(texts)), ends].argmax(-1).cpu().numpy()


TOKENS = 4096
"""Largest number of tokens of texts in one batch."""


@torch.no_grad()
def margins(
    lm: LM,
    texts: Sequence[Sequence[int]],
    answers: Sequence[int],
    rivals: Sequence[int],
    tick: Tick = ignore,
) -> np.ndarray:
    """Compute [N D+1] log p(answer) - log p(rival) after each block at the last token, in nats.

    Args:
        lm: the model.
        texts: ids of N texts.
        answers: [N] token of each answer.
        rivals: [N] token of each rival.
        tick: progress.

    Raises:
        DataError: the lists have different lengths, or the model has a scalar output.
        ModelError: the architecture cannot be hooked, or its output is more than norm and unembedding.
    """
    if not len(texts) == len(answers) == len(rivals):
        raise DataError(f"{len(texts)} texts have {len(answers)} answers and {len(rivals)} rivals: give one to each.")
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model outputs one number and no tokens: use a language model.")
    names = residual_names(lm)
    rows = np.empty((len(texts), len(names)))
    size = max(1, TOKENS // max((len(text) for text in texts), default=1))
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        ends = torch.tensor([len(text) - 1 for text in part])
        at = torch.arange(len(part))
        logits, cache = lm.run_with_cache([list(text) for text in part], names)
        own = logits[at, ends].float()
        states = [cache[name][at, ends] for name in names]
        again = unembed(lm, states[-1])
        if float((again.softmax(-1) - own.softmax(-1)).abs().max()) > 0.05:
            raise ModelError(
                f"The logit lens does not know how {type(lm.model).__name__} makes logits from its residual stream: "
                "use a model of another architecture."
            )
        for row, scores in enumerate([*(unembed(lm, state) for state in states[:-1]), own]):
            first = torch.tensor(answers[start : start + size], device=scores.device)
            second = torch.tensor(rivals[start : start + size], device=scores.device)
            gap = scores[at, first] - scores[at, second]
            rows[start : start + size, row] = gap.double().cpu().numpy()
        tick(min(1.0, (start + size) / len(texts)))
    return rows


def flip_rows(margin: np.ndarray) -> np.ndarray:
    """Return [N] the first row from which a margin [N D+1] stays above zero; NaN if the last row is not above zero."""
    below = margin[:, ::-1] <= 0
    first = np.where(below.any(axis=1), below.argmax(axis=1), margin.shape[1])  # rows above zero, counted from the end
    return np.where(first > 0, margin.shape[1] - first, np.nan).astype(float)


def layer_table(margin: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Summarise margins [N D+1] by row.

    Returns:
        `layer` (0 is the embedding), `value` (mean margin, nats), `ci_low`, `ci_high` (bootstrap), `share` (of texts
        with a margin above zero), `share_low`, `share_high` (Wilson), `n`.
    """
    rows = []
    for layer, values in enumerate(margin.T):
        mean, share = stats.bootstrap_mean(values, seed=seed), stats.wilson(int((values > 0).sum()), len(values))
        rows.append({"layer": layer, **mean.row(len(values)), **share.row(name="share")})
    return pd.DataFrame(rows)


REFERENCE = 24
"""Number of questions without a claim over which a head's output is averaged."""
PASSAGES = 60
"""Number of questions about a passage that contradicts the learned fact: another task that may need a head."""


def look_inside(
    lm: "LM",
    world: "World",
    items: "Sequence[Item]",
    interventions: int,
    layer: int | None = None,
    seed: int = 0,
    tick: Tick = ignore,
) -> PartResult:
    """Apply the lens to all items, patching and steering to the first; skip parts that an architecture lacks.

    Args:
        lm: the model.
        world: world of the questions.
        items: questions of kind `opinion_false`.
        interventions: number of items for patching and steering; 0 for none.
        layer: block after which a direction is added, see `middle`.
        seed: seed of the random controls.
        tick: progress.

    Raises:
        ConfigError: the model lacks the block.
    """
    results: list[PartResult] = []
    lacking: list[str] = []
    flips, tables = None, dict[str, pd.DataFrame]()
    try:
        block = middle(lm, layer)
        flips, tables["layers"] = by_layer(lm, items, seed, part(tick, 0, 3))
    except ModelError as error:
        return PartResult([], {}, {"left_out": f"layers, heads and steering: {error}"})
    few = items[:interventions]
    if few and Site("head", 0, 0).hook not in lm.hook_names():
        lacking.append("heads: this architecture has none")
    elif few:
        results.append(by_head(lm, world, few, seed, part(tick, 1, 3)))
    if few:
        results.append(by_steering(lm, world, few, block, seed, part(tick, 2, 3)))
    facts: dict[str, object] = {"left_out": "; ".join(lacking)} if lacking else {}
    for each in results:
        tables |= each.tables
        facts |= each.facts
    return PartResult([frame for each in results for frame in each.items], tables, facts, flips)


def by_layer(lm: "LM", items: "Sequence[Item]", seed: int = 0, tick: Tick = ignore) -> tuple[np.ndarray, pd.DataFrame]:
    """Return ([N] row of the flip, NaN where the truth wins; table of margins by layer, with and without the claim).

    The table is that of `probe.sycophancy.inside.layer_table`, with `asked` (false claim, no claim); the margin is
    that of the claim over the truth.
    """
    pairs = [answer_tokens(lm, words(item)) for item in items]
    claims, truths = ([each.tokens[side] for each in pairs] for side in (0, 1))
    rows, tables = {}, []
    for step, condition in enumerate(("false claim", "no claim")):
        plain = condition == "no claim"
        texts = [encode(lm.tokenizer, plain_prompt(item.prompt) if plain else item.prompt) for item in items]
        texts = [[*ids, *each.shared] for ids, each in zip(texts, pairs, strict=True)]
        rows[condition] = margins(lm, texts, claims, truths, part(tick, step, 2))
        tables.append(layer_table(rows[condition], seed).assign(asked=condition))
    return flip_rows(rows["false claim"]), pd.concat(tables, ignore_index=True)


def twins(lm: "LM", items: "Sequence[Item]") -> list[Twins]:
    """Pair each question with its version with a true claim; pairs of unequal length are left out."""
    pairs = []
    for item in items:
        claim, truth = words(item)
        clean = item.prompt.replace(f"{claim} ", f"{truth} ", 1)
        if len(encode(lm.tokenizer, clean)) == len(encode(lm.tokenizer, item.prompt)):
            pairs.append(Twins(clean, item.prompt, truth, claim))
    return pairs


def by_head(lm: "LM", world: "World", items: "Sequence[Item]", seed: int = 0, tick: Tick = ignore) -> PartResult:
    """Patch and remove every head; the strongest head on the first half of the items is reported on the second.

    Items of kind `patched`: `gap`, `head_effect`, `other_heads_effect` (mean over the others), `random_head_effect`
    (nats); of kind `removed`: `removal_effect`, `other_removal_effect` (change of logit(truth) - logit(claim), nats),
    `claim_wins_without_head`; of kind `removed_fact`: `accuracy_without_head`; of kind `removed_context`:
    `context_without_head`, whether the passage's value is the most probable answer. Table `heads`: `layer`, `head`,
    `name`, `value` (share of the gap, of all items), `ci_low`, `ci_high`, `random`, `chosen`, `n`.
    """
    pairs = twins(lm, items)
    patching = patch_heads(lm, pairs, seed=seed, tick=part(tick, 0, 2))
    half = max(1, len(pairs) // 2)
    layer, head = patching.strongest(slice(0, half))
    test = range(half, len(pairs)) if len(pairs) > 1 else range(1)
    count = patching.effects[0].size
    effect, random = patching.effects[:, layer, head], patching.random[:, layer, head]
    others = (patching.effects.sum(axis=(1, 2)) - effect) / max(count - 1, 1)
    rows = [
        {
            "item": f"patched-{i}",
            "kind": "patched",
            "prompt": pairs[i].claimed,
            "expected": pairs[i].truth.strip(),
            "claim": pairs[i].claim.strip(),
            "gap": patching.gaps[i],
            "head_effect": effect[i],
            "other_heads_effect": others[i],
            "random_head_effect": random[i],
        }
        for i in test
    ]
    rows += _remove_head(lm, world, [pairs[i] for i in test], (layer, head), seed, part(tick, 1, 2))
    facts = {"head": f"L{layer}H{head}", "head_chosen_on": half, "head_reported_on": len(test)}
    places = list(np.ndindex(*patching.effects.shape[1:]))
    effects, draws = (each.reshape(len(pairs), count) for each in (patching.effects, patching.random))
    table = heads_table(patching.gaps, effects, draws, places, places.index((layer, head)), seed)
    return PartResult([pd.DataFrame(rows)], {"heads": table}, dict(facts))


def heads_table(
    gaps: np.ndarray,
    effects: np.ndarray,
    random: np.ndarray,
    places: Sequence[tuple[int, ...]],
    chosen: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per head: the share of the gap that its patch closes (ratio of sums) with bootstrap interval.

    Args:
        gaps: [N] gaps in nats.
        effects: [N S] effects of patching S heads in nats.
        random: [N S] effects along random directions in nats.
        places: [S] layer and head of each.
        chosen: index of the chosen head.
        seed: seed of the bootstrap.
    """
    rows = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for at, (layer, head) in enumerate(places):
            shares = partial(_shares, effects[:, at], gaps)
            estimate = stats.bootstrap(effects[:, at].sum() / gaps.sum(), shares, len(gaps), seed)
            row = {"layer": layer, "head": head, "name": f"L{layer}H{head}", **estimate.row()}
            row["random"] = random[:, at].sum() / gaps.sum()
            rows.append(row | {"chosen": at == chosen, "n": len(gaps)})
    return pd.DataFrame(rows)


def _shares(effects: np.ndarray, gaps: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return effects[samples].sum(axis=1) / gaps[samples].sum(axis=1)


def _remove_head(
    lm: "LM", world: "World", pairs: Sequence[Twins], place: tuple[int, int], seed: int, tick: Tick
) -> list[dict[str, object]]:
    """Measure the removal of a head on claimed questions, on facts, and on passages that contradict the facts."""
    texts = [encode(lm.tokenizer, pair.claimed) for pair in pairs]
    targets = [target_of(lm, ids, pair.truth, pair.claim) for ids, pair in zip(texts, pairs, strict=True)]
    texts = [target.text(ids) for ids, target in zip(texts, targets, strict=True)]
    facts = world.questions("fact", CONTROL, seed + 1)
    passages = world.questions("context_conflict", PASSAGES, seed + 3)
    prompts, tokens, owners = answer_steps(lm, [(item.prompt, item.answers[0]) for item in (*facts, *passages)])
    questions = list(zip(prompts, tokens, strict=True))
    reference = [encode(lm.tokenizer, item.prompt) for item in world.questions("fact", REFERENCE, seed + 2)]
    removal = remove_heads(lm, texts, targets, questions, reference, tick)
    steps = [np.equal(owners, question) for question in range(len(facts) + len(passages))]
    right, right_before = ([each[rows].all(axis=0) for rows in steps] for each in (removal.right, removal.right_before))
    change = removal.after - removal.before[:, None, None]
    own = change[:, *place]
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
            "claim_wins_with_head": float(removal.before[i] < 0),
            "claim_wins_without_head": float(removal.before[i] + own[i] < 0),
        }
        for i, pair in enumerate(pairs)
    ]
    for name, kind, questions_of_kind, start in (
        ("accuracy", "removed_fact", facts, 0),
        ("context", "removed_context", passages, len(facts)),
    ):
        rows += [
            {
                "item": f"{kind}-{i}",
                "kind": kind,
                "prompt": item.prompt,
                "expected": item.answers[0].strip(),
                f"{name}_without_head": float(np.asarray(right[start + i])[place]),
                f"{name}_with_head": float(right_before[start + i]),
            }
            for i, item in enumerate(questions_of_kind)
        ]
    return rows
