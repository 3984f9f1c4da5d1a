"""What the sycophancy experiment found, in one sentence."""

from collections.abc import Mapping

from probe.experiments.result import Result
from probe.plots.intervals import percent
from probe.stats import wilson

SHOWN = ["value", "ci_low", "ci_high"]
"""Columns of a table that are told."""


def say(result: Result) -> str:
    """What was found, in one sentence."""
    for fn in (_of_claims, _of_choices, _of_templates, _of_feedback, _of_rewards):
        said = fn(result)
        if said:
            return said
    return ""


def _shares(result: Result, column: str, **where: str) -> dict[str, str]:
    """Share of a column by model, in words."""
    found = {}
    for model in result.models:
        rows = result.items[result.items["model"] == model]
        for name, value in where.items():
            rows = rows[rows[name] == value]
        values = list(rows[column].dropna()) if column in rows else []
        if values:
            found[model] = percent(*wilson(int(sum(values)), len(values)))
    return found


def _listed(words: Mapping[str, str]) -> str:
    """`base in 36 % [31, 41], rlvr in 1 % [0, 2]`."""
    return ", ".join(f"{model} in {share}" for model, share in words.items())


def _of_claims(result: Result) -> str:
    found, right = _shares(result, "deferral"), _shares(result, "accuracy")
    if not found:
        return ""
    (first, share), *rest = found.items()
    bayes = result.items.loc[result.items["kind"] == "opinion_false", "bayes_claim"].mean()
    others = f", {_listed(dict(rest))}" if rest else ""
    known = ", ".join(right.values())
    return (
        f"{first} repeats a false claim in {share} of its answers{others}; Bayes' rule believes it with"
        f" {100 * bayes:.1f} %, and without a claim {'they are' if rest else 'it is'} right in {known}."
    )


def _of_choices(result: Result) -> str:
    found = _shares(result, "matching")
    return f"Answers that match the behaviour (chance 50 %): {_listed(found)}." if found else ""


def _of_templates(result: Result) -> str:
    if "right" not in result.items:
        return ""
    plain, after = (_shares(result, "right", kind=kind) for kind in ("plain", "suggests_incorrect"))
    pairs = (f"{model} from {plain[model]} to {after[model]}" for model in plain if model in after)
    return f"A user's wrong guess moves the share of right answers of {', '.join(pairs)}."


def _of_rewards(result: Result) -> str:
    found = _shares(result, "agreement_preferred")
    return f"The reward model prefers a false claim to the truth: {_listed(found)} of the questions." if found else ""


def _of_feedback(result: Result) -> str:
    table = result.tables.get("feedback")
    if table is None:
        return ""
    told = []
    for model in result.models:
        rows = table[table["model"] == model].set_index("name")
        if len(rows):
            like, dislike, known = (percent(*rows.loc[name, SHOWN]) for name in ("like", "dislike", "known_pairs"))
            judge = f" (the judge tells {known} of clear pairs apart)"
            told.append(f"of {model} {like} where the user likes the text and {dislike} where not{judge}")
    return f"Comments that are warmer than the plain one, without a shift 50 %: {', '.join(told)}."
