"""How sure a model is, and of what, while it writes: entropy, margin, rank and log-probability before every token.

All measures are those of the model's own output at temperature 1, whatever the tokens were drawn at.

Axes: n written tokens, A answers, k likeliest tokens. Ranks count from 0 = likeliest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from probe.analyses.lens import entropy
from probe.analyses.trajectories import answer_columns, margin, rank, require_tokens
from probe.errors import ConfigError
from probe.model.lm import LM
from probe.model.text import encode, pieces


@dataclass(frozen=True)
class WrittenTrajectory:
    """A model writes: entry i belongs to the distribution from which written token i was drawn."""

    prompt_tokens: list[str]
    """Readable pieces of the prompt."""
    tokens: list[str]
    """[n] readable pieces of what it wrote."""
    ids: list[int]
    """[n] the same as ids."""
    answers: list[str]
    """[A] the answers as readable pieces."""
    entropy: np.ndarray
    """[n] nats."""
    margin: np.ndarray
    """[n] nats."""
    chosen: np.ndarray
    """[n] log-probability of the token that was written, nats at temperature 1."""
    logprobs: np.ndarray
    """[n A] log-probability of each answer, nats."""
    ranks: np.ndarray
    """[n A] how many tokens are likelier than each answer."""
    top_tokens: np.ndarray
    """[n k] likeliest tokens, best first."""
    top_logprobs: np.ndarray
    """[n k] their log-probabilities, nats."""

    def table(self) -> pd.DataFrame:
        """Tidy: step, token, measure, answer (empty where it concerns none), value."""
        rows: list[tuple[int, str, str, str, float]] = []
        for step, token in enumerate(self.tokens):
            rows.append((step, token, "entropy", "", float(self.entropy[step])))
            rows.append((step, token, "margin", "", float(self.margin[step])))
            rows.append((step, token, "logprob", token, float(self.chosen[step])))
            for index, answer in enumerate(self.answers):
                rows.append((step, token, "logprob", answer, float(self.logprobs[step, index])))
                rows.append((step, token, "rank", answer, float(self.ranks[step, index])))
        return pd.DataFrame(rows, columns=["step", "token", "measure", "answer", "value"])

    def top_table(self) -> pd.DataFrame:
        """One row for each written token and rank: step, token, rank, expected, logprob."""
        step, rank = (axis.ravel() for axis in np.indices(self.top_logprobs.shape))
        return pd.DataFrame(
            {
                "step": step,
                "token": np.array(self.tokens, dtype=object)[step],
                "rank": rank,
                "expected": self.top_tokens.ravel(),
                "logprob": self.top_logprobs.ravel(),
            }
        )


@torch.no_grad()
def over_writing(
    lm: LM,
    prompt: str | Sequence[int],
    answers: Sequence[str | int] = (),
    n: int = 12,
    temperature: float = 0.0,
    seed: int = 0,
    k: int = 5,
) -> WrittenTrajectory:
    """The model writes n tokens; what it held likely before each of them.

    Args:
        lm: a model of tokens.
        prompt: a text or its ids.
        answers: texts, whose first token counts, or token ids.
        n: tokens to write at most; an end token ends it.
        temperature: of the drawing, 0 takes the likeliest; all measures are at temperature 1.
        seed: of the drawing.
        k: how many of the likeliest tokens to keep.

    Raises:
        DataError: a scalar model, or a prompt or an answer without tokens, or too long a text.
        ConfigError: n below 1.
    """
    require_tokens(lm)
    if n < 1:
        raise ConfigError(f"{n} tokens were asked for: let the model write 1 at least.")
    ids = encode(lm.tokenizer, prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
    chosen = answer_columns(lm, answers)
    written = lm.generate([ids], max_new_tokens=n, temperature=temperature, seed=seed).ids[0]
    logprobs = lm.logits([[*ids, *written]])[0, len(ids) - 1 : -1].float().log_softmax(-1)
    top = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
    names = pieces(lm.tokenizer, top.indices.flatten().tolist())
    return WrittenTrajectory(
        prompt_tokens=pieces(lm.tokenizer, ids),
        tokens=pieces(lm.tokenizer, written),
        ids=list(written),
        answers=pieces(lm.tokenizer, chosen),
        entropy=entropy(logprobs).cpu().numpy(),
        margin=margin(logprobs).cpu().numpy(),
        chosen=logprobs[range(len(written)), written].cpu().numpy(),
        logprobs=logprobs[:, chosen].cpu().numpy(),
        ranks=rank(logprobs, chosen).cpu().numpy(),
        top_tokens=np.array(names, dtype=object).reshape(top.indices.shape),
        top_logprobs=top.values.cpu().numpy(),
    )
