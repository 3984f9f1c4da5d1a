"""The experiment on retrieval: effect of right, irrelevant, false and retrieved passages on answers.

docs/retrieval.md explains every name in the summary.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import probe.world
from probe.errors import DataError
from probe.experiments.metrics import Mean, Metric, Share, Statistic
from probe.experiments.registry import experiment
from probe.experiments.result import MODEL, Evidence, Result
from probe.model.dialogues import Form
from probe.plotting.intervals import percent
from probe.retrieval import world as contexts
from probe.retrieval import world as tables_of
from probe.retrieval.search import recall_curve
from probe.retrieval.world import CONTEXTS, DEPTHS, GROUPS, conflict_curve, of_columns, with_passages, world_documents
from probe.rows import EVERY, Rows, Selection
from probe.stats import GAIN, LEVEL, SHARE, Bounds, Interval
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.model.lm import LM
    from probe.world.world import World

PEOPLE = {kind: group for kind, group in GROUPS.items() if kind != "question"}
"""Groups of a world's questions by kind."""
TAUGHT = ("fact", "rare")
UNTAUGHT = ("stranger", "stranger_heldout")
"""Kinds of questions about people with and without a fact in the corpus."""
ALWAYS = ("none", "gold", "distractor", "unrelated", "retrieved")
"""Contexts of every question; a contradicting passage needs a learned fact."""


@dataclass(frozen=True)
class ProbabilityShare(Share):
    """Mean of a column of probabilities; in a file's items these are zeros and ones, and the mean is a share."""

    bounds: Bounds | None = field(default=SHARE, kw_only=True)
    """Bounds of probabilities."""

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return Wilson's interval for zeros and ones, else the bootstrap interval."""
        return super().estimate(rows, seed) if self._is_share(rows) else Mean.estimate(self, rows, seed)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = LEVEL) -> Interval:
        """Return Newcombe's interval for zeros and ones, else the paired bootstrap interval."""
        both = self._is_share(rows) and self._is_share(others)
        return (
            super().difference(rows, others, seed, level) if both else Mean.difference(self, rows, others, seed, level)
        )

    def _is_share(self, rows: pd.DataFrame) -> bool:
        return bool(rows[self.columns[0]].isin((0, 1)).all())


def _in_world(
    name: str, column: str, kinds: Iterable[str], context_names: Iterable[str], bounds: Bounds | None = SHARE
) -> tuple[Metric, ...]:
    """Return metrics of the mean of a column by context and group, such as `accuracy_gold_known`."""
    return tuple(
        Mean(f"{name}_{context}_{PEOPLE[kind]}", column, where={"kind": kind, "context": context}, bounds=bounds)
        for kind in kinds
        for context in context_names
    )


def _of_file(name: str, column: str) -> tuple[Metric, ...]:
    """Return metrics of the share of a column by context, such as `accuracy_gold`."""
    return tuple(
        Share(f"{name}_{context}", column, where={"kind": "question", "context": context}) for context in CONTEXTS
    )


REMEMBERED: dict[str, dict[str, Any]] = {"": {"knows": 1}, "_known": {"kind": "fact"}, "_rare": {"kind": "rare"}}
"""Suffix of the memorisation ratio to the rows that it covers. Without a suffix, these are the questions that are
answered right without context, as in Longpre et al."""
RECALL = (*(Share(f"recall_{k}") for k in DEPTHS), Share("hit"), Mean("mrr", "reciprocal_rank", bounds=SHARE))
CONFLICT = (
    *(Mean(f"follows_{PEOPLE[kind]}", "p_follows", where={"kind": kind}, bounds=SHARE) for kind in ("fact", "rare")),
    *(
        Statistic(
            f"memorisation_ratio{ending}",
            of_columns,
            ("p_learned", "p_context"),
            where={"context": "contradicting", **where},
            bounds=SHARE,
        )
        for ending, where in REMEMBERED.items()
    ),
)
OUTCOMES = (
    *_in_world("accuracy", "p_true", TAUGHT, CONTEXTS),
    *_in_world("accuracy", "p_true", UNTAUGHT, ("none", "gold", "retrieved")),
    *_in_world("abstention", "p_abstain", TAUGHT, CONTEXTS),
    *_in_world("abstention", "p_abstain", UNTAUGHT, ALWAYS),
    *_in_world("invention", "p_invented", TAUGHT, CONTEXTS),
    *_in_world("invention", "p_invented", UNTAUGHT, ALWAYS),
    *_of_file("accuracy", "p_true"),
    *_of_file("exact_match", "exact_match"),
    *_of_file("abstention", "p_abstain"),
    *_of_file("invention", "p_invented"),
    Share("follows", "p_follows", where={"kind": "question"}),
)
HALL = (
    *(
        ProbabilityShare(f"{name}{ending}", "hall", where=where | {"context": context})
        for ending, where in {"": {}, **{f"_{group}": {"kind": kind} for kind, group in PEOPLE.items()}}.items()
        for name, context in (("hall_without", "none"), ("hall_retrieved", "retrieved"))
    ),
    *(
        Mean(f"{name}_cut{ending}", f"{name}_cut", where=where, bounds=GAIN)
        for name in ("hall", "invention")
        for ending, where in {"": {}, "_hit": {"hit": 1}, "_miss": {"hit": 0}}.items()
    ),
    *(
        Mean(f"invention_cut_{group}", "invention_cut", where={"kind": kind}, bounds=GAIN)
        for kind, group in PEOPLE.items()
    ),
)
"""Metrics without a passage, with the retrieved one, and their difference."""
PERSUASION = (
    *_in_world("persuasion", "persuasion", TAUGHT, CONTEXTS[1:5], None),
    *_in_world("persuasion", "persuasion", UNTAUGHT, ("gold", "distractor", "unrelated"), None),
    *_in_world("copied", "p_copied", PEOPLE, ("distractor",)),
    *(Mean(f"logprob_gain_{context}", "logprob_gain", where={"context": context}) for context in CONTEXTS[1:]),
)

METRICS: tuple[Metric, ...] = (
    *HALL,
    *OUTCOMES,
    *RECALL,
    *CONFLICT,
    *PERSUASION,
    Share("context_accuracy", "is_true", where={"kind": "context_conflict"}),
    Share("context_accuracy_stranger", "is_true", where={"kind": "context_stranger"}),
    Mean("answer_mass", unit="question", bounds=SHARE),
)
"""Metrics of the summary, if measured."""


DECIMALS = 6
"""Number of decimals of probabilities and nats in a world's items: single precision has no more, and they take a third
of the space."""


def draw(result: Result) -> "Mapping[str, go.Figure]":
    """Draw the figures of a result with any number of models; the first figure answers the experiment's question."""
    from probe.retrieval import figures as plots

    tables, look = result.tables, result.styles
    figures: dict[str, go.Figure] = {"contexts": plots.outcome_grid(tables["contexts"], look)}
    if len(tables.get("conflict", ())):
        figures["conflict"] = plots.conflict_curves(tables["conflict"], look)
    figures["search"] = plots.search_effect(tables["search"], look, tables.get("recall"))
    if len(tables.get("persuasion", ())):
        figures["persuasion"] = plots.persuasion_marks(tables["persuasion"], look)
    return figures


def say(result: Result) -> str:
    """Report hallucination with and without retrieval, and how often a contradicting passage prevails."""
    search, table = result.tables["search"], result.tables["contexts"]
    group = "stranger" if (search["group"] == "stranger").any() else str(search["group"].iloc[0])
    stranger = " about unseen entities (exact, lucky values true)"
    topic = {"stranger": stranger, "questions": ""}.get(group, f" about {group} people")
    parts = []
    for model in result.models:
        rows = search[(search[MODEL] == model) & (search["group"] == group)]
        rows = rows[(rows["found"] == "all") & (rows["quantity"] == "hall")].set_index("way")
        shares = rows[["value", "ci_low", "ci_high"]].astype(float)
        ends = [percent(*map(float, shares.loc[way])) for way in ("without", "with")]
        parts.append(f"{ends[0]} to {ends[1]} in {model}")
    text = f"With retrieved passages hallucinated answers{topic} go from {', '.join(parts)}"
    follows = table[(table["outcome"] == "follows") & table["group"].isin(("known", "questions"))]
    numbers = follows[["value", "ci_low", "ci_high"]].astype(float).to_numpy()
    rates = [f"{model} in {percent(*ends)}" for model, ends in zip(follows[MODEL], numbers.tolist(), strict=True)]
    event = (
        "a passage that contradicts a learned fact is followed"
        if group != "questions"
        else "a passage with a false answer is followed"
    )
    return f"{text}; {event} by {', '.join(rates)}." if rates else f"{text}."


def read(*, data: str | Path | None, strict: bool, selection: Selection = EVERY, **_: Any) -> list[Rows[Any]]:
    """Read the documents and the questions of the folder, if there is one."""
    from probe.retrieval import files

    return [] if data is None else list(files.read_folder(data, strict, selection))


@experiment("retrieval", title="Retrieval", metrics=METRICS, draw=draw, say=say, read=read)
def run(
    lm: "LM",
    *,
    data: str | Path | None = None,
    n: int = 400,
    limit: int | None = None,
    seed: int = 0,
    k: int = 3,
    chunk: int = 100,
    overlap: int = 20,
    form: Form = "auto",
    max_new_tokens: int = 24,
    tick: Tick = ignore,
) -> Evidence:
    """Measure how a passage before the question changes the answer.

    Each question is asked alone, after the passage with its answer, after a passage about something else, after one
    that contradicts what was learned, and after the best documents of a BM25 search, right or not. In a world the
    documents are its people's facts, and facts about unseen entities that occur nowhere else. Accuracy, abstention and
    hallucination are exact sums over the finite answer sets, for known people, rare people and unseen entities. If
    passage and memory disagree, the share of answers that follow the passage is shown by the number of times that the
    corpus states the fact, with the memorisation ratio (Longpre et al. 2021); persuasion is the change of the answer
    distribution by a passage (Du et al. 2024). The search is evaluated by recall, by mean reciprocal rank, and by its
    reduction of hallucination, for hits and misses separately.

    Args:
        lm: the model.
        data: a folder with questions.jsonl (question, answers or answer, optional document and substitute) and
            documents.jsonl (text, optional id and title) or text files; without it, the model's world.
        n: number of questions of each kind, drawn by the seed.
        limit: number of rows to read from the beginning of a file, of which n are drawn; all of them by default.
        seed: random seed of questions, documents, passages and samples.
        k: number of documents (or chunks) that the search puts into the prompt.
        chunk: number of words in a chunk of a long document.
        overlap: number of words that a chunk shares with the previous one.
        form: form of the prompts from a folder: with the tokenizer's chat template if it has one (auto), with it
            (chat), or without it (plain).
        max_new_tokens: maximum number of tokens of an answer to a question of a folder.
        tick: progress.
    """
    from probe.autoregression.lags import require_positive, require_tokens
    from probe.retrieval import files

    require_tokens(lm)
    require_positive(k=k, max_new_tokens=max_new_tokens)
    if data is not None:
        return _folder(lm, data, Selection(n, seed, limit), k, (chunk, overlap), form, max_new_tokens, tick)
    world = probe.world.of(lm)
    if world is None:
        raise DataError(f"The model `{lm.ref or 'created'}` has no world to ask about: give as data {files.LAYOUT}.")
    return _world(lm, world, n, seed, k, tick)


def _world(lm: "LM", world: "World", n: int, seed: int, k: int, tick: Tick) -> Evidence:
    from probe.hallucination.world import ask

    questions = ask(world, n, seed)
    documents = world_documents(world, seed)
    with_context = with_passages(world, documents, questions, k, seed)
    exact = contexts.context_items(lm, world, with_context, k, lambda share: tick(0.9 * share))
    items = exact.round(DECIMALS)
    tables = _tables(items, seed) | {"persuasion": tables_of.persuasion_table(items, seed)}
    tables["conflict"] = conflict_curve(items[items["context"] == "contradicting"], seed)
    tick(0.95)
    samples = contexts.passage_items(lm, world, n, seed)
    tick(1.0)
    facts = {"documents": len(documents), "retrieved": k}
    return Evidence(pd.concat([items, samples], ignore_index=True), tables, facts=facts)


def _folder(
    lm: "LM",
    data: str | Path,
    selection: Selection,
    k: int,
    sizes: tuple[int, int],
    form: Form,
    max_new_tokens: int,
    tick: Tick,
) -> Evidence:
    from probe.retrieval import files
    from probe.retrieval import files as texts

    documents, questions = files.read_folder(data, selection=selection)
    chunks = files.chunks_of(documents, *sizes)
    items = texts.file_items(lm, questions, chunks, k, max_new_tokens, form, tick)
    facts: dict[str, Any] = {"documents": len(documents), "chunks": len(chunks), "retrieved": k}
    return Evidence(items, _tables(items, selection.seed), facts=facts)


def _tables(items: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    """Return the tables that worlds and folders have in common."""
    tables = {"contexts": tables_of.context_table(items, seed), "search": tables_of.search_table(items, seed)}
    rows = items[items["context"] == "retrieved"]
    if "rank" in items:
        with_rank = rows[rows["recall_1"].notna()]
        tables["recall"] = recall_curve(with_rank["rank"].tolist())
    return tables
