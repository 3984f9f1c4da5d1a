"""The logit lens: what the model would predict if it stopped after each block.

The residual stream after the embedding and after each block goes through the final norm and the unembedding
(nostalgebraist 2020). Row 0 is the embedding, row D the model's own output.

Axes: B texts, D blocks, T tokens, V vocabulary, A answers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.logits.answer_tokens import whole_logprobs
from probe.logits.fitted_lens import TUNED, FittedLens, fit_seconds, obtain_lens
from probe.logits.readout import require_own_logits, residual_names, unembed
from probe.logits.targets import Against, Answer, Position, Target, asked_target, same_target
from probe.model.asked import asked_ids, asked_seconds
from probe.model.heads import check_count
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.model.scoring import entropy
from probe.model.text import pieces
from probe.numbers import signed
from probe.plotting.notebook import Beside, Drawable, alone, clickable, titled
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go


LENS = r"\mathrm{lens}_l(t) = \mathrm{softmax}\big(W_{out}\, \mathrm{norm}(h_t^l) + b_{out}\big)"
MARGIN = r"\mathrm{margin} = \log p_{(1)} - \log p_{(2)}"
AT_ONCE = 2**24
"""Maximum number of logits in memory while the layers are read."""
COLUMNS = 12
"""Number of tokens around the chosen one that a page reads."""
DEEP = 12
"""Number of layers from which on a reader chooses which are drawn."""
STRIDES = {1: "", 2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}
"""Ordinals of the numbers of layers of which one is drawn."""
HEIGHT = 385
"""Height of the figures in pixels."""


def strides(found: "Lenses") -> dict[int, str]:
    """Return the labels of the choices of layers for a deep model: each n-th; none for another."""
    depth = max(len(each.entropy) for each in found.results)
    return {n: f"every {name}" if name else "all" for n, name in STRIDES.items()} if depth > DEEP else {}


LensKind = Annotated[Literal["logit", "tuned", "Jacobian"], Input("Lens", key="log_kind", folded="Lenses")]
"""Lens: the residual stream as it is, or mapped as a fit to texts says."""
FittedOn = Annotated[
    Path | None,
    Input(
        "File of texts", key="log_data", placeholder="documents of the model's world", type=Path | None, folded="Lenses"
    ),
]
"""Texts on which a lens is fitted."""
Drawn = Annotated[int | None, Input("Layers", key="log_layers", choices=strides, nothing="auto")]
"""Number n: every n-th layer of a deep model is drawn."""


class LensRows(NamedTuple):
    """Lens readings of a batch of texts."""

    top_ids: Int[Tensor, "B D+1 T k"]
    """Most probable next tokens, best first."""
    top_logprobs: Float[Tensor, "B D+1 T k"]
    """Log-probabilities of `top_ids` in nats."""
    answer_logprobs: Float[Tensor, "B D+1 T A"]
    """Log-probability of each answer token in nats; minus infinity if a text has fewer answers."""
    entropy: Float[Tensor, "B D+1 T"]
    """Entropy of the next-token distribution in nats."""
    next_logprobs: Float[Tensor, "B D+1 T"]
    """Log-probability of the token that follows in the text in nats; NaN in the last column."""
    answer_ranks: Int[Tensor, "B D+1 T A"]
    """Number of tokens that are more probable than each answer: 0 for the most probable; -1 if a text has fewer
    answers."""


@dataclass(frozen=True)
class Lens(Drawable):
    """The logit lens on one text; column t is the prediction after token t."""

    tokens: list[str]
    """[T] readable tokens of the text."""
    ids: list[int]
    """[T] token ids of the text."""
    answers: list[str]
    """[A] requested answers, as texts or readable tokens."""
    top_ids: np.ndarray
    """[D+1, T, k] most probable next tokens, best first."""
    top_tokens: np.ndarray
    """[D+1, T, k] the same as readable tokens."""
    top_logprobs: np.ndarray
    """[D+1, T, k] log-probabilities of `top_tokens` in nats."""
    answer_logprobs: np.ndarray
    """[D+1, T, A] log-probability in nats of the first token in which each answer differs from the others."""
    next_logprobs: np.ndarray
    """[D+1, T] log-probability of the token that follows in the text in nats; NaN in the last column."""
    entropy: np.ndarray
    """[D+1, T] entropy of the next-token distribution in nats."""

    @property
    def rows(self) -> list[str]:
        """Names of the D + 1 rows."""
        return ["embedding", *(f"block {block}" for block in range(len(self.entropy) - 1))]

    def table(self) -> pd.DataFrame:
        """Return one row for each layer, position and rank: layer, name, position, token, rank, predicted, logprob."""
        layer, position, rank = (axis.ravel() for axis in np.indices(self.top_ids.shape))
        return pd.DataFrame(
            {
                "layer": layer,
                "name": [self.rows[row] for row in layer],
                "position": position,
                "token": [self.tokens[column] for column in position],
                "rank": rank,
                "predicted": self.top_tokens.ravel(),
                "logprob": self.top_logprobs.ravel(),
            }
        )

    def figure(self) -> "go.Figure":
        """Draw the most probable token after each layer at each token, coloured by its probability."""
        from probe.logits.figures import lens_grid

        return lens_grid((self.top_tokens.tolist(), self.top_logprobs), self.tokens)

    def decision_row(self, column: int = -1) -> int:
        """Return the first row from which on the most probable token of a column is that of the output."""
        favourites = self.top_ids[:, column, 0]
        others = np.flatnonzero(favourites != favourites[-1])
        return int(others[-1]) + 1 if len(others) else 0

    def decision(self, name: str, column: int = -1) -> str:
        """Return a clause such as `dpo says "rome" (91 %), its favourite from L2 on`.

        Args:
            name: name of the model.
            column: column of the token after which the prediction is read.
        """
        row, last = self.decision_row(column), len(self.entropy) - 1
        word = str(self.top_tokens[-1, column, 0]).strip("\u00b7")
        share = 100 * float(np.exp(self.top_logprobs[-1, column, 0]))
        ends = {0: "from the embedding on", last: "only after the last layer"}
        since = ends.get(row, f"from L{row - 1} on")
        return f"{name} says \u201c{word}\u201d ({share:.0f} %), its favourite {since}"


@dataclass(frozen=True)
class PromptLens(Lens):
    """The lens around one token of a prompt, and the answers that are followed through it."""

    answer_ranks: np.ndarray
    """[D+1, T, A] number of tokens that are more probable than each answer: 0 for the most probable."""
    text: tuple[int, ...]
    """Token ids of the whole prompt, with the tokens with which all answers begin."""
    start: int
    """Position in the prompt of the first of the T columns."""
    target: Target
    """Answers, and the token after which they are due."""
    whole: tuple[float, ...] = ()
    """Log-probability of each whole answer in nats; empty if each is one token."""
    fitted: FittedLens | None = None
    """Maps through which the rows were read; None for the logit lens."""

    @property
    def margin(self) -> np.ndarray:
        """[D+1, T] log-probability of the most probable token minus the second's, nats; 0 if there is only one."""
        return self.top_logprobs[..., 0] - self.top_logprobs[..., min(1, self.top_logprobs.shape[-1] - 1)]

    @property
    def column(self) -> int:
        """Column of the token after which the answers are due."""
        return self.target.position - self.start

    def measures(self) -> pd.DataFrame:
        """Return tidy rows: layer (row), name, position, token, measure, answer (empty if none), value."""
        series = [("entropy", "", self.entropy), ("margin", "", self.margin)]
        for index, answer in enumerate(self.answers):
            ranks = self.answer_ranks[..., index].astype(float)
            series += [("logprob", answer, self.answer_logprobs[..., index]), ("rank", answer, ranks)]
        row, column = (axis.ravel() for axis in np.indices(self.entropy.shape))
        places = {
            "layer": row,
            "name": np.array(self.rows, dtype=object)[row],
            "position": self.start + column,
            "token": np.array(self.tokens, dtype=object)[column],
        }
        frames = [
            pd.DataFrame({**places, "measure": measure, "answer": answer, "value": values.ravel()})
            for measure, answer, values in series
        ]
        return pd.concat(frames, ignore_index=True)

    def table(self) -> pd.DataFrame:
        """Return the table of the lens (`Lens.table`) by positions in the prompt."""
        table = super().table()
        return table.assign(position=table["position"] + self.start)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the predictions after each token, every measure by layer, and the test of a fitted lens."""
        tested = {"distance": self.fitted.table()} if self.fitted else {}
        return {"lens": self.table(), "layers": self.measures(), **tested}

    def figures(self, layers: Drawn = None) -> "dict[str, go.Figure]":
        """Draw the lens, and the measures after the chosen token over layers.

        Args:
            layers: draw every n-th layer of a deep model in the lens; by default as many as fit.
        """
        return Lenses((self,), alone()).figures(layers)

    def figure(self) -> "go.Figure":
        """Draw the lens."""
        return self.figures()["lens"]

    def sentence(self) -> str:
        """Say what the model predicts next, and from which layer on this is its most probable token."""
        return Lenses((self,), alone()).sentence()

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the predictions after the chosen token, by layer."""
        return Lenses((self,), alone()).lists()


class Lenses(Beside[PromptLens]):
    """Lens readings of one model or several on one prompt."""

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of the prompt, if all models read the same ones."""
        return self.results[-1].text if len({(each.text, *each.tokens) for each in self.results}) == 1 else ()

    def sentence(self) -> str:
        """Say what every model predicts next, from which layer on, and how near a fitted lens is to the output."""
        pairs = list(zip(self.looks, self.results, strict=True))
        said = "; ".join(each.decision(look.name, each.column) for look, each in pairs) + "."
        tested = [f"{look.name}: {each.fitted.sentence()}" for look, each in pairs if each.fitted]
        if len(self.results) == 1:
            tested = [each.fitted.sentence() for each in self.results if each.fitted]
        return " ".join([said, *tested])

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences on the cells, the followed tokens of the answers, and the probabilities of whole answers."""
        reads = "the model would predict if it stopped after that layer"
        if self.results[-1].fitted:
            reads = f"the {self.results[-1].fitted.kind} lens reads after that layer"
        cells = (
            f"Each cell is the token that {reads}; its colour is the log-probability of the answer. The curves are"
            " about the framed column."
        )
        deep = " Of a deep model some layers are drawn, as chosen under Layers; the table has all."
        return (cells + deep * any(len(each.entropy) > DEEP for each in self.results), *self._whole_answers())

    def _whole_answers(self) -> list[str]:
        """Say which tokens of the answers are followed, and give each model's probability of the whole answers."""
        if not self.results[-1].whole:
            return []
        clauses = []
        for look, each in zip(self.looks, self.results, strict=True):
            words = each.target.words
            parts = zip(words.texts, each.whole, words.ids, strict=True) if words else ()
            said = [f"{signed(value)} for \u201c{text}\u201d ({len(ids)})" for text, value, ids in parts]
            clauses.append(f"{' and '.join(said)} with {look.name}")
        note = self.results[-1].target.note
        return [f"{note} Log-probability of the whole answer in nats (tokens): {'; '.join(clauses)}."]

    def figures(self, layers: int | None = None) -> "dict[str, go.Figure]":
        """Draw the lens of each model, the difference of two, and the measures after the chosen token over layers."""
        from probe.logits.figures import (
            LensPanel,
            ModelMeasures,
            curves,
            layer_names,
            lens_distances,
            lens_map,
            lens_stride,
        )

        every = list(zip(self.looks, self.results, strict=True))
        alike = len({(tuple(each.tokens), tuple(each.answers)) for each in self.results}) == 1
        charts = {}
        for index, group in enumerate([every] if alike else [[pair] for pair in every]):
            last, end = group[-1][1], f"-{index}" * bool(index)
            whose = f": {group[0][0].name}" * (not alike)
            panels = [
                LensPanel(look.name, each.answer_logprobs[..., 0], each.top_tokens, each.top_logprobs)
                for look, each in group
            ]
            stride = layers or lens_stride(panels)
            chart = lens_map(
                panels,
                last.tokens,
                start=last.start,
                chosen=last.target.position,
                label=f"log p({last.answers[0]})",
                height=HEIGHT,
                every=stride,
            )
            rows = "layer by layer" if stride == 1 else f"every {STRIDES.get(stride, f'{stride}th')} layer"
            title = f"Predictions after each token, {rows}{whose}"
            charts[f"lens{end}"] = titled(clickable(chart, position="customdata"), title)
            sides = []
            for look, each in group:
                measures = each.entropy, each.margin, each.answer_logprobs, each.answer_ranks
                entropy, margin, logprobs, ranks = (values[:, each.column] for values in measures)
                names = layer_names(len(each.entropy))
                sides.append(ModelMeasures(look.name, look.colour, entropy, margin, logprobs, ranks, names))
            deepest = max((side.points for side in sides), key=len)
            ticks = ["emb", *deepest[1:-1], deepest[-1].split(" ")[0]]
            chart = curves(sides, last.answers, axis="after layer", ticks=ticks, height=HEIGHT)
            title = f"After token {last.target.position}, over layers{whose}"
            charts[f"layers{end}"] = titled(chart, title, HEIGHT)
        if tested := [(look, each.fitted.table()) for look, each in every if each.fitted]:
            charts["distance"] = titled(lens_distances(tested), "Distance to the output on held-out texts", HEIGHT)
        return charts

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the predictions after the chosen token, by layer."""
        frames = []
        for look, each in zip(self.looks, self.results, strict=True):
            rows = each.table()
            frames.append(rows[(rows["position"] == each.target.position) & (rows["rank"] < 3)].assign(model=look.name))
        last = pd.concat(frames, ignore_index=True)
        shown = last[["model", "name", "rank", "predicted"]].assign(probability=np.exp(last["logprob"]))
        token = self.results[-1].tokens[self.results[-1].column]
        return {f"After \u201c{token}\u201d": shown.rename(columns={"name": "after"})}


def lens_tokens(lm: LM, columns: int) -> float:
    """Return the number of tokens that are read in the time in which a lens reads so many columns in all layers."""
    unembedding = lm.model.get_output_embeddings().weight.numel()
    return columns * (lm.bridge.cfg.n_layers + 1) * unembedding / lm.n_parameters


def lens_seconds(
    lm: LM,
    columns: int,
    answer: str | int | None,
    against: str | int | None,
    lens: str = "logit",
    data: Path | None = None,
    **asked: Any,
) -> float:
    """Estimate the seconds that a lens takes; to find an answer that is not given, the prompt is read once more."""
    require_tokens(lm)
    tokens = lens_tokens(lm, columns)
    fit = 0.0 if lens == "logit" else fit_seconds(lm, "tuned" if lens == "tuned" else "Jacobian", data)
    read = asked_seconds(lm, passes=1 + (answer is None or against is None), **asked)
    return read + seconds_to_read(lm, tokens) + fit


@analysis(
    "logits",
    title="Logit lens",
    equations=(LENS, TUNED, MARGIN),
    seconds=lens_seconds,
    key="log_lens",
    beside=Lenses,
    settle=same_target,
    widths=((5, 4),),
    stored=False,
)
@torch.no_grad()
def logit_lens(
    lm: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    position: Position = None,
    answer: Answer = None,
    against: Against = None,
    lens: LensKind = "logit",
    data: FittedOn = None,
    k: Annotated[int, Input("Tokens", advanced=True)] = 5,
    columns: Annotated[int | None, Input("Columns", first=lambda *lms: COLUMNS, advanced=True)] = None,
    tick: Tick = ignore,
) -> PromptLens:
    """Read what a model would predict if it stopped after each layer, and follow an answer through the layers.

    The residual stream after the embedding and after each block goes through the final norm and the unembedding
    (nostalgebraist 2020). Column *t* is the prediction after token *t*; the last row is the model's output. A model
    *settles* at the first layer from which on its most probable token is that of the output. *Entropy* is that of the
    distribution, *margin* the difference of the log-probabilities of its two most probable tokens, *rank* that of an
    answer (1 is the most probable).

    Two more lenses map the residual stream after each block first: *tuned* by the affine map that brings the prediction
    nearest to the output on texts (Belrose et al. 2023), *Jacobian* by the mean Jacobian of the last residual
    (transformer-lens). They are fitted once and stored; their KL to the output on held-out texts stands beside those of
    the logit lens and of the unigram distribution (the mean prediction).

    Args:
        lm: the model.
        prompt: a text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        position: token after which answers are due, from 0; by default the last.
        answer: a text, with the blank that precedes it (\u00b7 also stands for a blank). The first token that differs
            from the other answer counts; tokens with which both begin are appended to the prompt. By default the most
            probable token, of the last model if there are several.
        against: answer to compare it with; by default the most probable token of the other model, or else the second
            most probable one; `(nothing)` leaves it out.
        lens: the residual stream as it is (logit), or mapped first: tuned or Jacobian.
        data: file of texts on which a mapped lens is fitted; by default documents of the model's world.
        k: number of most probable tokens to keep, at least two.
        columns: number of tokens to read around the chosen one; by default all.
        tick: called with the completed share of a fit.

    Raises:
        ModelError: the architecture cannot be hooked, or its output is more than norm and unembedding.
        DataError: a text or an answer without tokens, answers that differ in no token, or a scalar model; there are no
            texts on which a lens can be fitted.
        ConfigError: k or `columns` is less than 1.
    """
    check_count(k)
    require_tokens(lm)
    asked = asked_ids(lm, prompt, chat)
    target = asked_target(lm, asked, answer, against, position)
    ids = target.text(asked)
    start, stop = window(target.position, len(ids), len(ids) if columns is None else columns)
    fitted = None if lens == "logit" else obtain_lens(lm, lens, data, tick)
    _, rows = lens_rows(lm, ids, slice(start, stop), fitted)
    tokens = torch.tensor([target.answers], dtype=torch.long)
    found = read_lens(rows, torch.tensor([ids[start:stop]]), max(k, 2), tokens)
    before = ids[: target.position + 1 - len(target.shared)]
    return PromptLens(
        **vars(lens_of(lm, ids[start:stop], pieces(lm.tokenizer, target.answers), found)),
        answer_ranks=found.answer_ranks[0].cpu().numpy(),
        text=tuple(ids),
        start=start,
        target=target,
        whole=tuple(whole_logprobs(lm, before, target.words)) if target.words else (),
        fitted=fitted,
    )


def require_tokens(lm: LM) -> None:
    """Raise a DataError for a model that reads out one number."""
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model outputs one number and no tokens: use `scalar_lens`.")


def window(position: int, length: int, columns: int) -> tuple[int, int]:
    """Return start and end of the columns around a token, in steps of half their width, so that a click keeps them."""
    check_count(columns)
    half = max(1, columns // 2)
    start = min(max(0, (position // half - 1) * half), max(0, length - columns))
    return start, min(length, start + columns)


def lens_rows(
    lm: LM, ids: Sequence[int], part: slice, fitted: FittedLens | None = None
) -> tuple[Float[Tensor, "1 T V"], Iterator[Float[Tensor, "1 T V"]]]:
    """Return the logits of a text, and log-probabilities of some columns after the embedding and after each block.

    With few columns the unembedding is limited by reading its weights, so several rows go through it at once.

    Args:
        lm: the model.
        ids: token ids of the text.
        part: positions to read.
        fitted: maps of the residual stream; None reads it as it is.

    Raises:
        ModelError: see `lens_logprobs`.
    """
    names = residual_names(lm)
    logits, cache = lm.run_with_cache([list(ids)], names)
    residual = torch.stack([cache[name][0, part] for name in names])
    own = logits[0, part].float().log_softmax(-1)
    last = {name: cache[name][:, part][:, -1:] for name in (names[0], names[-1])}
    next(lens_logprobs(lm, {**dict.fromkeys(names, last[names[0]]), **last}, logits[:, part][:, -1:]))

    inner = residual[:-1] if fitted is None else fitted.mapped(residual[:-1])

    def rows() -> Iterator[Float[Tensor, "1 T V"]]:
        for several in inner.split(max(1, AT_ONCE // max(1, own.numel()))):
            for row in unembed(lm, several).log_softmax(-1):
                yield row[None]
        yield own[None]

    return logits, rows()


def lens_of(lm: LM, ids: Sequence[int], answers: Sequence[str], rows: LensRows, at: int = 0) -> Lens:
    """Return the lens of one text of a batch, with readable tokens."""
    top = rows.top_ids[at].cpu().numpy()
    return Lens(
        tokens=pieces(lm.tokenizer, ids),
        ids=list(ids),
        answers=list(answers),
        top_ids=top,
        top_tokens=np.array(pieces(lm.tokenizer, top.ravel().tolist()), dtype=object).reshape(top.shape),
        top_logprobs=rows.top_logprobs[at].cpu().numpy(),
        answer_logprobs=rows.answer_logprobs[at].cpu().numpy(),
        next_logprobs=rows.next_logprobs[at].cpu().numpy(),
        entropy=rows.entropy[at].cpu().numpy(),
    )


@torch.no_grad()
def lens_logprobs(
    lm: LM, cache: Mapping[str, Tensor], logits: Float[Tensor, "B T V"]
) -> Iterator[Float[Tensor, "B T V"]]:
    """Yield log-probabilities of the next token, one row after the other (D + 1), so only one is in memory.

    Args:
        lm: the model.
        cache: activations that hold `residual_names(lm)`.
        logits: the model's output, which is the last row.

    Raises:
        ModelError: norm and unembedding of the last residual do not give the model's output.
    """
    *inner, last = residual_names(lm)
    require_own_logits(lm, cache[last], logits)
    for name in inner:
        yield unembed(lm, cache[name]).log_softmax(-1)
    yield logits.float().log_softmax(-1)


class LensReader:
    """Reader that takes the rows of a lens one after the other and keeps the readings.

    Args:
        ids: the texts, padded on the right.
        k: number of most probable tokens to keep.
        answers: answer tokens of each text, padded with -1.
    """

    def __init__(self, ids: Int[Tensor, "B T"], k: int, answers: Int[Tensor, "B A"]) -> None:
        self.ids, self.k, self.answers = ids, k, answers
        self.rows: list[tuple[Tensor, ...]] = []

    def add(self, row: Float[Tensor, "B T V"]) -> None:
        """Read the next row of log-probabilities."""
        answers = self.answers.to(row.device)[:, None].expand(-1, row.shape[1], -1)
        values = row.gather(-1, answers.clamp(min=0)).masked_fill(answers < 0, -torch.inf)
        follow = row[:, :-1].gather(-1, self.ids.to(row.device)[:, 1:, None])[..., 0]
        follow = torch.cat([follow, follow.new_full((len(follow), 1), torch.nan)], dim=1)
        top = row.topk(min(self.k, row.shape[-1]), dim=-1)
        ranks = count_above(row, values).masked_fill(answers < 0, -1)
        self.rows.append((top.indices, top.values, values, entropy(row), follow, ranks))

    def readings(self) -> LensRows:
        """Return the readings of all rows that were added."""
        return LensRows(*(torch.stack(part, dim=1) for part in zip(*self.rows, strict=True)))


@torch.no_grad()
def read_lens(
    rows: Iterable[Float[Tensor, "B T V"]], ids: Int[Tensor, "B T"], k: int, answers: Int[Tensor, "B A"]
) -> LensRows:
    """Read the rows that `lens_logprobs` yields (arguments: see `LensReader`)."""
    reader = LensReader(ids, k, answers)
    for row in rows:
        reader.add(row)
    return reader.readings()


@torch.no_grad()
def count_above(row: Float[Tensor, "B T V"], values: Float[Tensor, "B T A"]) -> Int[Tensor, "B T A"]:
    """Count the entries of each row that are greater than each of its values."""
    counts, above = torch.zeros_like(values, dtype=torch.int64), torch.empty_like(row)
    for a in range(values.shape[-1]):  # summed as numbers: torch counts booleans many times slower
        counts[..., a] = torch.gt(row, values[..., a, None], out=above).sum(-1)
    return counts


def kl(p: Float[Tensor, "... V"], q: Float[Tensor, "... W"]) -> Float[Tensor, "..."]:
    """Return KL(p || q) of two log-distributions in nats, over the common tokens if one vocabulary has padding."""
    q = q.to(p.device)
    if p.shape[-1] != q.shape[-1]:
        common = min(p.shape[-1], q.shape[-1])
        p, q = p[..., :common].log_softmax(-1), q[..., :common].log_softmax(-1)
    return (p.softmax(-1) * (p.clamp(min=-1e9) - q.clamp(min=-1e9))).sum(-1).clamp(min=0)


def require_same_tokens(base: LM, aligned: LM) -> None:
    """Raise a DataError unless both models give every token the same id."""
    if base.tokenizer.get_vocab() != aligned.tokenizer.get_vocab():
        raise DataError(
            f"The models `{base.ref or 'created'}` and `{aligned.ref or 'created'}` have different tokenizers, so "
            "their probabilities cannot be compared token by token: choose two models of one family."
        )
