"""What every head of a model attends to on a prompt, and which head moved most from one model to another.

Axes: D blocks, H heads, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis
from probe.attention.patterns import Attention, attention, difference, distance_table, head_distance
from probe.attention.scores import pattern_scores
from probe.errors import DataError
from probe.model.asked import asked_ids
from probe.model.heads import head_names
from probe.model.lm import LM
from probe.numbers import in_percent, rate
from probe.plotting.notebook import Beside, Drawable, Look, alone, clickable, pair, titled
from probe.runs import captured
from probe.texts import visible

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


def same_text(one: Any, other: Any) -> bool:
    """Return whether two results are of the same `tokens` with the same `ids`."""
    return bool(one.ids == other.ids and one.tokens == other.tokens)


def shared_ids(results: Sequence[Any]) -> Sequence[int]:
    """Return the ids of the text that all results are of; none where models read other tokens."""
    ids: Sequence[int] = results[-1].ids
    return ids if all(same_text(each, results[-1]) for each in results) else ()


def quote_token(tokens: Sequence[str], index: int) -> str:
    """Quote a token, with its position where the text contains it several times."""
    where = f" [{index}]" if list(tokens).count(tokens[index]) > 1 else ""
    return f"\u201c{tokens[index].strip()}\u201d{where}"


def argmax(values: np.ndarray) -> Head:
    """Return layer and head of the largest of [D H] values."""
    layer, head = np.unravel_index(int(values.argmax()), values.shape)
    return int(layer), int(head)


New = Annotated[int, Input("New tokens", key="att_new", within=(0, 64))]
"""How many tokens a model goes on for."""
Given = Annotated[int | None, Input("Tokens given", advanced=True)]
"""How many tokens of a text were given, where a model wrote the rest."""


def heads_of(*lms: LM) -> list[str]:
    """Return the names of all heads of the last model."""
    return head_names(lms[-1].bridge.cfg.n_layers, lms[-1].bridge.cfg.n_heads)


def head_name(head: Head) -> str:
    """Such as `L2H1`."""
    return f"L{head[0]}H{head[1]}"


def parse_head(name: str) -> Head:
    """Return the head whose name `head_name` gave."""
    layer, _, head = name[1:].partition("H")
    return int(layer), int(head)


def queries_of(found: Beside[Any]) -> dict[int, str]:
    """Return the positions of all tokens of the last model, and what they are called."""
    return {index: f"{index}: {visible(token)}" for index, token in enumerate(found.results[-1].tokens)}


def last_given(found: Beside[Any]) -> int:
    """Return the position of the token that predicts what follows the prompt."""
    return int(found.results[-1].prompt_length) - 1


Query = Annotated[int | None, Input("Query token", key="att_query", choices=queries_of, first=last_given)]
"""A token that looks; None is the last one of the prompt."""
HeadName = Annotated[str | None, Input("Head", key="att_head", choices=heads_of, nothing="the one that stands out")]
"""A head by its name; None is the one that moved most between two models, or stands out in one."""


def heads_shown(found: Beside[Any]) -> list[str]:
    """Return the names of all heads of the last model."""
    return list(found.results[-1].heads)


ShownHead = Annotated[str | None, Input("Head", key="att_head", choices=heads_shown, nothing="the one that stands out")]
"""The same, chosen among the heads of a result."""


def read_asked(
    lm: LM, prompt: str | Sequence[int], chat: bool = False, max_new_tokens: int = 0, given: int | None = None
) -> Attention:
    """Read what every head attends to on a prompt, and while the model goes on.

    Args:
        lm: the model.
        prompt: a text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: how many tokens the model goes on for at most, greedily.
        given: how many of the tokens were given, where a model wrote the rest of them.

    Raises:
        DataError: an empty text or one longer than the context.
        ConfigError: a continuation was asked from a model that reads out a scalar.
    """
    found = attention(lm, asked_ids(lm, prompt, chat), max_new_tokens=max_new_tokens)
    return found if given is None else replace(found, prompt_length=given)


def standing_out(reads: Sequence[Attention]) -> Head:
    """Return the head that moved most between two models, else the one that stands out in the last."""
    first, last = reads[0], reads[-1]
    if len(reads) == 2 and same_text(first, last) and first.pattern.shape == last.pattern.shape:
        return argmax(head_distance(first, last))
    return strongest(last)[0]


def same_reading(
    lms: Sequence[LM],
    *,
    prompt: str | Sequence[int],
    chat: bool = False,
    max_new_tokens: int = 0,
    given: int | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Return one text for all models, with what the last one goes on with, and one head where none is named.

    Models of other tokens each read the prompt by their own.
    """
    found: dict[str, Any] = {}
    if isinstance(prompt, str) and all(lm.tokenizer.get_vocab() == lms[-1].tokenizer.get_vocab() for lm in lms):
        read = read_asked(lms[-1], prompt, chat, max_new_tokens, given)
        found = {"prompt": tuple(read.ids), "chat": False, "max_new_tokens": 0, "given": read.prompt_length}
    if others.get("head", "") is None:
        options = {"prompt": prompt, "chat": chat, "max_new_tokens": max_new_tokens, "given": given} | found
        found["head"] = head_name(standing_out([read_asked(lm, **options) for lm in lms]))
    return found


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
        return shared_ids(self.results)

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


@analysis("attention", title="Patterns", equations=STAGES, key="att", beside=Attentions, settle=same_reading)
def read_attention(
    lm: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    max_new_tokens: New = 0,
    given: Given = None,
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
        prompt: a text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: how many tokens the model goes on for at most, greedily.
        given: how many of the tokens were given, where a model wrote the rest of them.

    Raises:
        DataError: an empty text or one longer than the context.
        ConfigError: a continuation was asked from a model that reads out a scalar.
    """
    return PromptAttention(**vars(read_asked(lm, prompt, chat, max_new_tokens, given)))


RANKED = 16
"""Heads that a ranking shows."""


@dataclass(frozen=True)
class AttentionShift(Drawable):
    """Which heads attend elsewhere in one model than in another, and where one of them does."""

    reads: tuple[Attention, Attention]
    """Of both models on one text."""
    head: Head
    """The one that is enlarged."""
    looks: tuple[Look, ...] = field(default_factory=pair)
    """Names and colours of the models."""

    @property
    def hooked(self) -> Sequence[int]:
        """The ids of the text."""
        return self.reads[1].ids

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Where the chosen head stands."""
        table, (layer, number) = distance_table(*self.reads), self.head
        place = int(table.index[(table["layer"] == layer) & (table["head"] == number)][0])
        return (
            f"{head_name(self.head)} is number {place + 1} of {len(table)}: {rate(table['total_variation'][place])} of "
            f"its attention went elsewhere (Jensen-Shannon divergence {table['jensen_shannon'][place]:.3f} nats), mean "
            "over the tokens that have a choice.",
        )

    def sentence(self) -> str:
        """Name the head that moved most, and how."""
        return f"{most_moved_head(*self.reads, (self.looks[0].name, self.looks[1].name))[1]}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return how far every head moved, and the change of the chosen one weight by weight."""
        layer, number = self.head
        change = difference(*self.reads)[layer : layer + 1, number : number + 1]
        rows = captured.attention_table(change, self.reads[1].tokens, [layer]).assign(head=number)
        return {"moved": distance_table(*self.reads), "change": rows.rename(columns={"weight": "change"})}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the heads that moved most, and the change of the chosen one."""
        from probe.attention.figures import change_map
        from probe.attention.head_figures import head_ranking

        table, second = distance_table(*self.reads), self.reads[1]
        top, label = table.head(RANKED), "share of attention that went elsewhere"
        heads = [(int(layer), int(number)) for layer, number in zip(top["layer"], top["head"], strict=True)]
        values, colour = top["total_variation"].to_numpy(), self.looks[1].colour
        ranking = head_ranking(heads, values, label, chosen=self.head, colour=colour)
        change = change_map(difference(*self.reads)[self.head], second.tokens, boundary=second.written)
        base, aligned = (look.name for look in self.looks)
        return {
            "moved": titled(clickable(ranking, head="customdata"), f"Heads that moved most, of {len(table)}", 430),
            "change": titled(change, f"{head_name(self.head)}: {aligned} minus {base}", 430),
        }

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads that moved most first."""
        table = distance_table(*self.reads).drop(columns=["layer", "head"])
        names = {"name": "head", "total_variation": "moved, share", "jensen_shannon": "Jensen-Shannon, nats"}
        return {"Heads that moved most": table.rename(columns=names)}


@analysis(
    "attention",
    title="What moved",
    equations=(r"\mathrm{moved} = \tfrac12 \sum_s |\alpha^{\text{aligned}}_{t,s} - \alpha^{\text{base}}_{t,s}|",),
    key="att",
    widths=((4, 5),),
)
def compare_attention(
    base: LM,
    aligned: LM,
    prompt: Asked,
    *,
    head: HeadName = None,
    chat: Chat = False,
    max_new_tokens: New = 0,
    given: Given = None,
) -> AttentionShift:
    """Measure which heads attend elsewhere in one model than in another.

    *Moved* is the total variation distance, half the sum of absolute changes of a row, mean over the rows that have a
    choice. It is about where heads look, whatever that does to the answer. Both models read one text; with new tokens,
    what the aligned one goes on with.

    Args:
        base: the model compared against.
        aligned: the other one, with as many heads and the same tokens.
        prompt: a text or its token ids.
        head: the head that is enlarged; by default the one that moved most.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: how many tokens the aligned model goes on for at most, greedily.
        given: how many of the tokens were given, where a model wrote the rest of them.

    Raises:
        DataError: an empty text or one longer than the context, other tokens, or numbers of heads that differ.
        ConfigError: a continuation was asked from a model that reads out a scalar.
    """
    after = read_asked(aligned, prompt, chat, max_new_tokens, given)
    before = read_asked(base, after.ids, given=after.prompt_length)
    difference(before, after)
    if before.tokens != after.tokens:
        raise DataError("The two models split this prompt into different tokens: choose two models of one family.")
    return AttentionShift((before, after), standing_out([before, after]) if head is None else parse_head(head))
