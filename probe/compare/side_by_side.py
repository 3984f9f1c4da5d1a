"""Comparison of two models on one prompt: both continuations, token by token, under both models.

Axes: T tokens of prompt and continuation, D blocks, V vocabulary. Entry j of a [T] array belongs to token j and comes
from the distributions before it; there is nothing before token 0, so that entry is NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch

from probe.analyses.analysis_record import SHARED, Input
from probe.analyses.catalogue import analysis
from probe.compare.token_colours import FULL, OF_PROBE, SCALE, TokenScorer, captions, obtain_scorer, scorer_seconds
from probe.errors import DataError
from probe.logits.lens import Lens, kl, lens_of, read_lens, require_same_tokens
from probe.model.in_memory import keep
from probe.model.lm import LM
from probe.model.pace import WRITTEN, seconds_to_read
from probe.model.text import encode
from probe.numbers import chance, rate
from probe.plotting.chips import Chip, TokenRow, TokenRows
from probe.plotting.notebook import Drawable, Look, clickable, pair, titled
from probe.ticks import Tick, between, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

Author = Literal["aligned", "base"]
Colour = Literal["KL", "probe"]
"""Meaning of a token's colour."""
EQUATIONS = (
    r"\mathrm{KL}_j = \sum_v \pi_a(v \mid x_{<j}) \log \frac{\pi_a(v \mid x_{<j})}{\pi_b(v \mid x_{<j})},"
    r"\quad a = \mathrm{aligned},\ b = \mathrm{base}",
)
STRONG_NATS = 2.0
"""KL in nats at which a token has its full colour."""
ALIKE_NATS = 0.001
"""KL in nats below which two models are said to predict the same."""
HEIGHT = 226
"""Height of the two figures of a token in pixels; both fit on a first screen."""


@dataclass(frozen=True)
class Expectation:
    """Predictions of one model at each token of a text."""

    logprobs: np.ndarray
    """[T] log-probability of the token in nats."""
    entropy: np.ndarray
    """[T] entropy in nats of the distribution before the token."""
    top_ids: np.ndarray
    """[T, k] ids of the most probable tokens, best first; -1 at token 0."""
    top_tokens: np.ndarray
    """[T, k] most probable tokens as readable pieces."""
    top_logprobs: np.ndarray
    """[T, k] log-probabilities of the most probable tokens in nats."""


@dataclass(frozen=True)
class Continuation(Drawable):
    """Prompt with the continuation of one model, read by both."""

    author: Author
    """Model that generated the continuation."""
    ids: list[int]
    """Token ids of prompt and continuation."""
    tokens: list[str]
    """Prompt and continuation as readable pieces."""
    prompt_length: int
    """Number of tokens in the prompt."""
    text: str
    """Continuation as text without special tokens."""
    base: Expectation
    """Predictions of the base model."""
    aligned: Expectation
    """Predictions of the aligned model."""
    kl: np.ndarray
    """[T] KL(aligned || base) of the distributions before each token in nats."""
    wrong: np.ndarray | None = None
    """[T] probability by the author's hallucination probe that what a token says is wrong, NaN where it states nothing;
    None without a probe.
    """

    @property
    def sides(self) -> tuple[Expectation, Expectation]:
        """Predictions of base and aligned model."""
        return self.base, self.aligned

    def table(self) -> pd.DataFrame:
        """Return a table with one row per token: position, token, part, log-probabilities, kl, entropies, ..."""
        return pd.DataFrame(
            {
                "author": self.author,
                "position": range(len(self.ids)),
                "id": self.ids,
                "token": self.tokens,
                "part": ["prompt" if j < self.prompt_length else "continuation" for j in range(len(self.ids))],
                "base_logprob": self.base.logprobs,
                "aligned_logprob": self.aligned.logprobs,
                "difference": self.aligned.logprobs - self.base.logprobs,
                "kl": self.kl,
                "base_entropy": self.base.entropy,
                "aligned_entropy": self.aligned.entropy,
                **({} if self.wrong is None else {"wrong": self.wrong}),
            }
        )

    def figure(self) -> "go.Figure":
        """Draw KL of the two models at every token."""
        from probe.logits.figures import kl_bars

        return kl_bars(self.kl, self.tokens, start=self.prompt_length)

    def top_table(self) -> pd.DataFrame:
        """Return a table with one row per token, model and rank: the predicted tokens."""
        return pd.concat(
            [self._expectation_table("base", self.base), self._expectation_table("aligned", self.aligned)],
            ignore_index=True,
        )

    def _expectation_table(self, name: str, model: Expectation) -> pd.DataFrame:
        position, rank = (axis.ravel() for axis in np.indices(model.top_ids.shape))
        rows = pd.DataFrame(
            {
                "author": self.author,
                "model": name,
                "position": position,
                "token": [self.tokens[j] for j in position],
                "rank": rank,
                "predicted": model.top_tokens.ravel(),
                "logprob": model.top_logprobs.ravel(),
            }
        )
        return rows[rows["position"] > 0].reset_index(drop=True)


Shown = Annotated[Author, Input("Continuation shown", key="text")]
Position = Annotated[
    int | None,
    Input("Token", key="position", first=lambda found: found.divergence, within=lambda found: (1, found.last)),
]


@dataclass(frozen=True)
class Comparison(Drawable):
    """A base and an aligned model on one prompt."""

    prompt: str
    """Prompt as text."""
    base: Continuation
    """Continuation of the base model."""
    aligned: Continuation
    """Continuation of the aligned model."""
    names: tuple[str, str] = ("base", "aligned")
    """Names of base and aligned model."""
    scorers: tuple[Any, ...] = ()
    """Hallucination probe of each model, or why it has none; empty if the colour is KL."""
    looks: tuple[Look, ...] = ()
    """Names and colours of the models; by default the colours of pretraining and DPO."""

    @property
    def last(self) -> int:
        """Index of the last token of the longer text, at least 1."""
        return max(1, len(self.base.ids) - 1, len(self.aligned.ids) - 1)

    @property
    def divergence(self) -> int:
        """Index of the first token where the continuations diverge; if they are equal, where KL is largest."""
        for j, (a, b) in enumerate(zip(self.base.ids, self.aligned.ids, strict=False)):
            if a != b:
                return j
        shorter, longer = sorted((len(self.base.ids), len(self.aligned.ids)))
        start = self.aligned.prompt_length
        if shorter < longer:
            return shorter
        if start >= longer:
            return longer - 1
        return start + int(np.nanargmax(self.aligned.kl[start:]))

    def shown(self, author: Author) -> Continuation:
        """Return the continuation of a model."""
        return self.base if author == "base" else self.aligned

    def sentence(self, author: Shown = "aligned") -> str:
        """State the answers of both models, their probabilities, where they diverge, and where they differ most.

        Args:
            author: model whose text is searched for the largest difference.
        """
        j, names = self.divergence, self.names
        base, aligned, text = self.base, self.aligned, self.shown(author)
        if base.ids == aligned.ids:
            if len(base.ids) == base.prompt_length:
                return "Both models end at once and write nothing."
            opening = f"Both models say \u201c{aligned.text.strip()}\u201d"
            if float(np.nanmax(aligned.kl)) < ALIKE_NATS:
                return f"{opening}, and predict alike at every token (KL below {ALIKE_NATS} nats)."
            most = int(np.nanargmax(aligned.kl))
            shares = f"{_percent(aligned.aligned.logprobs[j])} with {names[1]}, "
            shares += f"{_percent(aligned.base.logprobs[j])} with {names[0]}, KL {aligned.kl[j]:.2f} nats"
            answer = f"\u201c{aligned.tokens[j].strip()}\u201d, token {j} ({shares})"
            if most == j:
                return f"{opening}; the models differ most at {answer}."
            return (
                f"{opening}; the models differ most at {_place(aligned, most)}, and within the continuation at"
                f" {answer}."
            )
        if min(len(base.ids), len(aligned.ids)) <= j:
            shorter = names[0] if len(base.ids) <= j else names[1]
            return f"Both models begin alike, and {shorter} ends before token {j}{_most(text, j)}."
        ours, theirs = aligned.tokens[j].strip(), base.tokens[j].strip()
        return (
            f"{names[1]} answers \u201c{ours}\u201d with {_percent(aligned.aligned.logprobs[j])} where {names[0]}"
            f" answers \u201c{theirs}\u201d with {_percent(base.base.logprobs[j])};"
            f" the continuations diverge at token {j} (KL {aligned.kl[j]:.2f} nats){_most(text, j)}."
        )

    def chips(self, author: Shown = "aligned", position: Position = None) -> TokenRows:
        """Return the prompt and both continuations; the colour of a token is KL before it, or the probe's.

        Args:
            author: model whose continuation is selected.
            position: token to mark.
        """
        text, at = self.shown(author), self._within(author, position)
        cut, by_probe = text.prompt_length, bool(self.scorers)
        looks = self.looks or pair()
        rows = [TokenRow(label="prompt", colour="transparent", tokens=_chips(self.aligned, 0, cut, by_probe))]
        for name, look, own in zip(self.names, looks, (self.base, self.aligned), strict=True):
            rows.append(TokenRow(label=name, colour=look.colour, tokens=_chips(own, cut, len(own.ids), by_probe)))
        row = 0 if at < cut else 1 + (text.author == "aligned")
        chosen = row, at - (cut if row else 0)
        if not self.scorers:
            return TokenRows(rows=rows, chosen=chosen, note=COLOURS)
        scale = TokenRow(label="probability wrong", colour="transparent", tokens=SCALE)
        names = [look.name for look in looks]
        return TokenRows(rows=[*rows, scale], chosen=chosen, note=OF_PROBE, caption=captions(self.scorers, names))

    def figures(self, author: Shown = "aligned", position: Position = None) -> "dict[str, go.Figure]":
        """Return KL along a text, and the next-token probabilities at a token.

        Args:
            author: model whose continuation is drawn.
            position: index of the token; by default the first where the continuations diverge.
        """
        from probe.compare.figures import next_tokens
        from probe.logits.figures import kl_bars

        text, at = self.shown(author), self._within(author, position)
        name, looks = self.names[author == "aligned"], self.looks or pair()
        colours = looks[0].colour, looks[1].colour
        bars = kl_bars(text.kl, text.tokens, start=text.prompt_length, chosen=at, colour=colours[1])
        tops = [(list(side.top_tokens[at]), np.exp(side.top_logprobs[at])) for side in (text.base, text.aligned)]
        nexts = next_tokens((tops[0], tops[1]), names=self.names, colours=colours)
        return {
            "kl": titled(clickable(bars, position="x"), f"Where the models differ on the text of {name}", HEIGHT),
            "next": titled(nexts, f"Next-token probabilities at token {at}", HEIGHT),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return both continuations token by token, and the likeliest tokens there."""
        return {"tokens": self.table(), "expected-tokens": self.top_table()}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the probability of written tokens that they are wrong, if a probe was asked."""
        parts = []
        for look, text in zip(self.looks or pair(), (self.base, self.aligned), strict=True):
            if text.wrong is not None:
                own = slice(text.prompt_length, None)
                about = {"token": text.tokens[own], "probability wrong": text.wrong[own]}
                parts.append(pd.DataFrame({"model": look.name, "position": range(len(text.ids))[own], **about}))
        return {"Written tokens": pd.concat(parts, ignore_index=True).dropna()} if parts else {}

    def data(self, figure: str) -> pd.DataFrame:
        """Return the table behind a figure, for both continuations."""
        return self.tables()[{"kl": "tokens", "next": "expected-tokens"}.get(figure, figure)]

    def table(self) -> pd.DataFrame:
        """Return both continuations token by token (see `Continuation.table`)."""
        return pd.concat([self.base.table(), self.aligned.table()], ignore_index=True)

    def figure(self) -> "go.Figure":
        """Draw KL of the two models at every token of the aligned model's continuation."""
        return self.aligned.figure()

    def top_table(self) -> pd.DataFrame:
        """Return the likeliest tokens of both models at each token of both continuations."""
        return pd.concat([self.base.top_table(), self.aligned.top_table()], ignore_index=True)

    def _within(self, author: Author, position: int | None) -> int:
        """Return a token of a model's text: the requested one, or the nearest."""
        return min(max(1, self.divergence if position is None else position), len(self.shown(author).ids) - 1)


def _chips(text: Continuation, start: int, stop: int, by_probe: bool) -> list[Chip]:
    """Return the tokens from start to stop of a text as coloured tokens."""
    row = []
    for j in range(start, stop):
        prompt, distance = j < text.prompt_length, float(text.kl[j])
        wrong = float("nan") if prompt or text.wrong is None else float(text.wrong[j])
        lines = [f"token {j}: {text.tokens[j]}"]
        if j:
            lines.append(f"KL {distance:.3f} nats")
            lines += [f"wrong, by the probe: {chance(wrong)}"] * (wrong == wrong)
            for name, side in zip(("base", "aligned"), text.sides, strict=True):
                lines.append(f"p({name}) = {chance(float(np.exp(side.logprobs[j])))}")
                tops = zip(side.top_tokens[j][:3], side.top_logprobs[j][:3], strict=True)
                lines += [f"   {token}  {chance(float(np.exp(value)))}" for token, value in tops]
        strength = min(1.0, distance / STRONG_NATS) ** 0.5 if j and not by_probe else 0.0
        strength = wrong if by_probe and wrong == wrong else strength
        inputs = {"position": max(1, j)} | ({} if prompt else {"author": text.author})
        row.append(
            Chip(text=text.tokens[j], tip="\n".join(lines), strength=FULL * strength, prompt=prompt, inputs=inputs)
        )
    return row


def _most(text: Continuation, j: int) -> str:
    """Say in a clause after token `j`, which the sentence names, where the models differ most on the text drawn."""
    if not np.isfinite(text.kl).any():
        return ""
    most = int(np.nanargmax(text.kl))
    if most == j:
        return ", where they differ most"
    return f"; the models differ most at {_place(text, most)}"


def _place(text: Continuation, j: int) -> str:
    """Describe a token with its position, its part of the text and the KL there."""
    of = " of the prompt" * (j < text.prompt_length)
    return f"\u201c{text.tokens[j].strip()}\u201d, token {j}{of} (KL {text.kl[j]:.2f} nats)"


def _percent(logprob: float) -> str:
    return rate(float(np.exp(logprob)))


COLOURS = (
    "Colour: KL between the two predictions of the token. Hover for probabilities; a click chooses the token below."
)
FITTING = 0.9
"""Share of the work that is fitting two probes."""
WRITING = 0.8
"""Share of the work on a text that is its writing."""
SAMPLING = "Sampling"
"""Name of the popover with the sampling options."""
Prompt = Annotated[str | Sequence[Mapping[str, str]], Input("Prompt", shared="prompt", type=str)]
Length = Annotated[int, Input("New tokens", key="length", within=(1, 256), folded=SAMPLING)]
Temperature = Annotated[float, Input("Temperature (0 = greedy)", key="temperature", within=(0.0, 2.0), folded=SAMPLING)]
Seed = Annotated[int, Input("Seed", key="seed", folded=SAMPLING)]
Coloured = Annotated[Colour, Input("Colour", key="colour", labels={"KL": "KL", "probe": "hallucination probe"})]
Templated = Annotated[bool, replace(SHARED["chat"], folded=SAMPLING)]


def compare_seconds(
    base: LM,
    aligned: LM,
    prompt: Prompt,
    max_new_tokens: int,
    chat: bool,
    colour: Colour = "KL",
    **rest: Any,
) -> float:
    """Estimate the seconds in which both models continue a prompt, and read both continuations."""
    length = len(read_prompt(base, aligned, prompt, chat)[1]) + max_new_tokens
    fits = sum(map(scorer_seconds, (base, aligned))) if colour == "probe" else 0.0
    return fits + sum(seconds_to_read(lm, 2 * length + WRITTEN * max_new_tokens) for lm in (base, aligned))


@analysis("compare", title="One prompt", equations=EQUATIONS, widths=((5, 4),), seconds=compare_seconds, stored=False)
@torch.no_grad()
def compare(
    base: LM,
    aligned: LM,
    prompt: Prompt,
    max_new_tokens: Length = 12,
    colour: Coloured = "KL",
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    k: Annotated[int, Input(advanced=True)] = 8,
    chat: Templated = False,
    tick: Tick = ignore,
) -> Comparison:
    """Compare the continuations of two models token by token, and find where they differ most.

    Both continue the prompt, and both read both continuations. Temperature and seed affect only the continuations;
    probabilities and KL are at temperature 1. Entry *j* of KL compares the two distributions *before* token *j*; the
    colour of a token is that KL, or the probability by the hallucination probe of the model that writes (`token_truth`)
    that what the token says is wrong. `compare_lenses` reads the same texts layer by layer.

    Args:
        base: model to compare against.
        aligned: the other model; its tokenizer must be the same.
        prompt: text, or in Python messages for the chat template of `aligned`.
        max_new_tokens: maximum number of tokens in a continuation.
        colour: what colours a token: KL of the models, or the hallucination probe, which is fitted first.
        temperature: sampling temperature; 0 is greedy. Log-probabilities and KL are always at temperature 1.
        seed: seed of both samples, if the temperature is above 0; common random numbers make the samples differ only
            where the models do.
        k: number of most probable tokens to keep.
        chat: send the prompt as a user's message in the chat template of `aligned`.
        tick: function called with the share of the work done.

    Raises:
        DataError: a model has a scalar output (see `compare_scalars`), the tokenizers differ, or the prompt is empty
            or too long.
        ConfigError: an option is not valid.
    """
    text, ids = read_prompt(base, aligned, prompt, chat)

    scorers: tuple[TokenScorer | str, ...] = ()
    if colour == "probe":
        scorers = tuple(
            obtain_scorer(lm, part(between(tick, 0, FITTING), at, 2)) for at, lm in enumerate((base, aligned))
        )
        tick = between(tick, FITTING, 1)

    def written_by(author: Author, lm: LM, tick: Tick) -> Continuation:
        written = continue_prompt(lm, ids, max_new_tokens, temperature, seed)
        tick(WRITING)
        text = read_both(base, aligned, [*ids, *written], len(ids), author, k)
        scorer = scorers[author == "aligned"] if scorers else ""
        return text if isinstance(scorer, str) else replace(text, wrong=scorer.score_tokens(lm, text.ids))

    first = written_by("base", base, part(tick, 0, 2))
    second = written_by("aligned", aligned, part(tick, 1, 2))
    return Comparison(text, first, second, scorers=scorers)


def read_prompt(base: LM, aligned: LM, prompt: str | Sequence[Mapping[str, str]], chat: bool) -> tuple[str, list[int]]:
    """Return a prompt that both models continue, as text and as token ids (arguments and errors: see `compare`)."""
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    text = aligned.prompt_text([{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt)
    return text, encode(aligned.tokenizer, text)


def continue_prompt(lm: LM, ids: Sequence[int], max_new_tokens: int, temperature: float, seed: int) -> list[int]:
    """Return the token ids with which a model continues a prompt, computed once for analyses of one prompt."""

    def write() -> list[int]:
        return lm.generate([ids], max_new_tokens=max_new_tokens, temperature=temperature, seed=seed).ids[0]

    return keep(lm, (continue_prompt.__name__, tuple(ids), max_new_tokens, temperature, seed), write)


@torch.no_grad()
def read_both(
    base: LM, aligned: LM, ids: Sequence[int], prompt_length: int, author: Author, k: int = 5
) -> Continuation:
    """Read a given prompt and continuation with both models.

    Raises:
        DataError: a model has a scalar output, or the text is too long.
    """
    require_writers(base, aligned)
    tokens, batch = list(ids), torch.tensor([list(ids)])
    outputs = [lm.logits([tokens])[0].float().log_softmax(-1) for lm in (base, aligned)]
    sides = [
        lens_of(lm, tokens, (), read_lens([output[None]], batch, k, torch.zeros(1, 0, dtype=torch.long)))
        for lm, output in zip((base, aligned), outputs, strict=True)
    ]
    return Continuation(
        author=author,
        ids=tokens,
        tokens=sides[1].tokens,
        prompt_length=prompt_length,
        text=aligned.tokenizer.decode(tokens[prompt_length:], skip_special_tokens=True),
        base=_expectation(sides[0]),
        aligned=_expectation(sides[1]),
        kl=_move_to_predicted(kl(outputs[1], outputs[0]).cpu().numpy()),
    )


def require_writers(*lms: LM) -> None:
    """Raise a DataError for a model with a scalar output, which has no distribution to compare."""
    for lm in lms:
        if lm.readout != "tokens":
            raise DataError(
                f"The model `{lm.ref or 'created'}` outputs one number, a {lm.readout}, and no probabilities of"
                " tokens: compare two language models, or two models of this kind with `probe.compare.scalars`."
            )


def _expectation(output: Lens) -> Expectation:
    """Return the predictions of the output, shifted to the tokens that it predicts."""
    return Expectation(
        logprobs=_move_to_predicted(output.next_logprobs[-1]),
        entropy=_move_to_predicted(output.entropy[-1]),
        top_ids=_move_to_predicted(output.top_ids[-1], -1),
        top_tokens=_move_to_predicted(output.top_tokens[-1], ""),
        top_logprobs=_move_to_predicted(output.top_logprobs[-1]),
    )


def _move_to_predicted(values: np.ndarray, first: float | str = np.nan) -> np.ndarray:
    """Shift values of the predictive distributions to the token that they predict; `first` at token 0."""
    return np.concatenate([np.full_like(values[:1], first), values[:-1]])
