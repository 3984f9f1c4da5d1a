"""Every method against the exact frontier of pi*_beta (E12): one set of questions, one reward, many policies.

Runs log where they stand by what each of them optimises, on questions of their own kinds. Side by side they can only be
seen on the same questions under the same reward, so that is computed anew: a policy's expected reward, gold reward and
KL to the reference are sums over the finite answer sets. At equal reward the frontier needs the least KL, and what the
policy spends beyond is exactly its distance KL(pi || pi*_beta) to the nearest optimum (`probe.analyses.optimum`).

    asked = ask(world, ("fact", "opinion_false"))
    field = field_of(base, world, asked, {"proxy": model_reward(model), "gold": verifier_reward(world)})
    field.frontier("proxy")
    place(field.answers.score(policy), field, "proxy").row()

Intervals are over questions. Axes: P prompts, A answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe import stats
from probe.analyses.answers import AnswerSet, Array, Reward, enumerate_answers
from probe.analyses.best_of_n import best_of_n, best_of_n_bound
from probe.analyses.optimum import Distance, conditioned, expectation, frontier, kl, kl_to_optimal
from probe.errors import DataError, ModelError

if TYPE_CHECKING:
    from probe.lm import LM
    from probe.rewards import RewardModel
    from probe.runs.reader import Run
    from probe.world import Item, World

QUESTIONS = 64
SEED = 987_654_321
"""Of the questions; with it and the kinds of a run they are those that its training logged itself on."""
KINDS = ("fact", "opinion_true", "opinion_false", "stranger")
"""What is asked unless a run says otherwise: knowledge, a claim that is true, one that is false, and a stranger."""
LOGGED = {"kl_to_reference": "kl", "expected_reward": "reward", "expected_gold": "gold", "kl_to_optimal": "excess"}
"""Names in metrics.jsonl (docs/metrics.md) and here."""
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
        """The frontier of a reward (`probe.analyses.optimum.frontier`)."""
        return frontier(self.answers.logprobs, self.reward(name))

    def best_of_n(self, name: str, ns: Sequence[int] = NS) -> pd.DataFrame:
        """Exact best of N draws from the reference by the reward `name` (E14).

        Returns:
            n, kl (exact), bound (log N - (N-1)/N, above it), d (sqrt of kl), every reward by its name, and excess (the
            distance to the frontier of `name`); means over the prompts.
        """
        ref, ranking, rows = self.answers.logprobs, self.reward(name), []
        for n in ns:
            policy = best_of_n(ref, ranking, n)
            spent = float(kl(policy, conditioned(ref)).mean())
            row = {"n": n, "kl": spent, "bound": best_of_n_bound(n), "d": float(np.sqrt(spent))}
            row |= {each: float(expectation(policy, values).mean()) for each, values in self.rewards.items()}
            rows.append(row | {"excess": kl_to_optimal(policy, ref, ranking).mean})
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Place:
    """Where a policy stands on a field."""

    by: str
    """The reward whose frontier the distance refers to."""
    distance: Distance
    """To the nearest optimum, or to that of a given beta; its reward is the one of `by`."""
    rewards: dict[str, Array]
    """[P] expected reward on each question, by name."""
    gains: dict[str, Array]
    """[P] the same less that of the reference."""

    def row(self) -> dict[str, float]:
        """Means over the questions with 95 % intervals (bootstrap over questions, paired with the reference).

        kl and excess (nats), each with _low and _high; beta of the nearest optimum; mass; NAME and gain_NAME for every
        reward, with _low and _high.
        """
        found = {"kl": self.distance.reference_kl, "excess": self.distance.kl, **self.rewards}
        found |= {f"gain_{name}": values for name, values in self.gains.items()}
        row: dict[str, float] = {"beta": self.distance.beta, "mass": float(self.distance.mass.mean())}
        for name, values in found.items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), stats.bootstrap_mean(values), strict=True))
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
    """The answers to the questions with what the reference gives them, and the rewards that apply to all of them.

    Raises:
        DataError: a question without finite answers, no question, or a reward that does not apply to an answer.
    """
    if not asked:
        raise DataError("No question was asked, so no policy can be placed: give one or more.")
    answers = enumerate_answers(reference, world, [item.prompt for item in asked])
    judged = {name: answers.rewards(reward) for name, reward in rewards.items()}
    return Field(answers, [item.kind for item in asked], judged)


def place(logprobs: Array, field: Field, by: str, beta: float | None = None) -> Place:
    """Where a policy stands.

    Args:
        logprobs: [P A] log-probabilities of the field's answers under it (`field.answers.score(lm)`).
        field: the questions.
        by: name of the reward whose frontier it is held to.
        beta: price of KL that it was trained with; None takes the nearest point of the frontier.
    """
    ref = conditioned(field.answers.logprobs)
    distance = kl_to_optimal(logprobs, ref, field.reward(by), beta)
    policy = conditioned(logprobs)
    rewards = {name: expectation(policy, values) for name, values in field.rewards.items()}
    gains = {name: rewards[name] - expectation(ref, values) for name, values in field.rewards.items()}
    return Place(by, distance, rewards, gains)


def model_reward(model: "RewardModel | LM") -> Reward:
    """A reward model, or a scalar LM (`probe.readouts`), as a reward of texts; a text gets the end token."""

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        if hasattr(model, "score"):
            return model.score(prompts, completions).tolist()
        return _read(model, prompts, completions)

    return reward


def _read(lm: "LM", prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """What `RewardModel.score` gives, from the same model as a scalar LM."""
    import torch

    from probe.rewards import batches, pair_ids
    from probe.states import last_states

    if lm.readout == "tokens":
        raise ModelError(f"The model `{lm.ref or 'created'}` writes tokens and scores no text: give a reward model.")
    pairs = [pair_ids(lm.tokenizer, p, c) for p, c in zip(prompts, completions, strict=True)]
    found = np.zeros(len(pairs))
    with torch.no_grad():
        for heads, groups, order in batches(pairs):
            states = last_states(lm.model, heads, groups)
            found[order] = lm.model.get_output_embeddings()(states)[:, 0].float().cpu().numpy()
    return found.tolist()


def logged(run: "Run | pd.DataFrame") -> pd.DataFrame:
    """Where a run stood at its evaluations, by what it optimises itself and on its own questions.

    Args:
        run: a run, or its metrics.

    Returns:
        step, kl, d (sqrt of kl), reward, gold, excess (to the optimum of its own objective); empty where the run logged
        none (no world, or no reference).
    """
    metrics: Any = run if isinstance(run, pd.DataFrame) else run.metrics()
    if "kl_to_reference" not in metrics:
        return pd.DataFrame(columns=["step", "kl", "d", "reward", "gold", "excess"])
    known = metrics[["step", *(name for name in LOGGED if name in metrics)]].rename(columns=LOGGED)
    known = known.dropna(subset=["kl"]).reset_index(drop=True)
    known.insert(2, "d", np.sqrt(known["kl"].clip(lower=0)))
    return known.reindex(columns=["step", "kl", "d", "reward", "gold", "excess"])
