"""What every head of a model attends to on a prompt, and which head moved most from one model to another.

Axes: D blocks, H heads, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import SHARED, Input, Prompt
from probe.analyses.catalogue import analysis
from probe.attention.patterns import Attention, attention, difference, distance_table, head_distance
from probe.attention.scores import pattern_scores
from probe.model.lm import LM
from probe.numbers import in_percent, rate
from probe.plotting.notebook import Beside, alone, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go

Head = tuple[int, int]
"""(layer, head), both from 0."""
DOES = {
    "induction": "attends to what followed earlier copies of a token (induction)",
    "duplicate_token": "attends to earlier copies of a token",
    "previous_token": "attends to the token before",
}
"""What a score of patterns says of a head, the rarest behaviour first."""
STANDS_OUT = 0.3
"""Share of a head's attention from which a behaviour is named as what the head does."""
STILL = 0.005
"""Share of attention that went elsewhere below which two models are said to attend alike."""
STAGES = (
    r"\text{E3}\quad s_{t,s} = \langle R_t M h_t, R_s N h_s\rangle / \sqrt{d_h}",
    r"\text{E4}\quad \alpha_{t,\cdot} = \mathrm{softmax}(s_{t,\le t})",
    r"\text{E5}\quad o_t = \sum_s \alpha_{t,s} L h_s",
)


def strongest(read: Attention) -> tuple[Head, str]:
    """Find and describe a head with a recognisable behaviour, else the head that attends least to the first token."""
    values = pattern_scores(read).values
    candidates = []
    for name in DOES:
        head = argmax(values[name])
        candidates.append((float(values[name][head]), head, name))
    clear = [each for each in candidates if each[0] >= STANDS_OUT]
    if clear:
        share, head, name = clear[0] if clear[0][2] == "induction" else max(clear)
        more = [each for each in clear if each[2] != name]
        text = f"L{head[0]}H{head[1]} {DOES[name]} with {rate(share)} of its attention"
        if more:
            share, other, second = max(more)
            text += f", L{other[0]}H{other[1]} {DOES[second].removeprefix('attends ')} with {rate(share)}"
        return head, text
    sink = values["sink"]
    head = argmax(-sink)
    words = (
        f"no head stands out; on average {rate(float(sink.mean()))} of the attention rests on the first token, "
        f"least in L{head[0]}H{head[1]} ({rate(float(sink[head]))})"
    )
    return head, words


def most_moved_head(first: Attention, second: Attention, names: tuple[str, str], of: str = "") -> tuple[Head, str]:
    """Find the head that moved most between two models, and say how.

    Args:
        first: what one attends to.
        second: what the other one attends to, of as many heads on the same text.
        names: what the two are called.
        of: of which run they are steps, as the end of a clause.
    """
    distance = head_distance(first, second)
    head = argmax(distance)
    change = difference(first, second)[head]
    query, key = np.unravel_index(int(np.abs(change).argmax()), change.shape)
    tokens = [quote_token(second.tokens, int(index)) for index in (query, key)]
    tokens[1] = "itself" if query == key else tokens[1]
    before, after = (float(read.pattern[(*head, query, key)]) for read in (first, second))
    name, share = f"L{head[0]}H{head[1]}", float(distance[head])
    if share < STILL:
        return head, (
            f"Attention hardly moved between {names[0]} and {names[1]}{of}: even {name}, which moved most, sent "
            f"only {in_percent(share)} of it elsewhere"
        )
    return head, (
        f"Between {names[0]} and {names[1]}{of}, the attention of {name} moved most: {rate(share)} of it went "
        f"elsewhere, whatever that does to the answer; the weight from {tokens[0]} to {tokens[1]} changed most "
        f"({before:.2f} \u2192 {after:.2f})"
    )


def same_text(one: Attention, other: Attention) -> bool:
    """Return whether two models read the same tokens."""
    return one.ids == other.ids and one.tokens == other.tokens


def quote_token(tokens: Sequence[str], index: int) -> str:
    """Quote a token, with its position where the text contains it several times."""
    where = f" [{index}]" if list(tokens).count(tokens[index]) > 1 else ""
    return f"\u201c{tokens[index].strip()}\u201d{where}"


def argmax(values: np.ndarray) -> Head:
    """Return layer and head of the largest of [D H] values."""
    layer, head = np.unravel_index(int(values.argmax()), values.shape)
    return int(layer), int(head)


class Attentions(Beside[Attention]):
    """What the heads of one model or several attend to on one prompt."""

    @property
    def comparable(self) -> bool:
        """Whether there are two models whose heads and tokens pair up."""
        first, last = self.results[0], self.results[-1]
        return len(self.results) == 2 and same_text(first, last) and first.pattern.shape == last.pattern.shape

    @property
    def hooked(self) -> Sequence[int]:
        """The ids of the text, where all models read the same."""
        alike = all(same_text(each, self.results[-1]) for each in self.results)
        return self.results[-1].ids if alike else ()

    def sentence(self) -> str:
        """Name the head that moved most between two models, or what stands out in each."""
        if self.comparable:
            first, second = self.results
            return f"{most_moved_head(first, second, (self.looks[0].name, self.looks[1].name))[1]}."
        parts = [f"in {look.name}, {strongest(read)[1]}" for look, read in zip(self.looks, self.results, strict=True)]
        if len(parts) == 1:
            return f"On this prompt, {parts[0]}."
        sentence = "; ".join(parts) + "."
        return sentence[0].upper() + sentence[1:]

    def figures(self) -> "dict[str, go.Figure]":
        """Draw every head as one heat map, and the difference of two models."""
        from probe.attention.figures import attention_mosaic, mosaic_pair

        title = "Attention of every head"
        if len(self.results) == 2:
            first, second = self.results
            names = self.looks[0].name, self.looks[1].name
            others = None if same_text(first, second) else second.tokens
            pair = mosaic_pair((first.pattern, second.pattern), first.tokens, names=names, others=others)
            return {"heads": titled(pair, title)}
        return {
            f"heads-{index}" if index else "heads": titled(
                attention_mosaic(read.pattern, read.tokens, boundary=read.written),
                title + f" of {look.name}" * (len(self.results) > 1),
            )
            for index, (look, read) in enumerate(zip(self.looks, self.results, strict=True))
        }

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads that moved most between two models, and what every head looks at."""
        moved = {}
        if self.comparable:
            table = distance_table(self.results[0], self.results[1]).drop(columns=["layer", "head"])
            moved["Heads that moved most"] = table.rename(columns={"name": "head", "total_variation": "moved, share"})
        scores = []
        for look, read in zip(self.looks, self.results, strict=True):
            own = pattern_scores(read).table().drop(columns=["layer", "head"]).rename(columns={"name": "head"})
            own.insert(0, "model", look.name)
            scores.append(own)
        return moved | {"What heads look at": pd.concat(scores, ignore_index=True)}


@dataclass(frozen=True)
class PromptAttention(Attention):
    """What every head attends to on a prompt."""

    def sentence(self) -> str:
        """Say what stands out in the heads."""
        return Attentions((self,), alone()).sentence()

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return what every head looks at."""
        return Attentions((self,), alone()).lists()


@analysis("attention", title="Patterns", equations=STAGES, key="att", beside=Attentions)
def read_attention(
    lm: LM,
    prompt: Prompt,
    max_new_tokens: Annotated[int, Input("New tokens", key="att_new", within=(0, 64))] = 0,
    chat: Annotated[bool, SHARED["chat"]] = False,
) -> PromptAttention:
    """Read what every head attends to on a prompt, and while the model goes on.

    A head compares the query of token *t* with the keys of the tokens up to it (scores, E3), turns the scores of a row
    into weights that sum to 1 (softmax, E4), and adds the mixture of the values that the weights give to the residual
    stream of *t* (E5). Rows are queries (destination), columns keys (source). Attention during generation is the rows
    from the last token of the prompt on: row *t* is what the step that chose token *t* + 1 attended to. *Moved* is the
    total variation distance, half the sum of absolute changes of a row, mean over the rows that have a choice.
    Previous token, duplicate token and induction are the shares of all weight on the token before, on earlier copies
    of the token, and on what followed those.

    Args:
        lm: the model.
        prompt: what it reads.
        max_new_tokens: how many tokens the model goes on for at most, greedily.
        chat: send the prompt as a user's message in the model's chat template.

    Raises:
        DataError: an empty text or one longer than the context.
        ConfigError: a continuation was asked from a model that reads out a scalar.
    """
    text = lm.prompt_text([{"role": "user", "content": prompt}]) if chat else prompt
    return PromptAttention(**vars(attention(lm, text, max_new_tokens=max_new_tokens)))
