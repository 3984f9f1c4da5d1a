"""Probabilities before every token that a model writes.

All measures are of the distribution at temperature 1, whatever the sampling temperature. Axes: A answers, k most
probable tokens, n written tokens, V vocabulary. Ranks count from 0, the most probable.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError
from probe.logits.lens import MARGIN, count_above, require_tokens
from probe.logits.targets import Against, Answer, Position, asked_target, same_target
from probe.model.asked import asked_ids
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.scoring import entropy
from probe.model.text import pieces
from probe.plotting.notebook import Beside, Drawable, alone, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go

READ_TOGETHER = 32
"""Number of tokens that, read together, cost about as much as one written token."""


@dataclass(frozen=True)
class WrittenTrajectory(Drawable):
    """A written continuation; entry i describes the distribution from which written token i was drawn."""

    prompt_tokens: list[str]
    """Readable tokens of the prompt."""
    tokens: list[str]
    """[n] readable written tokens."""
    ids: list[int]
    """[n] ids of the written tokens."""
    answers: list[str]
    """[A] readable answers."""
    entropy: np.ndarray
    """[n] entropy in nats."""
    margin: np.ndarray
    """[n] margin of the two most probable tokens in nats."""
    chosen: np.ndarray
    """[n] log-probability of the written token, nats at temperature 1."""
    logprobs: np.ndarray
    """[n A] log-probability of each answer, nats."""
    ranks: np.ndarray
    """[n A] number of tokens that are more probable than each answer."""
    top_tokens: np.ndarray
    """[n k] most probable tokens, best first."""
    top_logprobs: np.ndarray
    """[n k] their log-probabilities, nats."""

    def table(self) -> pd.DataFrame:
        """Return tidy rows: step, token, measure, answer (empty for measures without one), value."""
        rows: list[tuple[int, str, str, str, float]] = []
        for step, token in enumerate(self.tokens):
            rows.append((step, token, "entropy", "", float(self.entropy[step])))
            rows.append((step, token, "margin", "", float(self.margin[step])))
            rows.append((step, token, "logprob", token, float(self.chosen[step])))
            for index, answer in enumerate(self.answers):
                rows.append((step, token, "logprob", answer, float(self.logprobs[step, index])))
                rows.append((step, token, "rank", answer, float(self.ranks[step, index])))
        return pd.DataFrame(rows, columns=["step", "token", "measure", "answer", "value"])

    def sentence(self) -> str:
        """Say what the model writes."""
        return WrittenTrajectories((self,), alone()).sentence()

    def figures(self) -> "dict[str, go.Figure]":
        """Draw log-probability and rank of the answers, entropy and margin before every written token."""
        return WrittenTrajectories((self,), alone()).figures()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every measure by written token, and the most probable tokens at its place."""
        return {"written": self.table(), "written-expected": self.top_table()}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the most probable tokens at the place of every written token."""
        return WrittenTrajectories((self,), alone()).lists()

    def top_table(self) -> pd.DataFrame:
        """Return one row for each written token and rank: step, token, rank, expected, logprob."""
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


class WrittenTrajectories(Beside[WrittenTrajectory]):
    """Continuations that one model or several write after one text."""

    def sentence(self) -> str:
        """Say what every model writes."""
        said = []
        for look, each in zip(self.looks, self.results, strict=True):
            blanks = any(token.startswith("\u00b7") for token in each.tokens)
            said.append(f"{look.name} writes \u201c{('' if blanks else ' ').join(each.tokens).strip(chr(183))}\u201d")
        return "; ".join(said) + "."

    def figures(self) -> "dict[str, go.Figure]":
        """Draw log-probability and rank of the answers, entropy and margin before every written token."""
        from probe.logits.figures import ModelMeasures, curves

        every = list(zip(self.looks, self.results, strict=True))
        alike = len({tuple(each.answers) for each in self.results}) == 1
        charts = {}
        for index, group in enumerate([every] if alike else [[pair] for pair in every]):
            sides = [
                ModelMeasures(look.name, look.colour, each.entropy, each.margin, each.logprobs, each.ranks, each.tokens)
                for look, each in group
            ]
            longest = max((each.tokens for _, each in group), key=len)
            ticks = longest if len(group) == 1 else [str(step) for step in range(len(longest))]
            chart = curves(sides, group[-1][1].answers, axis="written token", ticks=ticks, columns=4, height=290)
            title = f"Before every written token{f': {group[0][0].name}' * (not alike)}"
            charts[f"written-{index}" if index else "written"] = titled(chart, title, 290)
        return charts

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the most probable tokens at the place of every written token."""
        rows = self.tables()["written-expected"]
        best = rows[rows["rank"] < 3].assign(probability=np.exp(rows["logprob"]))
        return {"What was likely": best.drop(columns="logprob").reset_index(drop=True)}


def writing_seconds(lm: LM, n: int, **rest: Any) -> float:
    """Estimate the seconds that writing takes; a written token costs as much as several that are read together."""
    require_tokens(lm)
    return seconds_a_token(lm) * READ_TOGETHER * n


@analysis(
    "logits",
    title="Token by token",
    equations=(r"\ell_t = f_\theta(x_{<t}),\qquad H_t = -\sum_a p_t(a) \log p_t(a)", MARGIN),
    seconds=writing_seconds,
    key="log",
    beside=WrittenTrajectories,
    settle=same_target,
)
@torch.no_grad()
def follow_writing(
    lm: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    position: Position = None,
    answer: Answer = None,
    against: Against = None,
    n: Annotated[int, Input("Tokens to write", key="log_new", within=(1, 32))] = 8,
    temperature: Annotated[float, Input("Temperature", advanced=True)] = 0.0,
    seed: Annotated[int, Input("Seed", advanced=True)] = 0,
    k: Annotated[int, Input("Tokens", advanced=True)] = 5,
) -> WrittenTrajectory:
    """Let a model write, and read its predictions before every token.

    *Entropy* is that of the next-token distribution, *margin* the difference of the log-probabilities of its two most
    probable tokens, *rank* that of an answer (1 is the most probable); all at temperature 1, whatever the sampling
    temperature.

    Args:
        lm: a model of tokens.
        prompt: a text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        position: token after which the model writes, from 0; by default the last.
        answer: answer to follow: see `logit_lens`.
        against: answer to compare it with: see `logit_lens`.
        n: maximum number of tokens to write; an end token ends the continuation.
        temperature: sampling temperature; 0 takes the most probable token.
        seed: random seed of sampling.
        k: number of most probable tokens to keep, at least two.

    Raises:
        DataError: a scalar model, a prompt or an answer without tokens, answers that differ in no token, or a text that
            is too long.
        ConfigError: n below 1.
    """
    require_tokens(lm)
    if n < 1:
        raise ConfigError(f"{n} tokens were requested; expected 1 or more.")
    asked = asked_ids(lm, prompt, chat)
    target = asked_target(lm, asked, answer, against, position)
    ids, tokens = target.text(asked)[: target.position + 1], target.answers
    continuation = lm.generate([ids], max_new_tokens=n, temperature=temperature, seed=seed).ids[0]
    logprobs = lm.logits([[*ids, *continuation]])[0, len(ids) - 1 : -1].float().log_softmax(-1)
    top = logprobs.topk(min(max(k, 2), logprobs.shape[-1]), dim=-1)
    gap = top.values[:, 0] - top.values[:, min(1, top.values.shape[-1] - 1)]
    names = pieces(lm.tokenizer, top.indices.flatten().tolist())
    return WrittenTrajectory(
        prompt_tokens=pieces(lm.tokenizer, ids),
        tokens=pieces(lm.tokenizer, continuation),
        ids=list(continuation),
        answers=pieces(lm.tokenizer, tokens),
        entropy=entropy(logprobs).cpu().numpy(),
        margin=gap.cpu().numpy(),
        chosen=logprobs[range(len(continuation)), continuation].cpu().numpy(),
        logprobs=logprobs[:, tokens].cpu().numpy(),
        ranks=count_above(logprobs[None], logprobs[None][..., tokens])[0].cpu().numpy(),
        top_tokens=np.array(names, dtype=object).reshape(top.indices.shape),
        top_logprobs=top.values.cpu().numpy(),
    )
