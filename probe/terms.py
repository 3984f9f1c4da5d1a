"""Terms: title, unit, direction, definition and source of every metric that people see, from one table.

The table is `terms.tsv` in this folder, one row per metric. The names are stable: files and code use them, and people
read the titles. A name with a word in braces stands for several, such as `accuracy_{context}_{group}` for
`accuracy_gold_rare`; `VOCABULARY` lists the values of the word with their wording. Equal titles are equal estimates: if
one name, or one idea, is measured in two ways ("sampled" and "exact", other questions), the titles state the
difference.

The first column states where a metric is shown: `run` (headline metrics of runs, with `run/reward` for reward models
and `run/phases` for continual learning), `train/METHOD` (logged by a method; `train/any` by all of them), `rewards`
(the page Rewards), or the name of an experiment.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

RUN = "run"
SHARE, PROBABILITY, DIFFERENCE = "share", "probability", "difference"
"""Units of rates, as counted shares or as the model's probabilities, and of their differences."""
RATES = (SHARE, PROBABILITY)
BOUNDED = (*RATES, DIFFERENCE, "score", "AUROC", "area", "correlation", "squared error", "-1 to 1")
"""Units of quantities between -1 and 1."""
SMALLEST = 0.01
"""Default smallest relevant change of a rate: one percentage point."""
UNSAID = ("", *RATES, DIFFERENCE, "of the reward", "score")
"""Units that are not added to a title."""

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
    "premise": {
        "none": "no premise",
        "false": "false premise",
        "false_denied": "false premise denied",
        "true": "true premise",
        "true_denied": "true premise denied",
    },
    "request": {"": "", "_proof": ", request to show it"},
    "telling": {"": "", "_reported": ", reported"},
    "telling_long": {
        "": "",
        "_reported": "; in the same words, which are not the user's but somebody else's: a control",
    },
    "speaker": {"first_speaker": "first speaker", "second_speaker": "second speaker"},
    "liking": {
        "like": "user likes it",
        "dislike": "user dislikes it",
        "wrote": "user wrote it",
        "did_not_write": "user did not write it",
    },
    "asked": {"choice": "choices", "free": "free answers"},
    "prior": {"pool": "the pool", "all": "all functions"},
    "predictor": {"unigram": "unigram counts", "bigram": "bigram counts", "bayes": "Bayes' rule"},
    "labels": {
        "gold": "gold",
        "random": "random",
        "permuted": "permuted",
        "flipped": "flipped",
        "unrelated": "unrelated",
        "unrelated_permuted": "permuted unrelated",
    },
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
"""Values of words in braces, with their wording in titles and definitions. `X_long` is the long wording of X; any other
word matches every value and is shown unchanged."""
NUMBERS = ("k", "t", "terms")

_SAMPLES = ("rlhf", "rsft", "rlvr")
_REFERENCE = ("sft", "dpo", *_SAMPLES)


@dataclass(frozen=True)
class Term:
    """Description of a metric."""

    title: str
    """Title for people."""
    unit: str = ""
    """Unit; empty if there is none or it is unknown."""
    better: str = ""
    """Better direction, `higher` or `lower`; empty if neither is better."""
    definition: str = ""
    """Definition of the measured quantity; empty if unknown."""
    source: str = ""
    """Source of the definition: an equation of the paper or a publication; empty if defined in this project."""

    @property
    def label(self) -> str:
        """The title with its unit, as on an axis."""
        if self.unit in UNSAID:
            return self.title
        return f"{self.title[:-1]}; {self.unit})" if self.title.endswith(")") else f"{self.title} ({self.unit})"

    def explain(self, metric: str) -> str:
        """Give stable name, unit, direction, definition and source in one line; for an unknown metric only the name."""
        facts = ", ".join(filter(None, (self.unit, f"{self.better} is better" if self.better else "")))
        name = f"{metric} ({facts})" if facts else metric
        source = f" Source: {self.source}." if self.source else ""
        return f"{name}: {self.definition}.{source}" if self.definition else name


@dataclass(frozen=True)
class TermRow:
    """A row of the table."""

    where: tuple[str, ...]
    name: str
    term: Term

    @property
    def pattern(self) -> re.Pattern[str]:
        """The pattern of the names that the row stands for."""
        parts = re.split(r"\{(\w+)\}", self.name)
        return re.compile("".join(_group(part) if i % 2 else re.escape(part) for i, part in enumerate(parts)))

    def read(self, metric: str) -> Term | None:
        """Return the term of a metric if this row matches it."""
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
    """Return the smallest relevant change, in the unit of a metric.

    For quantities between -1 and 1 it is `share` itself. For log-odds (nats) it is four times as large: this changes
    the probability of one of two answers by at most `share`, as the slope of the logistic function is at most 1/4. For
    nats per token or per answer it is `share`, which is a relative change of the perplexity by the same share. For all
    other units (tokens, turns, points) it is this share of the larger value.

    Args:
        unit: unit of the metric.
        values: values of the compared models; NaN is ignored.
        share: smallest relevant change of rates, between 0 and 1.
    """
    if unit in BOUNDED or unit.startswith("nats a"):
        return share
    if unit == "nats":
        return 4 * share
    return share * max((abs(each) for each in values if each == each), default=0.0)


@lru_cache(maxsize=1)
def table() -> tuple[TermRow, ...]:
    """Read all rows of the table, in the order of the file."""
    with (files("probe") / "terms.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return tuple(
        TermRow(tuple(row["where"].split()), row["name"], Term(*(row[name] for name in Term.__dataclass_fields__)))
        for row in rows
    )


def places(where: str) -> tuple[str, ...]:
    """Return the words of the table's first column that apply to headline metrics, a method or an experiment."""
    if where == RUN:
        return RUN, "run/reward", "run/phases"
    kind, _, method = where.partition("/")
    if kind != "train":
        return (where,)
    shared = {"train/sampling": method in _SAMPLES, "train/reference": method in _REFERENCE, "train/any": True}
    return where, *(place for place, holds in shared.items() if holds)


@lru_cache(maxsize=4096)
def term(metric: str, where: str = RUN) -> Term:
    """Return the term of a metric; for an unknown metric it has only the name.

    Args:
        metric: stable name of the metric.
        where: `run` for headline metrics, `train/METHOD` for metrics logged by a method, `rewards`, or an experiment's
            name.
    """
    rows = [row for row in table() if set(row.where) & set(places(where))]
    rows.sort(key=lambda row: "{" in row.name)  # exact names take precedence over patterns
    return next((found for row in rows if (found := row.read(metric))), Term(metric))


def after_numbers(metric: str, about: Term) -> dict[str, str]:
    """Return the cells after a metric's numbers: better direction, definition, name in files."""
    source = f" Source: {about.source}." if about.source else ""
    definition = f"{about.definition}.{source}" if about.definition else ""
    return {"better": about.better, "what it is": definition, "name in files": metric}


def logged(metric: str, methods: tuple[str, ...]) -> Term:
    """Return the term of a metric logged by some methods; if its meaning differs, all titles are given."""
    found = list(dict.fromkeys(term(metric, f"train/{method}") for method in methods or ("any",)))
    known = [each for each in found if each.definition] or found
    if len(known) == 1:
        return known[0]
    units = {each.unit for each in known}
    definition = "; or ".join(f"{each.title}: {each.definition}" for each in known)
    return Term(" / ".join(each.title for each in known), units.pop() if len(units) == 1 else "", "", definition)
