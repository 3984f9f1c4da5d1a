"""Every method against the exact frontier of pi*_beta (E12) on the same questions; and fits of overoptimisation.

Runs log where they stand by what each of them optimises, on questions of their own kinds. Side by side they can only be
seen on the same questions under the same reward, so that is computed anew: a policy's expected reward, true reward and
KL to the reference are sums over the finite answer sets. At equal reward the frontier needs the least KL, and what the
policy spends beyond is exactly its distance KL(pi || pi*_beta) to the nearest optimum (`probe.rewards.optimum`).

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
"""Of the questions; with it and the kinds of a run they are those that its training logged itself on."""
KINDS = ("fact", "opinion_true", "opinion_false", "stranger")
"""Kinds of questions by default: a known fact, a claim that is true, one that is false, and an unseen entity."""
LOGGED = {"kl_to_reference": "kl", "expected_reward": "reward", "expected_gold": "gold", "kl_to_optimal": "excess"}
"""Names in metrics.jsonl (docs/metrics.md) and here."""
BITE = 1024
"""Tokens that a reward model reads at once."""
Memory = dict[tuple[str, str] | tuple[tuple[int, ...], tuple[int, ...]], float]
"""Rewards by prompt and completion, as texts and as ids (different texts may be the same ids)."""
NS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Field:
    """The questions on which policies are compared."""

    answers: AnswerSet
    """Prompts and answers, with the log-probabilities of the reference."""
    kinds: list[str]
    """[P] kind of each question."""
    rewards: dict[str, Array]
    """[P A] rewards of the answers by name."""

    def reward(self, name: str) -> Array:
        """[P A] one of the rewards.

        Raises:
            DataError: there is none of the name.
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
        """Exact best of N draws from the reference by the reward `name` (E14).

        Args:
            name: of the reward that chooses.
            ns: draws.
            draws: `draws(name)` of a field with the same answers and this reward, where they are known already; they
                say what N is.

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
        """Return the same questions with one more reward, which comes first.

        Raises:
            DataError: the reward does not apply to an answer.
        """
        return Field(self.answers, self.kinds, {name: self.answers.rewards(reward)} | self.rewards)


@dataclass(frozen=True)
class Best:
    """The best of N draws from the reference by one reward."""

    n: int
    logprobs: Array
    """[P A] of the answers, nats."""
    kl: float
    """To the reference, mean over the prompts, nats."""
    excess: float
    """To the frontier of the reward, nats."""


@dataclass(frozen=True)
class Place:
    """KL, rewards and distance to the frontier of a policy on a field."""

    by: str
    """The reward whose frontier the distance refers to."""
    distance: Distance
    """To the nearest optimum, or to that of a given beta; its reward is the one of `by`."""
    rewards: dict[str, Array]
    """[P] expected reward on each question, by name."""
    gains: dict[str, Array]
    """[P] the same less that of the reference."""
    people: tuple[str, ...]
    """[P] whom each question is about, which is what was drawn; the question itself where it is about nobody."""

    def row(self) -> dict[str, float]:
        """Means over the questions with 95 % intervals (bootstrap over people, paired with the reference).

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
    """`n` questions of the kinds in equal shares that have finitely many answers to be true to.

    Raises:
        DataError: no kind, or one that the world has no questions of.
    """
    if not kinds:
        raise DataError("No kind of question was chosen, so there is nothing to ask: name one or more.")
    shares = {kind: n // len(kinds) + (i < n % len(kinds)) for i, kind in enumerate(kinds)}
    return [item for kind, share in shares.items() for item in world.questions(kind, share, seed)]


def field_of(reference: "LM", world: "World", asked: Sequence["Item"], rewards: Mapping[str, Reward]) -> Field:
    """Return the answers with the reference's log-probabilities, and the rewards, which must apply to all of them.

    Raises:
        DataError: a question without finite answers, no question, or a reward that does not apply to an answer.
    """
    if not asked:
        raise DataError("No question was asked, so no policy can be placed: give one or more.")
    answers = enumerate_answers(reference, world, [item.prompt for item in asked])
    scores = {name: answers.rewards(reward) for name, reward in rewards.items()}
    return Field(answers, [item.kind for item in asked], scores)


def place(logprobs: Array, field: Field, by: str, beta: float | None = None) -> Place:
    """KL, rewards and distance to the frontier of a policy.

    Args:
        logprobs: [P A] log-probabilities of the field's answers under it (`field.answers.score(lm)`).
        field: the questions.
        by: name of the reward whose frontier it is held to.
        beta: price of KL that it was trained with; None takes the nearest point of the frontier.
    """
    ref = condition(field.answers.logprobs)
    distance = kl_to_optimal(logprobs, ref, field.reward(by), beta)
    policy = condition(logprobs)
    rewards = {name: expectation(policy, values) for name, values in field.rewards.items()}
    gains = {name: rewards[name] - expectation(ref, values) for name, values in field.rewards.items()}
    return Place(by, distance, rewards, gains, field.answers.people)


def model_reward(model: "RewardModel | LM", memory: Memory | None = None) -> Reward:
    """Return a reward of texts from a reward model or a scalar LM (`probe.model.rewards`); a text gets the end token.

    Args:
        model: of fixed weights if there is a memory.
        memory: what a scalar LM has read already, which it does not read again; grows with what it reads.
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
    # Samples repeat themselves, and all answers to a question its prompt: each is encoded and run once.
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
    """Split a batch into smaller ones: activations that fit into the cache of a CPU are a third faster."""
    widest = max(len(head) + sum(map(len, group)) for head, group in zip(heads, groups, strict=True))
    rows, start = max(1, BITE // max(widest, 1)), 0
    for at in range(0, len(heads), rows):
        part = groups[at : at + rows]
        count = sum(map(len, part))
        yield heads[at : at + rows], part, order[start : start + count]
        start += count


def read_evaluations(run: "Run | pd.DataFrame") -> pd.DataFrame:
    """KL and rewards of a run at its evaluations, by its own objective and on its own questions.

    Args:
        run: a run, or its metrics.

    Returns:
        step, kl, d (sqrt of kl), reward, gold, excess (to the optimum of its own objective); empty where the run logged
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
"""How the fits are written."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Fit:
    """One form fitted to points."""

    form: Form
    a: Interval
    """Reward gained per unit of d at the start (bon), at d = 1 (rl)."""
    b: Interval
    """How fast that falls."""
    peak: Interval
    """d*, the distance of most reward; infinite where b <= 0, so that there is none."""
    top: Interval
    """R*, the reward there above the reference's; infinite where there is no peak."""
    origin: float
    """Reward of the reference, which the curve starts from."""
    rmse: float
    """Root mean square of the residuals."""
    r2: float
    """Share of the variation around the reference's reward that the form explains."""
    d: Array
    """[n] the points that were fitted."""
    reward: Array
    """[n] their rewards."""

    @property
    def peak_is_seen(self) -> bool:
        """Whether the peak lies among the points, and is no extrapolation to where there are none."""
        return bool(self.d.min() <= self.peak.value <= self.d.max())

    def predict(self, d: ArrayLike) -> Array:
        """Return the fitted reward at distances d."""
        return self.origin + _design(np.asarray(d, dtype=float), self.form) @ np.array([self.a.value, self.b.value])

    def row(self) -> dict[str, float | str | bool]:
        """One line of a table: form, a, b, peak, top, each with _low and _high; rmse, r2, n, seen."""
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
) -> Fit:
    """Fit a form of overoptimisation by Gao, Schulman and Hilton 2022 (arXiv 2210.10760) to rewards against d.

    With d = sqrt(KL(pi || pi_ref)), rewards counted from the reference's,

        R_bon(d) = d (a - b d)            best of N
        R_rl(d)  = d (a - b log d)        reinforcement learning

    are linear in a and b: plain least squares. Where b > 0 the curve has a peak, beyond which more optimisation of the
    proxy costs true reward: d* = a / (2 b) with R* = a^2 / (4 b), and d* = exp(a / b - 1) with R* = b d*.

    Intervals come from the bootstrap of residuals (scaled by their leverage), which takes those for independent: along
    one training they are not, and on exact points they are misfit and no noise. Read them as how well the form is
    determined.

    Args:
        d: [n] square root of the KL to the reference; points at 0 carry nothing but the origin.
        reward: [n].
        form: "bon" or "rl".
        origin: reward of the reference; default: that of the points at d = 0.
        level: coverage of the intervals.
        resamples: bootstrap draws.
        seed: the same seed gives the same intervals.

    Raises:
        ConfigError: another form.
        DataError: lists that do not fit, a negative or missing number, no origin, or fewer than three points.
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
        raise DataError(f"Two numbers cannot be fitted to {len(x)} points beyond the reference: give 3 or more.")
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

    return Fit(
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
    """[n 2] what a and b are multiplied by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = d * d if form == "bon" else np.where(d > 0, d * np.log(d), 0.0)
    return np.stack([d, -bend], axis=-1)


def _peak(a: Array, b: Array, form: Form) -> tuple[Array, Array]:
    """Distance and reward of the maximum; infinite where the curve only rises, 0 where it only falls."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if form == "bon":
            at, top = np.maximum(a, 0) / (2 * b), np.maximum(a, 0) ** 2 / (4 * b)
        else:
            at = np.exp(a / b - 1)
            top = b * at
    return np.where(b > 0, at, np.inf), np.where(b > 0, top, np.inf)
