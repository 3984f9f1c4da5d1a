"""Scores of head behaviours, on one text and on repeated random tokens (METRICS: attention).

Axes: D blocks, H heads, T tokens, B texts.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.attention.patterns import Attention
from probe.errors import ConfigError
from probe.logits.direct import final_norm, post_hook, post_norm, unembedding
from probe.model.heads import array, head_names, output_maps
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.model.text import encode
from probe.numbers import rate, signed
from probe.plotting.notebook import Beside, Drawable, alone, titled
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

HOOKED = 1.25
"""Time for a text of repeated tokens with hooks on every head, divided by that of reading it."""
TOGETHER = 4
"""Number of texts of repeated tokens that are run at once."""


@dataclass(frozen=True)
class HeadScores(Drawable):
    """Several scores of every head."""

    values: dict[str, np.ndarray]
    """[D H] scores, by the name of the score."""
    chance: dict[str, float] = field(default_factory=dict)
    """Scores of a head that attends uniformly to all it sees (copying: of one that raises all tokens equally)."""
    ids: list[list[int]] = field(default_factory=list, repr=False)
    """[B T] token ids of the texts that the scores were measured on."""

    @property
    def names(self) -> list[str]:
        """Names of the scores."""
        return list(self.values)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per head: name, layer, head and one column per score."""
        shape = next(iter(self.values.values())).shape
        layer, head = (axis.ravel() for axis in np.indices(shape))
        columns = {name: value.ravel() for name, value in self.values.items()}
        return pd.DataFrame({"name": head_names(*shape), "layer": layer, "head": head, **columns})

    def sentence(self) -> str:
        """Name the head with the largest value of each score on repeated random tokens."""
        return ScoresBeside((self,), alone()).sentence() if set(self.values) <= set(WORDS) else ""

    def figure(self, name: str | None = None) -> "go.Figure":
        """Draw one score of every head as a grid of layers and heads; by default the first score."""
        from probe.attention.head_figures import head_grids

        name = name or next(iter(self.values))
        values = self.values[name]
        return head_grids([("", values)], name.replace("_", " "), signed=[bool(np.nanmin(values) < 0)])

    def top(self, name: str, k: int = 5) -> pd.DataFrame:
        """Return the k heads with the largest score: name, layer, head and the score.

        Raises:
            ConfigError: no score has this name.
        """
        if name not in self.values:
            raise ConfigError(f"There is no score {name!r}: choose one of {', '.join(self.values)}.")
        table = self.table()[["name", "layer", "head", name]]
        return table.sort_values(name, ascending=False, kind="stable", ignore_index=True).head(k)


def pattern_scores(read: Attention) -> HeadScores:
    """Compute scores of given attention patterns.

    entropy (nats), reach (tokens back, where weight on the first token, an attention sink, counts as no distance), sink
    (weight on the first token) and self (weight on the query itself) are means over all queries but the first, which
    has only one key. previous_token, duplicate_token and induction are the
    shares of all weight on the token before, on earlier tokens equal to the query's, and on the tokens that followed
    these: the definitions of `transformer_lens.head_detector` ("mul").
    """
    ids = np.asarray(read.ids)
    uniform = (np.tri(len(ids)) / np.arange(1, len(ids) + 1)[:, None])[read.first :]
    values = {name: value.astype(np.float32) for name, value in _scores(read.pattern, ids).items()}
    return HeadScores(values, {name: float(value) for name, value in _scores(uniform, ids).items()}, [read.ids])


def _scores(pattern: Float[np.ndarray, "... R T"], ids: Int[np.ndarray, " T"]) -> dict[str, np.ndarray]:
    position, start = np.arange(len(ids)), len(ids) - pattern.shape[-2]
    lag = (position[:, None] - position)[start:]
    first = min(1, len(ids) - 1) if not start else 0
    rows, back = pattern[..., first:, :], lag[first:]
    targets = {
        "previous_token": lag == 1,
        "duplicate_token": duplicates(ids)[start:],
        "induction": followers(ids)[start:],
    }
    whole = pattern.sum((-1, -2))
    return {
        "entropy": -(rows * np.log(np.where(rows > 0, rows, 1.0))).sum(-1).mean(-1),
        "reach": (rows * back)[..., 1:].sum(-1).mean(-1),
        "sink": rows[..., 0].mean(-1),
        "self": (rows * (back == 0)).sum(-1).mean(-1),
        **{name: (pattern * target).sum((-1, -2)) / whole for name, target in targets.items()},
    }


def duplicates(ids: Int[np.ndarray, " T"]) -> np.ndarray:
    """Return [T T] booleans: whether the key is an earlier token equal to the query's."""
    return np.tril(ids[:, None] == ids, -1)


def followers(ids: Int[np.ndarray, " T"]) -> np.ndarray:
    """Return [T T] booleans: whether the key directly follows an earlier token equal to the query's.

    These are the keys that induction attends to. The query itself counts if it equals the token before it, as in
    transformer_lens.
    """
    shifted = np.zeros((len(ids), len(ids)), dtype=bool)
    shifted[:, 1:] = duplicates(ids)[:, :-1]
    return shifted


WORDS = {
    "prefix_matching": "attends most to the token that followed the earlier occurrence",
    "previous_token": "attends most to the token before",
    "copying": "copies most",
}
"""Description of the behaviour that each score on repeated random tokens measures."""
PREFIX_MATCHING = (
    r"\mathrm{prefix\ matching} = \mathbb{E}_{t > n} \sum_{s:\, x_{s-1} = x_t} \alpha_{t,s},\qquad x_{t} = x_{t-n}\ "
    r"\text{random}"
)


class ScoresBeside(Beside[HeadScores]):
    """Scores of the heads of one model or several on repeated random tokens."""

    def sentence(self) -> str:
        """Name for every model and score the head with the largest value, and the score of uniform attention."""
        parts = []
        for look, each in zip(self.looks, self.results, strict=True):
            clauses = []
            for name in (name for name in WORDS if name in each.values):
                top = each.top(name, 1).iloc[0]
                number = signed if name == "copying" else rate
                own, chance = number(float(top[name])), number(each.chance[name])
                clauses.append(f"{top['name']} {WORDS[name]} ({own}, chance {chance})")
            parts.append(f"in {look.name} {', '.join(clauses)}")
        sentence = "; ".join(parts) + "."
        return sentence[0].upper() + sentence[1:]

    def figures(self) -> "dict[str, go.Figure]":
        """Draw each score of every head, one row per layer, and the change between models of the same shape."""
        from probe.attention.head_figures import head_grids

        charts = {}
        for name in self.results[-1].values:
            grids = [(look.name, each.values[name]) for look, each in zip(self.looks, self.results, strict=True)]
            signs = [name == "copying"] * len(grids)
            if len(grids) == 2 and grids[0][1].shape == grids[1][1].shape:
                grids.append(("difference", grids[1][1] - grids[0][1]))
                signs.append(True)
            words = name.replace("_", " ")
            title = f"{words.capitalize()} of every head"
            charts[name.replace("_", "-")] = titled(head_grids(grids, words, signed=signs), title)
        return charts

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return all heads, those with the largest prefix-matching score first."""
        rows = next(iter(self.tables().values())).drop(columns=["layer", "head"]).rename(columns={"name": "head"})
        first = next(iter(self.results[-1].values))
        return {"Heads": rows.sort_values(first, ascending=False, kind="stable", ignore_index=True)}


Advanced = Annotated[int, Input(advanced=True)]


def repeat_seconds(lm: LM, *, length: int, batch: int, repeats: int, **rest: Any) -> float:
    """Estimate the seconds that the scores on repeated random tokens take."""
    return seconds_to_read(lm, HOOKED * batch * (1 + length * repeats))


@analysis(
    "attention",
    title="Heads on repeated tokens",
    equations=(PREFIX_MATCHING,),
    seconds=repeat_seconds,
    key="att",
    beside=ScoresBeside,
)
@torch.no_grad()
def repeat_scores(
    lm: LM,
    *,
    length: Advanced = 25,
    batch: Advanced = 8,
    repeats: Advanced = 2,
    seed: Advanced = 0,
    tick: Tick = ignore,
) -> HeadScores:
    """Score the behaviour of every head on repeated random tokens.

    The tokens follow the beginning-of-text token if the tokenizer has one.

    - prefix_matching: weight from a token of a later repeat on the tokens that followed its earlier occurrences, mean
      over these queries (Olsson et al. 2022; with two repeats there is one such key).
    - copying: whether what a head writes in the later repeats raises the logit of the token that it attends to. From
      its direct logits the mean over the vocabulary is subtracted, and negative values are set to 0. The share of the
      attended token among all tokens of the sample, averaged over positions, is rescaled from 0..1 to -1..1 (Olsson et
      al. 2022, on the tokens where prefix matching is measured). If attention is spread, the attended token is the one
      with the largest weight, except the beginning-of-text token (Bansal et al. 2023). Models with a scalar output have
      no copying score.
    - previous_token: weight on the token before, mean over all tokens that have one.

    Args:
        lm: the model.
        length: number of random tokens in a repeat, all different (fewer if the vocabulary has fewer).
        batch: number of texts.
        repeats: number of times that the tokens occur, at least 2.
        seed: seed of the random tokens.
        tick: called with the completed share.

    Raises:
        ConfigError: fewer than two repeats, or no tokens or texts.
        DataError: the text is longer than the context.
    """
    rows, begin, length = random_repeats(lm, length, batch, repeats, seed)
    blocks, scalar = range(lm.bridge.cfg.n_layers), lm.readout != "tokens"
    names = [f"blocks.{block}.attn.hook_pattern" for block in blocks]
    outs = [f"blocks.{block}.attn.hook_z" for block in blocks]
    last = f"blocks.{len(blocks) - 1}.hook_resid_post"
    posts = [post_hook(lm, block, "attn") for block in blocks]
    ids, later = torch.tensor(rows, device=lm.device), begin + length
    values = {name: np.zeros((len(blocks), lm.bridge.cfg.n_heads)) for name in list(WORDS)[: 2 if scalar else 3]}
    words = None if scalar else unembedding(lm)
    middle = torch.zeros(()) if words is None else words.mean(0)
    for number in range(0, batch, TOGETHER):
        texts = slice(number, min(number + TOGETHER, batch))
        share = (texts.stop - number) / batch
        _, cache = lm.run_with_cache(rows[texts], names if scalar else [*names, *outs, last, *filter(None, posts)])
        for block in blocks:
            pattern = cache[names[block]].float()
            values["prefix_matching"][block] += share * array(_prefix_matching(pattern, begin, length))
            values["previous_token"][block] += share * array(pattern.diagonal(-1, -2, -1).mean((0, 2)))
            if words is not None:
                outputs = torch.einsum("bthk,hkd->bhtd", cache[outs[block]][:, later:], output_maps(lm, block))
                if post := posts[block]:
                    outputs = post_norm(lm, block, "attn", cache[post][:, None, later:])(outputs)
                sources = pattern[:, :, later:, begin:].argmax(-1) % length
                sample = words[ids[texts, begin:later]] - middle
                copied = _copying(lm, outputs, cache[last][:, later:], sources, sample)
                values["copying"][block] += share * array(copied)
        tick(texts.stop / batch)
    even = torch.ones(ids.shape[1], ids.shape[1]).tril()
    even = (even / even.sum(-1, keepdim=True))[None, None]
    chance = {"prefix_matching": float(_prefix_matching(even, begin, length)), "copying": 2 / length - 1}
    chance["previous_token"] = float(even.diagonal(-1, -2, -1).mean())
    return HeadScores(
        {name: value.astype(np.float32) for name, value in values.items()},
        {name: chance[name] for name in values},
        rows,
    )


def _prefix_matching(pattern: Float[Tensor, "B H T T"], begin: int, length: int) -> Float[Tensor, " H"]:
    """Compute the mean weight from later repeats on the tokens that followed the query's token earlier."""
    query = torch.arange(begin + length, pattern.shape[-1], device=pattern.device)
    hits = pattern.new_zeros(pattern.shape[1])
    for back in range(length, pattern.shape[-1] - begin, length):
        queries = query[query - back >= begin]
        hits += pattern[:, :, queries, queries - back + 1].sum(-1).mean(0)
    return hits / len(query)


def _copying(
    lm: LM,
    outputs: Float[Tensor, "B H t d"],
    last: Float[Tensor, "B t d"],
    sources: Int[Tensor, "B H t"],
    sample: Float[Tensor, "B n d"],
) -> Float[Tensor, " H"]:
    """Compute the copying score of each head of one block.

    `sample` has the rows of the unembedding for the sampled tokens, minus the mean over the vocabulary.
    """
    normed = final_norm(lm, last[:, None])(outputs)
    increases = torch.einsum("bhtd,bnd->bhtn", normed, sample).relu()
    share = increases.gather(-1, sources[..., None])[..., 0] / increases.sum(-1).clamp(min=1e-30)
    return 2 * share.mean((0, 2)) - 1


def random_repeats(lm: LM, length: int, batch: int, repeats: int, seed: int) -> tuple[list[list[int]], int, int]:
    """Sample texts of repeated random tokens.

    The tokens are drawn from the vocabulary without special tokens, each at most once per repeat. Also returned are the
    number of beginning-of-text tokens and the length of a repeat.
    """
    if length < 1 or batch < 1 or repeats < 2:
        raise ConfigError(
            f"{batch} texts of {length} tokens repeated {repeats} times were requested: give at least one text, one "
            "token and two repeats."
        )
    embeddings = lm.model.get_input_embeddings()
    size = min(len(lm.tokenizer), int(embeddings.weight.shape[0]))
    special = set(lm.tokenizer.all_special_ids)
    usable = np.array([token for token in range(size) if token not in special])
    generator = np.random.default_rng(seed)
    length = min(length, len(usable))
    begin = encode(lm.tokenizer, "")
    samples = [generator.choice(usable, length, replace=False).tolist() for _ in range(batch)]
    return [[*begin, *(tokens * repeats)] for tokens in samples], len(begin), length
