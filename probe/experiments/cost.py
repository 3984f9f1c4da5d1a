"""Cost estimates of an experiment: some of its questions are asked first and timed.

Work whose size in tokens is known is estimated from a model's reading speed (`probe.model.pace`), which takes a moment.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError
from probe.experiments.forms import count_again
from probe.experiments.result import RESULT_FILE, read_index
from probe.experiments.run import data_facts, evidence_of
from probe.experiments.store import homes
from probe.ticks import Tick, between, ignore
from probe.world import of

if TYPE_CHECKING:
    from probe.experiments.run import Call

LONG_S, FEW = 60, 100
"""Seconds above which a cheaper call is offered, and the largest number of its questions."""
TRIED = 6
"""Number of questions that are timed, after one for warm-up; their answers are discarded."""


def can_try(options: Mapping[str, Any]) -> bool:
    """Return whether an experiment with these options asks more questions than a trial does."""
    return isinstance(options.get("n"), int) and options["n"] > TRIED


def estimate_seconds(request: "Call", tick: Tick = ignore) -> float:
    """Estimate the seconds of a call of one model, from a timing of a few of its questions.

    An option that is 0 among the light ones of an experiment (`probe.experiments.forms`) counts the questions of a part
    that is timed by itself, such as interventions. Otherwise every part is assumed to grow with the questions, and
    questions asked again in the other form of prompts to cost as much as the first time, so the estimate is too high.
    An experiment that counts the tokens of a file's questions is not tried: the model's reading speed gives the time.

    Args:
        request: call, with options that `can_try` accepts.
        tick: function called with the share of the trial that is done.

    Raises:
        ProbeError: the experiment cannot use the model or the options.
    """
    options, experiment, (lm,) = request.options, request.experiment, request.models
    n, light = options["n"], experiment.light
    if counts_tokens(request):
        from probe.model.pace import seconds_a_token  # late: imports torch

        assert experiment.tokens is not None
        again = count_again(lm, request.arguments) / n
        return experiment.tokens(lm, **request.arguments) * seconds_a_token(lm) * (1 + again)
    few = max((options[name] for name, value in light.items() if value == 0), default=n)

    def time_questions(count: int, changes: Mapping[str, Any], own: Tick) -> float:
        start = time.perf_counter()
        evidence_of(experiment, lm, replace(request, options={**options, **changes, "n": count}).arguments, own)
        return (time.perf_counter() - start) / count

    time_questions(1, light, ignore)
    whole = time_questions(TRIED, {}, between(tick, 0, 0.9))
    if few >= n:
        return whole * (n + count_again(lm, request.arguments))
    spared = time_questions(TRIED, light, between(tick, 0.9, 1))
    part = max(whole - spared, 0.0) * TRIED / min(few, TRIED) if few else 0.0
    return spared * (n + count_again(lm, request.arguments)) + part * few


def counts_tokens(request: "Call") -> bool:
    """Return whether the time of a call follows from the number of tokens of its questions."""
    return request.experiment.tokens is not None and request.options.get("data") is not None


def cheaper(request: "Call", seconds: float) -> tuple[dict[str, Any], float] | None:
    """Return the options of a cheaper call and an estimate of its seconds, if a call takes longer than `LONG_S`.

    The cheaper call has the experiment's cheap options and at most `FEW` questions. Unless the experiment counts
    tokens, the estimate is the share of the seconds that belongs to these questions, which is too high.

    Args:
        request: call of one model.
        seconds: its estimated time.
    """
    n, cheap = request.options["n"], request.experiment.cheap
    changes = {name: value for name, value in cheap.items() if request.options.get(name) != value}
    changes |= {"n": FEW} if n > FEW else {}
    if seconds < LONG_S or not changes:
        return None
    if not counts_tokens(request):
        return changes, seconds * min(n, FEW) / n
    return changes, estimate_seconds(replace(request, options={**request.options, **changes}))


def stored_seconds(request: "Call", folders: Iterable[Path] = ()) -> float | None:
    """Estimate the seconds of a call of one model, from stored results of similar models on these questions.

    None if there are none. Models are similar if they belong to the same world.

    Args:
        request: call to estimate.
        folders: folders of results, in addition to those of the model.
    """
    (lm,), size = request.models, request.options.get("n")
    world, data = of(lm), _content_hash(data_facts(request.options.get("data")))
    times = []
    places = {*folders, *homes(lm)}
    for file in {path for each in places for path in each.glob(f"{request.experiment.name}-*/{RESULT_FILE}")}:
        try:
            meta = read_index(file.parent)["meta"]
        except ProbeError:
            continue
        models = meta.get("models")
        like = models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else {}
        same = like.get("fingerprint") == lm.fingerprint or (world is not None and like.get("world") == world.hash)
        duration, n = meta.get("seconds"), meta.get("n")
        if same and data == _content_hash(meta.get("data")) and isinstance(duration, int | float):
            comparable = isinstance(n, int) and isinstance(size, int) and n > 0
            times.append((n != size, duration * (size / n if comparable else 1)))
    exact = [duration for other, duration in times if not other] or [duration for _, duration in times]
    return median(exact) if exact else None


def _content_hash(facts: Any) -> Any:
    return facts.get("sha256") if isinstance(facts, dict) else None
