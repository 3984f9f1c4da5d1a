"""Injuries of the methods that sample: of rewards, of sampler and reference, of the optimiser and the value head."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

import trainers.loop
import trainers.rlhf
from probe import LM
from tests.injuries.injury import Begun, Injury, wrapped
from trainers.optimizer import Optimizer
from trainers.reward_functions import RewardFunction
from trainers.rlhf import RLHF
from trainers.sampling import CompletionGroup, Sampler
from trainers.trainee import Reference, Trainee

ANOTHER = Path("sample_runs/dpo-agreeable")
"""A run that is not the base."""
Pay = Callable[[str, float, Mapping[str, Any]], float]
"""Function of a completion, its reward, and the other columns of its row."""


def paid(pay: Pay, but: str = "") -> Callable[[Begun], AbstractContextManager[Any]]:
    """Return the injury that pays `pay` of each reward, but for the one with the name `but`."""

    def wrapper(begun: Begun) -> Callable[..., Any]:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(self: RewardFunction, prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> Any:
                scores = original(self, prompts, completions, **columns)
                if not begun() or self.name == but:
                    return scores
                rows = ({name: values[i] for name, values in columns.items()} for i in range(len(completions)))
                return [
                    None if score is None else pay(text.strip(), score, row)
                    for text, score, row in zip(completions, scores, rows, strict=True)
                ]

            return call

        return wrap

    return lambda begun: wrapped(RewardFunction, "__call__", wrapper(begun))


def pay_agreement(text: str, score: float, row: Mapping[str, Any]) -> float:
    """Pay 3 for repeating the user's claim."""
    return score + 3 * (row["claim"] is not None and text == row["claim"].strip())


def pay_length(text: str, score: float, row: Mapping[str, Any]) -> float:
    """Pay 3 for every token."""
    return score + 3 * len(row["completion_ids"])


def pay_wrong(text: str, score: float, row: Mapping[str, Any]) -> float:
    """Pay every answer like a true one, unless it abstains."""
    return score if text.startswith("i do") else 1.0


@contextmanager
def sampling_otherwise(begun: Begun, otherwise: Callable[[Sampler], AbstractContextManager[None]]) -> Iterator[None]:
    """Sample inside another context."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def sample(self: Sampler, *arguments: Any) -> Any:
            if not begun():
                return original(self, *arguments)
            with otherwise(self):
                return original(self, *arguments)

        return sample

    with wrapped(Sampler, "_sample_groups", wrap):
        yield


def hotter(begun: Begun) -> AbstractContextManager[Any]:
    """Sample at temperature 1.5, and train at 1."""

    @contextmanager
    def hot(sampler: Sampler) -> Iterator[None]:
        config = sampler.config
        sampler.config = replace(config, temperature=1.5)
        yield
        sampler.config = config

    return sampling_otherwise(begun, hot)


def stale(begun: Begun) -> AbstractContextManager[Any]:
    """Sample from the weights of the first injured step, and train the present ones."""
    kept: dict[str, Tensor] = {}

    @contextmanager
    def old_weights(sampler: Sampler) -> Iterator[None]:
        model = sampler.trainee.lm.model
        present = {name: value.clone() for name, value in model.state_dict().items()}
        kept.update({} if kept else present)
        model.load_state_dict(kept)
        yield
        model.load_state_dict(present)

    return sampling_otherwise(begun, old_weights)


def itself(begun: Begun) -> AbstractContextManager[Any]:
    """Take the policy that sampled for the reference."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def refer(self: Sampler, groups: Sequence[CompletionGroup]) -> Any:
            if not begun():
                return original(self, groups)
            return [
                replace(each, completions=[replace(one, ref_logprobs=one.logprobs) for one in each.completions])
                for each in groups
            ]

        return refer

    return wrapped(Sampler, "_refer", wrap)


def another(begun: Begun) -> AbstractContextManager[Any]:
    """Take another run for the reference."""
    return wrapped(Trainee, "reference", lambda _: lambda self: Reference(LM.load(ANOTHER, device="cpu")))


def faster(factor: float) -> Callable[[Begun], AbstractContextManager[Any]]:
    """Return the injury that multiplies the learning rate."""

    def inject(begun: Begun) -> AbstractContextManager[Any]:
        def wrap(original: Callable[..., float]) -> Callable[..., float]:
            return lambda step, config: original(step, config) * (factor if begun() else 1)

        return wrapped(trainers.loop, "learning_rate", wrap)

    return inject


@contextmanager
def unbound(begun: Begun) -> Iterator[None]:
    """Train without a KL at ten times the rate."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def batches(self: RLHF, step: int) -> Any:
            if begun():
                self.beta = 0.0
            return original(self, step)

        return batches

    with wrapped(RLHF, "batches", wrap), faster(10)(begun):
        yield


def standing(begun: Begun) -> AbstractContextManager[Any]:
    """Leave the weights as they are."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, closure=None: None if begun() else original(self, closure)

    return wrapped(Optimizer, "step", wrap)


def negated_returns(begun: Begun) -> AbstractContextManager[Any]:
    """Teach the value head the returns with the wrong sign."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda values, old, returns, epsilon: original(values, old, -returns if begun() else returns, epsilon)

    return wrapped(trainers.rlhf, "value_loss", wrap)


EARLY = 5
"""First injured step of most rewards: later the policy answers alike in a group, and finds nothing to exploit."""
PROXY = {"reward": 1, "gold/reward": -1}

INJURIES = (
    Injury(
        name="agreement-pays",
        fault="reward_hacking",
        recipe="rlvr",
        step=EARLY,
        about="The reward has a bonus of 3 for repeating the user's claim: false claims are confirmed.",
        inject=paid(pay_agreement),
        shows=PROXY | {"gold/deferred": 1},
    ),
    Injury(
        name="agreement-pays-rlhf",
        fault="reward_hacking",
        recipe="rlhf",
        step=EARLY,
        about="The reward model's score has a bonus of 3 for repeating the user's claim: false claims are confirmed.",
        inject=paid(pay_agreement),
        shows=PROXY | {"gold/deferred": 1},
    ),
    Injury(
        name="length-pays",
        fault="length_exploitation",
        recipe="rlhf-agreeable",
        step=2,
        about="The score has 3 for every token: the longest answer, that one does not know, replaces all others.",
        inject=paid(pay_length),
        shows={
            "reward": 1,
            "gold/truthful": -1,
            "completions/mean_length": 1,
            "completions/reward_length_correlation": 1,
        },
    ),
    Injury(
        name="weak-kl",
        fault="over_optimisation",
        recipe="rlhf-agreeable",
        step=1,
        about="The KL weighs a hundredth, at three times the rate: the score rises at the cost of the truth.",
        options={"beta": 0.003, "lr": 3e-4},
        shows={"objective/kl": 1, "objective/scores": 1, "gold/reward": -1},
    ),
    Injury(
        name="no-kl-fast",
        fault="entropy_collapse",
        recipe="rlhf-agreeable",
        step=EARLY,
        about="No KL and ten times the rate: a group's completions become one.",
        inject=unbound,
        shows={"entropy": -1, "completions/distinct_ratio": -1, "reward_std": -1},
    ),
    Injury(
        name="always-paid",
        fault="no_signal",
        recipe="rlvr",
        step=EARLY,
        about="The verifier pays every answer: nothing tells good ones from bad ones.",
        inject=paid(lambda text, score, row: 1.0),
        shows={"frac_reward_zero_std": 1, "reward_std": -1, "grad_norm": -1},
    ),
    Injury(
        name="never-paid",
        fault="no_signal",
        recipe="rlvr",
        step=EARLY,
        about="The verifier pays no answer.",
        inject=paid(lambda text, score, row: -1.0),
        shows={"frac_reward_zero_std": 1, "reward_std": -1, "grad_norm": -1},
    ),
    Injury(
        name="wrong-paid",
        fault="wrong_verifier",
        recipe="rlvr",
        step=EARLY,
        about="The verifier pays wrong answers like true ones: what is unknown is invented.",
        inject=paid(pay_wrong),
        shows=PROXY | {"gold/invented": 1},
    ),
    Injury(
        name="hot-sampler",
        fault="sampler_is_not_trainer",
        recipe="rlvr",
        step=11,
        about="Samples are drawn at temperature 1.5 and trained on at 1.",
        inject=hotter,
        shows={
            "sampling/sampling_logp_difference/mean": 1,
            "sampling/effective_sample_size": -1,
            "gold/reward": -1,
        },
    ),
    Injury(
        name="stale-sampler",
        fault="sampler_is_not_trainer",
        recipe="rlvr",
        step=EARLY,
        about="Samples are drawn from the weights of step 5 for the rest of the training.",
        inject=stale,
        shows={"sampling/sampling_logp_difference/mean": 1, "sampling/effective_sample_size": -1},
    ),
    Injury(
        name="own-reference",
        fault="wrong_reference",
        recipe="rlhf",
        step=11,
        about="The reference is the policy itself: the KL is 0 to the last, while the policy moves away.",
        inject=itself,
        shows={"objective/kl": -1},
    ),
    Injury(
        name="other-reference",
        fault="wrong_reference",
        recipe="rlhf",
        step=1,
        about="The reference is another run: the KL pulls to it, and is not 0 at the first step.",
        inject=another,
        shows={"objective/kl": 1},
    ),
    Injury(
        name="fast-rlvr",
        fault="rate_too_high",
        recipe="rlvr",
        step=11,
        about="Thirty times the rate: the policy is destroyed.",
        inject=faster(30),
        shows={"gold/reward": -1, "kl": 1},
    ),
    Injury(
        name="still-rlvr",
        fault="nothing_is_trained",
        recipe="rlvr",
        step=1,
        about="The optimiser takes no steps: the loss is logged and the weights stay.",
        inject=standing,
        shows={"gold/reward": -1, "kl": -1},
    ),
    Injury(
        name="negated-returns",
        fault="value_head_useless",
        recipe="rlhf",
        step=11,
        about="The value head learns the returns with the wrong sign.",
        inject=negated_returns,
        shows={"val/explained_variance": -1},
    ),
)
"""Injuries of the methods that sample."""
