"""Metrics in words: title, unit, direction, definition and source of every number that people see, from one table.

The table is `terms.tsv` beside this file, one row a metric. Its names are stable: files and code have them, and people
read the titles. A name with a word in braces stands for several, `accuracy_{context}_{group}` for `accuracy_gold_rare`;
`VOCABULARY` says what may stand there and how it reads. Equal titles are equal estimates: a title says what differs
where one name, or one idea, is measured in two ways ("sampled" and "exact", other questions).

The first column says where a metric is shown: `run` (headline figures of runs, with `run/reward` for reward models and
`run/phases` for continual learning), `train/METHOD` (logged by a method; `train/any` by all of them), `rewards` (the
page Rewards), or the name of an experiment.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

RUN = "run"
SHARE, PROBABILITY, DIFFERENCE = "share", "probability", "difference"
"""Units of rates, counted or as the model's own probability, and of their differences."""
RATES = (SHARE, PROBABILITY)
BOUNDED = (*RATES, DIFFERENCE, "score", "AUROC", "area", "correlation", "squared error", "-1 to 1")
"""Units between -1 and 1."""
SMALLEST = 0.01
"""The smallest change of a rate that counts as one, by default: one percentage point."""
UNSAID = ("", *RATES, DIFFERENCE, "of the reward", "score")
"""Units that a title needs no word for."""

GROUPS = {
    "known": "known people",
    "rare": "rare entities",
    "stranger": "unseen entities",
    "heldout": "new unseen entities",
}
PHRASES = {"i_know": "after “i know”", "i_think": "after “i think”", "i_guess": "after “i guess”"}
VOCABULARY: dict[str, dict[str, str]] = {
    "group": GROUPS,
    "whose": {"": "", **{f"_{key}": f", {words}" for key, words in GROUPS.items()}},
    "context": {
        "none": "no passage",
        "gold": "gold passage",
        "distractor": "distractor passage",
        "unrelated": "unrelated passage",
        "contradicting": "contradicting passage",
        "retrieved": "retrieved passages",
    },
    "way": {"without": "no passage", "retrieved": "retrieved passages"},
    "found": {"": "", "_hit": ", document found", "_miss": ", document missed"},
    "pair": {
        "agreement": "claim over truth",
        "invention": "value over “i do not know”",
        "truth": "truth over another value",
    },
    "pair_long": {
        "agreement": "the claim and the truth after a false claim about a known person",
        "invention": "another value and “i do not know” about unseen entities that the corpus asks about",
        "truth": "the truth and another value about known people",
    },
    "phrase": PHRASES,
    "after": {"": "", "_annotator": ", the annotator's", **{f"_{key}": f", {words}" for key, words in PHRASES.items()}},
    "after_long": {
        "": "",
        "_annotator": "; the annotator's own, exact",
        **{f"_{key}": f", {words} alone" for key, words in PHRASES.items()},
    },
    "with": {
        "with_head": "with the head",
        "without_head": "without the head",
        "unsteered": "unsteered",
        "steered": "steered",
    },
    "remark": {
        "plain": "plain question",
        "suggests_incorrect": "user suggests a wrong answer",
        "doubts_correct": "user doubts the right answer",
        "suggests_correct": "user suggests the right answer",
        "are_you_sure": "“are you sure?”",
    },
    "liking": {
        "like": "user likes it",
        "dislike": "user dislikes it",
        "wrote": "user wrote it",
        "did_not_write": "user did not write it",
    },
    "asked": {"choice": "choices", "free": "free answers"},
    "prior": {"pool": "the pool", "all": "all functions"},
    "predictor": {"unigram": "unigram counts", "bigram": "bigram counts", "bayes": "Bayes' rule"},
    "labels": {"gold": "gold", "random": "random", "permuted": "permuted", "flipped": "flipped"},
    "texts": {"repeat": "repeats", "markov": "chains", "map": "maps"},
    "vector": {"": "", "_shuffled": ", permuted labels", "_random": ", random direction"},
    "verdict": {
        "true": "true",
        "abstain": "abstains",
        "deferred": "false claim repeated",
        "wrong": "wrong",
        "malformed": "malformed",
    },
    "strategy": {"plain": "plain training", "replay": "replay", "ewc": "EWC"},
}
"""What may stand in place of a word in braces, and how titles and definitions say it. `X_long` is how they say X at
length; any other word stands for whatever a name has there."""
NUMBERS = ("k", "t", "terms")

_SAMPLES = ("rlhf", "rsft", "rlvr")
_REFERENCE = ("sft", "dpo", *_SAMPLES)


@dataclass(frozen=True)
class Term:
    """A metric in words."""

    title: str
    """For people."""
    unit: str = ""
    """Empty where there is none, or none is known."""
    better: str = ""
    """`higher` or `lower`; empty where neither is better."""
    definition: str = ""
    """What is measured; empty where it is not known."""
    source: str = ""
    """Who defined it: an equation of the paper or a publication; empty where it is this project's own."""

    @property
    def label(self) -> str:
        """The title with its unit, as of an axis."""
        if self.unit in UNSAID:
            return self.title
        return f"{self.title[:-1]}; {self.unit})" if self.title.endswith(")") else f"{self.title} ({self.unit})"

    def explain(self, metric: str) -> str:
        """Give stable name, unit, direction, definition and source in one line; of an unknown metric its name alone."""
        facts = ", ".join(filter(None, (self.unit, f"{self.better} is better" if self.better else "")))
        name = f"{metric} ({facts})" if facts else metric
        source = f" Source: {self.source}." if self.source else ""
        return f"{name}: {self.definition}.{source}" if self.definition else name


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    where: tuple[str, ...]
    name: str
    term: Term

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the names that it stands for look like."""
        parts = re.split(r"\{(\w+)\}", self.name)
        return re.compile("".join(_group(part) if i % 2 else re.escape(part) for i, part in enumerate(parts)))

    def read(self, metric: str) -> Term | None:
        """Return the metric in words if this row is about it."""
        match = self.pattern.fullmatch(metric)
        if match is None:
            return None
        words = {}
        for key, part in match.groupdict().items():
            words[key] = VOCABULARY.get(key, {}).get(part, part.replace("_", " "))
            words[f"{key}_long"] = VOCABULARY.get(f"{key}_long", {}).get(part, "")
        of = self.term
        return Term(of.title.format(**words), of.unit, of.better, of.definition.format(**words), of.source)


def _group(key: str) -> str:
    if key in NUMBERS:
        return rf"(?P<{key}>\d+)"
    return f"(?P<{key}>{'|'.join(VOCABULARY[key]) if key in VOCABULARY else '.+'})"


def smallest_effect(unit: str, values: Sequence[float] = (), share: float = SMALLEST) -> float:
    """Return the smallest change that counts, in the unit of a metric.

    Of what lies between -1 and 1 it is the share itself. Log-odds (nats) may change by four times as much: that moves
    no probability of one of two answers by more than the share, as the slope of the logistic function is at most 1/4.
    Nats a token, or an answer, may change by the share: so does a perplexity then. Anything else (tokens, turns,
    points) may change by the share of the larger value.

    Args:
        unit: of the metric.
        values: of the models that are compared; NaN does not count.
        share: for rates, between 0 and 1.
    """
    if unit in BOUNDED or unit.startswith("nats a"):
        return share
    if unit == "nats":
        return 4 * share
    return share * max((abs(each) for each in values if each == each), default=0.0)


@lru_cache(maxsize=1)
def table() -> tuple[Row, ...]:
    """Read all rows, in the order of the file."""
    with (files("probe") / "terms.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return tuple(
        Row(tuple(row["where"].split()), row["name"], Term(*(row[name] for name in Term.__dataclass_fields__)))
        for row in rows
    )


def places(where: str) -> tuple[str, ...]:
    """Return the words of the table's first column that hold for headline figures, a method or an experiment."""
    if where == RUN:
        return RUN, "run/reward", "run/phases"
    kind, _, method = where.partition("/")
    if kind != "train":
        return (where,)
    shared = {"train/sampling": method in _SAMPLES, "train/reference": method in _REFERENCE, "train/any": True}
    return where, *(place for place, holds in shared.items() if holds)


@lru_cache(maxsize=4096)
def term(metric: str, where: str = RUN) -> Term:
    """Return a metric in words; for one that the table does not know, its name alone.

    Args:
        metric: its stable name.
        where: `run` for headline figures, `train/METHOD` for what a method logs, `rewards`, or an experiment's name.
    """
    rows = [row for row in table() if set(row.where) & set(places(where))]
    rows.sort(key=lambda row: "{" in row.name)  # a name in full goes before one that stands for several
    return next((found for row in rows if (found := row.read(metric))), Term(metric))


def after_numbers(metric: str, about: Term) -> dict[str, str]:
    """Return the cells behind a metric's numbers: which direction is better, its definition, its name in files."""
    source = f" Source: {about.source}." if about.source else ""
    definition = f"{about.definition}.{source}" if about.definition else ""
    return {"better": about.better, "what it is": definition, "name in files": metric}


def logged(metric: str, methods: tuple[str, ...]) -> Term:
    """Return a metric that runs of some methods logged, in words; all titles where they mean different things by it."""
    found = list(dict.fromkeys(term(metric, f"train/{method}") for method in methods or ("any",)))
    known = [each for each in found if each.definition] or found
    if len(known) == 1:
        return known[0]
    units = {each.unit for each in known}
    definition = "; or ".join(f"{each.title}: {each.definition}" for each in known)
    return Term(" / ".join(each.title for each in known), units.pop() if len(units) == 1 else "", "", definition)
