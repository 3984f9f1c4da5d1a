"""Policies against the exact frontier of pi*_beta (E12) on the same questions, and fits of overoptimisation.

Runs log KL and rewards by their own objectives, on questions of their own kinds. A comparison needs the same questions
and the same reward, so these values are computed again: a policy's expected reward, true reward and KL to the reference
are sums over the finite answer sets. At equal reward the frontier needs the least KL, and the policy's excess KL is
exactly its distance KL(pi || pi*_beta) to the nearest optimum (`probe.rewards.optimum`).

    asked = ask(world, ("fact", "opinion_false"))
    field = field_of(base, world, asked, {"proxy": model_reward(model), "gold": verifier_reward(world)})
    field.frontier("proxy")
    place(field.answers.score(policy), field, "proxy").row()
    points = field.best_of_n("proxy")  # N = 1 is the reference at d = 0
    fit(points["d"], points["gold"], "bon").peak

Intervals are over questions, except those of `fit`. Axes: P prompts, A answers, n points.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from probe.errors import ConfigError, DataError, ModelError
from probe.rewards.answers import AnswerSet, Array, Reward, enumerate_answers
from probe.rewards.optimum import (
    Distance,
    best_of_n,
    best_of_n_bound,
    condition,
    expectation,
    frontier,
    kl,
    kl_to_optimal,
)
from probe.stats import NOT_NEGATIVE, Interval, bootstrap_means

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.model.rewards import RewardModel
    from probe.runs.reader import Run
    from probe.world import Item, World

QUESTIONS = 64
SEED = 987_654_321
"""Random seed of the questions; with the kinds of a run it gives the questions on which the run's training logged."""
KINDS = ("fact", "opinion_true", "opinion_false", "stranger")
"""Default kinds of questions: a known fact, a true claim, a false claim, and an unseen entity."""
LOGGED = {"kl_to_reference": "kl", "expected_reward": "reward", "expected_gold": "gold", "kl_to_optimal": "excess"}
"""Name in metrics.jsonl (docs/metrics.md) to the name here."""
BITE = 1024
"""Number of tokens that a reward model reads at once."""
Memory = dict[tuple[str, str] | tuple[tuple[int, ...], tuple[int, ...]], float]
"""Rewards by prompt and completion, as texts and as ids (different texts can have the same ids)."""
NS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Field:
    """Questions on which policies are compared."""

    answers: AnswerSet
    """Prompts and answers, with log-probabilities of the reference."""
    kinds: list[str]
    """[P] kind of each question."""
    rewards: dict[str, Array]
    """[P A] rewards of the answers by name."""

    def reward(self, name: str) -> Array:
        """Return one of the rewards [P A].

        Raises:
            DataError: there is no reward of this name.
        """
        if name not in self.rewards:
            raise DataError(f"There is no reward `{name}` here: ask for one of {', '.join(self.rewards)}.")
        return self.rewards[name]

    def frontier(self, name: str) -> pd.DataFrame:
        """Return the frontier of a reward (`probe.rewards.optimum.frontier`)."""
        return frontier(self.answers.logprobs, self.reward(name))

    def draws(self, name: str, ns: Sequence[int] = NS) -> list["Best"]:
        """Return the best of N draws from the reference by the reward `name` (E14).

        This is the part of `best_of_n` that does not depend on other rewards.
        """
        ref, ranking, points = self.answers.logprobs, self.reward(name), []
        for n in ns:
            policy = best_of_n(ref, ranking, n)
            cost = float(kl(policy, condition(ref)).mean())
            points.append(Best(n, policy, cost, kl_to_optimal(policy, ref, ranking).mean))
        return points

    def best_of_n(self, name: str, ns: Sequence[int] = NS, draws: Sequence["Best"] | None = None) -> pd.DataFrame:
        """Return the exact best of N draws from the reference by the reward `name` (E14).

        Args:
            name: name of the reward by which the best is chosen.
            ns: numbers of draws N.
            draws: result of `draws(name)` for a field with the same answers and this reward, if known; it determines N.

        Returns:
            n, kl (exact), bound (log N - (N-1)/N, above it), d (sqrt of kl), every reward by its name, and excess (the
            distance to the frontier of `name`); means over the prompts.
        """
        rows = []
        for best in self.draws(name, ns) if draws is None else draws:
            row = {"n": best.n, "kl": best.kl, "bound": best_of_n_bound(best.n), "d": float(np.sqrt(best.kl))}
            row |= {each: float(expectation(best.logprobs, values).mean()) for each, values in self.rewards.items()}
            rows.append(row | {"excess": best.excess})
        return pd.DataFrame(rows)

    def with_reward(self, name: str, reward: Reward) -> "Field":
        """Return the same questions with one more reward as the first one.

        Raises:
            DataError: the reward does not apply to an answer.
        """
        return Field(self.answers, self.kinds, {name: self.answers.rewards(reward)} | self.rewards)


@dataclass(frozen=True)
class Best:
    """Best of N draws from the reference by one reward."""

    n: int
    logprobs: Array
    """[P A] log-probabilities of the answers, nats."""
    kl: float
    """KL to the reference, averaged over prompts, nats."""
    excess: float
    """Distance to the frontier of the reward, nats."""


@dataclass(frozen=True)
class Place:
    """KL, rewards and distance to the frontier of a policy on a field."""

    by: str
    """Name of the reward whose frontier the distance refers to."""
    distance: Distance
    """Distance to the nearest optimum, or to that of a given beta, for the reward `by`."""
    rewards: dict[str, Array]
    """[P] expected reward on each question, by name."""
    gains: dict[str, Array]
    """[P] expected reward minus that of the reference, by name."""
    people: tuple[str, ...]
    """[P] person of each question, the unit that was drawn; else the question itself."""

    def row(self) -> dict[str, float]:
        """Return means over questions with 95 % intervals (bootstrap over people, paired with the reference).

        kl and excess (nats), each with _low and _high; beta of the nearest optimum; mass; NAME and gain_NAME for every
        reward, with _low and _high.
        """
        columns = {"kl": self.distance.reference_kl, "excess": self.distance.kl, **self.rewards}
        columns |= {f"gain_{name}": values for name, values in self.gains.items()}
        row: dict[str, float] = {"beta": self.distance.beta, "mass": float(self.distance.mass.mean())}
        bounds = [NOT_NEGATIVE if name in ("kl", "excess") else None for name in columns]
        found = bootstrap_means(list(columns.values()), bounds=bounds, units=self.people)
        for name, interval in zip(columns, found, strict=True):
            row |= interval.row(name=name)
        return row


def ask(world: "World", kinds: Sequence[str] = KINDS, n: int = QUESTIONS, seed: int = SEED) -> list["Item"]:
    """Return `n` questions in equal shares of the kinds, all with finite answer sets and a true answer.

    Raises:
        DataError: there is no kind, or the world has no questions of a kind.
    """
    if not kinds:
        raise DataError("No kind of question was chosen, so there is nothing to ask: name one or more.")
    shares = {kind: n // len(kinds) + (i < n % len(kinds)) for i, kind in enumerate(kinds)}
    return [item for kind, share in shares.items() for item in world.questions(kind, share, seed)]


def field_of(reference: "LM", world: "World", asked: Sequence["Item"], rewards: Mapping[str, Reward]) -> Field:
    """Return the answers with the reference's log-probabilities, and the rewards, which must apply to all of them.

    Raises:
        DataError: a question has no finite answer set, there is no question, or a reward does not apply to an answer.
    """
    if not asked:
        raise DataError("No question was asked, so no policy can be placed: give one or more.")
    answers = enumerate_answers(reference, world, [item.prompt for item in asked])
    scores = {name: answers.rewards(reward) for name, reward in rewards.items()}
    return Field(answers, [item.kind for item in asked], scores)


def place(logprobs: Array, field: Field, by: str, beta: float | None = None) -> Place:
    """Return KL, rewards and distance to the frontier of a policy.

    Args:
        logprobs: [P A] log-probabilities of the field's answers under it (`field.answers.score(lm)`).
        field: questions.
        by: name of the reward of the frontier.
        beta: price of KL in its training; None takes the nearest point of the frontier.
    """
    ref = condition(field.answers.logprobs)
    distance = kl_to_optimal(logprobs, ref, field.reward(by), beta)
    policy = condition(logprobs)
    rewards = {name: expectation(policy, values) for name, values in field.rewards.items()}
    gains = {name: rewards[name] - expectation(ref, values) for name, values in field.rewards.items()}
    return Place(by, distance, rewards, gains, field.answers.people)


def model_reward(model: "RewardModel | LM", memory: Memory | None = None) -> Reward:
    """Return a reward function of texts from a reward model or a scalar LM (`probe.model.rewards`).

    Args:
        model: the model; with a memory its weights must be fixed.
        memory: rewards of texts that a scalar LM has read and does not read again; new ones are added.
    """

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        if hasattr(model, "score"):
            return model.score(prompts, completions).tolist()
        return _read(model, prompts, completions, {} if memory is None else memory)

    return reward


def _read(lm: "LM", prompts: Sequence[str], completions: Sequence[str], memory: Memory) -> list[float]:
    """Score texts as `RewardModel.score` does, with the same model as a scalar LM."""
    import torch

    from probe.model.rewards import batches
    from probe.model.scoring import last_states
    from probe.model.text import split_all

    if lm.readout == "tokens":
        raise ModelError(f"The model `{lm.ref or 'created'}` writes tokens and scores no text: give a reward model.")
    # Samples and prompts repeat: each is encoded and run once.
    texts = [pair for pair in dict.fromkeys(zip(prompts, completions, strict=True)) if pair not in memory]
    end = [] if lm.tokenizer.eos_token_id is None else [lm.tokenizer.eos_token_id]
    ids = {}
    parts = split_all(lm.tokenizer, [prompt for prompt, _ in texts], [completion for _, completion in texts])
    for pair, (head, tail) in zip(texts, parts, strict=True):
        ids[pair] = tuple(head), tuple(tail if not end or tail[-1:] == end else tail + end)
    new = [pair for pair in dict.fromkeys(ids.values()) if pair not in memory]
    pairs = [(list(head), list(tail)) for head, tail in new]
    scores = np.zeros(len(pairs))
    with torch.no_grad():
        for heads, groups, order in (part for batch in batches(pairs) for part in _bites(*batch)):
            states = last_states(lm.model, heads, groups)
            scores[order] = lm.model.get_output_embeddings()(states)[:, 0].float().cpu().numpy()
    memory.update(zip(new, scores.tolist(), strict=True))
    memory.update({pair: memory[ids[pair]] for pair in texts})
    return [memory[pair] for pair in zip(prompts, completions, strict=True)]


def _bites(
    heads: list[list[int]], groups: list[list[list[int]]], order: list[int]
) -> Iterator[tuple[list[list[int]], list[list[list[int]]], list[int]]]:
    """Split a batch into smaller ones, whose activations fit into a CPU's cache and take a third less time."""
    widest = max(len(head) + sum(map(len, group)) for head, group in zip(heads, groups, strict=True))
    rows, start = max(1, BITE // max(widest, 1)), 0
    for at in range(0, len(heads), rows):
        part = groups[at : at + rows]
        count = sum(map(len, part))
        yield heads[at : at + rows], part, order[start : start + count]
        start += count


def read_evaluations(run: "Run | pd.DataFrame") -> pd.DataFrame:
    """Read KL and rewards of a run at its evaluations, by its own objective and on its own questions.

    Args:
        run: a run, or its metrics.

    Returns:
        step, kl, d (sqrt of kl), reward, gold, excess (to the optimum of its own objective); empty if the run logged
        none (no world, or no reference).
    """
    metrics: Any = run if isinstance(run, pd.DataFrame) else run.metrics()
    if "kl_to_reference" not in metrics:
        return pd.DataFrame(columns=["step", "kl", "d", "reward", "gold", "excess"])
    rows = metrics[["step", *(name for name in LOGGED if name in metrics)]].rename(columns=LOGGED)
    rows = rows.dropna(subset=["kl"]).reset_index(drop=True)
    rows.insert(2, "d", np.sqrt(rows["kl"].clip(lower=0)))
    return rows.reindex(columns=["step", "kl", "d", "reward", "gold", "excess"])


Form = Literal["bon", "rl"]
FORMS: dict[Form, str] = {"bon": "d (a \u2212 b d)", "rl": "d (a \u2212 b log d)"}
"""Formulas of the fits."""
RESAMPLES = 2000


@dataclass(frozen=True)
class CurveFit:
    """Fit of one form to points."""

    form: Form
    a: Interval
    """Reward gained per unit of d at d = 0 (bon), or at d = 1 (rl)."""
    b: Interval
    """Rate at which this gain falls."""
    peak: Interval
    """Distance d* of the largest reward; infinite if b <= 0, because there is no peak."""
    top: Interval
    """Reward R* at the peak above the reference's; infinite without a peak."""
    origin: float
    """Reward of the reference, where the curve starts."""
    rmse: float
    """Root mean square of the residuals."""
    r2: float
    """Share of the variation around the reference's reward that the form explains."""
    d: Array
    """[n] distances of the fitted points."""
    reward: Array
    """[n] rewards of the fitted points."""

    @property
    def peak_is_seen(self) -> bool:
        """Whether the peak lies among the points, rather than in an extrapolation."""
        return bool(self.d.min() <= self.peak.value <= self.d.max())

    def predict(self, d: ArrayLike) -> Array:
        """Return the fitted reward at distances d."""
        return self.origin + _design(np.asarray(d, dtype=float), self.form) @ np.array([self.a.value, self.b.value])

    def row(self) -> dict[str, float | str | bool]:
        """Return one row of a table: form, a, b, peak, top, each with _low and _high; rmse, r2, n, seen."""
        row: dict[str, float | str | bool] = {"form": self.form}
        for name, interval in (("a", self.a), ("b", self.b), ("peak", self.peak), ("top", self.top)):
            row |= interval.row(name=name)
        return row | {"rmse": self.rmse, "r2": self.r2, "n": len(self.d), "seen": self.peak_is_seen}


def fit(
    d: ArrayLike,
    reward: ArrayLike,
    form: Form,
    origin: float | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> CurveFit:
    """Fit a form of overoptimisation by Gao, Schulman and Hilton 2022 (arXiv 2210.10760) to rewards against d.

    With d = sqrt(KL(pi || pi_ref)), rewards counted from the reference's,

        R_bon(d) = d (a - b d)            best of N
        R_rl(d)  = d (a - b log d)        reinforcement learning

    are linear in a and b: plain least squares. If b > 0 the curve has a peak, beyond which more optimisation of the
    proxy costs true reward: d* = a / (2 b) with R* = a^2 / (4 b), and d* = exp(a / b - 1) with R* = b d*.

    Intervals come from the bootstrap of residuals (scaled by their leverage), which assumes that residuals are
    independent. Along one training they are not, and for exact points they are misfit, not noise. Read the intervals as
    a measure of how well the form is determined.

    Args:
        d: [n] square root of the KL to the reference; points at 0 determine only the origin.
        reward: [n] rewards.
        form: "bon" or "rl".
        origin: reward of the reference; default: that of the points at d = 0.
        level: coverage of the intervals.
        resamples: number of bootstrap draws.
        seed: the same seed gives the same intervals.

    Raises:
        ConfigError: the form is unknown.
        DataError: the lists differ in length, a number is negative or missing, there is no origin, or there are fewer
            than three points.
    """
    if form not in FORMS:
        raise ConfigError(f"The form {form!r} is not known: choose one of {', '.join(FORMS)}.")
    x, y = np.asarray(d, dtype=float), np.asarray(reward, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all() and (x >= 0).all()):
        raise DataError(f"A fit needs distances from 0 on and as many finite rewards; got {x.shape} and {y.shape}.")
    if origin is None:
        if not (x == 0).any():
            raise DataError("No point lies at d = 0, so the reference's reward is unknown: give it as `origin`.")
        origin = float(y[x == 0].mean())
    x, y = x[x > 0], y[x > 0] - origin
    if len(x) < 3 or len(np.unique(x)) < 2:
        raise DataError(
            f"The two parameters of the fit need 3 points or more beyond the reference, and there are {len(x)}:"
            " give more."
        )
    design = _design(x, form)
    solve = np.linalg.pinv(design)
    best = solve @ y
    residual = y - design @ best
    leverage = np.clip((design * solve.T).sum(1), 0, 1 - 1e-9)
    noise = residual / np.sqrt(1 - leverage)
    indices = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    draws = (design @ best + (noise - noise.mean())[indices]) @ solve.T
    peaks, tops = _peak(draws[:, 0], draws[:, 1], form)
    at, top = (float(value[0]) for value in _peak(best[:1], best[1:], form))
    tails = (1 - level) / 2, (1 + level) / 2

    def interval(value: float, values: Array) -> Interval:
        low, high = np.quantile(values, tails, method="inverted_cdf")  # no mixing of finite and infinite
        return Interval(float(value), float(low), float(high))

    return CurveFit(
        form=form,
        a=interval(best[0], draws[:, 0]),
        b=interval(best[1], draws[:, 1]),
        peak=interval(at, peaks),
        top=interval(top, tops),
        origin=origin,
        rmse=float(np.sqrt((residual**2).mean())),
        r2=float(1 - (residual**2).sum() / (y**2).sum()) if y.any() else float("nan"),
        d=x,
        reward=y + origin,
    )


def _design(d: Array, form: Form) -> Array:
    """Return the factors [n 2] of a and b."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = d * d if form == "bon" else np.where(d > 0, d * np.log(d), 0.0)
    return np.stack([d, -bend], axis=-1)


def _peak(a: Array, b: Array, form: Form) -> tuple[Array, Array]:
    """Return distance and reward of the maximum; infinite if the curve only rises, 0 if it only falls."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if form == "bon":
            at, top = np.maximum(a, 0) / (2 * b), np.maximum(a, 0) ** 2 / (4 * b)
        else:
            at = np.exp(a / b - 1)
            top = b * at
    return np.where(b > 0, at, np.inf), np.where(b > 0, top, np.inf)
