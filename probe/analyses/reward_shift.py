"""Proxy, gold and implicit rewards before and after alignment: what two models answer to the same prompts (METRICS).

Both models answer every prompt n times, with the same random numbers. Each sample gets

    proxy       what is optimised: a reward model, or any reward of texts
    gold        the world's verifier (+1 true, 0 abstains, -1 otherwise), and its verdict in words
    implicit    beta log pi_aligned/pi_base of the sample, nats (E13); its mean over the aligned model's samples is
                beta KL(aligned || base), over the base model's - beta KL(base || aligned)

`summary` compares the two: samples of one prompt resemble each other, so intervals draw prompts (a cluster bootstrap of
paired means). What a run captured over its training comes in the same columns without a model: `captured`.

Axes: P prompts, n samples of each.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe import stats
from probe.analyses.rewards import shift_samples, shift_steps
from probe.errors import ConfigError, DataError
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.analyses.answers import Reward
    from probe.lm import LM
    from probe.rewards import RewardModel
    from probe.runs.reader import Run
    from probe.world import World

SIDES = ("base", "aligned")
MEASURES = ("proxy", "gold", "implicit", "length")
VERDICTS = ("true", "abstain", "deferred", "wrong", "malformed")
AGAIN = 1_000_003
CHUNK = 256
"""Samples that are drawn between two ticks, at most."""


def samples(
    base: "LM",
    aligned: "LM",
    prompts: Sequence[str],
    proxy: "RewardModel | Reward | None" = None,
    world: "World | None" = None,
    n: int = 16,
    beta: float = 1.0,
    max_new_tokens: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    kinds: Sequence[str] = (),
    tick: Tick = ignore,
) -> pd.DataFrame:
    """Draw and judge the answers of both models.

    Args:
        base: the reference.
        aligned: the other model; its tokenizer must be the same.
        prompts: P texts.
        proxy: a reward model, or a function of (prompts, completions).
        world: whose verifier gives the gold reward.
        n: samples a prompt and model.
        beta: factor of the implicit reward.
        max_new_tokens: longest sample.
        temperature: of the sampling; log-probabilities are always those at 1.
        seed: of the samples.
        kinds: [P] what kind each prompt is of, for the table.
        tick: see `probe.ticks`.

    Returns:
        One row a sample: model (base or aligned), prompt (its number), kind, text, sample, completion, length (tokens,
        end token included), finished, logp_base, logp_aligned, logratio (nats, of the whole sample), implicit, and
        where they are asked for proxy, gold (NaN where they do not apply) and verdict.

    Raises:
        DataError: the tokenizers differ, or there is no prompt.
        ConfigError: a number that is not possible.
    """
    from probe.analyses.compare import require_same_tokens

    require_same_tokens(base, aligned)
    if not prompts or (kinds and len(kinds) != len(prompts)):
        raise DataError(
            f"{len(prompts)} prompts and {len(kinds)} kinds were given: give at least one, and a kind each."
        )
    if n < 1 or not beta >= 0:
        raise ConfigError(f"Samples were asked for with n={n} and beta={beta}; expected 1 or more and 0 or more.")
    size = max(1, CHUNK // n)
    parts = [range(start, min(start + size, len(prompts))) for start in range(0, len(prompts), size)]
    # a prompt that occurs again gets other samples, however the prompts are cut into parts
    seeds = [seed + AGAIN * prompts[:i].count(text) for i, text in enumerate(prompts)]
    tables = []
    for side, lm in zip(SIDES, (base, aligned), strict=True):
        for part in parts:
            drawn = lm.generate(
                [prompts[i] for i in part],
                n=n,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=[seeds[i] for i in part],
            )
            tables.append(_judged(drawn, side, part, (base, aligned), proxy, world, beta, kinds))
            tick(len(tables) / (2 * len(parts)))
    return pd.concat(tables, ignore_index=True)


def _judged(
    drawn: Any,
    side: str,
    part: range,
    models: "tuple[LM, LM]",
    proxy: "RewardModel | Reward | None",
    world: "World | None",
    beta: float,
    kinds: Sequence[str],
) -> pd.DataFrame:
    """The rows of some samples of one model."""
    import torch

    from probe.shift import gold_scores

    groups = [drawn.ids[p * drawn.n : (p + 1) * drawn.n] for p in range(len(part))]
    with torch.no_grad():
        sums = [lm.logprobs(drawn.prompt_ids, groups).values.double().sum(1).cpu().numpy() for lm in models]
    texts = [text for text in drawn.prompts for _ in range(drawn.n)]
    data: dict[str, Any] = {
        "model": side,
        "prompt": [p for p in part for _ in range(drawn.n)],
        "kind": [kinds[p] if kinds else "" for p in part for _ in range(drawn.n)],
        "text": texts,
        "sample": list(range(drawn.n)) * len(part),
        "completion": drawn.text,
        "length": [len(ids) for ids in drawn.ids],
        "finished": drawn.finished.tolist(),
        "logp_base": sums[0],
        "logp_aligned": sums[1],
        "logratio": sums[1] - sums[0],
        "implicit": beta * (sums[1] - sums[0]),
    }
    if proxy is not None:
        given = proxy.score(texts, drawn.text).tolist() if hasattr(proxy, "score") else proxy(texts, drawn.text)
        data["proxy"] = _numbers(given)
    if world is not None:
        data["gold"] = _numbers(gold_scores(world, texts, drawn.text))
        data["verdict"] = [world.verify(text, said).kind for text, said in zip(texts, drawn.text, strict=True)]
    return pd.DataFrame(data)


def captured(run: "Run", steps: tuple[int, int] | None = None) -> pd.DataFrame:
    """The samples that a run captured before and after, in the columns of `samples` as far as they are known.

    Args:
        run: a run with a reward shift in its captures.
        steps: the step called base and the one called aligned; default: the first and the last.

    Returns:
        model, prompt, kind, sample, completion, length, logratio (to the run's reference), implicit (with the run's
        beta), proxy, gold, kl, and step.

    Raises:
        RunError: the captures hold no reward shift.
        DataError: a single capture holds one, or a step does not.
    """
    known = shift_steps(run)
    first, last = steps or ((known[0], known[-1]) if known else (0, 0))
    if known and (first == last or first not in known or last not in known):
        raise DataError(f"Steps {first} and {last} were asked for: give two different ones of {known}.")
    parts = [shift_samples(run, [step]).assign(model=side) for side, step in zip(SIDES, (first, last), strict=True)]
    return pd.concat(parts, ignore_index=True)


def summary(table: pd.DataFrame, measures: Sequence[str] | None = None, by: str | None = None) -> pd.DataFrame:
    """Both models by measure, and their difference.

    Args:
        table: of `samples` or `captured`.
        measures: columns; default: those of proxy, gold, implicit and length that are there, then the share of each
            verdict that occurs (`verdict: true`, ...).
        by: a column whose values are kept apart, such as `kind`.

    Returns:
        One row a measure (and value of `by`): measure, base, base_low, base_high, aligned, ..., difference, ..., win
        (share of pairs of samples of one prompt in which the aligned model's is higher, a tie counting half), win_low,
        win_high, prompts, samples. Means are over prompts of the mean over their samples; 95 % intervals by bootstrap
        over prompts, of the difference paired. Prompts to which a reward does not apply are left out.

    Raises:
        DataError: a measure that is not there, or samples of one model only.
    """
    if set(table["model"]) != set(SIDES):
        raise DataError("A comparison needs samples of both models: give the table of `samples` or `captured`.")
    wide = table
    if "verdict" in table:
        shares = {f"verdict: {kind}": (table["verdict"] == kind).astype(float) for kind in VERDICTS}
        wide = table.assign(**{name: values for name, values in shares.items() if values.any()})
    names = [name for name in map(str, wide) if name in MEASURES or name.startswith("verdict: ")]
    chosen = list(measures) if measures is not None else sorted(names, key=_order)
    missing = [name for name in chosen if name not in wide]
    if missing:
        raise DataError(f"The samples have no measure {missing[0]!r}: ask for some of {', '.join(map(str, names))}.")
    rows: list[dict[str, Any]] = []
    for value, group in wide.groupby(by, sort=False) if by else [(None, wide)]:
        for name in chosen:
            row = _compared(group, name)
            if row is not None:
                rows.append({**({} if by is None else {by: value}), "measure": name, **row})
    return pd.DataFrame(rows)


def _compared(table: pd.DataFrame, name: str) -> dict[str, float] | None:
    """One line of the summary; None where the measure applies to no prompt of both models."""
    values = table[name].to_numpy(dtype=float)
    groups: dict[Any, Any] = dict(table.groupby(["prompt", "model"], sort=True).indices)
    pairs = []
    for prompt in sorted(set(table["prompt"])):
        sides = [values[groups.get((prompt, side), np.empty(0, dtype=int))] for side in SIDES]
        base, aligned = (side[~np.isnan(side)] for side in sides)
        if len(base) and len(aligned):
            pairs.append((base, aligned))
    if not pairs:
        return None
    before, after = (np.array([side.mean() for side in sides]) for sides in zip(*pairs, strict=True))
    found = {
        "base": stats.bootstrap_mean(before),
        "aligned": stats.bootstrap_mean(after),
        "difference": stats.paired_difference(after, before),
        "win": stats.bootstrap_mean([_win(aligned, base) for base, aligned in pairs]),
    }
    row: dict[str, float] = {}
    for key, interval in found.items():
        row |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
    return row | {"prompts": len(pairs), "samples": sum(len(base) + len(aligned) for base, aligned in pairs)}


def _win(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of pairs in which ours is higher, ties half."""
    gap = ours[:, None] - theirs[None, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def _order(name: object) -> tuple[int, int]:
    text = str(name)
    return (0, MEASURES.index(text)) if text in MEASURES else (1, VERDICTS.index(text.removeprefix("verdict: ")))


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=float)
