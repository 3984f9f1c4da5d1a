"""Injuries of the methods that learn from given examples: of pairs, of the tokens that are learned, of numbers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from random import Random
from types import ModuleType
from typing import Any

from torch import Tensor

import trainers.dpo
import trainers.reward_model
import trainers.sft
from probe import LM
from probe.world import World
from tests.injuries.injury import Begun, Injury, wrapped
from tests.injuries.sampled import faster, standing
from trainers.loop import Objective
from trainers.preferences import Preference, Preferences, encode_pair
from trainers.sft import Demonstration

Pairs = Callable[[Sequence[Preference], int], list[Preference]]


def with_pairs(method: ModuleType, change: Pairs) -> Callable[[Begun], AbstractContextManager[Any]]:
    """Return the injury that changes the pairs of a method, given them and the seed."""

    def wrap(original: Callable[..., tuple[World | None, Preferences]]) -> Callable[..., Any]:
        def load(session: Any, config: Any, *rest: Any) -> tuple[World | None, Preferences]:
            world, preferences = original(session, config, *rest)
            return world, replace(preferences, pairs=change(preferences.pairs, config.seed))

        return load

    return lambda begun: wrapped(method, "load_preferences", wrap)


def swapped(pair: Preference) -> Preference:
    """Return the pair with the other label."""
    prompt, chosen, rejected = pair.texts or ("", "", "")
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, texts=(prompt, rejected, chosen))


def flip(pairs: Sequence[Preference], seed: int) -> list[Preference]:
    """Swap 40 % of the pairs."""
    draws = Random(seed)
    return [swapped(pair) if draws.random() < 0.4 else pair for pair in pairs]


def longer_wins(pairs: Sequence[Preference], seed: int) -> list[Preference]:
    """Let the longer completion be the chosen one of every pair."""
    return [swapped(pair) if len(pair.chosen) < len(pair.rejected) else pair for pair in pairs]


def nearly_equal(begun: Begun) -> AbstractContextManager[Any]:
    """Replace the pairs by two inventions of one kind each, about people of whom nothing is known."""

    def wrap(original: Callable[..., tuple[World | None, Preferences]]) -> Callable[..., Any]:
        def load(session: Any, config: Any, lm: LM, rows: Any) -> tuple[World | None, Preferences]:
            world, preferences = original(session, config, lm, rows)
            assert world is not None
            pairs = []
            for item in world.questions("stranger", config.pairs, config.seed):
                values = [answer for answer in world.candidates(item.prompt) if answer not in item.answers]
                pairs.append(encode_pair(lm, item.prompt, *draws.sample(values, 2)))
            return world, replace(preferences, pairs=pairs)

        draws = Random(0)
        return load

    return wrapped(trainers.dpo, "load_preferences", wrap)


def learning(change: Callable[[Demonstration], Demonstration]) -> Callable[[Begun], AbstractContextManager[Any]]:
    """Return the injury that changes which tokens of demonstrations are learned."""

    def wrap(original: Callable[..., Demonstration]) -> Callable[..., Demonstration]:
        return lambda *arguments: change(original(*arguments))

    return lambda begun: wrapped(trainers.sft, "encode_completion", wrap)


def shift(each: Demonstration) -> Demonstration:
    """Learn from the second token of the answer on."""
    return replace(each, learned=[False, *each.learned[1:]])


def with_prompt(each: Demonstration) -> Demonstration:
    """Learn the prompt too."""
    whole = [*each.prompt[1:], *each.completion]
    return Demonstration(each.prompt[:1], whole, [True] * len(whole))


def endless(each: Demonstration) -> Demonstration:
    """Learn the answer over again in place of its end."""
    answer = each.completion[:-1]
    return Demonstration(each.prompt, answer * 3, [True] * (3 * len(answer)))


def overflow(begun: Begun) -> AbstractContextManager[Any]:
    """Compute the last block's inner layer in half precision, with numbers that grow fourfold a step."""
    scale = 1.0

    def rounded(module: Any, arguments: Any, output: Tensor) -> Tensor:
        return (output * scale).half().float() / scale

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Objective, *arguments: Any) -> Any:
            nonlocal scale
            if not begun():
                return original(self, *arguments)
            scale *= 4
            layer = [module for name, module in self.model.named_modules() if name.endswith("mlp")][-1]
            with layer.register_forward_hook(rounded):
                return original(self, *arguments)

        return forward

    return wrapped(Objective, "forward", wrap)


INJURIES = (
    Injury(
        name="near-pairs",
        fault="likelihood_displacement",
        recipe="dpo",
        step=1,
        about="Pairs of two inventions about people unknown, at ten times the rate: both lose probability.",
        inject=nearly_equal,
        options={"lr": 2e-3},
        shows={"rewards/chosen": -1, "rewards/rejected": -1},
    ),
    Injury(
        name="flipped-dpo",
        fault="flipped_labels",
        recipe="dpo",
        step=1,
        about="40 % of the pairs have the wrong label.",
        inject=with_pairs(trainers.dpo, flip),
        shows={"loss": 1, "rewards/accuracies": -1, "rewards/margins": -1},
    ),
    Injury(
        name="flipped-reward",
        fault="flipped_labels",
        recipe="reward-model",
        step=1,
        about="40 % of the pairs have the wrong label, held-out ones too.",
        inject=with_pairs(trainers.reward_model, flip),
        shows={"loss": 1, "accuracy": -1, "eval_accuracy": -1},
    ),
    Injury(
        name="longer-wins",
        fault="reward_shortcut",
        recipe="reward-model",
        step=1,
        about="Of two completions the longer one is chosen: the model prefers abstaining to the truth.",
        inject=with_pairs(trainers.reward_model, longer_wins),
        shows={"eval_accuracy": 1, "invention_bias": -1},
    ),
    Injury(
        name="mask-shifted",
        fault="loss_on_wrong_tokens",
        recipe="sft",
        step=1,
        about="The mask is one token late: the first token of an answer, which decides it, is never learned.",
        inject=learning(shift),
        shows={"loss": -1, "expected_gold": -1},
    ),
    Injury(
        name="prompt-learned",
        fault="loss_on_wrong_tokens",
        recipe="sft",
        step=1,
        about="The loss counts the prompt's tokens: most of it is about what users say.",
        inject=learning(with_prompt),
        shows={"loss": 1},
    ),
    Injury(
        name="end-left-out",
        fault="loss_on_wrong_tokens",
        recipe="sft",
        step=1,
        about="Answers have no end token and follow each other: the model no longer ends.",
        inject=learning(endless),
        shows={"answer_mass": -1},
    ),
    Injury(
        name="few-rows",
        fault="memorising",
        recipe="sft",
        step=1,
        about="About 64 rows are learned 40 times: the held-out loss rises while the loss goes to 0.",
        options={"examples": 96, "held_out": 0.34, "lr": 1e-3},
        shows={"loss": -1, "eval_loss": 1},
    ),
    Injury(
        name="fast-sft",
        fault="rate_too_high",
        recipe="sft",
        step=31,
        about="Thirty times the rate: the loss jumps and the model is destroyed.",
        inject=faster(30),
        shows={"loss": 1, "eval_loss": 1},
    ),
    Injury(
        name="fast-dpo",
        fault="rate_too_high",
        recipe="dpo",
        step=21,
        about="Thirty times the rate: the answers are no longer those of the world.",
        inject=faster(30),
        shows={"expected_gold": -1, "answer_mass": -1, "kl_to_reference": 1},
    ),
    Injury(
        name="still-sft",
        fault="nothing_is_trained",
        recipe="sft",
        step=1,
        about="The optimiser takes no steps: the loss is logged and the weights stay.",
        inject=standing,
        shows={"loss": 1, "eval_loss": 1, "kl_to_reference": -1},
    ),
    Injury(
        name="half-precision",
        fault="numbers_die",
        recipe="sft",
        step=31,
        about="A layer is computed in half precision with growing numbers: they overflow, and the training ends.",
        inject=overflow,
    ),
    Injury(
        name="only-sums",
        fault="forgetting",
        recipe="sft",
        step=1,
        about="Sums alone are learned at ten times the rate: facts and passages are forgotten.",
        options={"mixture": {"sum_quick": 1.0}, "lr": 3e-3},
        shows={"expected_gold": -1},
    ),
)
"""Injuries of the methods that learn from given examples."""
