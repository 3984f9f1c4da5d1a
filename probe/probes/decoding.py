"""Decoding: how well a linear probe reads a label from the states after each block, on people it was not fitted on.

Two references stand beside a score. Shuffled labels on the same split say what chance gives (the floor). The control
task of Hewitt and Liang (2019, arXiv 1909.03368) gives every person a random label that stays the same, and is scored
on other texts of the people it was fitted on: what a probe can learn by heart. Selectivity is the task's score on that
same split minus the control's; it says whether the probe reads the model or remembers people.

Axes: N texts, places = the embedding and L blocks, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError, DataError
from probe.interventions.steered_answers import every_block
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.numbers import format_interval
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.probes.linear_probes import Score, answers, fit, interval, score, score_name, train, train_simple
from probe.probes.text_labels import (
    LEAST,
    PLACES,
    Labelled,
    LabelledTexts,
    Question,
    Where,
    labelled_texts,
    read_ids,
    read_labelled,
)
from probe.ticks import Tick, ignore
from probe.traits.states import mean_states

if TYPE_CHECKING:
    import plotly.graph_objects as go

SELECTIVITY = (
    r"\text{selectivity} = s\big(f_y;\, \text{seen people}\big) - s\big(f_c;\, \text{seen people}\big), \quad"
    r"c(x) = C(\text{person of } x) \text{ at random}"
)
TEXTS, SHUFFLES, HELD_OUT = 600, 20, 0.4
"""Default number of texts, number of shuffles of the floor, and share of the groups that are held out."""
HEIGHT = 350
"""Height of the figure in pixels."""
FITS, A_NUMBER = 60, 5e-9
"""Number of probes fitted at a place, and seconds that one takes for each number of its states and class."""
Asks = Annotated[Question, Input("Question", key="probe_question")]
At = Annotated[Where, Input("Token", key="probe_at")]
Rows = Annotated[
    "Path | Sequence[Labelled] | None",
    Input("File of labels", key="probe_labels", folded="Texts", placeholder="the built-in question", type=Path | None),
]
Count = Annotated[int, Input("Texts", key="probe_n", within=(32, 20000), folded="Texts")]
Layer = Annotated[
    int | None, Input("After block", key="probe_layer", within=every_block, placeholder="best", folded="Texts")
]
Seed = Annotated[int, Input("Seed", key="probe_seed", advanced=True)]


@dataclass(frozen=True)
class Decoded(Drawable):
    """Score of probes at every place of the residual stream."""

    words: str
    """Description of what is decoded."""
    at: Where
    """Token whose state is read."""
    score: Score
    """Score of the probes."""
    layers: pd.DataFrame
    """One row per place: `layer` (-1 is the embedding), `score` on held-out groups with `score_low` and `score_high`
    (95 %, over groups), `simple` (difference of means), `floor` and `floor_high` (mean and largest of the shuffles),
    `seen` and `control` on other texts of the training groups, `selectivity` with its interval, `strength` (chosen
    inverse penalty) and `inner` (score of the cross-validation).
    """
    layer: int
    """Chosen place: the block with the best cross-validation on the training groups, or the given one."""
    automatic: bool
    """Whether the place was chosen so."""
    counts: tuple[int, int, int]
    """Numbers of training texts, held-out texts and held-out groups."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    notes = (
        "That a probe reads a label does not mean that the model uses it: see Use. Block \u22121 is the embedding,"
        " which sees one token only.",
    )

    @property
    def row(self) -> dict[str, Any]:
        """Row of the chosen place."""
        return dict(self.layers.set_index("layer").loc[self.layer])

    @property
    def is_decodable(self) -> bool:
        """Whether the interval lies above chance and the score above every shuffle."""
        row = self.row
        return bool(row["score_low"] > row["floor"] and row["score"] > row["floor_high"])

    def best_before(self, end: int) -> "Decoded":
        """Return the same scores with the best of the blocks before a block as the chosen one."""
        return replace(self, layer=int(self.layers["inner"].to_numpy()[1 : end + 1].argmax()))

    def told(self, name: str) -> str:
        """Return a score of the chosen place with its interval, in words."""
        row = self.row
        return format_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])

    def sentence(self) -> str:
        """State the score at the chosen place, its floor, and the selectivity."""
        row, name = self.row, self.looks[0].name
        chosen = ", the best on the training people," if self.automatic else ""
        can = "can" if self.is_decodable else "cannot be shown to"
        control = (
            f" A random label for each person is read at {plain(row['control'])} from other texts of people that the"
            f" probe was fitted on, the label itself at {plain(row['seen'])}: selectivity {self.told('selectivity')}."
            if row["seen"] == row["seen"]
            else " Too few texts of each group are given for a control task."
        )
        return (
            f"At {PLACES[self.at]} after block {self.layer}{chosen} a linear probe {can} read {self.words} in {name}:"
            f" {self.score} {self.told('score')} on {self.counts[2]} held-out people or groups, where shuffled labels"
            f" give {plain(row['floor'])}, at most {plain(row['floor_high'])}.{control}"
        )

    def table(self) -> pd.DataFrame:
        """Return the scores by place."""
        return self.layers

    def figure(self) -> "go.Figure":
        """Draw the scores by place with control and floor."""
        from probe.probes.figures import score_by_layer

        title = f"What probes read from the states of {self.looks[0].name}: {self.words}"
        return titled(score_by_layer(self.layers, self.layer, self.score, self.looks[0].colour), title, HEIGHT)


@dataclass(frozen=True)
class Prepared:
    """Labelled texts with their states and the split of their groups."""

    texts: LabelledTexts
    at: Where
    states: np.ndarray
    """[N places d] states."""
    fit: np.ndarray
    """Numbers of the texts of the training groups."""
    test: np.ndarray
    """Numbers of the texts of the held-out groups."""


def plain(number: float) -> str:
    """Return a score in words, without an interval."""
    return f"{number:.2f}".replace("-", "\u2212")


def texts_of(lm: LM, question: Question, labels: Any, n: int, seed: int) -> LabelledTexts:
    """Return the texts of a question, of a file, or as given.

    Raises:
        DataError: the texts cannot be read.
    """
    if labels is None:
        return labelled_texts(lm, question, n, seed)
    if isinstance(labels, Path):
        return read_labelled(lm, labels, n, seed)
    items = tuple(labels)
    numeric = all(isinstance(each.label, float) for each in items)
    return LabelledTexts("own", "the label", items, numeric)


def prepare(lm: LM, texts: LabelledTexts, at: Where, seed: int, tick: Tick = ignore) -> Prepared:
    """Read the states of labelled texts and split their groups.

    Raises:
        DataError: there are too few groups, or one part lacks a class; the texts cannot be read.
    """
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model writes no answers: use a language model.")
    labels, groups = texts.labels, texts.groups
    names = np.unique(groups)
    if len(names) < LEAST:
        raise DataError(f"{len(labels)} texts of {len(names)} groups were given: give texts of at least {LEAST}.")
    held = np.random.default_rng(seed).permutation(names)[: round(HELD_OUT * len(names))]
    outside = np.isin(groups, held)
    inside, test = np.flatnonzero(~outside), np.flatnonzero(outside)
    if min(len(np.unique(labels[inside])), len(np.unique(labels[test]))) < 2:
        raise DataError("All training or all held-out texts have one label: give texts of more groups with each label.")
    return Prepared(texts, at, mean_states(lm, [read_ids(lm, each, at) for each in texts.items], tick), inside, test)


def decode_seconds(
    lm: LM,
    question: Question = "claim",
    labels: Any = None,
    n: int = TEXTS,
    seed: int = 0,
    **rest: Any,
) -> float:
    """Estimate the seconds that reading the texts and fitting the probes takes."""
    texts = texts_of(lm, question, labels, n, seed)
    config = lm.bridge.cfg
    kinds = 1 if texts.numeric else len(np.unique(texts.labels)) - 1
    fits = (config.n_layers + 1) * FITS * len(texts.items) * config.d_model * max(kinds, 1) * 40
    return seconds_to_read(lm, sum(len(each.prompt + each.answer) for each in texts.items) / 4) + fits * A_NUMBER


@analysis("probes", title="Decoding", equations=(SELECTIVITY,), seconds=decode_seconds, key="probe")
def decode(
    lm: LM,
    *,
    question: Asks = "claim",
    at: At = "last",
    labels: Rows = None,
    n: Count = TEXTS,
    layer: Layer = None,
    seed: Seed = 0,
    tick: Tick = ignore,
) -> Decoded:
    """Measure what a linear probe reads from the states after each block, on people it was not fitted on.

    Probes are logistic regressions for classes and ridge regressions for numbers, on standardised states, with a
    penalty chosen by cross-validation over the training people. The score is the AUROC for two classes, the accuracy
    for several and R2 for numbers, on 40 % of the people, who are held out. The floor is the same with shuffled labels,
    20 times. The control task gives every person a random label that stays the same, and is scored on other texts of
    the training people; selectivity is the score of the task on that split minus the control's.

    Args:
        lm: the model.
        question: what is read: whether the user's claim is true, which home is true, whether the person is known, the
            phrase of the claim, log exposure of the fact, or Bayes' posterior of the claim.
        at: token that is read: the last of the prompt, the last of the subject's name, or the mean over the answer.
        labels: file of your own labels: `text` (or `prompt` and `completion`), `label`, and optionally `group` (texts
            of one group stay together) and `position` (number of the token).
        n: number of texts.
        layer: block that the sentence is about; by default the best on the training people.
        seed: seed of the texts, the split, the control and the shuffles.
        tick: progress.

    Raises:
        ConfigError: the question is unknown, or the model lacks the block.
        DataError: the texts cannot be read or are too few.
    """
    depth = lm.bridge.cfg.n_layers
    if layer is not None and not -1 <= layer < depth:
        raise ConfigError(f"Block {layer} was requested in a model of {depth} blocks: give -1 to {depth - 1}.")
    ready = prepare(lm, texts_of(lm, question, labels, n, seed), at, seed, lambda share: tick(share / 2))
    return decoded(ready, layer, seed, lambda share: tick(0.5 + share / 2))


def decoded(ready: Prepared, layer: int | None, seed: int, tick: Tick = ignore) -> Decoded:
    """Fit and score the probes of prepared states."""
    texts = ready.texts
    name = score_name(texts.labels, texts.numeric)
    split = halves(texts.groups, ready.fit, seed)
    rows = []
    for place in range(ready.states.shape[1]):
        rows.append({"layer": place - 1, **_place(ready, place, name, split, seed)})
        tick((place + 1) / ready.states.shape[1])
    table = pd.DataFrame(rows)
    best = int(table["inner"].to_numpy()[1:].argmax()) if layer is None else layer
    counts = len(ready.fit), len(ready.test), len(np.unique(texts.groups[ready.test]))
    return Decoded(texts.words, ready.at, name, table, best, layer is None, counts)


def halves(groups: np.ndarray, among: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two halves of the texts of each group, so that both have the same groups; a single text is left out."""
    rng = np.random.default_rng([seed, 2])
    order = rng.permutation(among)
    first, second = list[int](), list[int]()
    for name in np.unique(groups[among]):
        own = order[groups[order] == name]
        middle = len(own) // 2
        first += own[:middle].tolist()
        second += own[middle : 2 * middle].tolist()
    return np.array(first, dtype=int), np.array(second, dtype=int)


def _place(
    ready: Prepared, place: int, name: Score, split: tuple[np.ndarray, np.ndarray], seed: int
) -> dict[str, float]:
    """Return the scores at one place."""
    labels, groups, x = ready.texts.labels, ready.texts.groups, ready.states[:, place].astype(float)
    inside, test = ready.fit, ready.test
    probe = fit(x[inside], labels[inside], groups[inside], name, seed)
    held = interval([answers(probe.model, x[test], name)], [labels[test]], groups[test], name, seed)
    simple = train_simple(x[inside], labels[inside], ready.texts.numeric)
    rng = np.random.default_rng([seed, 1])
    floor = []
    for _ in range(SHUFFLES):
        mixed = shuffled(labels, groups, rng)
        if len(np.unique(mixed[inside])) > 1:
            model = train(x[inside], mixed[inside], probe.strength, ready.texts.numeric)
            floor.append(score(answers(model, x[test], name), mixed[test], name))
    row = {**held.row(name="score"), "simple": score(answers(simple, x[test], name), labels[test], name)}
    row |= {"floor": float(np.nanmean(floor)), "floor_high": float(np.nanmax(floor))}
    return row | _control(ready, x, name, split, seed) | {"strength": probe.strength, "inner": probe.inner}


def shuffled(labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return labels exchanged among groups if each group has one label, else among texts."""
    names, firsts, codes = np.unique(groups, return_index=True, return_inverse=True)
    if (labels == labels[firsts][codes]).all():
        return np.asarray(labels[firsts][rng.permutation(len(names))][codes])
    return rng.permutation(labels)


def control_labels(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the labels of the control task: one of the labels at random for each group."""
    names, codes = np.unique(groups, return_inverse=True)
    return np.asarray(labels[np.random.default_rng([seed, 3]).integers(0, len(labels), len(names))][codes])


def _control(
    ready: Prepared, x: np.ndarray, name: Score, split: tuple[np.ndarray, np.ndarray], seed: int
) -> dict[str, float]:
    """Return the scores of task and control on other texts of the training groups; NaN without two texts of each."""
    labels, groups = ready.texts.labels, ready.texts.groups
    given = control_labels(labels, groups, seed)
    first, second = split
    columns = ("seen", "control", "selectivity", "selectivity_low", "selectivity_high")
    parts = [truth[part] for truth in (labels, given) for part in split]
    if len(first) < LEAST or min(len(np.unique(part)) for part in parts) < 2:
        return dict.fromkeys(columns, float("nan"))
    said = []
    for truth in (labels, given):
        probe = fit(x[first], truth[first], np.arange(len(first)), name, seed)
        said.append(answers(probe.model, x[second], name))
    truths = [labels[second], given[second]]
    found = interval(said, truths, groups[second], name, seed)
    each = [score(one, truth, name) for one, truth in zip(said, truths, strict=True)]
    return {"seen": each[0], "control": each[1], **found.row(name="selectivity")}
