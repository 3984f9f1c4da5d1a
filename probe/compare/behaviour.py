"""Behaviours: scalar measurements of a model that are repeated on the same items under interventions.

- a metric of an experiment: `experiment_behaviour`
- the preference for one answer over another in nats, which costs one forward pass per prompt: `preference`, over the
  pairs of a file (`read_pairs`), or false claims of a user against the truth (`claim_pairs`)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import probe.world
from probe.analyses.analysis_record import Input
from probe.errors import ConfigError, DataError
from probe.experiments.metrics import ITEM, Mean, Metric, pair_items, paired
from probe.experiments.registry import find_experiment
from probe.experiments.run import evidence_of, metrics_of, prepare
from probe.model.dialogues import GUESS, LEAD, Turn, completion, dialogue, join_words
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.scoring import count_common
from probe.model.text import encode_all
from probe.questions.sets import SETS
from probe.rows import EVERY, Row, Rows, Selection, check_columns, field, is_completion, is_text_or_messages, read_rows
from probe.stats import Interval

BATCH = 16
"""Number of pairs whose answers are scored in one batch."""
MOMENT_S = 0.5
"""Expected seconds of a pass over pairs below which it is timed."""


@dataclass(frozen=True)
class Behaviour:
    """Scalar measurement of a model, with the items behind it."""

    title: str
    """Title in words."""
    unit: str
    """Unit of the value; see `probe.terms`."""
    metric: Metric
    """Metric of the items; if it is a mean over them, changes are paired."""
    measure: Callable[[LM], pd.DataFrame]
    """Function that returns the items of a model, with the hooks that are attached to it."""

    def value(self, items: pd.DataFrame, seed: int = 0) -> Interval:
        """Compute the metric of some items with its 95 % interval."""
        return self.metric.estimate(self.metric.select(items), seed)

    def change(self, items: pd.DataFrame, before: pd.DataFrame, seed: int = 0) -> Interval:
        """Compute the change of the metric from `before` to `items` with its 95 % interval, over the items in both."""
        return paired(self.metric, *pair_items(items, before), seed)


class AnswerPair(NamedTuple):
    """Prompt with an answer whose probability should rise and one whose probability should fall."""

    prompt: Any
    """Text, or messages for the chat template."""
    chosen: str
    rejected: str


def experiment_behaviour(experiment: str, metric: str, **options: Any) -> Behaviour:
    """Return a metric of an experiment as a behaviour, measured as in `probe.run_experiment`.

    Args:
        experiment: name of the experiment.
        metric: name of a metric in its summary that is a function of the items.
        options: options of the experiment: n, seed, data, ...

    Raises:
        ConfigError: the experiment does not exist or has no such option.
        DataError: a file is not valid.
    """
    entry = find_experiment(experiment)
    arguments = prepare(entry, **options).arguments
    about = entry.term(metric)
    named = {each.name: each for each in entry.metrics}
    if entry.metrics and metric not in named:
        raise ConfigError(f"The experiment `{experiment}` has no metric `{metric}`: give one of {', '.join(named)}.")

    def measure(lm: LM) -> pd.DataFrame:
        items = evidence_of(entry, lm, arguments).items
        known = {each.name: each for each in metrics_of(entry, items)}
        if metric not in known or not known[metric].applies(items) or not len(known[metric].select(items)):
            raise ConfigError(f"The experiment `{experiment}` did not measure `{metric}` here: choose another metric.")
        return items

    return Behaviour(about.title, about.unit, named.get(metric, Mean(metric)), measure)


def preference(pairs: Sequence[AnswerPair], title: str = "log p(chosen) \u2212 log p(rejected)") -> Behaviour:
    """Return the preference for the first answer, mean log p(chosen) - log p(rejected) in nats, as a behaviour.

    Args:
        pairs: prompts with two answers each.
        title: title of the behaviour.

    Raises:
        DataError: there are no pairs.
    """
    if not pairs:
        raise DataError("No pair of answers was given: give at least one.")

    def measure(lm: LM) -> pd.DataFrame:
        rows = []
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            answers = [[pair.chosen, pair.rejected] for pair in some]
            with torch.no_grad():
                scores = lm.logprobs([lm.prompt_text(pair.prompt) for pair in some], answers).values
            rows += scores.double().sum(-1).reshape(-1, 2).tolist()
        both = np.array(rows)
        items = [f"pair-{number}" for number in range(1, len(pairs) + 1)]
        return pd.DataFrame({ITEM: items, "margin": both[:, 0] - both[:, 1]})

    return Behaviour(title, "nats", Mean("margin"), measure)


def behaviour_of(lm: LM, pairs: Behaviour | str | Path | None, n: int) -> Behaviour:
    """Return the preference over the pairs of a file, or for a user's false claim, as a behaviour.

    Args:
        lm: model that the claims must suit.
        pairs: file with `prompt`, `chosen` and `rejected`; by default the claims of `claim_pairs`. A behaviour is
            returned unchanged.
        n: largest number of pairs.

    Raises:
        DataError: the file is not valid, or the claims do not suit the model.
    """
    if isinstance(pairs, Behaviour):
        return pairs
    titles = ("log p(claim) \u2212 log p(truth)",) if pairs is None else ()
    return preference(pairs_of(lm, pairs, n), *titles)


def pairs_of(lm: LM, pairs: str | Path | None, n: int) -> Sequence[AnswerPair]:
    """Return at most `n` pairs of a file, or of false claims; see `behaviour_of`."""
    return claim_pairs(lm, n) if pairs is None else read_pairs(pairs, selection=Selection(n))


def pairs_input(key: str) -> Input:
    """Return the form input for pairs of answers: a file, or nothing for the built-in claims.

    Args:
        key: name of the input in the URL.
    """
    label, claims = "File of pairs of answers", "false claims of their world or of TruthfulQA"
    return Input(label, key=key, placeholder=claims, type=Path | None)


def seconds_once(lm: LM, pairs: Behaviour | str | Path | None, n: int) -> float:
    """Estimate the seconds that one pass over the pairs takes.

    The estimate follows from the model's reading speed and the number of tokens, which takes a moment for a model of
    any size. What takes a moment itself is timed instead; so is a custom behaviour, whose tokens are unknown.
    """
    if isinstance(pairs, Behaviour):
        return _seconds(lm, pairs)
    some = pairs_of(lm, pairs, n)
    prompts = encode_all(lm.tokenizer, [lm.prompt_text(pair.prompt) for pair in some])
    answers = encode_all(lm.tokenizer, [text for pair in some for text in (pair.chosen, pair.rejected)])
    tokens = sum(map(len, [*prompts, *answers]))
    batches = -(-len(some) // BATCH)  # each reads the common beginning of its prompts once
    tokens -= count_common(prompts) * (len(some) - batches)
    expected = seconds_a_token(lm) * tokens
    return expected if expected > MOMENT_S else _seconds(lm, preference(some))


def _seconds(lm: LM, behaviour: Behaviour) -> float:
    times = []
    for _ in range(2):
        start = time.perf_counter()
        behaviour.measure(lm)
        times.append(time.perf_counter() - start)
    return min(times)


def claim_pairs(lm: LM, n: int = 60, seed: int = 0) -> list[AnswerPair]:
    """Return pairs of a user's false claim and the truth, as answers to questions that state the claim.

    They come from the model's world; for a model without a world, they are questions of the set `truthfulqa`, each with
    its incorrect answer as the user's guess (`probe.model.dialogues.GUESS`), in the chat template if there is one.

    Args:
        lm: model that the claims must suit.
        n: largest number of pairs.
        seed: seed of the choice.

    Raises:
        DataError: the model's world makes no false claims.
    """
    world = probe.world.of(lm)
    if world is None:
        return list(read_rows(SETS["truthfulqa"].path, partial(_guess_pair, lm), selection=Selection(n, seed)))
    if "opinion_false" not in world.question_kinds:
        raise DataError(
            f"The world of the model `{lm.ref or 'created'}` makes no false claims: give pairs of answers (`prompt`, "
            "`chosen`, `rejected`)."
        )
    questions = world.questions("opinion_false", n, seed)
    return [AnswerPair(item.prompt, f" {str(item.claim).strip()}", f" {item.answers[0].strip()}") for item in questions]


def _guess_pair(lm: LM, row: Row) -> AnswerPair:
    """Pair the wrong answer with the right one, after a question that states the wrong one as the user's guess."""
    question, right, wrong = (field(row, name) for name in ("question", "correct_answer", "incorrect_answer"))
    prompt = dialogue(lm, [Turn("user", join_words(question, GUESS.format(answer=wrong)))], lead=LEAD)
    return AnswerPair(prompt, completion(prompt, wrong), completion(prompt, right))


def read_pairs(path: str | Path, strict: bool = False, selection: Selection = EVERY) -> Rows[AnswerPair]:
    """Read the pairs of a file with the text columns `prompt`, `chosen` and `rejected`; a prompt may be messages.

    Raises:
        DataError: the file cannot be read, or no row is valid.
    """
    columns = {"prompt": is_text_or_messages, "chosen": is_completion, "rejected": is_completion}

    def pair(row: Row) -> AnswerPair:
        values = check_columns(row, columns).values
        return AnswerPair(values["prompt"], *(_answer(values[name]) for name in ("chosen", "rejected")))

    example = "one JSON object a line with `prompt`, `chosen`, `rejected`"
    return read_rows(Path(path).expanduser(), pair, strict, example, selection)


def _answer(value: str | Sequence[Mapping[str, Any]]) -> str:
    """Return an answer as a text; for messages, the content of the last one."""
    return value if isinstance(value, str) else str(value[-1]["content"])
