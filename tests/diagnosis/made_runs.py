"""Metrics of sound runs made by formulas with noise, and of the same runs with a fault from some step on."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]


def course(steps: int, start: float, stop: float, noise: float, rng: np.random.Generator, tau: float = 0.2) -> Array:
    """A metric that approaches `stop` exponentially, with noise."""
    at = np.arange(steps) / steps
    return stop + (start - stop) * np.exp(-at / tau) + noise * rng.normal(size=steps)


def sound(method: str, steps: int = 100, seed: int = 0) -> pd.DataFrame:
    """Metrics of a sound run, one row a step, every metric that a fault reads."""
    rng = np.random.default_rng(seed)

    def draw(start: float, stop: float, noise: float) -> Array:
        return course(steps, start, stop, noise, rng)

    columns: dict[str, Array] = {
        "step": np.arange(1, steps + 1),
        "lr": np.linspace(1e-3, 1e-4, steps),
        "grad_norm": np.exp(0.2 * rng.normal(size=steps)),
        "num_tokens": np.arange(1, steps + 1) * 1000.0,
    }
    if method in ("sft", "pretrain"):
        columns |= {"loss": draw(2, 1, 0.05), "eval_loss": draw(2, 1.1, 0.005), "loss/facts": draw(2, 1, 0.02)}
        columns |= {"mean_token_accuracy": draw(0.3, 0.6, 0.02)}
    if method == "dpo":
        chosen, rejected = draw(0, -0.5, 0.1), draw(0, -2, 0.1)
        chosen[0] = rejected[0] = 0
        columns |= {"loss": draw(0.69, 0.4, 0.03), "rewards/chosen": chosen, "rewards/rejected": rejected}
        columns |= {"rewards/margins": chosen - rejected, "rewards/accuracies": draw(0.5, 0.85, 0.05)}
        columns |= {
            "logps/chosen": draw(-20, -24, 1),
            "logps/rejected": draw(-20, -35, 1),
            "eval_loss": draw(0.69, 0.45, 0.005),
        }
    if method == "reward-model":
        columns |= {"loss": draw(0.69, 0.45, 0.03), "accuracy": draw(0.5, 0.8, 0.05), "margin": draw(0, 1.2, 0.1)}
    if method in ("rlvr", "rlhf"):
        reward = draw(0.3, 0.7, 0.04)
        columns |= {"reward": reward, "reward_std": draw(0.8, 0.5, 0.03), "gold/reward": draw(0.3, 0.6, 0.05)}
        columns |= {"frac_reward_zero_std": np.clip(draw(0.2, 0.6, 0.05), 0, 1), "entropy": draw(1, 0.4, 0.04)}
        columns |= {"completions/distinct_ratio": draw(0.9, 0.7, 0.03), "completions/mean_length": draw(50, 60, 2)}
        columns |= {"completions/reward_length_correlation": draw(0, 0.1, 0.1)}
        columns |= {"sampling/sampling_logp_difference/mean": np.abs(draw(0, 0, 1e-6))}
        kl = np.abs(draw(0, 1, 0.05))
        kl[0] = 0
        columns |= {"kl_to_reference": kl}
    if method == "rlvr":
        columns |= {"kl": columns["kl_to_reference"] / 50, "loss": draw(0, 0.001, 0.001)}
    if method == "rlhf":
        columns |= {"objective/kl": columns["kl_to_reference"], "objective/scores": columns["reward"]}
        columns |= {"policy/approxkl_avg": np.abs(draw(0.005, 0.001, 0.002)), "loss": draw(1, 0.5, 0.1)}
        columns |= {"val/explained_variance": draw(0, 0.6, 0.1)}
    return pd.DataFrame(columns)


Change = Callable[[Array, Array], Array]
"""From the values of a metric, and the share of the fault that is there at each step, to other values."""


def harmed(
    method: str, changes: dict[str, Change], begin: float = 0.4, steps: int = 100, seed: int = 0
) -> pd.DataFrame:
    """A run that is sound up to a share `begin`, from which on some metrics change within a twentieth of the run."""
    frame = sound(method, steps, seed)
    at = np.arange(steps) / steps
    grown = np.clip((at - begin) * 20, 0, 1)
    return frame.assign(**{name: change(frame[name].to_numpy(), grown) for name, change in changes.items()})


def no_signal() -> pd.DataFrame:
    """A run in which from step 40 on all completions of a prompt are paid alike."""
    return harmed(
        "rlvr", {"frac_reward_zero_std": lambda x, g: np.where(g > 0, 1.0, x), "reward": lambda x, g: x * (g == 0)}
    )
