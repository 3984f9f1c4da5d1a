"""Comparison of two models over a corpus: KL per token, its largest values, and promoted and suppressed tokens.

Both models read the same texts. Values at position t concern the distribution of the token after token t, so every
token of a text counts once, including the last; optionally only those count whose next token an assistant generates. A
text longer than `LONGEST` tokens, or than a model's context, is split into pieces, each read as a separate text.

Diff mining: for each token of the vocabulary, the mean over all positions of p_aligned - p_base (`difference`) and of
log p_aligned - log p_base (`log_ratio`, nats). Among many tokens, some always have large scores by chance. So the texts
are split into random halves many times, which gives the correlation of both halves over the vocabulary, how often a
token's sign and rank agree, and the largest score that any token gets from the choice of texts alone (`null`).

Axes: N texts, P positions, V vocabulary, G groups of texts, R resamples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from probe import stats
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.compare.side_by_side import require_writers
from probe.compare.worlds import shared_world, worlds_apart
from probe.errors import ConfigError, DataError, suggest
from probe.experiments.run import labels
from probe.logits.lens import require_same_tokens
from probe.model.heads import check_count
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.text import chat_text, context_length, encode, pad, pieces, split
from probe.numbers import chance, in_unit, rate, signed
from probe.plotting.notebook import Drawable, opening, titled
from probe.questions.sets import right_answers
from probe.rows import (
    DOCUMENT,
    EVERY,
    Columns,
    Row,
    Rows,
    Selection,
    as_messages,
    check_columns,
    is_completion,
    is_messages,
    is_text_or_messages,
    may_hold_rows,
    read_documents,
    read_rows,
)
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

LONGEST = 1024
"""Largest number of tokens read at once: the logits of one text are in memory as a whole."""
BATCH, CHUNK = 2**24, 2**22
"""Number of logits in a batch, and of those compared at once: 64 and 16 MB in single precision."""
GROUPS = 64
"""Number of random groups of texts; halves and resamples are drawn from the groups. If there are fewer texts, each is
its own group. It bounds memory: two sums per group and token of the vocabulary.
"""
SPLITS = 100
"""Number of random halves."""
CONTEXT = 8
"""Number of context tokens shown with a changed position."""
EACH, OF_FILE = 10, 100
"""Default numbers of questions of each kind, and of rows of a file."""
LETTERS, OVERHEAD, OVERHEAD_S = 4, 1.5, 0.5
"""Approximate letters per token; extra time of the comparison as a share of reading, and seconds for halves and
intervals.
"""
SHOWN = 200
"""Largest number of rows in a table for reading."""
EQUATIONS = (
    r"\mathrm{KL}_t = \sum_v \pi_a(v \mid x_{\le t}) \log \frac{\pi_a(v \mid x_{\le t})}{\pi_b(v \mid x_{\le t})},"
    r"\quad a = \mathrm{aligned},\ b = \mathrm{base}",
    r"\mathrm{difference}(v) = \frac{1}{P}\sum_t \pi_a(v \mid x_{\le t}) - \pi_b(v \mid x_{\le t}), \quad"
    r"\mathrm{log\ ratio}(v) = \frac{1}{P}\sum_t \log \frac{\pi_a(v \mid x_{\le t})}{\pi_b(v \mid x_{\le t})}",
)
FORMS: tuple[Columns, ...] = (
    {"text": DOCUMENT["text"]},
    {"messages": is_messages},
    {"prompt": is_text_or_messages, "completion": is_completion},
    {"prompt": is_text_or_messages, "chosen": is_completion},
    {"prompt": is_text_or_messages},
)
"""Columns of a row that form a text; the first form whose columns are all present is used."""
KL = "KL, nats"
KIND = "text"
"""Default kind of texts."""
SCORES = {"difference": "mean of p_aligned - p_base", "log_ratio": "mean of log p_aligned - log p_base, nats"}
"""Scores of diff mining."""
PROMOTED = (
    *("score", "direction", "rank", "token", "id", "value", "ci_low", "ci_high", "p_base", "p_aligned"),
    *("same_sign", "same_rank", "beyond_null"),
)
"""Columns of `CorpusShift.promoted`."""


@dataclass(frozen=True)
class Text:
    """Text for both models to read."""

    content: str | Sequence[Mapping[str, Any]]
    """Text, or messages for the chat template; if they do not end with the assistant's turn, an answer is opened."""
    completion: str | None = None
    """Completion by the assistant, if the content is a prompt ("" for a prompt alone); None if it is not. Messages
    contain theirs.
    """
    kind: str = KIND
    """Kind of the text."""
    row: str = ""
    """Name of the row."""


@dataclass(frozen=True)
class CorpusShift(Drawable):
    """Differences of two models over a corpus: by how much, where, and towards which tokens."""

    names: tuple[str, str]
    """Names of base and aligned model."""
    kl: stats.Interval
    """KL(aligned || base) in nats, mean over all positions, with the interval over texts."""
    kl_reverse: stats.Interval
    """KL(base || aligned) in nats, mean over all positions, with the interval over texts."""
    texts: pd.DataFrame
    """Table with one row per text, the most changed first: `row`, `kind`, `start` (0; for a later piece, its first
    token), `tokens` (number that count), `kl` and `kl_reverse` (nats, means over them), `kl_max` with its `position`
    and `token`, `text`.
    """
    tokens: pd.DataFrame
    """Table with one row for each of the most changed positions: `row`, `kind`, `start` (of the piece of the text),
    `position`, `token` (that is read), `context` (the last tokens up to it) and `before` (all of the piece), `kl`,
    `kl_reverse`, `base_next` and `aligned_next` (the likeliest next tokens) with `base_p` and `aligned_p`, `promoted`
    (the token whose probability rises most) and `change` (its rise).
    """
    kinds: pd.DataFrame
    """Table with one row per kind, the most changed first: `kind`, `texts`, `tokens`, `kl` (mean over its positions)
    with `kl_low` and `kl_high` (95 %, over texts), `kl_reverse`.
    """
    by_token: pd.DataFrame
    """Table with one row per token type that is read: `token`, `id`, `count`, `kl` (mean), and `share` of the sum over
    the corpus, by which it is sorted.
    """
    promoted: pd.DataFrame
    """Table of the most promoted and suppressed tokens by each score: `score`, `direction`, `rank`, `token`, `id`,
    `value` with `ci_low` and `ci_high` (95 %, over texts), `p_base` and `p_aligned` (mean probabilities), `same_sign`
    and `same_rank` (share of splits in which both halves give the token this sign, and rank it equally high), and
    `beyond_null` (whether the value exceeds the null of the score).
    """
    halves: pd.DataFrame
    """Table with one row per score: `correlation` of both halves over the vocabulary (mean over `splits`) with `low`
    and `high` (95 % of the splits), and `null`: the size that no token's score exceeds in 95 % of the draws of random
    signs of the texts' differences.
    """
    notes: tuple[str, ...] = ()
    """Notes on the scores expected from the choice of texts alone, and on skipped rows of a file."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by name."""
        return {name: getattr(self, name) for name in ("kinds", "texts", "tokens", "by_token", "promoted", "halves")}

    def table(self) -> pd.DataFrame:
        """Return the figure's numbers: `panel` (kind, promoted, suppressed), `name`, `value`, `ci_low`, `ci_high`."""
        kinds = self.kinds[["kind", "kl", "kl_low", "kl_high"]].set_axis(["name", "value", "ci_low", "ci_high"], axis=1)
        tokens = self.listed("difference").rename(columns={"token": "name", "direction": "panel"})
        return pd.concat([kinds.assign(panel="kind"), tokens])[["panel", "name", "value", "ci_low", "ci_high"]]

    def figures(self) -> "dict[str, go.Figure]":
        """Draw KL by kind of text, and the promoted and suppressed tokens, with their 95 % intervals."""
        from probe.compare.figures import corpus_panels

        title = f"What changed from {self.names[0]} to {self.names[1]} over {len(self.texts):,} texts"
        return {"corpus": titled(corpus_panels(self.kinds, self.listed("difference")), title)}

    def data(self, figure: str) -> pd.DataFrame:
        """Return the table behind the figure."""
        return self.table()

    def lists(
        self,
        kind: Annotated[
            str | None, Input("Kind", key="corpus_kind", choices=lambda shift: shift.kinds["kind"], nothing="all")
        ] = None,
    ) -> dict[str, pd.DataFrame]:
        """Return the largest changes, up to 200 rows of each; a row opens its text in `compare`.

        Args:
            kind: kind of the positions and texts to list; all by default.

        Raises:
            ConfigError: no text is of that kind.
        """
        known = list(self.kinds["kind"])
        if kind is not None and kind not in known:
            raise ConfigError(f"No text is of the kind `{kind}`: {suggest(kind, known, f'name one of {known}.')}")
        tokens, texts = (
            (each if kind is None else each[each["kind"] == kind]).head(SHOWN) for each in (self.tokens, self.texts)
        )
        positions = tokens[["row", "kind", "position", "context", "kl"]].set_axis(
            ["text", "kind", "at", "read up to there", KL], axis=1
        )
        for name, side in zip(self.names, ("base", "aligned"), strict=True):
            pairs = zip(tokens[f"{side}_next"], tokens[f"{side}_p"], strict=True)
            positions[f"{name}: next"] = [f"{token} {chance(p)}" for token, p in pairs]
        named = {"row": "text", "kind": "kind", "kl": KL, "kl_max": "largest", "position": "at", "token": "token"}
        whole = texts[[*named, "tokens", "text"]].set_axis([*named.values(), "tokens", "whole text"], axis=1)
        kinds = self.kinds[["kind", "kl", "kl_low", "kl_high", "texts", "tokens"]]
        read = self.by_token[["token", "kl", "share", "count"]].head(SHOWN)
        return {
            "Positions": opening(positions, "compare", _prompts(tokens, "before")),
            "Texts": opening(whole, "compare", _prompts(texts, "text")),
            "Kinds": kinds.set_axis(["kind", KL, "95 % from", "to", "texts", "tokens"], axis=1),
            "Tokens read": read.set_axis(["token", KL, "share", "count"], axis=1),
            "Promoted and suppressed": self._promoted("difference"),
            "By log-probability": self._promoted("log_ratio"),
        }

    def _promoted(self, score: str) -> pd.DataFrame:
        """Return the tokens at both ends of a score, formatted for reading."""
        rows = self.listed(score)
        unit, factor = ("pp", 100) if score == "difference" else ("nats", 1)
        ends = zip(*(factor * rows[name] for name in ("value", "ci_low", "ci_high")), strict=True)
        return pd.DataFrame(
            {
                "token": rows["token"],
                "direction": rows["direction"],
                f"change, {unit} [95 %]": [_signed_interval(*each) for each in ends],
                "p(base)": [chance(p) for p in rows["p_base"]],
                "p(aligned)": [chance(p) for p in rows["p_aligned"]],
                "same sign": [_share(each) for each in rows["same_sign"]],
                "same rank": [_share(each) for each in rows["same_rank"]],
                "beyond the null": ["yes" if each else "no" for each in rows["beyond_null"]],
            }
        )

    def listed(self, score: str) -> pd.DataFrame:
        """Return the promoted and suppressed tokens of one score."""
        return self.promoted[self.promoted["score"] == score]

    def sentence(self) -> str:
        """State the finding in words."""
        base, aligned = self.names
        total = int(self.kinds["tokens"].sum())
        parts = [
            f"Over {len(self.texts):,} texts ({total:,} tokens) KL({aligned} \u2225 {base}) is "
            f"{in_unit('nats', *self.kl)} nats a token"
        ]
        if len(self.kinds) > 1 and self.kl.value > 0:
            (most, *_, least) = self.kinds.to_dict("records")
            ends = [in_unit("nats", row["kl"], row["kl_low"], row["kl_high"]) for row in (most, least)]
            parts.append(f"the kind {most['kind']} changed most ({ends[0]}), {least['kind']} least ({ends[1]})")
        null = self.halves.set_index("score")["null"].get("difference", np.nan)
        for direction in ("promoted", "suppressed"):
            rows = self.listed("difference").query("direction == @direction and beyond_null").head(3)
            words = ", ".join(
                f"\u201c{token}\u201d ({signed(100 * value)} pp)"
                for token, value in zip(rows.token, rows.value, strict=True)
            )
            if words:
                parts.append(f"most {direction}: {words}")
            elif null > 0:
                parts.append(f"no token is {direction} by more than the choice of texts explains ({100 * null:.2f} pp)")
        correlation = self.halves.set_index("score")["correlation"].get("difference", np.nan)
        if correlation == correlation:
            parts.append(f"the scores of two halves of the texts correlate at {correlation:.2f}")
        return "; ".join(parts) + "."


def _prompts(rows: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    """Return the text of a column as a prompt for each row, and the index of the token that is predicted there."""
    places = zip(rows[column], rows["position"] - rows["start"] + 1, strict=True)
    return [{"prompt": text, "position": int(at), "chat": False} for text, at in places]


def _signed_interval(value: float, low: float, high: float) -> str:
    ends = "" if low != low else f" [{low:+.2g}, {high:+.2g}]"
    return f"{value:+.2g}{ends}".replace("-", "\u2212")


def _share(value: float) -> str:
    """Format a share of the splits; empty if there are none."""
    return "" if value != value else rate(value)


def read_texts(path: str | Path, strict: bool = False, selection: Selection = EVERY) -> Rows[Text]:
    """Read the texts of a file in one of the `FORMS`, with the column `kind` if present; a text file is one text.

    A prompt is read together with its completion (or `chosen`), if there is one.

    Args:
        path: file or data set; see `probe.rows.read_rows`.
        strict: raise an error if a row is not valid.
        selection: rows to use.

    Raises:
        DataError: the file cannot be read, or no row is valid.
    """
    path = Path(path).expanduser()
    if not may_hold_rows(str(path)):
        return read_documents(path, strict).each(lambda text: Text(text, row="text"))
    return read_rows(path, _text_of, strict, "one JSON object a line with a column `text` or `prompt`", selection)


def _text_of(row: Row) -> Text:
    values = check_columns(row, *FORMS).values
    kind = KIND if values.get("kind") in (None, "") else str(values["kind"])
    if "text" in values or "messages" in values:
        return Text(values.get("text") or values["messages"], None, kind, row.label)
    prompt, answer = values["prompt"], values.get("completion", values.get("chosen", ""))
    if isinstance(prompt, str) and isinstance(answer, str):
        return Text(prompt, answer, kind, row.label)
    before, after = as_messages("user", prompt), as_messages("assistant", answer) if answer else []
    return Text(after if after[: len(before)] == before else [*before, *after], None, kind, row.label)


def shared_texts(base: LM, aligned: LM, n: int = 100, seed: int = 0) -> list[Text]:
    """Return questions that both models can be asked: `n` of each kind of their world, or of each of `SETS_READ`.

    Questions of a set include their right answer, and use the chat template of the second model if it has one.

    Raises:
        ConfigError: the models belong to different worlds.
    """
    world = shared_world(base, aligned, "texts")
    if world is None:
        return _set_texts(aligned, n, seed)
    return [
        Text(item.prompt, "", kind, f"{kind}-{number}")
        for kind in world.question_kinds
        for number, item in enumerate(world.questions(kind, n, seed))
    ]


SETS_READ = ("truthfulqa", "political-views", "gsm8k", "sums")
"""Question sets read by models without a world."""


def _set_texts(lm: LM, n: int, seed: int) -> list[Text]:
    texts = []
    for name in SETS_READ:
        pairs = right_answers(name)
        for at in np.random.default_rng(seed).permutation(len(pairs))[:n]:
            (question, answer), label = pairs[at], f"{name}-{at + 1}"
            if lm.tokenizer.chat_template is None:
                texts.append(Text(f"Q: {question}\nA:", f" {answer}", name, label))
            else:
                turns = [("user", question), ("assistant", answer)]
                texts.append(Text([{"role": role, "content": said} for role, said in turns], None, name, label))
    return texts


class _Piece(NamedTuple):
    """Unit of reading: a text, or a part of a long one. Sorting groups pieces by length."""

    length: int
    ids: list[int]
    first: int
    """First position that counts."""
    kind: str
    row: str
    start: int
    """Index of its first token in the whole text."""

    @property
    def counted(self) -> int:
        """Number of positions that count."""
        return self.length - self.first


class _Positions(NamedTuple):
    """Values stored for each position."""

    kl: Float[Tensor, " P"]
    kl_reverse: Float[Tensor, " P"]
    base_next: Int[Tensor, " P"]
    base_p: Float[Tensor, " P"]
    aligned_next: Int[Tensor, " P"]
    aligned_p: Float[Tensor, " P"]
    promoted: Int[Tensor, " P"]
    change: Float[Tensor, " P"]


def texts_of(
    base: LM, aligned: LM, texts: "Sequence[str | Text] | Path | None", n: int | None, seed: int
) -> Sequence[str | Text]:
    """Return the texts for both models: those of a file, or the questions that both can be asked.

    Raises:
        ConfigError: no file is named, and the models belong to different worlds.
        DataError: the file cannot be read, or none of its rows is valid.
    """
    if texts is None:
        return shared_texts(base, aligned, n or EACH, seed)
    return read_texts(texts, selection=Selection(n or OF_FILE, seed)) if isinstance(texts, Path) else texts


def corpus_seconds(
    base: LM,
    aligned: LM,
    texts: "Sequence[str | Text] | Path | None" = None,
    n: int | None = None,
    seed: int = 0,
    **options: Any,
) -> float:
    """Estimate the seconds that both models take to read the texts, from a timing on a few tokens.

    Raises:
        ProbeError: see `compare_corpus`.
    """
    require_writers(base, aligned)
    letters = sum(
        len(text) if isinstance(text, str) else len(text.completion or "") + len(str(text.content))
        for text in texts_of(base, aligned, texts, n, seed)
    )
    return OVERHEAD_S + OVERHEAD * sum(map(seconds_a_token, (base, aligned))) * letters / LETTERS


@analysis(
    "compare",
    title="Over a corpus",
    equations=EQUATIONS,
    seconds=corpus_seconds,
    key="corpus",
)
@torch.no_grad()
def compare_corpus(
    base: LM,
    aligned: LM,
    texts: Annotated[
        Sequence[str | Text] | Path | None,
        Input(
            "File of texts",
            key="corpus_file",
            placeholder="the questions of their world, or of the shipped sets",
            type=Path | None,
        ),
    ] = None,
    answers: Annotated[bool, Input("Answers only")] = True,
    n: Annotated[int | None, Input("Texts", placeholder=f"{OF_FILE}, or {EACH} each")] = None,
    seed: Annotated[int, Input("Seed of the texts")] = 0,
    k: Annotated[int, Input(advanced=True)] = 12,
    most: Annotated[int, Input(advanced=True)] = SHOWN,
    tick: Tick = ignore,
) -> CorpusShift:
    """Compare two models over a corpus: the texts, positions, kinds and tokens that changed most.

    Values at a position concern the distribution of the token after it; with answers only, a position counts if an
    assistant generates the next token. KL is exact over the vocabulary; padding does not count, and the order of the
    texts has no effect. A token is promoted if its mean probability rises. Among many tokens, some always have large
    scores by chance; so the texts are split into random halves 100 times. *Same sign* and *same rank* are the shares of
    splits in which both halves give the token this sign, and rank it equally high. The *null* is the largest score of
    any token when each text's difference has a random sign: 95 % of the draws stay below it. Intervals are 95 %, by a
    bootstrap over texts.

    Args:
        base: model to compare against.
        aligned: the other model; its tokenizer must be the same, and its chat template formats messages.
        texts: file with one text per row: `text`, `messages`, or `prompt` (with `completion` or `chosen`), and `kind`
            to group texts by; or a text file as one text. By default the questions of the world that both belong to, or
            of the built-in sets. In Python also texts, or the result of `read_texts` or `shared_texts`. Rows of a file
            that cannot be encoded are skipped and reported, unless the file is read strictly.
        answers: count only the positions whose next token an assistant generates: from the last token of the prompt on.
            Texts without a prompt count whole.
        n: number of texts of the file (by default 100), or of questions of each kind (by default 10).
        seed: seed of the choice of texts, of groups, halves and intervals.
        k: number of promoted and of suppressed tokens for each score.
        most: number of changed positions to list.
        tick: function called with the share of the work done.

    Raises:
        DataError: a model has a scalar output, the tokenizers differ, the file cannot be read, or a text is empty or
            has unknown words.
        ConfigError: `k` or `most` is less than 1, or no file is named and the models belong to different worlds.
    """
    texts = texts_of(base, aligned, texts, n, seed)
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    check_count(k)
    check_count(most)
    length = min([LONGEST, *filter(None, (context_length(lm.model) for lm in (base, aligned)))])
    named = texts if isinstance(texts, Rows) else [_named(text, number) for number, text in enumerate(texts, 1)]
    cut = partial(_pieces, aligned, length, answers)
    rows = named.each(cut) if isinstance(named, Rows) else [cut(text) for text in named]
    corpus = sorted(piece for row in rows for piece in row)
    if not corpus:
        raise DataError("No text was given, so there is nothing to compare: give at least one.")
    groups = np.random.default_rng(seed).permutation(len(corpus)) % min(GROUPS, len(corpus))
    counts = np.bincount(groups, [piece.counted for piece in corpus])
    size = min(lm.model.get_output_embeddings().weight.shape[0] for lm in (base, aligned))
    sums = {name: torch.zeros(len(counts), size, dtype=torch.float64) for name in SCORES}
    base_sum, parts = torch.zeros(size, dtype=torch.float64), list[_Positions]()
    ends = np.cumsum([piece.length for piece in corpus])
    for start, stop in _batches(corpus, size):
        parts += _read(base, aligned, corpus[start:stop], groups[start:stop], sums, base_sum)
        tick(float(ends[stop - 1] / ends[-1]))
    values = _Positions(*(torch.cat(column) for column in zip(*parts, strict=True)))
    found = [_mine(name, sums[name].numpy(), counts, k, seed) for name in SCORES]
    promoted = pd.DataFrame([row for listed, _ in found for row in listed], columns=list(PROMOTED))
    promoted["token"] = pieces(aligned.tokenizer, promoted["id"].tolist())
    means = {"p_base": base_sum, "p_aligned": base_sum + sums["difference"].sum(0)}
    for name, total in means.items():
        promoted[name] = total.numpy()[promoted["id"].to_numpy(dtype=int)] / counts.sum()
    halves, notes = pd.DataFrame([half for _, half in found]), rows.notes() if isinstance(rows, Rows) else ()
    apart = worlds_apart(base, aligned, (base.ref or "base", aligned.ref or "aligned"))
    notes = (*_null_notes(found), *notes, *([apart] if apart else []))
    tables = _tables(base, aligned, corpus, values, most, seed)
    return CorpusShift(**tables, promoted=promoted, halves=halves, notes=tuple(notes))


def _null_notes(found: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[str]:
    """Describe the scores expected from the choice of texts alone, in a sentence."""
    half = next(half for _, half in found if half["score"] == "difference")
    if half["null"] != half["null"]:
        return ["A single text cannot be split into halves, so there are no intervals and no null: give more texts."]
    if half["correlation"] != half["correlation"]:
        return []
    return [
        f"The choice of texts alone changes some token by {100 * half['null']:.2f} pp. The"
        f" scores of two halves of the texts correlate at {half['correlation']:.2f}"
        f" [{half['low']:.2f}, {half['high']:.2f}] over the vocabulary."
    ]


def _named(text: str | Text, number: int) -> Text:
    text = Text(text) if isinstance(text, str) else text
    return text if text.row else replace(text, row=f"text-{number}")


def _pieces(lm: LM, longest: int, answers: bool, text: Text) -> list[_Piece]:
    """Split a text into pieces of at most `longest` tokens, and keep the pieces with positions that count.

    Raises:
        DataError: the text has no tokens or unknown words, or is made of messages and the model has no chat template.
    """
    ids, first = _encode(lm, text)
    if not ids:
        raise DataError(f"The text {text.row} has no tokens: give at least one word.")
    parts = [(start, ids[start : start + longest]) for start in range(0, len(ids), longest)]
    since = max(first - 1, 0) if answers else 0
    return [
        _Piece(len(part), part, max(since - start, 0), text.kind, text.row, start)
        for start, part in parts
        if start + len(part) > since
    ]


def cut_text(lm: LM, longest: int, text: Text) -> list[list[int]]:
    """Return the ids of a text in pieces of at most `longest` tokens.

    Raises:
        DataError: see `_pieces`.
    """
    return [piece.ids for piece in _pieces(lm, longest, False, text)]


def _encode(lm: LM, text: Text) -> tuple[list[int], int]:
    """Return the ids of a text, and the index of the first token that an assistant generates."""
    if isinstance(text.content, str):
        if not text.completion:
            ids = encode(lm.tokenizer, text.content)
            return ids, 0 if text.completion is None else len(ids)
        head, rest = split(lm.tokenizer, text.content, text.completion)
        return [*head, *rest], len(head)
    *before, last = text.content
    if last["role"] != "assistant" or not before:
        ids = encode(lm.tokenizer, lm.prompt_text([*before, last]))
        return ids, len(ids)
    head = encode(lm.tokenizer, lm.prompt_text(before))
    ids = encode(lm.tokenizer, chat_text(lm.tokenizer, text.content))
    return ids, next((at for at, pair in enumerate(zip(head, ids, strict=False)) if pair[0] != pair[1]), len(head))


def _batches(corpus: Sequence[_Piece], size: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of batches of at most `BATCH` logits, padding included; a longer text is a batch of its own."""
    start = 0
    for stop, piece in enumerate(corpus):
        if stop > start and (stop + 1 - start) * piece.length * size > BATCH:
            yield start, stop
            start = stop
    yield start, len(corpus)


def _read(
    base: LM,
    aligned: LM,
    texts: Sequence[_Piece],
    groups: np.ndarray,
    sums: Mapping[str, Float[Tensor, "G V"]],
    base_sum: Float[Tensor, " V"],
) -> Iterator[_Positions]:
    """Yield the values at a batch's positions, and add their scores to the sums of the texts' groups."""
    ids, size = [text.ids for text in texts], len(base_sum)
    mask = pad(ids, 0)[1]
    mask &= torch.arange(mask.shape[1]) >= torch.tensor([[text.first] for text in texts])
    logits = [lm.logits(ids).flatten(0, 1)[:, :size] for lm in (base, aligned)]
    owners = torch.tensor(groups)[:, None].expand_as(mask).flatten()
    for at in mask.flatten().nonzero()[:, 0].split(max(1, CHUNK // size)):
        parts = [each.index_select(0, at.to(each.device)).to(aligned.device) for each in logits]
        log_q, log_p = (part.float().log_softmax(-1) for part in parts)
        probability, reference = log_p.exp(), log_q.exp()
        ratio = log_p.clamp_(min=-1e9).sub_(log_q.clamp_(min=-1e9))
        scores = {"difference": probability - reference, "log_ratio": ratio}
        present, index = owners[at].unique(return_inverse=True)
        for name, score in scores.items():
            part = score.new_zeros(len(present), size).index_add_(0, index.to(score.device), score)
            sums[name][present] += part.cpu().double()
        base_sum += reference.sum(0).cpu().double()
        tops = (each.max(-1) for each in (reference, probability, scores["difference"]))
        found = [tensor for top in tops for tensor in (top.indices, top.values)]
        distances = (sign * torch.linalg.vecdot(own, ratio) for sign, own in ((1, probability), (-1, reference)))
        yield _Positions(*(each.cpu() for each in (*(each.clamp(min=0) for each in distances), *found)))


def _mine(
    name: str, sums: np.ndarray, counts: np.ndarray, k: int, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows for the tokens at both ends of a score, and a row on the agreement of two halves about the score.

    Args:
        name: name of the score.
        sums: [G V] sums of the score over the positions of each group.
        counts: [G] numbers of positions.
        k: number of tokens at each end.
        seed: seed of halves and resamples.
    """
    rng, value = np.random.default_rng(seed), sums.sum(0) / counts.sum()
    ends = {"promoted": _first(value, k), "suppressed": _first(-value, k)}
    chosen = np.concatenate(list(ends.values()))
    correlations, same_sign, same_rank = [], np.zeros(len(chosen)), np.zeros(len(chosen))
    splits = SPLITS if len(counts) > 1 else 0
    for _ in range(splits):
        half = (rng.permutation(len(counts)) < len(counts) // 2).astype(float)
        first, second = ((part @ sums) / (part @ counts) for part in (half, 1 - half))
        varied = first.std() > 0 and second.std() > 0
        correlations.append(np.corrcoef(first, second)[0, 1] if varied else np.nan)
        same_sign += (np.sign(first) == np.sign(value))[chosen] & (np.sign(second) == np.sign(value))[chosen]
        listed = [
            np.isin(tokens, _first(sign * first, k)) & np.isin(tokens, _first(sign * second, k))
            for sign, tokens in zip((1, -1), ends.values(), strict=True)
        ]
        same_rank += np.concatenate(listed)
    low, high = np.nanquantile(correlations, stats.TAILS) if np.isfinite(correlations).any() else (np.nan, np.nan)
    signs = np.random.default_rng((seed, len(counts))).choice([-1.0, 1.0], (splits, len(counts)))
    largest = [float(np.abs(sign @ sums).max()) / counts.sum() for sign in signs]
    null = sign_limit(largest, float(np.abs(value).max())) if splits else np.nan
    mean = float(np.nanmean(correlations)) if low == low else np.nan
    half_row = {"score": name, "correlation": mean, "low": low, "high": high, "null": null, "splits": splits}
    few = sums[:, chosen]
    drawn = (
        stats.resample(lambda at: few[at].sum(1) / counts[at].sum(1)[:, None], len(counts), stats.RESAMPLES, seed)
        if splits
        else np.empty((0, len(chosen)))
    )
    rows = []
    directions = [(direction, rank) for direction, tokens in ends.items() for rank in range(1, 1 + len(tokens))]
    for at, ((direction, rank), token) in enumerate(zip(directions, chosen.tolist(), strict=True)):
        interval = stats.percentile(float(value[token]), drawn[:, at], len(counts))
        shares = {"same_sign": same_sign[at] / splits, "same_rank": same_rank[at] / splits} if splits else {}
        about = {"score": name, "direction": direction, "rank": rank, "id": token, **interval.row()}
        rows.append(about | shares | {"beyond_null": bool(abs(value[token]) > null)})
    return rows, half_row


def sign_limit(drawn: ArrayLike, observed: float) -> float:
    """Return the size that at most 5 % of a statistic and its draws under random signs exceed.

    The observed statistic counts as a draw, since it is one choice of signs: if the sign of every text's difference is
    random, it exceeds this size in at most 5 % of cases, however few texts there are (Phipson and Smyth 2010).
    """
    return float(np.quantile(np.append(np.asarray(drawn, dtype=float), observed), 0.95, method="higher"))


def _first(score: np.ndarray, k: int) -> np.ndarray:
    """Return the `k` tokens with the largest positive scores, largest first."""
    order = np.argpartition(-score, min(k, len(score)) - 1)[:k]
    order = order[np.lexsort((order, -score[order]))]
    return order[score[order] > 0]


def _tables(
    base: LM, aligned: LM, corpus: Sequence[_Piece], values: _Positions, most: int, seed: int
) -> dict[str, Any]:
    """Build the fields of the comparison that the values at all positions give."""
    tokenizer, names = aligned.tokenizer, labels([base, aligned])
    counts = np.array([text.counted for text in corpus])
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(corpus)), counts)
    place = np.arange(len(owner)) - np.repeat(starts - [text.first for text in corpus], counts)
    offset = np.array([text.start for text in corpus])
    ids = np.concatenate([text.ids[text.first :] for text in corpus])
    forward, backward = values.kl.double().numpy(), values.kl_reverse.double().numpy()

    def mean(where: np.ndarray, of: np.ndarray = forward) -> stats.Interval:
        return stats.bootstrap_mean(of[where], seed=seed, bounds=stats.NOT_NEGATIVE, units=owner[where])

    peaks = starts + [int(forward[start : start + count].argmax()) for start, count in zip(starts, counts, strict=True)]
    about = {"row": np.array([text.row for text in corpus]), "kind": np.array([text.kind for text in corpus])}
    texts = pd.DataFrame(
        {
            **about,
            "start": offset,
            "tokens": counts,
            "kl": np.bincount(owner, forward) / counts,
            "kl_reverse": np.bincount(owner, backward) / counts,
            "kl_max": forward[peaks],
            "position": place[peaks] + offset,
            "token": pieces(tokenizer, ids[peaks].tolist()),
            "text": [tokenizer.decode(text.ids) for text in corpus],
        }
    )
    top = _first_of_each(np.argsort(-forward, kind="stable"), corpus, owner, place, most)
    before = [corpus[owner[at]].ids[: place[at] + 1] for at in top]
    tokens = pd.DataFrame(
        {
            **{name: column[owner[top]] for name, column in about.items()},
            "start": offset[owner[top]],
            "position": place[top] + offset[owner[top]],
            "token": pieces(tokenizer, ids[top].tolist()),
            "context": [tokenizer.decode(each[-CONTEXT:]) for each in before],
            "before": [tokenizer.decode(each) for each in before],
            **{name: column.numpy()[top] for name, column in values._asdict().items()},
        }
    )
    for name in ("base_next", "aligned_next", "promoted"):
        tokens[name] = pieces(tokenizer, tokens[name].tolist())
    by_kind = texts.groupby("kind").agg(texts=("row", "size"), tokens=("tokens", "sum"))
    kind_of = about["kind"][owner]
    kinds = pd.DataFrame(
        [
            {"kind": kind, "texts": row.texts, "tokens": row.tokens}
            | mean(kind_of == kind).row(name="kl")
            | {"kl_reverse": backward[kind_of == kind].mean()}
            for kind, row in by_kind.iterrows()
        ]
    )
    read, code = np.unique(ids, return_inverse=True)
    count, total = np.bincount(code), np.bincount(code, forward)
    share = total / forward.sum() if forward.any() else np.zeros(len(read))
    by_token = pd.DataFrame(
        {"token": pieces(tokenizer, read.tolist()), "id": read, "count": count, "kl": total / count, "share": share}
    )
    every = np.ones(len(ids), dtype=bool)
    return {
        "names": (names[0], names[1]),
        "kl": mean(every),
        "kl_reverse": mean(every, backward),
        "texts": _ranked(texts, "kl"),
        "tokens": tokens,
        "kinds": _ranked(kinds, "kl"),
        "by_token": _ranked(by_token, "share"),
    }


def _first_of_each(
    order: np.ndarray, corpus: Sequence[_Piece], owner: np.ndarray, place: np.ndarray, most: int
) -> list[int]:
    """Return the first `most` positions in an order, only one for positions that follow equal texts.

    Texts with a common beginning are equal up to where they diverge.
    """
    seen = dict[tuple[int, ...], int]()
    for at in order.tolist():
        if len(seen) == most:
            break
        seen.setdefault(tuple(corpus[owner[at]].ids[: place[at] + 1]), at)
    return list(seen.values())


def _ranked(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.sort_values(column, ascending=False, kind="stable", ignore_index=True)
