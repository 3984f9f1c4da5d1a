"""Attention of every head of a model on a prompt, and the heads that differ most between two models.

Axes: D blocks, H heads, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis
from probe.attention.figures import attention_head, attention_mosaic, layer_groups, mosaic_pair
from probe.attention.patterns import (
    RANKED_BY,
    Attention,
    attention,
    continue_text,
    difference,
    distance_table,
    head_distance,
)
from probe.attention.scores import pattern_scores
from probe.errors import ConfigError
from probe.model.asked import asked_ids, asked_seconds
from probe.model.heads import head_names
from probe.model.lm import LM
from probe.model.text import pieces
from probe.numbers import in_percent, rate
from probe.plotting.notebook import Beside, Look, alone, clickable, titled
from probe.runs import captured
from probe.texts import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

Head = tuple[int, int]
"""(layer, head), both counted from 0."""
DOES = {
    "induction": "attends to the tokens that followed earlier copies (induction)",
    "duplicate_token": "attends to earlier copies of a token",
    "previous_token": "attends to the token before",
}
"""Description of the behaviour that each pattern score measures, the rarest behaviour first."""
STANDS_OUT = 0.3
"""Share of a head's attention above which a behaviour is named as the head's behaviour."""
LONG = 192
"""Largest number of tokens for which a page shows patterns cell by cell; longer texts get statistics of every head."""
HEIGHT, WIDTH = 400, 740
"""Largest height and width of a mosaic in pixels, without colour bars; the width is that of a pair with its difference.
"""
STILL = 0.005
"""Share of attention that moved below which two models are said to attend alike."""
LABELS = {
    "name": "head",
    "other_tokens": "moved among tokens other than the first, share",
    "total_variation": "moved with the first token, share",
    "jensen_shannon": "Jensen-Shannon with the first token, nats",
}
"""Headings of the table of heads that moved."""
SINK = (
    "Idle heads rest on the first token (an attention sink): weight that only moves to or from it does not count when"
    " heads are ranked."
)
"""Note on rankings of heads."""
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
        f"no head stands out; on average {rate(float(np.nanmean(sink)))} of the attention rests on the first token, "
        f"least in L{head[0]}H{head[1]} ({rate(float(sink[head]))})"
    )
    return head, words


def most_moved_head(first: Attention, second: Attention, names: tuple[str, str], of: str = "") -> tuple[Head, str]:
    """Find the head whose attention moved most among tokens other than the first, and describe the change.

    Args:
        first: attention of one model.
        second: attention of the other model, with the same number of heads on the same text.
        names: names of the two.
        of: end of a clause that names the run, if they are steps of one.
    """
    moved, whole = head_distance(first, second, RANKED_BY), head_distance(first, second)
    head = argmax(moved)
    if moved[head] < STILL:
        most = argmax(whole)
        share = float(whole[most])
        if share < STILL:
            return head, (
                f"Attention hardly changed between {names[0]} and {names[1]}{of}: the largest total variation is "
                f"{in_percent(share)} ({head_name(most)})"
            )
        return head, (
            f"Between {names[0]} and {names[1]}{of}, heads moved attention almost only to or from the first token:"
            f" {head_name(most)} most, {rate(share)} of it"
        )
    change = difference(first, second)[head][:, 1:]
    query, key = map(int, np.unravel_index(int(np.abs(change).argmax()), change.shape))
    at, key = query + second.first, key + 1
    tokens = quote_token(second.tokens, at), "itself" if at == key else quote_token(second.tokens, key)
    before, after = (float(read.pattern[(*head, query, key)]) for read in (first, second))
    return head, (
        f"Between {names[0]} and {names[1]}{of}, {head_name(head)} changed its attention most: {rate(moved[head])} of"
        f" it moved among tokens other than the first ({rate(whole[head])} with the first), which is not its effect on"
        f" the answer; the weight from {tokens[0]} to {tokens[1]} changed most ({before:.2f} \u2192 {after:.2f})"
    )


def same_text(one: Any, other: Any) -> bool:
    """Return whether two results have the same `tokens` and `ids`."""
    return bool(one.ids == other.ids and one.tokens == other.tokens)


def shared_ids(results: Sequence[Any]) -> Sequence[int]:
    """Return the token ids that all results share; none if they differ."""
    ids: Sequence[int] = results[-1].ids
    return ids if all(same_text(each, results[-1]) for each in results) else ()


def quote_token(tokens: Sequence[str], index: int) -> str:
    """Quote a token, with its position if the text contains it several times."""
    where = f" [{index}]" if list(tokens).count(tokens[index]) > 1 else ""
    return f"\u201c{tokens[index].strip()}\u201d{where}"


def argmax(values: np.ndarray) -> Head:
    """Return layer and head of the largest of [D H] values; NaN stands for heads that were not captured."""
    layer, head = np.unravel_index(int(np.nan_to_num(values, nan=-np.inf).argmax()), values.shape)
    return int(layer), int(head)


MOST_NEW = 64
"""Largest number of new tokens that a reader can request."""
New = Annotated[int, Input("New tokens", key="att_new", within=(0, MOST_NEW))]
"""Number of tokens to generate."""
Given = Annotated[int | None, Input("Tokens given", advanced=True)]
"""Number of prompt tokens, if a model generated the rest of the tokens."""


def heads_of(*lms: LM) -> list[str]:
    """Return the names of all heads of the last model."""
    return head_names(lms[-1].bridge.cfg.n_layers, lms[-1].bridge.cfg.n_heads)


def head_name(head: Head) -> str:
    """Format a head's name, such as `L2H1`."""
    return f"L{head[0]}H{head[1]}"


def parse_head(name: str) -> Head:
    """Parse a head's name as `head_name` formats it."""
    layer, _, head = name[1:].partition("H")
    return int(layer), int(head)


def find_head(name: str, heads: Sequence[str]) -> Head:
    """Find a head by name among these names.

    Raises:
        ConfigError: the name is not among them.
    """
    if name not in heads:
        raise ConfigError(f"There is no head {name!r} here: give one of {', '.join(heads)}.")
    return parse_head(name)


def queries_of(found: Beside[Any]) -> dict[int, str]:
    """Return the positions of all tokens of the last model, with their labels."""
    return {index: f"{index}: {visible(token)}" for index, token in enumerate(found.results[-1].tokens)}


def last_given(found: Beside[Any]) -> int:
    """Return the position of the last prompt token, which predicts the first new token."""
    return int(found.results[-1].prompt_length) - 1


Query = Annotated[int | None, Input("Query token", key="att_query", choices=queries_of, first=last_given)]
"""Position of the query token; None stands for the last token of the prompt."""
HeadName = Annotated[str | None, Input("Head", key="att_head", choices=heads_of, nothing="auto")]
"""Name of a head; None stands for the head that moved most between two models, or that stands out in one."""


def layers_shown(found: "Attentions") -> list[str]:
    """Return the labels of the groups of layers, one mosaic each; none if one mosaic shows all layers."""
    groups = list(found.layers)
    return groups if len(groups) > 1 else []


ShownHead = Annotated[
    str | None, Input("Head", key="att_head", choices=lambda found: list(found.heads), nothing="auto")
]
"""Name of a head, chosen among the heads of a result."""
ShownLayers = Annotated[str | None, Input("Layers", key="att_layers", choices=layers_shown, nothing="auto")]
"""Layers that one mosaic shows."""


def read_asked(
    lm: LM, prompt: str | Sequence[int], chat: bool = False, max_new_tokens: int = 0, given: int | None = None
) -> Attention:
    """Read the attention of every head on a prompt and its continuation.

    Args:
        lm: the model.
        prompt: text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: maximum number of tokens that the model generates greedily.
        given: number of prompt tokens, if a model generated the rest of the tokens.

    Raises:
        DataError: the text is empty or longer than the context.
        ConfigError: a continuation was requested from a model with a scalar output.
    """
    found = attention(lm, asked_ids(lm, prompt, chat), max_new_tokens=max_new_tokens)
    return found if given is None else replace(found, prompt_length=given)


def are_comparable(reads: Sequence[Attention]) -> bool:
    """Return whether there are two models whose heads and tokens pair up."""
    first, last = reads[0], reads[-1]
    return len(reads) == 2 and same_text(first, last) and first.pattern.shape == last.pattern.shape


def standing_out(reads: Sequence[Attention]) -> Head:
    """Return the head that moved most between two models, or else the one that stands out in the last."""
    return argmax(head_distance(reads[0], reads[1], RANKED_BY)) if are_comparable(reads) else strongest(reads[-1])[0]


def splits_alike(one: LM, other: LM, ids: Sequence[int]) -> bool:
    """Return whether two tokenizers map the ids of a text to the same tokens."""
    size = one.model.get_input_embeddings().weight.shape[0]
    return max(ids) < size and pieces(one.tokenizer, ids) == pieces(other.tokenizer, ids)


def same_reading(
    lms: Sequence[LM],
    *,
    prompt: str | Sequence[int],
    chat: bool = False,
    max_new_tokens: int = 0,
    given: int | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Return inputs that make all models read one text: the prompt and the last model's continuation, and one head.

    Models with different tokens each tokenise the prompt themselves. The head is chosen only if none is named.
    """
    found: dict[str, Any] = {}
    own = [asked_ids(lm, prompt, chat) for lm in lms]
    whole = continue_text(lms[-1], own[-1], max_new_tokens)
    if all(ids == own[-1] and splits_alike(lm, lms[-1], whole) for lm, ids in zip(lms, own, strict=True)):
        length = len(own[-1]) if given is None else given
        found = {"prompt": tuple(whole), "chat": False, "max_new_tokens": 0, "given": length}
    if others.get("head", "") is None:
        options = {"prompt": prompt, "chat": chat, "max_new_tokens": max_new_tokens, "given": given} | found
        found["head"] = head_name(standing_out([read_asked(lm, **options) for lm in lms]))
    return found


class Attentions(Beside[Attention]):
    """Attention of the heads of one model or several on one prompt."""

    of = ""
    """End of a clause that names the run, if the results are steps of one."""

    @property
    def comparable(self) -> bool:
        """Whether there are two models whose heads and tokens can be compared one by one."""
        return are_comparable(self.results)

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of the text if all models read the same ids, otherwise none."""
        return shared_ids(self.results)

    @property
    def heads(self) -> list[str]:
        """Heads of the last model."""
        return self.results[-1].heads

    @property
    def layers(self) -> dict[str, list[int]]:
        """Groups of layers of the deepest model, one mosaic each."""
        shapes = [read.pattern.shape for read in self.results]
        depth, heads, length = (max(shape[axis] for shape in shapes) for axis in range(3))
        return layer_groups(depth, heads, length)

    def head(self, name: str | None = None) -> Head:
        """Return a head by name; by default the one that moved most between two models, or stands out in the last.

        Raises:
            ConfigError: no head has this name.
        """
        return self._standing_out if name is None else find_head(name, self.heads)

    @cached_property
    def _standing_out(self) -> Head:
        return standing_out(self.results)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes on how to read a mosaic, on generated tokens, and on a missing difference."""
        last, name = self.results[-1], self.looks[-1].name
        said = [
            "Each square is one head: rows are queries (tokens that attend), columns are keys (tokens attended to)."
        ]
        if last.written is not None:
            wrote = " ".join("".join(last.tokens[last.written :]).replace("\u00b7", " ").split())
            said.append(f"Red lines separate the prompt from the continuation of {name}: \u201c{wrote}\u201d.")
        if self.comparable:
            said.append(f"The difference is the right one minus the left one, centred on zero. {SINK}")
        return (" ".join(said), *self._why_apart())

    def _why_apart(self) -> list[str]:
        """Say why two models cannot be subtracted, if they cannot."""
        if self.comparable or len(self.results) == 1:
            return []
        if not shared_ids(self.results):
            return ["The two models split this prompt into different tokens, so their patterns have no difference."]
        shapes = [
            f"{look.name} has {depth} layers of {heads} heads"
            for look, read in zip(self.looks, self.results, strict=True)
            for depth, heads in [read.pattern.shape[:2]]
        ]
        return [f"{' and '.join(shapes)}: they are shown side by side, without a difference."]

    def sentence(self) -> str:
        """Name the head that moved most between two models, or the head that stands out in each."""
        if self.comparable:
            first, second = self.results
            return f"{most_moved_head(first, second, (self.looks[0].name, self.looks[1].name), self.of)[1]}."
        way = "at" if self.of else "in"
        pairs = zip(self.looks, self.results, strict=True)
        parts = [f"{way} {look.name}{self.of}, {strongest(read)[1]}" for look, read in pairs]
        if len(parts) == 1:
            return f"On this prompt, {parts[0]}."
        sentence = "; ".join(parts) + "."
        return sentence[0].upper() + sentence[1:]

    def figures(self, head: ShownHead = None, layers: ShownLayers = None) -> "dict[str, go.Figure]":
        """Draw the heads of some layers in one map: two models and their difference, or one model and its chosen head.

        Args:
            head: head to frame and enlarge; by default the one that moved most between two models, or stands out in
                one.
            layers: layers to draw if a model has too many for one figure; by default those around the head.
        """
        chosen, shown = self.head(head), self._shown(head, layers)
        look, read, own = shown[-1]
        if len(shown) == 2:
            (before, first, others), most = shown[0], max(each.pattern.shape[1] for each in self.results)
            alike, rows = same_text(first, read), max(len(own), len(others))
            chart = mosaic_pair(
                (first.square[others], read.square[own]),
                first.tokens[first.first :],
                names=(before.name, look.name),
                others=None if alike else read.tokens[read.first :],
                layers=(others, own),
                chosen=chosen,
                height=int(np.clip(80 + WIDTH / 3 * rows / most, 250, HEIGHT)),
                width=WIDTH,
                boundary=read.written if alike else None,
            )
            return {"heads": titled(clickable(chart, head="customdata"), "Attention of every head")}
        chart = attention_mosaic(
            read.square[own],
            read.tokens[read.first :],
            layers=own,
            chosen=chosen,
            height=HEIGHT,
            boundary=read.written,
        )
        charts = {"heads": titled(clickable(chart, head="customdata"), f"Heads of {look.name}{self.of}")}
        enlarged = attention_head(read.pattern[chosen], read.tokens, boundary=read.written)
        return charts | {"head": titled(enlarged, f"{head_name(chosen)} of {look.name}{self.of}", HEIGHT)}

    def data(self, figure: str, head: str | None = None, layers: str | None = None) -> pd.DataFrame:
        """Return the weights behind a figure: those of the layers shown, or of the chosen head."""
        layer, number = self.head(head)
        tables = []
        for look, read, own in self._shown(head, layers):
            weights = read.pattern[own] if figure == "heads" else read.pattern[[layer]][:, [number]]
            table = captured.attention_table(weights, read.tokens, own if figure == "heads" else [layer])
            table.insert(0, "model", look.name)
            tables.append(table if figure == "heads" else table.assign(head=number))
        return pd.concat(tables, ignore_index=True)

    def _shown(self, head: str | None, layers: str | None) -> list[tuple[Look, Attention, list[int]]]:
        """Return each model that has any of the layers, with those it has; by default the layers around the head."""
        layer = self.head(head)[0]
        groups = self.layers
        if layers is not None and layers not in groups:
            raise ConfigError(f"There are no layers {layers!r} here: give one of {', '.join(groups)}.")
        group = next(one for name, one in groups.items() if name == layers or (layers is None and layer in one))
        pairs = zip(self.looks, self.results, strict=True)
        own = [(look, read, [each for each in group if each < len(read.pattern)]) for look, read in pairs]
        return [one for one in own if one[-1]]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the weights of every head, and how far each moved between two models."""
        moved = {"heads-moved": distance_table(self.results[0], self.results[1])} if self.comparable else {}
        return {"heads": self._scores(), **moved}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads that moved most between two models, and the scores of every head."""
        moved = {}
        if self.comparable:
            table = distance_table(self.results[0], self.results[1]).drop(columns=["layer", "head"])
            moved["Heads that moved most"] = table.rename(columns=LABELS)
        return moved | {
            "What heads look at": self._scores().drop(columns=["layer", "head"]).rename(columns={"name": "head"})
        }

    def _scores(self) -> pd.DataFrame:
        """Return the scores of every head of every model."""
        tables = [pattern_scores(read).table() for read in self.results]
        for look, table in zip(self.looks, tables, strict=True):
            table.insert(0, "model", look.name)
        return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class PromptAttention(Attention):
    """Attention of every head on a prompt, as a result to draw."""

    @property
    def _alone(self) -> Attentions:
        return Attentions((self,), alone())

    def sentence(self) -> str:
        """Describe the head that stands out."""
        return self._alone.sentence()

    def figures(self, head: ShownHead = None, layers: ShownLayers = None) -> "dict[str, go.Figure]":
        """Draw the heads of some layers, and one head enlarged.

        Args:
            head: head to frame and enlarge; by default the one that stands out, or moved most between two models.
            layers: layers to draw if a model has too many for one figure; by default those around the head.
        """
        return self._alone.figures(head, layers)

    def data(self, figure: str, head: str | None = None, layers: str | None = None) -> pd.DataFrame:
        """Return the weights behind a figure."""
        return self._alone.data(figure, head, layers)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the scores of every head."""
        return self._alone.tables()

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the scores of every head."""
        return self._alone.lists()


@analysis(
    "attention",
    title="Patterns",
    equations=STAGES,
    seconds=asked_seconds,
    key="att",
    beside=Attentions,
    settle=same_reading,
    widths=((1, 1),),
    stored=False,
)
def read_attention(
    lm: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    max_new_tokens: New = 0,
    given: Given = None,
) -> PromptAttention:
    """Show the attention of every head on a prompt and on the model's continuation.

    A head compares the query of token *t* with the keys of the tokens up to it (scores, E3), turns the scores of a row
    into weights that sum to 1 (softmax, E4), and adds the weighted sum of the values to the residual stream of *t*
    (E5). Rows are queries (destination), columns keys (source). The rows from the last prompt token on are the
    attention during generation: row *t* is the attention of the step that chose token *t* + 1. *Moved* is the weight
    that tokens other than the first gained from one another between two models, averaged over all rows but the first,
    which has only one key: total variation (half the sum of absolute changes of a row) minus the change on the first
    token, on which idle heads rest. Previous token, duplicate token and induction are the shares of all weight on the
    token before, on earlier copies of the query's token, and on the tokens that followed these copies.

    Args:
        lm: the model.
        prompt: text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: maximum number of tokens that the model generates greedily.
        given: number of prompt tokens, if a model generated the rest of the tokens.

    Raises:
        DataError: the text is empty or longer than the context.
        ConfigError: a continuation was requested from a model with a scalar output.
    """
    return PromptAttention(**vars(read_asked(lm, prompt, chat, max_new_tokens, given)))
