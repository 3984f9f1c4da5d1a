"""How far a model's predictions on Markov chains are from those of counting rules and of Bayes' rule (exact).

Every chain has transition rows of its own, drawn afresh, so that nothing but its own beginning helps. Three predictors
of the next state are held against the model after every state:

- unigram: (count(x) + alpha) / (t + K alpha), the states' shares so far;
- bigram: the shares of what followed the current state so far, uniform where it is new;
- bayes: the Bayes predictive under the chain's announced order and its Dirichlet(alpha) prior.

The distance is KL(predictor || model) in nats, the model's probabilities being those over its whole vocabulary. A model
that learns chains passes through them in this order (Edelman et al. 2024, 2402.11004). The world's captures hold the
log-probability of every state at every captured step, so that the same is known over training without checkpoints.

Axes: T states of a chain, K states there are.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from probe.analyses.in_context_curves import divergence, single_tokens
from probe.autoregression.lags import batches
from probe.errors import DataError
from probe.model.text import encode
from probe.world import bayes, tasks
from probe.world.draws import Draws, generator
from probe.world.vocabulary import STATES

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.runs.reader import Run
    from probe.runs.schema import ProbePrompt
    from probe.world import World

PREDICTORS = ("unigram", "bigram", "bayes")


class Chain(NamedTuple):
    """A Markov chain as it is written."""

    text: str
    """The document: "chain 1 : z0 z2 ..."."""
    order: int
    """The order that the document announces."""
    states: list[int]
    """[T] its states from 0."""

    @property
    def opening(self) -> str:
        """What stands before the first state."""
        return f"chain {self.order} :"


def chains(world: "World", n: int, seed: int = 0) -> list[Chain]:
    """`n` fresh chains of the world; other seeds than those of documents and of probe prompts."""
    draws = Draws(generator("questions", world.seed, seed, *b"markov"))
    found = []
    for _ in range(n):
        text, meta = tasks.make_markov(world.config, draws)
        found.append(Chain(text, int(meta["order"]), [int(state) for state in meta["states"]]))
    return found


def predictors(states: Sequence[int], K: int, order: int, alpha: float = 1.0) -> dict[str, np.ndarray]:
    """[T + 1, K] for each of `PREDICTORS`: row t predicts state t from the states before it."""
    return {
        "unigram": bayes.markov_predictive(states, K, 0, alpha),
        "bigram": bayes.markov_frequencies(states, K, 1),
        "bayes": bayes.markov_predictive(states, K, order, alpha),
    }


def distances(states: Sequence[int], order: int, alpha: float, logprobs: np.ndarray) -> dict[str, np.ndarray]:
    """[T] distances by name, at each of T predictions of states 0 to T - 1 (or also of the next one).

    Args:
        states: the states so far.
        order: of the chain.
        alpha: of the prior.
        logprobs: [T K] log-probabilities of the states in nats; row t predicts state t.

    Returns:
        kl_unigram, kl_bigram, kl_bayes; beside them what a model that is the Bayes predictor would show (exact):
        ideal_unigram = KL(unigram || bayes), ideal_bigram, ideal_bayes = 0; and what one that counts states would show
        as kl_bayes: counting = KL(bayes || unigram); loss_bayes = the expected loss of the model under the Bayes
        predictive.
    """
    found = predictors(states, logprobs.shape[1], order, alpha)
    rules = {name: rule[: len(logprobs)] for name, rule in found.items()}
    best = np.log(rules["bayes"])
    made = {f"kl_{name}": divergence(rule, logprobs) for name, rule in rules.items()}
    made |= {f"ideal_{name}": divergence(rule, best) for name, rule in rules.items()}
    made["counting"] = divergence(rules["bayes"], np.log(rules["unigram"]))
    made["loss_bayes"] = -(rules["bayes"] * logprobs).sum(-1)
    return made


@torch.no_grad()
def chain_distances(lm: "LM", world: "World", n: int = 100, seed: int = 0) -> pd.DataFrame:
    """Distances of a model at every position of fresh chains.

    Args:
        lm: a model with the world's tokenizer.
        world: whose chains.
        n: chains.
        seed: of the chains.

    Returns:
        One row a chain and position: chain, order, position (states seen so far), loss of the state that came,
        and the columns of `distances`; all in nats.

    Raises:
        DataError: the tokenizer is another than the world's.
    """
    found = chains(world, n, seed)
    columns = single_tokens(lm, STATES[: world.config.states])
    rows = [encode(lm.tokenizer, chain.text) for chain in found]
    starts = [len(encode(lm.tokenizer, chain.opening)) for chain in found]
    frames = []
    for part in batches(len(rows), max(map(len, rows)), len(lm.tokenizer)):
        logprobs = lm.logits(rows[part]).float().log_softmax(-1)[:, :, columns].double().cpu().numpy()
        for index, values in zip(range(part.start, part.stop), logprobs, strict=True):
            chain, start = found[index], starts[index]
            said = values[start - 1 : start - 1 + len(chain.states)]
            row = {"chain": index, "order": chain.order, "position": np.arange(len(chain.states))}
            came = np.arange(len(said)), chain.states
            row |= {"loss": -said[came]}
            frames.append(pd.DataFrame(row | distances(chain.states, chain.order, world.config.alpha, said)))
    return pd.concat(frames, ignore_index=True)


def captured_distances(run: "Run", world: "World") -> pd.DataFrame:
    """The same at every captured step of a run, on the chains among its captured prompts, without the model.

    Captures keep half precision: distances are exact to about 0.001 nats.

    Args:
        run: a run with captures.
        world: what it was trained on.

    Returns:
        One row a step, prompt and position: step, prompt, order, position and the columns of `distances`. Without a
        captured chain whose answers are all states, an empty table.

    Raises:
        RunError: a capture is damaged.
    """
    captures = run.captures()
    known = [
        (index, prompt, chain) for index, prompt in enumerate(captures.prompts) if (chain := _chain(prompt, world))
    ]
    frames = []
    for step in captures.steps if known else ():
        tensors = captures.load(step)
        for index, prompt, chain in known:
            first = prompt.length - len(chain.states) - 1
            answers = tensors["lens_answer_logprobs"][index, -1, first : prompt.length - 1]
            logprobs = answers[:, : world.config.states].astype(np.float64)
            row = {"step": step, "prompt": index, "order": chain.order, "position": np.arange(len(logprobs))}
            frames.append(pd.DataFrame(row | distances(chain.states, chain.order, world.config.alpha, logprobs)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def in_context_score(table: pd.DataFrame, early: tuple[int, int] = (1, 6), late: int = 10) -> pd.Series:
    """By step, the expected loss at late positions minus that at early ones, in nats: negative is learning in context.

    As Olsson et al. score it, with the expectation under Bayes' rule in place of the token that came.

    Args:
        table: of `captured_distances`.
        early: first position, and the one behind the last.
        late: how many of a chain's last positions.

    Raises:
        DataError: a chain is too short to have both.
    """
    last = table.groupby(["step", "prompt"])["position"].transform("max")
    if (last + 1 - late < early[1]).any():
        raise DataError(f"A captured chain has {int(last.min()) + 1} states: give one of at least {early[1] + late}.")
    first = table[table["position"].between(early[0], early[1] - 1)]
    final = table[table["position"] > last - late]
    return final.groupby("step")["loss_bayes"].mean() - first.groupby("step")["loss_bayes"].mean()


def _chain(prompt: "ProbePrompt", world: "World") -> Chain | None:
    """The chain that a captured prompt writes, if it is one of this world and all states are its answers."""
    words = prompt.text.split()
    names = list(STATES[: world.config.states])
    answers = [answer.strip() for answer in prompt.answers]
    if words[:1] != ["chain"] or words[2:3] != [":"] or answers[: len(names)] != names:
        return None
    if words[1] not in ("1", "2") or not set(words[3:]) <= set(names) or len(words) < 5:
        return None
    return Chain(prompt.text, int(words[1]), [names.index(word) for word in words[3:]])
