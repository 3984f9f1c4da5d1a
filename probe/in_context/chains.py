"""Markov chains, repeats and corpus rows for in-context learning, against counting predictors and the Bayes predictor.

Every chain has its own random transition matrix, so that only its own beginning helps to predict it. After every state
the model is compared with three predictors of the next state:

- unigram: (count(x) + alpha) / (t + K alpha), the frequencies of the states so far;
- bigram: the frequencies of the successors of the current state so far, uniform if it is new;
- bayes: the Bayes posterior predictive under the chain's announced order and its Dirichlet(alpha) prior.

The distance is KL(predictor || model) in nats, with the model's probabilities over its whole vocabulary. A model
that learns chains passes through them in this order (Edelman et al. 2024, 2402.11004). The world's captures hold the
log-probability of every state at every captured step, so these distances are known over training without checkpoints.

The Olsson score is the loss of a late token minus that of an early one; negative is learning in context. Olsson et al.
(2022) take the 500th and the 50th of 512 tokens of the corpus. Two kinds of texts are used here. Random tokens are
written twice: the same token is early the first time and late the second time, and only copying helps. In rows of a
corpus the late tokens are the last tenth of a row and the early ones lie around its first tenth; early and late text is
of the same kind there, so only the amount of context differs.

Axes: T states of a chain (or tokens of a text), K possible states, N texts.
"""

from collections.abc import Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from probe.attention.scores import random_repeats
from probe.autoregression.lags import batches
from probe.errors import DataError
from probe.in_context.pairs import divergence, single_tokens
from probe.model.text import context_length, encode
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
    """A Markov chain as written in a document."""

    text: str
    """Text of the document: "chain 1 : z0 z2 ..."."""
    order: int
    """Order of the chain, as the document announces it."""
    states: list[int]
    """[T] states, numbered from 0."""

    @property
    def opening(self) -> str:
        """Text before the first state."""
        return f"chain {self.order} :"


def chains(world: "World", n: int, seed: int = 0) -> list[Chain]:
    """Draw `n` new chains of the world, with other seeds than those of documents and probe prompts."""
    draws = Draws(generator("questions", world.seed, seed, *b"markov"))
    drawn_chains = []
    for _ in range(n):
        text, meta = tasks.make_markov(world.config, draws)
        drawn_chains.append(Chain(text, int(meta["order"]), [int(state) for state in meta["states"]]))
    return drawn_chains


def predictors(states: Sequence[int], K: int, order: int, alpha: float = 1.0) -> dict[str, np.ndarray]:
    """Return for each of `PREDICTORS` an array [T + 1, K]: row t predicts state t from the states before it."""
    return {
        "unigram": bayes.markov_predictive(states, K, 0, alpha),
        "bigram": bayes.markov_frequencies(states, K, 1),
        "bayes": bayes.markov_predictive(states, K, order, alpha),
    }


def distances(states: Sequence[int], order: int, alpha: float, logprobs: np.ndarray) -> dict[str, np.ndarray]:
    """Return distances [T] by name, at each of T predictions of states 0 to T - 1 (or also of the next state).

    Args:
        states: the states so far.
        order: order of the chain.
        alpha: concentration of the Dirichlet prior.
        logprobs: [T K] log-probabilities of the states in nats; row t predicts state t.

    Returns:
        kl_unigram, kl_bigram, kl_bayes; the same distances of the Bayes predictor itself (exact): ideal_unigram =
        KL(unigram || bayes), ideal_bigram, ideal_bayes = 0; kl_bayes of a predictor that counts states, counting =
        KL(bayes || unigram); loss_bayes = the expected loss of the model under the Bayes predictive.
    """
    by_name = predictors(states, logprobs.shape[1], order, alpha)
    rules = {name: rule[: len(logprobs)] for name, rule in by_name.items()}
    best = np.log(rules["bayes"])
    divergences = {f"kl_{name}": divergence(rule, logprobs) for name, rule in rules.items()}
    divergences |= {f"ideal_{name}": divergence(rule, best) for name, rule in rules.items()}
    divergences["counting"] = divergence(rules["bayes"], np.log(rules["unigram"]))
    divergences["loss_bayes"] = -(rules["bayes"] * logprobs).sum(-1)
    return divergences


@torch.no_grad()
def chain_distances(lm: "LM", world: "World", n: int = 100, seed: int = 0) -> pd.DataFrame:
    """Measure a model's distances from the predictors at every position of new chains.

    Args:
        lm: a model with the world's tokenizer.
        world: the world that draws the chains.
        n: number of chains.
        seed: random seed of the chains.

    Returns:
        One row per chain and position: chain, order, position (states seen so far), loss of the state that followed,
        and the columns of `distances`; all in nats.

    Raises:
        DataError: the tokenizer is not the world's.
    """
    drawn_chains = chains(world, n, seed)
    columns = single_tokens(lm, STATES[: world.config.states])
    rows = [encode(lm.tokenizer, chain.text) for chain in drawn_chains]
    starts = [len(encode(lm.tokenizer, chain.opening)) for chain in drawn_chains]
    frames = []
    for part in batches(len(rows), max(map(len, rows)), len(lm.tokenizer)):
        logprobs = lm.logits(rows[part]).float().log_softmax(-1)[:, :, columns].double().cpu().numpy()
        for index, values in zip(range(part.start, part.stop), logprobs, strict=True):
            chain, start = drawn_chains[index], starts[index]
            predictions = values[start - 1 : start - 1 + len(chain.states)]
            row = {"chain": index, "order": chain.order, "position": np.arange(len(chain.states))}
            came = np.arange(len(predictions)), chain.states
            row |= {"loss": -predictions[came]}
            frames.append(pd.DataFrame(row | distances(chain.states, chain.order, world.config.alpha, predictions)))
    return pd.concat(frames, ignore_index=True)


def captured_distances(run: "Run", world: "World") -> pd.DataFrame:
    """Return the distances at every captured step of a run, on the chains among its captured prompts.

    The model is not needed. Captures keep half precision: distances are exact to about 0.001 nats.

    Args:
        run: a run with captures.
        world: the world that it was trained on.

    Returns:
        One row per step, prompt and position: step, prompt, order, position and the columns of `distances`. The table
        is empty if no captured chain has all states as its answers.

    Raises:
        RunError: a capture is damaged.
    """
    captures = run.captures()
    chain_list = [
        (index, prompt, chain) for index, prompt in enumerate(captures.prompts) if (chain := _chain(prompt, world))
    ]
    frames = []
    for step in captures.steps if chain_list else ():
        tensors = captures.load(step)
        for index, prompt, chain in chain_list:
            first = prompt.length - len(chain.states) - 1
            answers = tensors["lens_answer_logprobs"][index, -1, first : prompt.length - 1]
            logprobs = answers[:, : world.config.states].astype(np.float64)
            row = {"step": step, "prompt": index, "order": chain.order, "position": np.arange(len(logprobs))}
            frames.append(pd.DataFrame(row | distances(chain.states, chain.order, world.config.alpha, logprobs)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def in_context_score(table: pd.DataFrame, early: tuple[int, int] = (1, 6), late: int = 10) -> pd.Series:
    """Return by step the expected late loss minus the expected early loss (nats); negative is in-context learning.

    This is the score of Olsson et al., with the expectation under the Bayes predictor in place of the observed token.

    Args:
        table: result of `captured_distances`.
        early: first early position, and the position after the last one.
        late: number of late positions, at the end of a chain.

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
    """Return the chain of a captured prompt, or None if it is not from this world or its answers are not all states."""
    words = prompt.text.split()
    names = list(STATES[: world.config.states])
    answers = [answer.strip() for answer in prompt.answers]
    if words[:1] != ["chain"] or words[2:3] != [":"] or answers[: len(names)] != names:
        return None
    if words[1] not in ("1", "2") or not set(words[3:]) <= set(names) or len(words) < 5:
        return None
    return Chain(prompt.text, int(words[1]), [names.index(word) for word in words[3:]])


LENGTH = 25
"""Number of random tokens in a segment, if the context has room for two segments."""
FILLS = 0.9
"""Share of a row that the mean document must fill for rows to hold one document each."""
SHORTEST = 20
"""Minimum number of tokens of a corpus row; it must have an early and a late part."""


@torch.no_grad()
def token_losses(lm: "LM", rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return the loss of every token of each row except the first, [T - 1] nats each; hooks of `lm.hooks` apply."""
    losses = []
    for part in batches(len(rows), max(map(len, rows)), len(lm.tokenizer)):
        logprobs = lm.logits(rows[part]).float().log_softmax(-1)
        for row, values in zip(rows[part], logprobs, strict=True):
            ids = torch.tensor(row, device=values.device)
            losses.append(-values[: len(row) - 1].gather(-1, ids[1:, None])[:, 0].double().cpu().numpy())
    return losses


def segment_length(lm: "LM", length: int = LENGTH) -> int:
    """Return the length of the longest segment, at most `length` tokens, of which two fit into the context."""
    context = context_length(lm.model)
    return length if context is None else max(2, min(length, (context - 1) // 2))


class Repeats(NamedTuple):
    """Random tokens that are written twice."""

    rows: list[list[int]]
    """N texts as token ids."""
    begin: int
    """Number of tokens before the first segment."""
    size: int
    """Number of tokens in the segment, all different."""


def token_repeats(lm: "LM", n: int = 100, length: int = LENGTH, seed: int = 0) -> Repeats:
    """Draw repeats of random tokens of the whole vocabulary without special ones; two segments fit into the context."""
    return Repeats(*random_repeats(lm, segment_length(lm, length), n, 2, seed))


def world_repeats(lm: "LM", world: "World", n: int = 100, seed: int = 0) -> Repeats:
    """Draw repeats with the words and form of those in the world's corpus, at their greatest length."""
    draws = Draws(generator("questions", world.seed, seed, *b"repeats"))
    segments = [draws.sample_few(tasks.CONTENT, world.config.segment) for _ in range(n)]
    rows = [encode(lm.tokenizer, f"repeat {' '.join(segment * 2)}") for segment in segments]
    return Repeats(rows, len(encode(lm.tokenizer, "repeat")), world.config.segment)


def repeat_losses(lm: "LM", repeats: Repeats) -> pd.DataFrame:
    """Measure the losses on random tokens written twice, without a segment's first token, which no copy can predict.

    Args:
        lm: any model of tokens.
        repeats: the texts.

    Returns:
        One row per text and token: text, token (its position in the segment, from 1), early and late (loss the first
        and the second time, nats).
    """
    begin, size = repeats.begin, repeats.size
    frames = []
    for index, losses in enumerate(token_losses(lm, repeats.rows)):
        loss = np.concatenate([[np.nan], losses])[begin:]
        row = {"text": index, "token": np.arange(1, size), "early": loss[1:size], "late": loss[size + 1 :]}
        frames.append(pd.DataFrame(row))
    return pd.concat(frames, ignore_index=True)


def corpus_losses(lm: "LM", rows: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Measure the early and the late loss of rows of a corpus.

    Args:
        lm: any model of tokens.
        rows: token ids, each of at least `SHORTEST` tokens.

    Returns:
        One row per row of the corpus: text, early (mean loss of the tokens from 5 % to 15 % of the row), late (of its
        last tenth), nats.

    Raises:
        DataError: there is no row, or one is too short.
    """
    if not rows or min(map(len, rows)) < SHORTEST:
        raise DataError(f"A row of the corpus has fewer than {SHORTEST} tokens: give longer texts.")
    means = []
    for index, losses in enumerate(token_losses(lm, rows)):
        size = len(losses) + 1
        early, late = losses[size // 20 : (3 * size) // 20], losses[(9 * size) // 10 - 1 :]
        means.append({"text": index, "early": float(early.mean()), "late": float(late.mean())})
    return pd.DataFrame(means)


def world_rows(lm: "LM", world: "World", n: int, length: int = 96, seed: int = 0) -> list[list[int]]:
    """Return `n` consecutive windows of the world's endless corpus, cut anywhere, each after the beginning token.

    As in a corpus of text, a window may begin within a document. If windows began with documents, early and late tokens
    would come from different parts of documents and differ for that reason alone. Where single documents fill the rows
    (a world of chains alone), a row is a document, as in training.

    Args:
        lm: the model with the tokenizer.
        world: the world with the corpus.
        n: number of windows.
        length: tokens in a window, as in training; limited by the context.
        seed: random seed of the stream; training counts its own streams from 0.
    """
    size = min(length, context_length(lm.model) or length)
    stream = (encode(lm.tokenizer, document.text) for document in world.documents(10_007 + seed))
    first = list(islice(stream, n))
    if np.mean([len(ids) for ids in first]) >= FILLS * size:
        return [ids[:size] for ids in first]
    opening = encode(lm.tokenizer, "")
    body = size - len(opening)
    offset = int(np.random.default_rng(seed).integers(0, body))
    ids: list[int] = []
    for document in chain(first, stream):
        ids += document
        if len(ids) >= offset + n * body:
            break
    return [[*opening, *ids[at : at + body]] for at in range(offset, offset + n * body, body)]


def text_rows(lm: "LM", texts: Sequence[str], n: int | None = None) -> list[list[int]]:
    """Encode the beginnings of texts as rows of at most 512 tokens, at most `n`; leave out those below `SHORTEST`."""
    size = min(512, context_length(lm.model) or 512)
    rows = (encode(lm.tokenizer, text)[:size] for text in texts)
    return list(islice((row for row in rows if len(row) >= SHORTEST), n))
