"""Do induction heads carry in-context learning? The in-context loss without them, and without as many other heads.

The heads with the highest induction score are put out of work together, on every token (mean ablation: what they write
on texts of the same kind on average comes in their place), and so are as many heads drawn at random from the others.
The in-context loss is measured where only the context helps: at the second writing of random tokens, at the late states
of a Markov chain, at the query of a map whose key has come.

Axes: N texts, D blocks, H heads, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe.analyses.ablation import Means, means
from probe.analyses.in_context_curves import pair_documents
from probe.analyses.induction_over_training import induction_score
from probe.analyses.markov_distances import chains
from probe.analyses.olsson import Repeats, token_losses
from probe.errors import ConfigError, DataError
from probe.model.heads import head_names
from probe.model.text import encode
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World

Head = tuple[int, int]
"""Block and head, from 0."""
REFERENCE = 24
"""Texts over which the means are taken."""
LATE = 1 / 3
"""Share of a chain's states that are late."""


@dataclass(frozen=True)
class ContextTexts:
    """Texts with the tokens whose loss only the context can lower."""

    name: str
    """`repeat`, `markov` or `map`."""
    rows: list[list[int]]
    """N texts as ids."""
    places: list[list[int]]
    """[N] indices of those tokens in each text."""
    reference: list[list[int]]
    """Other texts of the kind, for the means and for the choice of heads."""
    start: int = 0
    """Tokens that open a text and are no part of what repeats."""


def repeat_texts(repeats: Repeats) -> ContextTexts:
    """Random tokens written twice; all but the first of the second writing count. The last texts give the means."""
    first = repeats.begin + repeats.size
    rows = repeats.rows[:-REFERENCE]
    places = list(range(first + 1, first + repeats.size))
    return ContextTexts("repeat", rows, [places] * len(rows), repeats.rows[-REFERENCE:], repeats.begin)


def chain_texts(lm: "LM", world: "World", n: int = 50, seed: int = 0) -> ContextTexts:
    """Fresh Markov chains; the last third of their states counts."""
    found = chains(world, n + REFERENCE, seed + 1_000_003)
    rows = [encode(lm.tokenizer, chain.text) for chain in found]
    late = int(world.config.chain * LATE)
    places = [list(range(len(row) - late, len(row))) for row in rows]
    return ContextTexts("markov", rows[:n], places[:n], rows[n:], len(encode(lm.tokenizer, found[0].opening)))


def map_texts(lm: "LM", world: "World", n: int = 50, seed: int = 0) -> ContextTexts:
    """Maps; the label of the last pair, whose key came before, counts."""
    found = pair_documents(world, "map", n + REFERENCE, seed + 1_000_003)
    rows = [
        encode(lm.tokenizer, f"{document.prompt(len(document.pairs) - 1)} {document.pairs[-1][1]}")
        for document in found
    ]
    return ContextTexts("map", rows[:n], [[len(row) - 1] for row in rows[:n]], rows[n:])


@torch.no_grad()
def induction_by_head(lm: "LM", rows: Sequence[Sequence[int]], start: int = 0) -> tuple[np.ndarray, float]:
    """([N D H], chance) induction score of every head on every text (see `induction_over_training.induction_score`).

    Texts in which no token comes back are left out.

    Raises:
        DataError: no text is left.
    """
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(lm.bridge.cfg.n_layers)]
    scores, chances = [], []
    for row in rows:
        _, cache = lm.run_with_cache([list(row)], names)
        pattern = torch.cat([cache[name] for name in names]).double().cpu().numpy()
        score, chance, count = induction_score(pattern, np.asarray(row), start)
        if count:
            scores.append(score)
            chances.append(chance)
    if not scores:
        raise DataError("No text repeats a token, so no head can be seen to follow it: give others.")
    return np.stack(scores), float(np.mean(chances))


@torch.no_grad()
def context_loss(lm: "LM", texts: ContextTexts, heads: Sequence[Head] = (), filling: Means | None = None) -> np.ndarray:
    """[N] mean loss in nats at the tokens that count, with the heads put out of work.

    Args:
        lm: any model of tokens.
        texts: what is read.
        heads: blocks and heads; none for the model as it is.
        filling: what comes in their place; zeros without it.
    """
    if not heads:
        losses = token_losses(lm, texts.rows)
    else:
        by_block: dict[int, list[int]] = {}
        for block, head in heads:
            by_block.setdefault(block, []).append(head)
        names = {block: f"blocks.{block}.attn.hook_z" for block in by_block}
        hooks = [(names[block], _filler(names[block], found, filling)) for block, found in by_block.items()]
        with lm.hooks(hooks):
            losses = token_losses(lm, texts.rows)
    return np.array([loss[np.array(places) - 1].mean() for loss, places in zip(losses, texts.places, strict=True)])


def _filler(name: str, heads: Sequence[int], filling: Means | None) -> Any:
    def fn(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        for head in heads:
            if filling is None:
                z[:, :, head] = 0
            else:
                z[:, :, head] = filling.rest[name][head].to(z)
                z[:, 0, head] = filling.first[name][head].to(z)
        return z

    return fn


@dataclass(frozen=True)
class InductionAblation:
    """What the top heads and random ones do to the in-context loss of one kind of texts."""

    name: str
    """Of the texts."""
    heads: list[str]
    """The top heads that were put out of work together."""
    before: np.ndarray
    """[N] in-context loss in nats."""
    top: np.ndarray
    """[N] the same without the top heads."""
    random: np.ndarray
    """[R N] without as many others, for each draw."""
    sets: list[str]
    """[R] which others."""

    def items(self) -> pd.DataFrame:
        """One row a text: text, before, ablation_induction and ablation_random (rise of the loss; of random heads the
        mean over draws) and ablation_gap, their difference; nats."""
        top, other = self.top - self.before, self.random.mean(0) - self.before
        columns = {"text": np.arange(len(self.before)), "before": self.before}
        return pd.DataFrame(
            columns | {"ablation_induction": top, "ablation_random": other, "ablation_gap": top - other}
        )

    def table(self) -> pd.DataFrame:
        """One row a set of heads: texts, group (induction or random), heads, loss (mean) and effect (rise), nats."""
        rows = [("induction", ", ".join(self.heads), self.top.mean())]
        rows += [("random", names, values.mean()) for names, values in zip(self.sets, self.random, strict=True)]
        table = pd.DataFrame(rows, columns=["group", "heads", "loss"])
        return table.assign(texts=self.name, effect=table["loss"] - self.before.mean())


def ablate_induction(
    lm: "LM",
    texts: ContextTexts,
    scores: np.ndarray,
    k: int = 2,
    draws: int = 6,
    seed: int = 0,
    tick: Tick = ignore,
) -> InductionAblation:
    """Put the k heads with the highest scores out of work, and as many others, several times.

    Args:
        lm: any model of tokens.
        texts: where the in-context loss is measured.
        scores: [D H] by which heads are chosen, such as prefix matching.
        k: how many heads.
        draws: how many random sets of others.
        seed: of these sets.
        tick: progress.

    Raises:
        ConfigError: the model has fewer than 2 k heads.
    """
    if k < 1 or 2 * k > scores.size:
        raise ConfigError(f"{k} heads of {scores.size} were to be put out of work: give 1 to {scores.size // 2}.")
    order = np.argsort(-scores.ravel(), kind="stable").tolist()
    names, width = head_names(*scores.shape), scores.shape[1]
    rng = np.random.default_rng(seed)
    groups = [order[:k], *(sorted(rng.choice(order[k:], k, replace=False).tolist()) for _ in range(draws))]
    blocks = [f"blocks.{block}.attn.hook_z" for block in range(scores.shape[0])]
    filling = means(lm, texts.reference, blocks)
    before, found = context_loss(lm, texts), []
    for index, group in enumerate(groups):
        found.append(context_loss(lm, texts, [divmod(at, width) for at in group], filling))
        part(tick, index, len(groups))(1.0)
    called = [[names[at] for at in group] for group in groups]
    return InductionAblation(
        texts.name, called[0], before, found[0], np.stack(found[1:]), [", ".join(each) for each in called[1:]]
    )


def ablate_each(lm: "LM", texts: ContextTexts, tick: Tick = ignore) -> np.ndarray:
    """[D H] rise of the mean in-context loss in nats when each head alone is put out of work (mean ablation)."""
    depth, heads = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    filling = means(lm, texts.reference, [f"blocks.{block}.attn.hook_z" for block in range(depth)])
    before = context_loss(lm, texts).mean()
    found = np.empty((depth, heads))
    for at, (block, head) in enumerate(np.ndindex(depth, heads)):
        found[block, head] = context_loss(lm, texts, [(block, head)], filling).mean() - before
        part(tick, at, depth * heads)(1.0)
    return found
