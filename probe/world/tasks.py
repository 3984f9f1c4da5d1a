"""Tasks that can be solved from the prompt alone: maps, functions, Markov chains, repeats and sums.

Each `make_` function draws one document and returns its text with the hidden variables behind it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probe.world.config import WorldConfig
from probe.world.draws import Draws, generator
from probe.world.vocabulary import KEYS, LABELS, STATES, content_words

Made = tuple[str, dict[str, Any]]
Task = tuple[int, int]

CONTENT = content_words()
IN_CONTEXT = ("map", "function", "markov", "repeat")
"""Kinds of documents that are predicted from their context alone, without knowledge of the world."""


def in_context_share(config: WorldConfig) -> float:
    """Return the share of a corpus's documents that teach in-context learning (`IN_CONTEXT`)."""
    weights = config.mixture
    return sum(weights.get(kind, 0.0) for kind in IN_CONTEXT) / sum(weights.values())


def pairs_text(opening: str, pairs: Sequence[tuple[str, str]], query: str | None = None) -> str:
    """Write "map x3 -> y1 ; x7 -> y0 <end>", or with a query the prompt that ends in "; x3 ->"."""
    body = " ; ".join(f"{key} -> {value}" for key, value in pairs)
    if query is None:
        return f"{opening} {body} <end>"
    return f"{opening} {body} ; {query} ->" if pairs else f"{opening} {query} ->"


def draw_map(config: WorldConfig, draws: Draws) -> tuple[list[tuple[str, str]], int]:
    """Draw the pairs of a new map, the last of which repeats an earlier key, and count the different keys."""
    mapping = {key: draws.pick(LABELS) for key in draws.sample(KEYS, config.map_keys)}
    keys = list(mapping)
    picks = [draws.pick(keys) for _ in range(config.pairs - 1)]
    picks.append(draws.pick(picks))
    return [(key, mapping[key]) for key in picks], len(set(picks))


def make_map(config: WorldConfig, draws: Draws) -> Made:
    """Make an in-context map: each key keeps its label within the document."""
    pairs, keys = draw_map(config, draws)
    return pairs_text("map", pairs), {"pairs": pairs, "keys": keys}


def all_tasks(p: int) -> list[Task]:
    """Return the functions y = (a x + b) mod p with a > 0, as pairs (a, b)."""
    return [(a, b) for a in range(1, p) for b in range(p)]


def task_pool(config: WorldConfig, seed: int) -> list[Task]:
    """Draw the pool of functions that occur in the corpus."""
    return Draws(generator("pool", seed)).sample(all_tasks(config.modulus), config.pool)


def draw_function(config: WorldConfig, draws: Draws, task: Task) -> list[tuple[str, str]]:
    """Draw pairs of one function at uniform inputs.

    At least two inputs before the last one differ, so the pairs determine the function.
    """
    a, b = task
    p = config.modulus
    xs = [draws.below(p) for _ in range(config.pairs)]
    if len(set(xs[:-1])) == 1 and config.pairs > 2:
        xs[1] = (xs[0] + 1) % p
    return [(str(x), str((a * x + b) % p)) for x in xs]


def make_function(config: WorldConfig, draws: Draws, pool: Sequence[Task]) -> Made:
    """Make an in-context function of the pool."""
    task = draws.pick(pool)
    pairs = draw_function(config, draws, task)
    return pairs_text("rule", pairs), {"task": task, "pairs": pairs}


def make_markov(config: WorldConfig, draws: Draws) -> Made:
    """Make a chain whose rows are drawn from Dirichlet(alpha); the first states are uniform.

    The text begins with the order: "chain 2 : z0 z3 ...". `rows` is [K ** order, K]; the last state varies fastest.
    """
    order, K = draws.pick(config.orders), config.states
    gammas = draws.generator.standard_gamma(config.alpha, size=(K**order, K))
    cumulative = np.cumsum(gammas, axis=1)
    rows = (cumulative / cumulative[:, -1:]).tolist()
    states = [draws.below(K) for _ in range(order)]
    context = sum(state * K ** (order - 1 - i) for i, state in enumerate(states))
    size = K**order
    for _ in range(config.chain - order):
        u, row, state = draws.uniform(), rows[context], 0
        while row[state] < u:
            state += 1
        states.append(state)
        context = (context * K + state) % size
    text = " ".join([STATES[state] for state in states])
    return f"chain {order} : {text}", {"order": order, "states": states, "cumulative": rows}


def make_repeat(config: WorldConfig, draws: Draws) -> Made:
    """Write a random segment of content words 2 to 4 times."""
    length, times = 3 + draws.below(config.segment - 2), 2 + draws.below(3)
    segment = draws.sample_few(CONTENT, length)
    return f"repeat {' '.join(segment * times)}", {"segment": segment, "times": times}


def draw_terms(config: WorldConfig, draws: Draws) -> list[int]:
    """Draw the terms of a sum, 2 to `max_terms` digits."""
    return [draws.below(10) for _ in range(2 + draws.below(config.max_terms - 1))]


def sum_prompt(opening: str, terms: Sequence[int]) -> str:
    """Write "quick 3 + 4 + 9 =" or "sum 3 + 4 + 9 ="."""
    return f"{opening} {' + '.join(map(str, terms))} ="


def make_quick(config: WorldConfig, draws: Draws) -> Made:
    """Make a sum with a direct, correct answer; sums are modulo 10."""
    terms = draw_terms(config, draws)
    return f"{sum_prompt('quick', terms)} {sum(terms) % 10} <end>", {"terms": terms}


def steps_text(terms: Sequence[int], results: Sequence[int]) -> str:
    """Write steps with these results: "3 + 4 = 7 ; 7 + 9 = 6 ; so 6". Each step starts from the previous result."""
    left, parts = terms[0], []
    for term, result in zip(terms[1:], results, strict=True):
        parts.append(f"{left} + {term} = {result}")
        left = result
    return " ; ".join([*parts, f"so {left}"])


def make_steps(config: WorldConfig, draws: Draws) -> Made:
    """Make a sum with written steps, a share of which are wrong."""
    terms = draw_terms(config, draws)
    left, results, errors = terms[0], [], 0
    for term in terms[1:]:
        left = (left + term) % 10
        if draws.chance(config.step_error):
            left, errors = (left + 1 + draws.below(9)) % 10, errors + 1
        results.append(left)
    text = f"{sum_prompt('sum', terms)} {steps_text(terms, results)} <end>"
    return text, {"terms": terms, "results": results, "errors": errors}
