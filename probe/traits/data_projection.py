"""Projection of a data set's rows on the direction of a trait, before anything is trained on them.

The projection difference of a row is the projection of its completion minus that of the model's own answer to the same
prompt (Chen et al. 2025, arXiv 2507.21509). Of a pair of preferences it is chosen minus rejected, between which
training moves the model. Positive rows push towards the trait.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

import probe.world
from probe import stats
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.generation import end_tokens
from probe.model.lm import LM
from probe.model.pace import WRITTEN, seconds_to_read
from probe.numbers import format_interval, rate
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.rows import (
    DEMONSTRATIONS,
    Columns,
    Row,
    Selection,
    check_columns,
    is_completion,
    is_text_or_messages,
    read_rows,
)
from probe.ticks import Tick, ignore, part
from probe.traits.contrast_pairs import Trait, answer_text
from probe.traits.direction import (
    PAIRS,
    Count,
    Layer,
    Pairs,
    Seed,
    TraitDirection,
    Which,
    direction_seconds,
    trait_direction,
)
from probe.traits.exact_rates import BEHAVIOURS, chances
from probe.traits.states import answer_ids, mean_states
from probe.world import AGREEABLE, HONEST
from probe.world.language import subject_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIFFERENCE = (
    r"\Delta = \frac{1}{N} \sum_i \left( p(x_i, y_i) - p(x_i, y'_i) \right), \quad y'_i \sim \pi(\cdot \mid x_i), \quad"
    r"p(x, y) = \frac{\bar h_l(x, y) \cdot v_l - \bar p^{-}}{\bar p^{+} - \bar p^{-}}"
)
Source = Literal["demonstrations", "agreeable", "honest"]
"""Rows of a world: what `probe train sft` or `probe train dpo` trains on, the latter by annotator."""
PAIR: Columns = {"prompt": is_text_or_messages, "chosen": is_completion, "rejected": is_completion}
ROWS, SHOWN, LONGEST = 200, 200, 64
"""Default number of rows; largest number of rows in a table for reading; largest number of tokens of an own answer."""
KIND = "row"


class DataRow(NamedTuple):
    """Row of a data set."""

    prompt: str
    """Text of the prompt."""
    completion: str
    """Completion that is learned, or the chosen one of a pair."""
    other: str | None
    """Rejected completion; None for demonstrations, which are compared with the model's own answer."""
    kind: str
    """Kind of the row."""
    name: str
    """Name of the row."""


@dataclass(frozen=True)
class ProjectedData(Drawable):
    """Rows of a data set along the direction of a trait."""

    direction: TraitDirection
    """Direction of the trait in the model before training."""
    rows: pd.DataFrame
    """One row per row of the data, most towards the trait first: `row`, `kind`, `prompt`, `completion`, `other` (the
    model's own answer, or the rejected completion), `projection` and `other_projection` (0: mean of answers without the
    trait, 1: with it), `difference`; on a world with a built-in trait `shows` (whether the completion shows the
    behaviour) and `own_chance` (exact probability that the model's own answer does).
    """
    paired: bool
    """Whether the rows are pairs of preferences."""
    source: str
    """Name of the data."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""
    remarks: tuple[str, ...] = ()
    """Notes on rows that were left out."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What a reader of the projections must know."""
        direction = self.direction
        unit = f"One unit is the gap between answers with and without {direction.trait}, after block {direction.layer}"
        auc = f"the direction's AUC on held-out prompts is {direction.auc(direction.layer)}"
        doubt = "" if direction.separates else ", so it does not separate them and these projections mean little"
        other = "the rejected completion" if self.paired else "one sample of the model's own answer"
        return (f"{unit}; {auc}{doubt}. A row is compared with {other}.", *self.remarks)

    @property
    def mean(self) -> stats.Interval:
        """Mean projection difference with its 95 % interval over people or rows."""
        return _mean(self.rows)

    @property
    def kinds(self) -> pd.DataFrame:
        """One row per kind, most towards the trait first: `kind`, `value`, `ci_low`, `ci_high`, `n`."""
        parts = [{"kind": kind, **_mean(part).row(len(part))} for kind, part in self.rows.groupby("kind")]
        return pd.DataFrame(parts).sort_values("value", ascending=False, kind="stable", ignore_index=True)

    def sentence(self) -> str:
        """State the mean projection difference, what it means, and the rate in the data where it is known."""
        mean, trait = self.mean, self.direction.trait
        other = "the rejected completions" if self.paired else f"{self.looks[0].name}'s own answers"
        by = f"{format_interval(*mean)} gaps on average"
        if mean.low > 0 or mean.high < 0:
            way = f"further {'towards' if mean.value > 0 else 'away from'} {trait} than {other}: by {by}"
        else:
            way = f"no further towards {trait} or away from it than {other}, as far as these rows can show: {by}"
        said = f"The {len(self.rows):,} rows of {self.source} lie {way}"
        if "shows" not in self.rows:
            return f"{said}."
        shows, own = float(self.rows["shows"].mean()), float(self.rows["own_chance"].mean())
        return f"{said}. {rate(shows)} of the rows show it; the model's own answers would in {rate(own)}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the rows, and the means by kind."""
        return {"rows": self.rows, "kinds": self.kinds}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the rows that push most towards the trait and away from it, and the means by kind."""
        other = "rejected" if self.paired else "own answer"
        names = {
            "kind": "kind",
            "prompt": "prompt",
            "completion": "completion",
            "other": other,
            "difference": "difference",
        }
        if "shows" in self.rows:
            names["shows"] = "shows it"
        rows = self.rows[list(names)].rename(columns=names)
        return {
            "Towards the trait": rows[rows["difference"] > 0].head(SHOWN),
            "Away from it": rows[rows["difference"] < 0].iloc[::-1].head(SHOWN),
            "Kinds": self.kinds.rename(
                columns={"value": "difference", "ci_low": "95 % from", "ci_high": "to", "n": "rows"}
            ),
        }

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the projection difference of the rows, by kind."""
        from probe.traits.figures import rows_along

        title = f"How far the rows of {self.source} lie along {self.direction.trait} in {self.looks[0].name}"
        return {"rows": titled(rows_along(self.rows, self.kinds, self.looks[0].colour), title)}


def _mean(rows: pd.DataFrame) -> stats.Interval:
    """Return the mean difference of rows with its interval over the people or rows that were drawn."""
    units = [subject_of(prompt) or name for prompt, name in zip(rows["prompt"], rows["row"], strict=True)]
    return stats.bootstrap_mean(rows["difference"], units=units)


def read_data(lm: LM, path: Path, selection: Selection) -> tuple[list[DataRow], tuple[str, ...]]:
    """Read the rows of a file: demonstrations or pairs of preferences; messages get the chat template.

    Returns:
        The rows, and notes on those that were left out.

    Raises:
        DataError: the file cannot be read, or no row is valid.
    """

    def data_row(row: Row) -> DataRow:
        values = check_columns(row, PAIR, *DEMONSTRATIONS).values
        kind = KIND if values.get("kind") in (None, "") else str(values["kind"])
        if "chosen" in values:
            chosen, rejected = (answer_text(values[name]) for name in ("chosen", "rejected"))
            return DataRow(lm.prompt_text(values["prompt"]), chosen, rejected, kind, row.label)
        if "completion" in values:
            return DataRow(lm.prompt_text(values["prompt"]), answer_text(values["completion"]), None, kind, row.label)
        turns = values["messages"]
        last = max((at for at, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
        if last == 0:
            raise DataError(f"{row.where} has no message of the assistant after a prompt: add one.")
        return DataRow(lm.prompt_text(turns[:last]), turns[last]["content"], None, kind, row.label)

    found = read_rows(path, data_row, False, "one JSON object a line with `prompt` and `completion`", selection)
    return list(found), tuple(found.notes())


def world_rows(lm: LM, source: Source, n: int, seed: int) -> list[DataRow]:
    """Return rows that a training on the model's world learns from.

    Raises:
        DataError: the model belongs to no world.
    """
    world = probe.world.of(lm)
    if world is None:
        raise DataError("This model belongs to no world, so there are no rows to project: give a file of rows.")
    if source == "demonstrations":
        items = world.demonstrations(n, seed)
        return [
            DataRow(each.prompt, each.answers[0], None, each.kind, f"{source}-{at}") for at, each in enumerate(items)
        ]
    pairs = world.preferences(AGREEABLE if source == "agreeable" else HONEST, n, seed)
    return [
        DataRow(each["prompt"], each["chosen"], each["rejected"], each["kind"], f"{source}-{at}")
        for at, each in enumerate(pairs)
    ]


def data_rows(lm: LM, data: Any, source: Source, rows: int, seed: int) -> tuple[str, list[DataRow], tuple[str, ...]]:
    """Return the name of the data, its rows, and notes on rows that were left out."""
    if data is None:
        name = "the world's demonstrations" if source == "demonstrations" else f"the {source} annotator's preferences"
        return name, world_rows(lm, source, rows, seed), ()
    if isinstance(data, Path):
        return data.stem, *read_data(lm, data, Selection(rows, seed))
    return "the data", list(data), ()


def projection_seconds(
    lm: LM,
    trait: Trait = "invention",
    data: Any = None,
    source: Source = "demonstrations",
    rows: int = ROWS,
    seed: int = 0,
    **rest: Any,
) -> float:
    """Estimate the seconds for the direction, the own answers, and reading the rows."""
    _, found, _ = data_rows(lm, data, source, rows, seed)
    read = sum(len(each.prompt) * 2 + len(each.completion) + len(each.other or each.completion) for each in found) / 4
    written = sum(len(each.completion) / 4 for each in found if each.other is None) * WRITTEN
    return direction_seconds(lm, trait, rest.get("pairs"), rest.get("n", PAIRS), seed) + seconds_to_read(
        lm, read + written
    )


@analysis("traits", title="Data before training", equations=(DIFFERENCE,), seconds=projection_seconds, key="trait_data")
def project_data(
    lm: LM,
    *,
    trait: Which = "invention",
    data: Annotated[
        "Sequence[DataRow] | Path | None",
        Input("File of rows", key="trait_data", placeholder="rows of the model's world", type=Path | None),
    ] = None,
    source: Annotated[Source, Input("Rows of the world", key="trait_source")] = "demonstrations",
    rows: Annotated[int, Input("Rows", key="trait_rows", within=(1, 20_000))] = ROWS,
    pairs: Pairs = None,
    n: Count = PAIRS,
    layer: Layer = None,
    seed: Seed = 0,
    tick: Tick = ignore,
) -> ProjectedData:
    """Project the rows of a data set on the direction of a trait before training on them.

    The difference of a row is the projection of its completion minus that of an answer that the model gives by itself
    to the same prompt (one sample at temperature 1); of a pair of preferences it is chosen minus rejected. States are
    averaged over the tokens of an answer. Rows that lie towards the trait are expected to train it. Where rows can be
    judged, compare the share that shows the trait with that of the model's own answers: on the world this foretells
    the change as well or better (docs/traits.md). Intervals are 95 %, over people of a world or rows.

    Args:
        lm: the model before training.
        trait: built-in trait (see `trait_direction`).
        data: file of rows: `prompt` with `completion`, `messages`, or `prompt` with `chosen` and `rejected`; `kind`
            groups them.
        source: rows of the model's world, if no file is given: demonstrations of SFT, or preferences of an annotator.
        rows: number of rows that are drawn.
        pairs: file of pairs that define a trait of your own.
        n: number of pairs that define the direction.
        layer: block after which the direction is used; by default the one that separates best.
        seed: seed of pairs, rows and own answers.
        tick: progress.

    Raises:
        ConfigError, DataError: see `trait_direction`; the rows cannot be read, or there are none.
    """
    direction = trait_direction(lm, trait=trait, pairs=pairs, n=n, layer=layer, seed=seed, tick=part(tick, 0, 3))
    name, found, remarks = data_rows(lm, data, source, rows, seed)
    table = project_rows(lm, direction, found, seed, part(tick, 1, 3))
    world = probe.world.of(lm)
    if world is not None and pairs is None:
        shows = partial(BEHAVIOURS[trait].shows, world)
        table["shows"] = [shows(*each) for each in zip(table["prompt"], table["completion"], strict=True)]
        table["own_chance"] = chances(lm, world, trait, table["prompt"].tolist())
    tick(1.0)
    table = table.sort_values("difference", ascending=False, kind="stable", ignore_index=True)
    return ProjectedData(direction, table, found[0].other is not None, name, remarks=remarks)


def project_rows(
    lm: LM, direction: TraitDirection, rows: Sequence[DataRow], seed: int = 0, tick: Tick = ignore
) -> pd.DataFrame:
    """Return one row per row of the data: its completion and the other answer, their projections and the difference.

    Raises:
        DataError: there are no rows, or some are pairs and some are not.
    """
    if not rows or len({row.other is None for row in rows}) > 1:
        raise DataError(f"{len(rows)} rows were given: give at least one, and either pairs or demonstrations.")
    given = [answer_ids(lm, row.prompt, row.completion) for row in rows]
    if rows[0].other is None:
        texts, others = own_answers(lm, given, seed)
    else:
        texts = [str(row.other) for row in rows]
        others = [answer_ids(lm, row.prompt, text) for row, text in zip(rows, texts, strict=True)]
    projected = direction.project(mean_states(lm, [*given, *others], tick))
    own, other = np.split(projected, 2)
    return pd.DataFrame(
        {
            "row": [row.name for row in rows],
            "kind": [row.kind for row in rows],
            "prompt": [row.prompt for row in rows],
            "completion": [row.completion for row in rows],
            "other": texts,
            "projection": own,
            "other_projection": other,
            "difference": own - other,
        }
    )


def own_answers(
    lm: LM, given: Sequence[tuple[list[int], list[int]]], seed: int
) -> tuple[list[str], list[tuple[list[int], list[int]]]]:
    """Return one sample of the model's answer to each prompt, as text and as ids without the end token.

    An answer has at most twice as many tokens as the longest completion, and at most 64.
    """
    longest = min(LONGEST, 2 + 2 * max(len(answer) for _, answer in given))
    drawn = lm.generate([prompt for prompt, _ in given], max_new_tokens=longest, temperature=1.0, seed=seed)
    ends = set(end_tokens(lm.model, lm.tokenizer))
    ids = [[token for token in row if token not in ends] for row in drawn.ids]
    return list(drawn.text), [(prompt, answer) for (prompt, _), answer in zip(given, ids, strict=True)]
