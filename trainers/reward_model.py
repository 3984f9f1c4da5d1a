"""The reward model: a scalar that tells the completion people chose from the one they rejected (E9).

    L = - log sigma(R(x, y+) - R(x, y-) - m) + lambda (R(x, y+) + R(x, y-))^2, averaged over the pairs of the batch

Bradley and Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155). R is a linear head on the state of the last real token,
the end token of the completion, drawn with standard deviation 1/sqrt(d + 1) (Stiennon et al. 2020). The margin m, 0 by
default, is that of Touvron et al. 2023 (arXiv 2307.09288): a pair's own where the data have a column `margin`. With
lambda above 0 rewards centre at zero (Eisenstein et al. 2023, arXiv 2312.09244), which pairs alone leave open.
Departures: none in the loss; a pair's common prompt is run once for both completions, and dropout is off.

    probe train reward-model --out runs/reward-agreeable --base base --annotator agreeable
    probe train reward-model --out runs/reward --base HuggingFaceTB/SmolLM2-135M-Instruct --data pairs.jsonl --lr 1e-5
    accelerate launch --num_processes 4 -m trainers.reward_model --out runs/reward --base base

Logged besides the common metrics: `accuracy` (pairs with R+ > R-; ties count as wrong), `margin` (mean of R+ - R-, m
not taken off), `min_reward`, `mean_reward`, `max_reward` of the batch; on the held-out pairs `eval_accuracy`,
`eval_loss`, `eval_margin` and the calibration `eval_ece`; in the world the biases of docs/metrics.md.
`num_tokens` counts a prompt once for its pair.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe import LM, Run
from probe.cli import main
from probe.extensions import find_annotator
from probe.model.rewards import last_scores, pair_ids
from probe.model.text import pad, unwrap
from probe.rewards.bias import KINDS, contrasts
from probe.runs import ProbePrompt
from trainers.config import RewardConfig
from trainers.data import draw
from trainers.heldout import HeldOut, hold_out
from trainers.loop import Method, fit
from trainers.preferences import Pair, load_preferences, read_preferences
from trainers.record import Origin
from trainers.reward_trainee import RewardTrainee
from trainers.session import Session, derive_seed
from trainers.step import Loss
from trainers.trainee import load_trainee

QUESTIONS = 100
"""Questions of each kind for the biases while training; --evaluate gives those of the headline."""


def reward_loss(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], margins: Float[Tensor, " N"], centring: float
) -> Float[Tensor, " N"]:
    """- log sigma(R+ - R- - m) + lambda (R+ + R-)^2 of N pairs, in nats (E9); the training loss is their mean.

    Args:
        chosen: R(x, y+); the gradient flows through it.
        rejected: R(x, y-).
        margins: m, by how much the chosen one is to win.
        centring: lambda.
    """
    return -nn.functional.logsigmoid(chosen - rejected - margins) + centring * (chosen + rejected).square()


def pair_scores(model: nn.Module, pairs: Sequence[Pair]) -> Float[Tensor, "N 2"]:
    """The rewards of the pairs' chosen and rejected completions, differentiable."""
    return last_scores(model, [p.prompt for p in pairs], [[p.chosen, p.rejected] for p in pairs]).float().view(-1, 2)


class RewardModelling(Method):
    """The method as the loop sees it."""

    name = "reward-model"
    trainee: RewardTrainee

    def __init__(
        self, session: Session, config: RewardConfig, trainee: RewardTrainee, pairs: Sequence[Pair], held: HeldOut
    ) -> None:
        self.session, self.config, self.trainee, self.pairs, self.held = session, config, trainee, pairs, held
        self._step, self._rows = 0, list[dict[str, Any]]()
        self._extremes: list[Tensor] = []

    def batch(self, step: int) -> list[Pair]:
        """The pairs of a step; pass after pass over all of them."""
        self._step, self._extremes, self._rows = step, [], []
        return [self.pairs[i] for i in draw(len(self.pairs), self.config.batch_size, step, self.config.seed)]

    def loss(self, model: nn.Module, examples: Sequence[Pair], detail: bool) -> Loss:
        """Sum over the pairs."""
        scores, n = pair_scores(model, examples), len(examples)
        own = [self.config.margin if pair.margin is None else pair.margin for pair in examples]
        margins = torch.tensor(own, device=scores.device)
        losses = reward_loss(scores[:, 0], scores[:, 1], margins, self.config.centring)
        metrics: dict[str, tuple[Tensor | float, int]] = {}
        if detail:
            seen = scores.detach()
            gaps = seen[:, 0] - seen[:, 1]
            self._extremes.append(torch.stack([-seen.min(), seen.max()]))
            metrics = {
                "accuracy": ((gaps > 0).sum(), n),
                "margin": (gaps.sum(), n),
                "mean_reward": (seen.sum(), 2 * n),
            }
        return Loss(losses.sum(), n, sum(pair.tokens for pair in examples), metrics)

    def metrics(self) -> dict[str, float]:
        """Lowest and highest reward of the batch, over all processes."""
        if not self._extremes:
            return {}
        gathered = self.session.accelerator.gather(torch.stack(self._extremes))
        lowest, highest = gathered.max(dim=0).values.tolist()
        return {"min_reward": -lowest, "max_reward": highest}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The held-out pairs, and in the world the biases."""
        rewards = self.trainee.rewards()
        rows = self.held.figures(rewards, min(QUESTIONS, self.config.evaluate))
        if self.session.main:
            self._rows = self.held.rollouts(rewards, self._step, self.config.rollouts)
        known = ("_annotator", "_bound")
        return {row["metric"]: row["value"] for row in rows if not row["metric"].endswith(known)}

    def rollouts(self) -> Sequence[Mapping[str, Any]]:
        """Held-out completions with their rewards, after an evaluation."""
        return self._rows

    def headline(self, _: LM) -> list[dict[str, Any]]:
        """The figures of the whole evaluation, with intervals."""
        return self.held.figures(self.trainee.rewards(), self.config.evaluate)

    def instrument(self, lm: LM, _: Sequence[ProbePrompt]) -> dict[str, Tensor]:
        """The scalar at every token of Q fixed pairs: `reward_ids` and `reward_tokens` [Q 2 T], `reward_prompt` [Q]."""
        fixed = self._fixed()
        ids, mask = pad([[*pair.prompt, *side] for pair in fixed for side in (pair.chosen, pair.rejected)], -1)
        mask = mask.to(lm.device)
        states = unwrap(lm.model).base_model(
            input_ids=ids.clamp(min=0).to(lm.device), attention_mask=mask.long(), use_cache=False
        )
        values = self.trainee.module.score(states.last_hidden_state)[..., 0].where(mask, 0)
        shape = len(fixed), 2, ids.shape[1]
        return {
            "reward_ids": ids.int().view(shape),
            "reward_tokens": values.float().view(shape),
            "reward_prompt": torch.tensor([len(pair.prompt) for pair in fixed], dtype=torch.int32),
        }

    def _fixed(self) -> list[Pair]:
        """One contrast of each kind, the claim for each phrase; without a world some of the pairs."""
        world, tokenizer = self.held.world, self.trainee.lm.tokenizer
        if world is None:
            return [*self.held.pairs, *self.pairs][:4]
        made = {
            (name, c.phrase): c
            for name in KINDS
            if KINDS[name] in world.question_kinds
            for c in contrasts(world, name, 40)
        }
        both = [
            (pair_ids(tokenizer, c.prompt, c.first), pair_ids(tokenizer, c.prompt, c.second)) for c in made.values()
        ]
        return [Pair(prompt, first, second) for (prompt, first), (_, second) in both]


def train(config: RewardConfig) -> Run:
    """Train a reward model and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: something was given that cannot be used; the message says what.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = read_preferences(config)
    base = load_trainee(session, config, config.base)
    fingerprint = base.fingerprint
    world, preferences = load_preferences(session, config, base.lm, rows)
    trainee = RewardTrainee(base, derive_seed(config.seed, 0))
    pairs, held = hold_out(preferences.pairs, config.held_out, config.seed)
    annotator = find_annotator(config.annotator) if config.data == "world" else None
    trained = frozenset(pair.texts[0] for pair in pairs if pair.texts)
    method = RewardModelling(
        session,
        config,
        trainee,
        pairs,
        HeldOut(pairs=held, world=world, annotator=annotator, trained=trained, seed=config.seed),
    )
    origin = Origin(
        parent=config.base,
        world=world,
        data=preferences.data | {"base": fingerprint},
        prompts=preferences.prompts,
        instruments=[method.instrument],
        evaluated=False,
        evaluators=[method.headline],
    )
    return fit(session, method, origin)


if __name__ == "__main__":
    sys.exit(main(["train", "reward-model", *sys.argv[1:]]))
