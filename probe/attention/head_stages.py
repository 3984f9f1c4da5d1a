"""One head, stage by stage: what it compares, what it attends to, what it writes into the residual stream.

Axes: D blocks, H heads, T tokens, k tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.analysis_record import Asked, Chat
from probe.analyses.catalogue import analysis
from probe.attention import figures as plots
from probe.attention.patterns import attention, continue_text
from probe.attention.reading import (
    STAGES,
    Given,
    HeadName,
    New,
    Query,
    parse_head,
    quote_token,
    same_reading,
    standing_out,
)
from probe.logits.direct import direct_logits, post_hook, post_norm
from probe.model.asked import asked_ids, asked_seconds
from probe.model.equations import bilinear, read_network
from probe.model.heads import array, check_count, check_head, output_maps
from probe.model.lm import LM
from probe.model.text import pieces, text_ids
from probe.numbers import rate
from probe.plotting.notebook import Beside, Drawable, Look, alone, clickable, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go

STAGED = 1.5
"""Time of the stages of a head on a text, divided by that of reading it."""


class Words(NamedTuple):
    """Tokens whose logits a vector changes most, strongest first; k is 0 if no logit changes in this direction."""

    tokens: np.ndarray
    """[T k] readable pieces; for a model with a scalar output, the readout's name."""
    logits: np.ndarray
    """[T k] changes of their logits (nats), or of the scalar (in its unit)."""


@dataclass(frozen=True)
class Stages(Drawable):
    """One head on one text, stage by stage: scores (E3), pattern (E4), mixed values and output (E5)."""

    layer: int
    """Block of the head, counted from 0."""
    head: int
    """Index of the head in its block, counted from 0."""
    tokens: list[str]
    """[T] readable pieces of the text."""
    scores: np.ndarray
    """[T T] s_{t,s}: scaled products of queries and keys, before the softmax; NaN where t does not see s."""
    pattern: np.ndarray
    """[T T] alpha_{t,s}: softmax of the scores."""
    value_norms: np.ndarray
    """[T] |L h_s|: norm of what the head would write if it attended to s alone (including the value's bias)."""
    contribution: np.ndarray
    """[T T] |alpha_{t,s} L h_s|: value-weighted attention (Kobayashi et al. 2020)."""
    written: np.ndarray
    """[T] |o_t|: norm of what the head writes."""
    share: np.ndarray
    """[T] |o_t| divided by the norm of the residual stream that it is added to."""
    promoted: Words
    """Tokens whose logits o_t raises most, through the final norm (at fixed scale) and the unembedding."""
    suppressed: Words
    """Tokens whose logits o_t lowers most."""

    @property
    def name(self) -> str:
        """Name of the head, such as `L5H3`."""
        return f"L{self.layer}H{self.head}"

    def table(self) -> pd.DataFrame:
        """Return a table with one row per query and key: tokens, score, weight, value_norm, contribution."""
        query, key = np.tril_indices(len(self.tokens))
        names = np.array(self.tokens, dtype=object)
        return pd.DataFrame(
            {
                "query": query,
                "query_token": names[query],
                "key": key,
                "key_token": names[key],
                "score": self.scores[query, key],
                "weight": self.pattern[query, key],
                "value_norm": self.value_norms[key],
                "contribution": self.contribution[query, key],
            }
        )

    def figure(self, query: int | None = None) -> "go.Figure":
        """Draw scores, pattern and the contribution of each source, side by side; `query` is the row to mark."""
        return plots.head_stages([self.row(self.name)], self.tokens, query=query)

    def row(self, name: str) -> "plots.HeadMaps":
        """Return the stages as a row of the figure, labelled with the model's name."""
        return plots.HeadMaps(name=name, scores=self.scores, pattern=self.pattern, written=self.contribution)

    def written_table(self) -> pd.DataFrame:
        """Return a table with one row per position, direction and rank: position, token, written, share, ..."""
        sides = [self._side("promoted", self.promoted), self._side("suppressed", self.suppressed)]
        return pd.concat([side for side in sides if len(side)], ignore_index=True)

    def _side(self, name: str, words: Words) -> pd.DataFrame:
        position, rank = (axis.ravel() for axis in np.indices(words.logits.shape))
        return pd.DataFrame(
            {
                "position": position,
                "token": np.array(self.tokens, dtype=object)[position],
                "written": self.written[position],
                "share": self.share[position],
                "direction": name,
                "rank": rank,
                "moved": words.tokens.ravel(),
                "logit_change": words.logits.ravel(),
            }
        )


@dataclass(frozen=True)
class HeadStages(Stages):
    """One head on a prompt, stage by stage, as a result to draw."""

    prompt_length: int
    """Number of tokens in the prompt; the model generated the rest."""
    unit: str
    """Unit of the output changes: nats, or the unit of a scalar output."""

    def sentence(self, query: Query = None) -> str:
        """Say where the head attends from one token, and what its output changes.

        Args:
            query: position of the query token, counted from 0; by default the last token of the prompt.
        """
        return HeadsStages((self,), alone()).sentence(query)

    def figures(self, query: int | None = None) -> "dict[str, go.Figure]":
        """Draw the stages, what the head writes at each token, and which logits its output changes."""
        return HeadsStages((self,), alone()).figures(query)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the weights of all pairs of tokens, and what the head writes at each token."""
        return {"stages": self.table(), "written": self.written_table()}

    def lists(self, query: int | None = None) -> dict[str, pd.DataFrame]:
        """Return where the head attends from one token, and which logits its output changes."""
        return HeadsStages((self,), alone()).lists(query)


class HeadsStages(Beside[HeadStages]):
    """One head of one model or several on one prompt, stage by stage."""

    notes = (
        "Left: norm of the head's output at each token, as a share of the norm of the residual stream. Right: the"
        " tokens whose logits this output changes most, through the final norm (its scale held fixed) and the"
        " unembedding.",
    )

    def sentence(self, query: int | None = None) -> str:
        """Say from where the head moves most to one token (by the norms of E5), and how large its output is."""
        parts, last = [], self.results[-1]
        at = last.prompt_length - 1 if query is None else query
        for look, each in self._alike():
            source = int(np.nan_to_num(each.contribution[at]).argmax())
            weight, sink = each.pattern[at, source], each.pattern[at, 0]
            rest = (
                f"; {rate(float(sink))} of its attention rests on the first token" if source and sink > weight else ""
            )
            parts.append(
                f"in {look.name} from {_quoted(each.tokens, source, at)} (weight {weight:.2f}{rest}), and its output"
                f" has {rate(float(each.share[at]))} of the norm of the residual stream"
            )
        return f"To {_quoted(last.tokens, at)}, {last.name} moves most {'; '.join(parts)}."

    def _alike(self) -> list[tuple[Look, HeadStages]]:
        """Return the models that tokenise the text as the last one does."""
        pairs = zip(self.looks, self.results, strict=True)
        return [(look, each) for look, each in pairs if each.tokens == self.results[-1].tokens]

    def figures(self, query: int | None = None) -> "dict[str, go.Figure]":
        """Draw the stages, what the head writes at each token, and which logits its output changes."""
        last, own = self.results[-1], self._alike()
        at = last.prompt_length - 1 if query is None else query
        boundary = last.prompt_length if last.prompt_length < len(last.tokens) else None
        chart = plots.head_stages([each.row(look.name) for look, each in own], last.tokens, query=at, boundary=boundary)
        chart = clickable(chart, query="customdata") if len(last.tokens) <= plots.MOST_CLICKABLE else chart
        bars = [(look.name, each.share, each.written) for look, each in own]
        colours = [look.colour for look, _ in own]
        written = plots.written_bars(bars, last.tokens, query=at, colours=colours, boundary=boundary)
        panels = [(look.name, *_moved(each, at)) for look, each in own]
        words = plots.word_bars(
            panels, label=f"change of the {'logit' if last.unit == 'nats' else last.unit}, {last.unit}"
        )
        return {
            "stages": titled(chart, f"{last.name}: bilinear, softmax, linear"),
            "written": titled(clickable(written, query="customdata"), f"Output of {last.name} after each token", 330),
            "words": titled(words, f"Logits changed most by its output after {_quoted(last.tokens, at)}", 330),
        }

    def lists(self, query: int | None = None) -> dict[str, pd.DataFrame]:
        """Return where the head attends from one token, and which logits its output changes."""
        last = self.results[-1]
        at = last.prompt_length - 1 if query is None else query
        looks = [each.table().assign(model=look.name) for look, each in self._alike()]
        rows = pd.concat(looks, ignore_index=True)
        rows = rows[rows["query"] == at].sort_values("contribution", ascending=False, kind="stable", ignore_index=True)
        moved = [
            pd.DataFrame({"model": look.name, "token": tokens, "change of the logit": values})
            for look, each in self._alike()
            for tokens, values in [_moved(each, at)]
        ]
        where = rows[["model", "key", "key_token", "score", "weight", "contribution"]]
        return {f"From {_quoted(last.tokens, at)}": where, "What its output moves": pd.concat(moved, ignore_index=True)}


def _moved(one: Stages, query: int) -> tuple[list[str], np.ndarray]:
    """Return the tokens that the output at one position promotes, then those it suppresses, with the logit changes."""
    up, down = one.promoted, one.suppressed
    tokens = [*up.tokens[query], *reversed(down.tokens[query])]
    return [str(token) for token in tokens], np.array([*up.logits[query], *reversed(down.logits[query])])


def _quoted(tokens: Sequence[str], index: int, of: int | None = None) -> str:
    return "itself" if index == of else quote_token(tokens, index)


def stages_seconds(lm: LM, head: str | None, **asked: Any) -> float:
    """Estimate the seconds that the stages of a head take; to find the head, the prompt is read once more."""
    return asked_seconds(lm, passes=STAGED + (head is None), **asked)


@analysis(
    "attention",
    title="Three stages",
    equations=STAGES,
    seconds=stages_seconds,
    key="att_stages",
    beside=HeadsStages,
    settle=same_reading,
    widths=((1,), (5, 4)),
    stored=False,
)
def read_stages(
    lm: LM,
    prompt: Asked,
    *,
    head: HeadName = None,
    chat: Chat = False,
    max_new_tokens: New = 0,
    given: Given = None,
) -> HeadStages:
    r"""Show one head stage by stage: its scores, its attention weights, and what it writes.

    A head compares the query of token *t* with the keys of the tokens up to it (scores, E3: a bilinear form of the two
    residual streams; with rotary positions it depends on their lag), turns the scores of a row into weights that sum to
    1 (softmax, E4), and adds the weighted sum of the values to the residual stream of *t* (linear, E5). Rows are
    queries (destination), columns keys (source); cells hidden by the causal mask are grey. The norm of $\alpha_{t,s} L
    h_s$ measures how much a source contributes: a large weight on a token with a small value contributes little.

    Args:
        lm: the model.
        prompt: text or its token ids.
        head: name of the head, such as `L2H1`; by default the head with the clearest behaviour.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: maximum number of tokens that the model generates greedily.
        given: number of prompt tokens, if a model generated the rest of the tokens.

    Raises:
        DataError: the text is empty or longer than the context.
        ConfigError: the model has no such head, or a continuation was requested from a model with a scalar output.
    """
    own = asked_ids(lm, prompt, chat)
    ids = continue_text(lm, own, max_new_tokens)
    layer, number = standing_out([attention(lm, ids)]) if head is None else parse_head(head)
    unit = "nats" if lm.readout == "tokens" else lm.readout
    length = len(own) if given is None else given
    return HeadStages(**vars(stages(lm, ids, layer, number)), prompt_length=length, unit=unit)


@torch.no_grad()
def stages(lm: LM, text: str | Sequence[int], layer: int, head: int, *, k: int = 5) -> Stages:
    """Compute one head's scores, weights, value contributions and output.

    If a block normalises the sum of its heads before adding it (Gemma 2), that norm is part of L, at fixed scale.

    Args:
        lm: the model; if its output is a scalar, the change of the scalar replaces the promoted tokens.
        text: text or its token ids.
        layer: block of the head, counted from 0.
        head: index of the head in its block, counted from 0.
        k: number of promoted and of suppressed tokens to keep.

    Raises:
        DataError: the text is empty or longer than the context.
        ConfigError: the model has no such head, or k is less than 1.
    """
    check_head(lm, layer, head)
    check_count(k)
    ids, block = text_ids(lm.tokenizer, text), f"blocks.{layer}."
    post = post_hook(lm, layer, "attn")
    last = f"blocks.{lm.bridge.cfg.n_layers - 1}.hook_resid_post"
    kinds = ["hook_attn_scores", "hook_pattern", "hook_v", "hook_z"]
    names = [block + "attn." + kind for kind in kinds] + [block + "hook_resid_pre", last]
    _, cache = lm.run_with_cache([ids], names + ([post] if post else []))
    scores, pattern, v, z = (cache[block + "attn." + kind][0] for kind in kinds)
    if torch.equal(scores, pattern):  # OPT and GPT-J, whose score hook returns the weights
        own = read_network(lm, check=False).blocks[layer]
        scores = bilinear(own.maps, own.norm(cache[block + "hook_resid_pre"][0].to(own.maps.M.dtype)))
    outside = scores[head] < torch.finfo(scores.dtype).min / 2  # outside a sliding window
    mask = outside | torch.ones_like(outside).triu(1)
    out = output_maps(lm, layer)[head]
    value = v[:, head * v.shape[1] // len(scores)] @ out
    output = z[:, head] @ out
    norms = (value.norm(dim=-1), pattern[head] * value.norm(dim=-1))
    if post:  # the norm's scale belongs to the query, so each pair of query and key has its own length
        norm = post_norm(lm, layer, "attn", cache[post][0])
        output = norm(output)
        lengths = replace(norm, scale=torch.ones_like(norm.scale))(value).norm(dim=-1) / norm.scale
        norms = (lengths.diagonal(), pattern[head] * lengths)
    promoted, suppressed = _words(lm, direct_logits(lm, output, cache[last][0]), k)
    return Stages(
        layer=layer,
        head=head,
        tokens=pieces(lm.tokenizer, ids),
        scores=array(scores[head].masked_fill(mask, torch.nan)),
        pattern=array(pattern[head]),
        value_norms=array(norms[0]),
        contribution=array(norms[1]),
        written=array(output.norm(dim=-1)),
        share=array(output.norm(dim=-1) / cache[block + "hook_resid_pre"][0].norm(dim=-1)),
        promoted=promoted,
        suppressed=suppressed,
    )


def _words(lm: LM, logits: Float[Tensor, "T V"], k: int) -> tuple[Words, Words]:
    if lm.readout != "tokens":
        names = np.full((len(logits), 1), lm.readout, dtype=object)
        return Words(names, array(logits)), Words(names[:, :0], array(logits[:, :0]))
    sides = []
    for sign in (1, -1):
        top = (sign * logits).topk(min(k, logits.shape[-1]), dim=-1)
        names = np.array(pieces(lm.tokenizer, top.indices.ravel().tolist()), dtype=object).reshape(top.indices.shape)
        sides.append(Words(names, sign * array(top.values)))
    return sides[0], sides[1]
