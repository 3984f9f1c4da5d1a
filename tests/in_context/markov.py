"""Markov chains with known transitions, and small models trained on them: ground truth for lags and orders."""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from probe.model.lm import LM
from probe.model.presets import ModelConfig

STATES = 5
LENGTH = 24


@dataclass(frozen=True)
class Trained:
    """A chain, the model that was trained on it, and fresh texts of the chain (token = state + 1)."""

    transitions: np.ndarray
    """[K]*(order + 1) probabilities of the next state, the oldest state first."""
    lm: LM
    texts: list[list[int]]


def trained(order: int, steps: int) -> Trained:
    """A model of two blocks trained on a chain whose rows are drawn independently, so that each lag truly matters."""
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(STATES), size=(STATES,) * order)
    transitions = 0.9 * rows + 0.1 / STATES  # nothing so rare that a short training does not meet it
    size = ModelConfig(layers=2, width=32, heads=4, mlp=64, context=64, init_std=0.08, rope_theta=100.0)
    lm = LM.create(size, tokenizer(), seed=0)
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=0.01, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, steps, pct_start=0.1)
    data = torch.from_numpy(chains(transitions, 32 * steps, rng)).view(steps, 32, -1)
    for step, batch in enumerate(data):
        ids = batch[:, : (LENGTH + 1, 5)[step % 2]]  # short texts too, so that early positions are learned as well
        lm.model(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return Trained(transitions, lm, chains(transitions, 24, rng).tolist())


def chains(transitions: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """[n, 1 + LENGTH] token ids: the beginning token, uniform first states, then the chain."""
    order = transitions.ndim - 1
    states = np.empty((n, LENGTH), dtype=np.int64)
    states[:, :order] = rng.integers(STATES, size=(n, order))
    cumulative = transitions.cumsum(-1)
    for t in range(order, LENGTH):
        rows = cumulative[tuple(states[:, t - order + i] for i in range(order))]
        states[:, t] = (rows < rng.random((n, 1))).sum(1).clip(max=STATES - 1)
    return np.concatenate([np.zeros((n, 1), dtype=np.int64), states + 1], axis=1)


def influence(transitions: np.ndarray, texts: list[list[int]], lag: int) -> float:
    """E KL of the chain's own prediction when the state at `lag` is drawn from the texts' frequencies, exactly."""
    order = transitions.ndim - 1
    states = np.array(texts)[:, 1:] - 1
    pool = np.bincount(states.ravel(), minlength=STATES) / states.size
    total = []
    for row in states:
        for t in range(order - 1, len(row)):
            context = row[t - order + 1 : t + 1]
            p = transitions[tuple(context)]
            for state in range(STATES):
                changed = context.copy()
                if lag < order:
                    changed[order - 1 - lag] = state
                q = transitions[tuple(changed)]
                total.append(pool[state] * STATES * (p * np.log(p / q)).sum())
    return float(np.mean(total))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a state; the beginning token is put first."""
    ids = {word: index for index, word in enumerate(["<bos>", *(f"z{state}" for state in range(STATES))])}
    inner = Tokenizer(WordLevel(ids, unk_token="<bos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", unk_token="<bos>", pad_token="<bos>")
