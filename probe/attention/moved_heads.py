"""Which heads attend elsewhere in one model than in another, and where one of them does."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from probe.analyses.analysis_record import Asked, Chat
from probe.analyses.catalogue import analysis
from probe.attention.figures import change_map
from probe.attention.patterns import Attention, difference, distance_table
from probe.attention.reading import (
    Given,
    Head,
    HeadName,
    New,
    head_name,
    most_moved_head,
    parse_head,
    read_asked,
    standing_out,
)
from probe.errors import DataError
from probe.model.lm import LM
from probe.numbers import rate
from probe.plotting.notebook import Drawable, Look, clickable, pair, titled
from probe.runs import captured

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOVED = r"\mathrm{moved} = \tfrac12 \sum_s |\alpha^{\text{aligned}}_{t,s} - \alpha^{\text{base}}_{t,s}|"
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
    equations=(MOVED,),
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
