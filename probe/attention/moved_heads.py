"""Heads whose attention differs between two models, and where one of them attends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from probe.analyses.analysis_record import Asked, Chat
from probe.analyses.catalogue import analysis
from probe.attention.figures import change_map
from probe.attention.patterns import RANKED_BY, Attention, difference, distance_table
from probe.attention.reading import (
    LABELS,
    SINK,
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
from probe.model.asked import asked_seconds
from probe.model.lm import LM
from probe.numbers import rate
from probe.plotting.notebook import Drawable, Look, clickable, pair, titled
from probe.runs import captured
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOVED = r"\mathrm{moved} = \tfrac12 \sum_s |\alpha^{\text{aligned}}_{t,s} - \alpha^{\text{base}}_{t,s}|"
OTHERS = r"\mathrm{moved}_{\text{other tokens}} = \mathrm{moved} - |\Delta\alpha_{t,0}|"
RANKED = 16
"""Number of heads in a ranking."""


@dataclass(frozen=True)
class AttentionShift(Drawable):
    """Heads whose attention differs between two models, and the change of one of them."""

    reads: tuple[Attention, Attention]
    """Attention of both models on one text."""
    head: Head
    """Head that is enlarged."""
    looks: tuple[Look, ...] = field(default_factory=pair)
    """Names and colours of the models."""

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of the text."""
        return self.reads[1].ids

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes on the place of the chosen head, and on the first token."""
        table, (layer, number) = distance_table(*self.reads), self.head
        place = int(table.index[(table["layer"] == layer) & (table["head"] == number)][0])
        return (
            f"{head_name(self.head)} ranks {place + 1} of {len(table)}: {rate(table[RANKED_BY][place])} of its"
            " attention moved among tokens other than the first. With the first, the total variation is"
            f" {rate(table['total_variation'][place])} and the Jensen-Shannon divergence"
            f" {table['jensen_shannon'][place]:.3f} nats. All are means over the queries after the first.",
            SINK,
        )

    def sentence(self) -> str:
        """Name the head whose attention changed most, and describe the change."""
        return f"{most_moved_head(*self.reads, (self.looks[0].name, self.looks[1].name))[1]}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return how far every head moved, and the change of every weight of the chosen head."""
        layer, number = self.head
        change = difference(*self.reads)[layer : layer + 1, number : number + 1]
        rows = captured.attention_table(change, self.reads[1].tokens, [layer]).assign(head=number)
        return {"moved": distance_table(*self.reads), "change": rows.rename(columns={"weight": "change"})}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the heads that moved most, and the change of the chosen head."""
        from probe.attention.head_figures import head_ranking

        table, second = distance_table(*self.reads), self.reads[1]
        top, label = table.head(RANKED), "attention moved among tokens other than the first"
        heads = [(int(layer), int(number)) for layer, number in zip(top["layer"], top["head"], strict=True)]
        values, colour = top[RANKED_BY].to_numpy(), self.looks[1].colour
        ranking = head_ranking(heads, values, label, chosen=self.head, colour=colour)
        change = change_map(difference(*self.reads)[self.head], second.tokens, boundary=second.written)
        base, aligned = (look.name for look in self.looks)
        return {
            "moved": titled(
                clickable(ranking, head="customdata"), f"Heads whose attention changed most, of {len(table)}", 430
            ),
            "change": titled(change, f"{head_name(self.head)}: {aligned} minus {base}", 430),
        }

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads, those that moved most first."""
        table = distance_table(*self.reads).drop(columns=["layer", "head"])
        return {"Heads that moved most": table.rename(columns=LABELS)}


@analysis(
    "attention",
    title="What moved",
    equations=(MOVED, OTHERS),
    seconds=asked_seconds,
    key="att",
    widths=((4, 5),),
    stored=False,
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
    tick: Tick = ignore,
) -> AttentionShift:
    """Measure how much the attention of each head differs between two models.

    *Moved* is the total variation distance: half the sum of absolute changes of a row, averaged over all rows but the
    first, which has only one key. Heads are ranked by its part among tokens other than the first, which leaves out what
    the first token gained or lost: idle heads rest on it (an attention sink, Xiao et al. 2024). It measures where heads
    attend, not what this does to the answer. Both models read the same text; new tokens are generated by the aligned
    model.

    Args:
        base: model to compare against.
        aligned: the other model, with the same number of heads and the same tokens.
        prompt: text or its token ids.
        head: head to enlarge; by default the one that moved most.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: maximum number of tokens that the aligned model generates greedily.
        given: number of prompt tokens, if a model generated the rest of the tokens.
        tick: called with the completed share.

    Raises:
        DataError: the text is empty or longer than the context, or tokens or numbers of heads differ.
        ConfigError: a continuation was requested from a model with a scalar output.
    """
    after = read_asked(aligned, prompt, chat, max_new_tokens, given)
    tick(0.5)
    before = read_asked(base, after.ids, given=after.prompt_length)
    difference(before, after)
    if before.tokens != after.tokens:
        raise DataError(
            "The two models split this prompt into different tokens: choose two models with the same tokenizer."
        )
    return AttentionShift((before, after), standing_out([before, after]) if head is None else parse_head(head))
