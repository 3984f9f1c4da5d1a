"""The reward model: a scalar trained to be higher for chosen than for rejected completions (E9).

    L = - log sigma(R(x, y+) - R(x, y-) - m) + lambda (R(x, y+) + R(x, y-))^2, averaged over the pairs of the batch

Bradley and Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155). R is a linear head on the state of the last real token,
the end token of the completion, drawn with standard deviation 1/sqrt(d + 1) (Stiennon et al. 2020). The margin m, 0 by
default, is that of Touvron et al. 2023 (arXiv 2307.09288): it is the pair's own if the data have a column `margin`.
With lambda above 0 rewards are centred at zero (Eisenstein et al. 2023, arXiv 2312.09244); pairs alone do not determine
their mean. Departures: none in the loss; a pair's common prompt is computed once for both completions, and dropout is
off.

    probe train reward-model --out runs/reward-agreeable --base base --annotator agreeable
    probe train reward-model --out runs/reward --base HuggingFaceTB/SmolLM2-135M-Instruct --data pairs.jsonl --lr 1e-5
    accelerate launch --num_processes 4 -m trainers.reward_model --out runs/reward --base base

Logged in addition to the common metrics: `accuracy` (pairs with R+ > R-; ties count as wrong), `margin` (mean of R+ -
R-, without subtracting m), `min_reward`, `mean_reward`, `max_reward` of the batch; on the held-out pairs
`eval_accuracy`, `eval_loss`, `eval_margin` and the calibration `eval_ece`; in the world the biases of docs/metrics.md.
`num_tokens` counts a prompt once for its pair.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import entr
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from probe import LM, RewardModel, Run, stats
from probe.cli import main
from probe.errors import DataError
from probe.hallucination.confidence import preference_calibration
from probe.model.rewards import last_scores, pair_ids
from probe.recording.reward_tokens import RewardTokens, pair_rows
from probe.rewards.bias import KINDS, contrasts, reward_bias
from probe.world import Annotator, World
from probe.world.extensions import find_annotator
from trainers.config import RewardConfig
from trainers.loop import Loss, Method, draw, fit
from trainers.preferences import Preference, load_preferences, read_preferences
from trainers.record import Origin, data_texts, held_out_data
from trainers.scalar_heads import RewardTrainee
from trainers.session import Session, derive_seed
from trainers.starting import load_trainee


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out pairs with their annotator, if known."""

    pairs: list[Preference]
    world: World | None = None
    annotator: Annotator | None = None
    """World's annotator who labelled the pairs; None for pairs of a file."""
    trained: frozenset[str] = frozenset()
    """Prompts of the training pairs."""
    seed: int = 0
    exact: list[float] = field(init=False)
    """Annotator's exact probability of preferring the chosen completion; empty without an annotator."""

    def __post_init__(self) -> None:
        world, judge = self.world, self.annotator
        exact = (
            [judge.preference_probability(world, *pair.texts) for pair in self.pairs if pair.texts]
            if world and judge
            else []
        )
        object.__setattr__(self, "exact", exact)

    def scores(self, model: RewardModel) -> np.ndarray:
        """Return the rewards [N 2] of the chosen and the rejected completions."""
        prompts = [pair.prompt for pair in self.pairs for _ in range(2)]
        return (
            model.score(prompts, [ids for pair in self.pairs for ids in (pair.chosen, pair.rejected)])
            .view(-1, 2)
            .numpy()
        )

    def figures(self, model: RewardModel, questions: int) -> list[dict[str, Any]]:
        """Return rows of metric, value, ci_low, ci_high, n (docs/metrics.md).

        There are rows for the pairs, and for the biases on new questions.

        Args:
            model: the reward model.
            questions: number of the world's questions of each kind; 0 for none.
        """
        rows = self._pair_figures(self.scores(model)) if self.pairs else []
        if self.world is not None and questions:
            rows += reward_bias(model, self.world, self.annotator, questions, self.seed, self.trained)
        return rows

    def _pair_figures(self, scores: np.ndarray) -> list[dict[str, Any]]:
        margins = (scores[:, 0] - scores[:, 1]).astype(float)
        n, seed = len(margins), self.seed
        losses = -logsigmoid(torch.from_numpy(margins)).numpy()
        figures = {
            "eval_accuracy": stats.wilson(int((margins > 0).sum()), n),
            "eval_loss": stats.bootstrap_mean(losses, seed=seed),
            "eval_margin": stats.bootstrap_mean(margins, seed=seed),
            "eval_ece": preference_calibration(margins, seed=seed),
        }
        if self.exact:
            q = np.array(self.exact)
            figures |= {
                "eval_ece_annotator": preference_calibration(margins, q, seed=seed),
                "accuracy_bound": stats.bootstrap_mean(np.maximum(q, 1 - q), seed=seed, bounds=stats.SHARE),
                "loss_bound": stats.bootstrap_mean(entr(q) + entr(1 - q), seed=seed, bounds=(0.0, float(np.log(2)))),
            }
        return [{"metric": name, **value.row(n)} for name, value in figures.items()]

    def rollouts(self, model: RewardModel, step: int, count: int) -> list[dict[str, Any]]:
        """Return the completions of the first `count` pairs as rows of rollouts.jsonl, with the reward at every token.

        `rewards` holds `model`, and in the world `gold` (the verifier's score) and `annotator` (expected utility).
        """
        rows = pair_rows(model, step, self.pairs[:count])
        for row in rows:
            pair = self.pairs[row["group"]]
            if pair.texts is not None:
                prompt, *sides = pair.texts
                row |= {"prompt": prompt, "completion": sides[0 if row["chosen"] else 1]}
            row["rewards"] |= self._verdicts(row["prompt"], row["completion"])
        return rows

    def _verdicts(self, prompt: str, completion: str) -> dict[str, float]:
        """Score a completion by the world's verifier and by the annotator, if there are any."""
        if self.world is None:
            return {}
        gold = {"gold": self.world.verify(prompt, completion).score}
        if self.annotator is None:
            return gold
        return gold | {"annotator": self.annotator.expected_utility(self.world, prompt, completion)}


def hold_out(pairs: Sequence[Preference], held_out: float, seed: int) -> tuple[list[Preference], list[Preference]]:
    """Split pairs into training and held-out pairs; all pairs of one prompt stay together.

    Args:
        pairs: all pairs.
        held_out: number (1 or more) or share (below 1) of held-out pairs (more if a prompt has several pairs).
        seed: seed of the order in which prompts are chosen.

    Raises:
        DataError: nothing would be left to train on.
    """
    size = int(held_out) if held_out >= 1 else round(held_out * len(pairs))
    members: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        members.setdefault(tuple(pair.prompt), []).append(number)
    groups = list(members.values())
    picks: set[int] = set()
    for at in np.random.default_rng([seed, 1]).permutation(len(groups)):
        if len(picks) >= size:
            break
        picks.update(groups[at])
    if len(picks) == len(pairs):
        raise DataError(
            f"--held-out {held_out:g} leaves none of {len(pairs)} pairs to train on: hold out fewer, or give more."
        )
    rest = [pair for number, pair in enumerate(pairs) if number not in picks]
    return rest, [pairs[number] for number in sorted(picks)]


QUESTIONS = 100
"""Questions of each kind for the biases during training; --evaluate sets those of the headline."""


def reward_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], margins: Float[Tensor, " N"], centring: float
) -> Float[Tensor, " N"]:
    """Return - log sigma(R+ - R- - m) + lambda (R+ + R-)^2 of N pairs, in nats (E9).

    The training loss is their mean.

    Args:
        chosen: R(x, y+); the gradient flows through it.
        rejected: R(x, y-).
        margins: m, the margin by which the chosen one should win.
        centring: lambda.
    """
    return -nn.functional.logsigmoid(chosen - rejected - margins) + centring * (chosen + rejected).square()


def pair_scores(model: nn.Module, pairs: Sequence[Preference]) -> Float[Tensor, "N 2"]:
    """Return the rewards of the pairs' chosen and rejected completions, differentiable."""
    return last_scores(model, [p.prompt for p in pairs], [[p.chosen, p.rejected] for p in pairs]).float().view(-1, 2)


class RewardModelling(Method):
    """Reward modelling as a method of the loop."""

    name = "reward-model"
    trainee: RewardTrainee

    def __init__(
        self, session: Session, config: RewardConfig, trainee: RewardTrainee, pairs: Sequence[Preference], held: HeldOut
    ) -> None:
        self.session, self.config, self.trainee, self.pairs, self.held = session, config, trainee, pairs, held
        self._step, self._rows = 0, list[dict[str, Any]]()
        self._extremes: list[Tensor] = []

    def batch(self, step: int) -> list[Preference]:
        """Draw the pairs of a step in epochs over all pairs, and clear the metrics of the previous step."""
        self._step, self._extremes, self._rows = step, [], []
        return [self.pairs[i] for i in draw(len(self.pairs), self.config.batch_size, step, self.config.seed)]

    def loss(self, model: nn.Module, examples: Sequence[Preference], detail: bool) -> Loss:
        """Return the loss summed over the pairs."""
        scores, n = pair_scores(model, examples), len(examples)
        own = [self.config.margin if pair.margin is None else pair.margin for pair in examples]
        margins = torch.tensor(own, device=scores.device)
        losses = reward_loss(scores[:, 0], scores[:, 1], margins, self.config.centring)
        metrics: dict[str, tuple[Tensor | float, int]] = {}
        if detail:
            values = scores.detach()
            gaps = values[:, 0] - values[:, 1]
            self._extremes.append(torch.stack([-values.min(), values.max()]))
            metrics = {
                "accuracy": ((gaps > 0).sum(), n),
                "margin": (gaps.sum(), n),
                "mean_reward": (values.sum(), 2 * n),
            }
        return Loss(losses.sum(), n, sum(pair.tokens for pair in examples), metrics)

    def metrics(self) -> dict[str, float]:
        """Return the lowest and the highest reward of the batch, over all processes."""
        if not self._extremes:
            return {}
        extremes = self.session.accelerator.gather(torch.stack(self._extremes))
        lowest, highest = extremes.max(dim=0).values.tolist()
        return {"min_reward": -lowest, "max_reward": highest}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Evaluate on the held-out pairs, and in the world measure the biases."""
        rewards = self.trainee.rewards()
        rows = self.held.figures(rewards, min(QUESTIONS, self.config.evaluate))
        if self.session.main:
            self._rows = self.held.rollouts(rewards, self._step, self.config.rollouts)
        endings = ("_annotator", "_bound")
        return {row["metric"]: row["value"] for row in rows if not row["metric"].endswith(endings)}

    def rollouts(self) -> Sequence[Mapping[str, Any]]:
        """Return held-out completions with their rewards, after an evaluation."""
        return self._rows

    def headline(self, _: LM) -> list[dict[str, Any]]:
        """Return the metrics of the full evaluation, with intervals."""
        return self.held.figures(self.trainee.rewards(), self.config.evaluate)

    def fixed_pairs(self) -> list[Preference]:
        """Return the pairs to capture.

        In the world there is one contrast of each kind, and for the claim one of each phrase; without a world, these
        are the first four pairs, held-out pairs first.
        """
        world, tokenizer = self.held.world, self.trainee.lm.tokenizer
        if world is None:
            return [*self.held.pairs, *self.pairs][:4]
        examples = {
            (name, c.phrase): c
            for name in KINDS
            if KINDS[name] in world.question_kinds
            for c in contrasts(world, name, 40)
        }
        both = [
            (pair_ids(tokenizer, c.prompt, c.first), pair_ids(tokenizer, c.prompt, c.second)) for c in examples.values()
        ]
        return [Preference(prompt, first, second) for (prompt, first), (_, second) in both]


def train(config: RewardConfig) -> Run:
    """Train a reward model and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: an input cannot be used; the message says which.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = read_preferences(config)
    base = load_trainee(session, config, config.base)
    fingerprint = base.fingerprint
    world, preferences = load_preferences(session, config, base.lm, rows)
    trainee = RewardTrainee(base, derive_seed(config.seed, 0))
    pairs, test_pairs = hold_out(preferences.pairs, config.held_out, config.seed)
    annotator = find_annotator(config.annotator) if config.data == "world" else None
    prompts = frozenset(pair.texts[0] for pair in pairs if pair.texts)
    method = RewardModelling(
        session,
        config,
        trainee,
        pairs,
        HeldOut(pairs=test_pairs, world=world, annotator=annotator, trained=prompts, seed=config.seed),
    )
    origin = Origin(
        parent=config.base,
        world=world,
        data=preferences.data
        | {"base": fingerprint}
        | held_out_data(base.lm, *([each.prompt for each in part] for part in (pairs, test_pairs))),
        texts=data_texts(rows),
        rows=((each.prompt, each.chosen) for each in pairs),
        prompts=preferences.prompts,
        instruments=[RewardTokens(trainee.module.score, method.fixed_pairs())],
        evaluated=False,
        evaluators=[method.headline],
    )
    return fit(session, method, origin)


if __name__ == "__main__":
    sys.exit(main(["train", "reward-model", *sys.argv[1:]]))
