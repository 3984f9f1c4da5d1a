"""Overoptimisation on exact policies: the base's answers tilted by a proxy to a varying degree.

pi*_beta(y|x) is proportional to pi_ref(y|x) exp(proxy / beta). From beta = infinity (the reference) to 0 (always the
answer with the highest proxy) the mean proxy never falls, but the true reward may rise and then fall (Gao, Schulman and
Hilton 2022, arXiv 2210.10760). The policies are sums over finite answer sets, so no training and no sampling is
involved.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probe import stats
from probe.errors import RunError
from probe.findings.bench import BASE, Bench
from probe.findings.claim import Measurement, Null
from probe.findings.verdicts import read_plan
from probe.numbers import format_interval
from probe.rewards.answers import Array, verifier_reward
from probe.rewards.frontiers import KINDS, ask, field_of, model_reward
from probe.rewards.optimum import condition, expectation, kl, optimum
from probe.stats import Interval

if TYPE_CHECKING:
    from probe.rewards.frontiers import Field

PROXIES = ("proxy-64", "proxy-256", "proxy-1024")
"""Control runs: reward models of the honest annotator, by the number of training pairs."""
STEPS = 40
"""Number of values of beta on the path, in addition to the reference and the greedy end."""
NOISES = 20
"""Number of proxies of a null, for each kind of noise."""


def path(ref: Array, proxy: Array, gold: Array) -> tuple[Array, Array]:
    """Return ([S P] true reward, [S] mean KL) along the path from the reference to the proxy's best answers.

    Args:
        ref: [P A] log-probabilities of the reference.
        proxy: [P A] reward that is optimised.
        gold: [P A] true reward.
    """
    spread = float(np.ptp(proxy[np.isfinite(ref)])) or 1.0
    betas = [np.inf, *(spread * np.geomspace(1e2, 1e-3, STEPS)), 0.0]
    policies = [optimum(ref, proxy, beta).logprobs for beta in betas]
    rewards = np.stack([expectation(policy, gold) for policy in policies])
    return rewards, np.array([kl(policy, condition(ref)).mean() for policy in policies])


def rise_and_fall(rewards: Array, people: Sequence[str] | None = None) -> tuple[Interval, Interval]:
    """Return the rise of the true reward to its peak, and its fall from the peak to the end.

    The peak is chosen on every other question and measured on the rest, and vice versa: chosen and measured on the same
    questions, it would exceed both ends by chance.

    Args:
        rewards: [S P] true rewards along the path.
        people: [P] person of each question, over whom the intervals are; by default they are over questions.
    """
    halves = np.arange(rewards.shape[1]) % 2
    top = np.empty(rewards.shape[1])
    for half in (0, 1):
        top[halves == half] = rewards[int(rewards[:, halves != half].mean(1).argmax()), halves == half]
    rise, fall = (stats.bootstrap_mean(top - rewards[end], units=people) for end in (0, -1))
    return rise, fall


def smaller(rewards: Array, people: Sequence[str] | None = None) -> Interval:
    """Return the smaller of the rise and the fall of the true reward: both must occur."""
    return min(rise_and_fall(rewards, people), key=lambda each: each.value)


def field(bench: Bench) -> "Field":
    """Return the questions with the log-probability that the base gives each answer, and the true reward."""
    asked = ask(bench.world, KINDS, bench.n or read_plan().claims["overoptimisation"].n)
    return field_of(bench.lm(BASE), bench.world, asked, {"gold": verifier_reward(bench.world)})


def overoptimisation(bench: Bench) -> Measurement:
    """Measure the smallest rise or fall of the true reward along the paths of the learned proxies."""
    asked = field(bench)
    gold, effects, parts = asked.reward("gold"), [], []
    for name in PROXIES:
        proxy = asked.answers.rewards(model_reward(bench.model(bench.control(name))))
        rewards, costs = path(asked.answers.logprobs, proxy, gold)
        rise, fall = rise_and_fall(rewards, asked.answers.people)
        best = int(rewards.mean(1).argmax())
        effects.append(smaller(rewards, asked.answers.people))
        parts.append(
            f"{name.partition('-')[2]} pairs: rises by {format_interval(*rise)} up to {costs[best]:.2f} nats of KL, and"
            f" falls by {format_interval(*fall)} to the end at {costs[-1]:.2f} nats"
        )
    sentence = (
        f"True reward along the path of a proxy learned from {'; '.join(parts)}. All proxies start from one base."
    )
    return Measurement(min(effects, key=lambda each: each.value), len(asked.kinds), sentence)


def noisy(gold: Array, mask: Array, proxy: Array, rng: np.random.Generator) -> Array:
    """Add noise to the true reward [P A] until it correlates with it as well as a learned proxy does.

    Args:
        gold: [P A] true rewards.
        mask: [P A] True at answers.
        proxy: [P A] learned proxy.
        rng: random generator of the noise.
    """
    r = float(np.clip(np.corrcoef(gold[mask], proxy[mask])[0, 1], 0.05, 0.999))
    return np.where(mask, gold + rng.normal(0, gold[mask].std() * np.sqrt(1 / r**2 - 1), gold.shape), 0.0)


def overoptimisation_null(benches: Sequence[Bench]) -> Null:
    """Measure proxies that are the true reward plus noise, and proxies that are only noise."""
    terms = read_plan().claims["overoptimisation"]
    bench = next(iter(benches), None)
    if bench is None:
        raise RunError("No learned proxy is here to be matched by a noisy one.")
    asked = field(bench)
    gold, mask, ref = asked.reward("gold"), asked.answers.mask, asked.answers.logprobs
    proxy = asked.answers.rewards(model_reward(bench.model(bench.control(PROXIES[1]))))
    rng, people = np.random.default_rng(0), asked.answers.people
    found: dict[str, list[Interval]] = {"plus": [], "alone": []}
    for _ in range(NOISES):
        found["plus"].append(smaller(path(ref, noisy(gold, mask, proxy, rng), gold)[0], people))
        noise = np.where(mask, rng.normal(size=gold.shape), 0.0)
        found["alone"].append(smaller(path(ref, noise, gold)[0], people))
    plus, alone = (sum(terms.beyond(each) for each in found[kind]) for kind in ("plus", "alone"))
    said = (
        f"the true reward plus noise, as good as the proxy of 256 pairs ({plus} of {NOISES}), and noise alone ({alone})"
    )
    return Null.of(terms, [*found["plus"], *found["alone"]], said)
