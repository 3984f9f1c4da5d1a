"""Token-level rewards: the scalar of a reward model read token by token, and attributed to its input.

Three views of R(x, y), which a reward model reads at the last token (E9):

    increment     R read at a token minus R read at the previous token: the reward of the token when it is written
    gradient      integrated gradients of R on the input embeddings (Sundararajan et al. 2017, arXiv 1703.01365),

                      a_t = (e_t - b) . int_0^1 grad_{e_t} R(b + alpha (e - b)) d alpha,

                  which sum to R(text) - R(baseline); b is by default the mean embedding of the vocabulary
    occlusion     R(text) - R(text without the token), exact and not additive

A gradient describes changes of R on a path of inputs that belong to no text; leaving a token out changes the text and
shifts the later ones by one position. If the two disagree, neither is the truth, so their rank correlation is reported.

Works on reward models and value heads (`probe.model.rewards`). Axes: T tokens, n points of the path, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from scipy.special import expit
from torch import Tensor

from probe.errors import ConfigError, DataError, ModelError
from probe.model.lm import LM
from probe.model.loading import twin
from probe.model.rewards import RewardModel, pair_ids, reward_lm
from probe.model.scoring import check_lengths
from probe.model.text import forward, pieces, positions
from probe.plotting.notebook import Drawable

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.world import World

PART = 8192
"""Maximum number of tokens in one pass of the model."""
STEPS = 104
"""Initial number of steps of the integral."""
MOST = 8 * STEPS
"""Maximum number of steps, unless the caller gives more."""
TOLERANCE = 1e-3
"""Largest gap, in the score's unit, at which no more steps are taken."""
GREGORY = (-1 / 12, -1 / 24, -19 / 720, -3 / 160)
"""Coefficients of the differences at the ends (Gregory)."""
Baseline = Literal["mean"] | int
"""Baselines for "no token": the mean embedding, or the embedding of a token id. Zeros are not offered: on the sample
reward model the integral from there was still off by a nat with 256 nodes; a norm is steepest there, 1 / sqrt(eps)."""
Kind = Literal["increment", "gradient", "occlusion"]
KINDS: tuple[Kind, ...] = ("increment", "gradient", "occlusion")


@dataclass(frozen=True)
class TokenEffects:
    """Effects of the tokens of one text on its score."""

    ids: list[int]
    """[T] ids of prompt and completion, the end token included."""
    tokens: list[str]
    """[T] readable tokens."""
    prompt_length: int
    """Number of tokens of the prompt."""
    values: np.ndarray
    """[T] scalar read at every token; the last one is the score of the text."""
    gradient: np.ndarray
    """[T] integrated gradients: contribution of each token to the score minus the baseline's, in the unit of the
    score."""
    local: np.ndarray
    """[T] gradient x (input - baseline) at the text itself: the first-order estimate, which need not sum to
    anything."""
    occlusion: np.ndarray
    """[T] score minus the score without the token; NaN for a text of one token."""
    baseline: float
    """Score of the text with every embedding replaced by the baseline."""
    steps: int
    """Number of steps of the integral."""

    @property
    def score(self) -> float:
        """R(x, y)."""
        return float(self.values[-1])

    @property
    def increments(self) -> np.ndarray:
        """[T] change of the scalar at each token; NaN at the first one."""
        return np.concatenate([[np.nan], np.diff(self.values)])

    @property
    def gap(self) -> float:
        """Sum of `gradient` minus (score(text) - score(baseline)): the error of the integral (completeness)."""
        return float(self.gradient.sum() - (self.score - self.baseline))

    @property
    def agreement(self) -> float:
        """Spearman's rank correlation of `gradient` and `occlusion` over the tokens; NaN if undefined."""
        return rank_correlation(self.gradient, self.occlusion)

    def effects(self, kind: Kind) -> np.ndarray:
        """Return an effect of each token [T]: increment, integrated gradient, or loss of score without the token.

        Raises:
            ConfigError: the kind is unknown.
        """
        if kind not in KINDS:
            raise ConfigError(f"Effects of the kind {kind!r} do not exist: ask for {', '.join(KINDS)}.")
        return {"increment": self.increments, "gradient": self.gradient, "occlusion": self.occlusion}[kind]

    def table(self) -> pd.DataFrame:
        """Return one row per token: position, token, part, value, increment, gradient, local, occlusion."""
        return pd.DataFrame(
            {
                "position": range(len(self.ids)),
                "id": self.ids,
                "token": self.tokens,
                "part": ["prompt" if j < self.prompt_length else "completion" for j in range(len(self.ids))],
                "value": self.values,
                "increment": self.increments,
                "gradient": self.gradient,
                "local": self.local,
                "occlusion": self.occlusion,
            }
        )


def attribute(
    model: LM | RewardModel,
    prompt: str | Sequence[int],
    completion: str | Sequence[int],
    steps: int = STEPS,
    baseline: Baseline = "mean",
    tolerance: float = TOLERANCE,
) -> TokenEffects:
    """Attribute the score of a completion to the tokens of prompt and completion.

    Args:
        model: reward model, or scalar LM (`probe.model.rewards.analysable`).
        prompt: text, or ids.
        completion: text, which gets the end token if it has none, or ids.
        steps: number of steps of the integral (`weights`); 0 leaves out gradients, which cost many times as much as the
            rest, for large models.
        baseline: replacement of the embeddings at the beginning of the integral.
        tolerance: maximum `gap`; while it is larger, the number of steps is doubled, up to `MOST`.

    Raises:
        ModelError: the model generates tokens and has no scalar output.
        ConfigError: there is no step, the model has no embedding for the baseline, or there are hooks, which would not
            act here.
        DataError: the text is empty or longer than the model's context.
    """
    if steps < 0:
        raise ConfigError(f"Integrated gradients have {steps} steps; expected 0 (none) or more.")
    lm = scalar(model)
    if lm._hook_depth:
        raise ConfigError("A reward is attributed on the plain model, where hooks do not act: leave `hooks` first.")
    head, tail = pair_ids(lm.tokenizer, prompt, completion)
    ids = [*head, *tail]
    check_lengths(lm.model, [ids], [])
    with torch.no_grad():
        end = lm.model.get_input_embeddings()(torch.tensor(ids, device=lm.device))
        start = _start(lm, baseline).expand_as(end)
    path = _along(lm, ids, start, end, np.linspace(0, 1, 1 + max(steps, 1)), slopes=steps > 0)
    while steps and abs(_gap(path)) > tolerance and 2 * steps <= MOST:
        between = _along(lm, ids, start, end, (np.arange(steps) + 0.5) / steps)
        steps *= 2
        path = _Path(*(_interleave(old, new) for old, new in zip(path, between, strict=True)))
    return TokenEffects(
        ids=ids,
        tokens=pieces(lm.tokenizer, ids),
        prompt_length=len(head),
        values=path.scalars[-1],
        gradient=_integral(path),
        local=path.slopes[-1],
        occlusion=_left_out(lm, ids, float(path.scalars[-1, -1])),
        baseline=float(path.scalars[0, -1]),
        steps=steps,
    )


class _Path(NamedTuple):
    """Scalar and its gradient at equally spaced points of the path from the baseline to the text."""

    scalars: np.ndarray
    """[n T] scalar at every token."""
    slopes: np.ndarray
    """[n T] gradient of the last token's scalar by each embedding times the change of the embedding; NaN if left
    out."""


def _along(lm: LM, ids: list[int], start: Tensor, end: Tensor, alphas: np.ndarray, slopes: bool = True) -> _Path:
    """Read the scalar and its gradient at shares alpha of the path; 0 is exactly the baseline, 1 exactly the text."""
    share = torch.tensor(alphas, dtype=end.dtype, device=end.device)[:, None, None]
    step, scalars, gradients = (end - start).double(), [], []
    for rows in ((1 - share) * start + share * end).split(max(1, PART // len(ids))):
        with torch.set_grad_enabled(slopes):
            at = rows.detach().requires_grad_(slopes)
            outputs = _read(lm, ids, at)
            part = torch.full(outputs.shape, torch.nan)
            if slopes:
                part = (torch.autograd.grad(outputs[:, -1].sum(), at)[0].double() * step).sum(-1)
        scalars.append(outputs.detach().double().cpu())
        gradients.append(part.double().cpu())
    return _Path(torch.cat(scalars).numpy(), torch.cat(gradients).numpy())


def _integral(path: _Path) -> np.ndarray:
    """Return the integrated gradients [T]."""
    return weights(len(path.slopes) - 1) @ path.slopes


def _gap(path: _Path) -> float:
    """Return the integral's error in score(text) - score(baseline)."""
    return float(_integral(path).sum() - (path.scalars[-1, -1] - path.scalars[0, -1]))


def _interleave(coarse: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Merge n points of the path and the n - 1 points between them in order, [2 n - 1 ...]."""
    both = np.empty((len(coarse) + len(new), *coarse.shape[1:]))
    both[::2], both[1::2] = coarse, new
    return both


def weights(steps: int) -> np.ndarray:
    """Return the weights [n + 1] of the integral over [0, 1] at n + 1 equally spaced points; they sum to 1.

    The trapezoidal rule with Gregory's correction at the ends, by differences up to the fourth (fewer if there are too
    few points), which is exact for polynomials of degree five. Gauss-Legendre and Simpson rules are better only for
    smooth integrands. A network bends sharply all along a path of embeddings, and with this rule a doubled number of
    steps reuses the previous points.
    """
    values = np.full(steps + 1, 1.0)
    values[[0, -1]] = 0.5
    for order, coefficient in enumerate(GREGORY[: (steps - 1) // 2], start=1):
        for place in range(order + 1):
            change = coefficient * comb(order, place) * (-1) ** place
            values[place] += change
            values[-1 - place] += change
    return values / steps


def scalar(model: LM | RewardModel) -> LM:
    """Return the model as a scalar LM.

    Raises:
        ModelError: it generates tokens.
    """
    lm = reward_lm(model) if isinstance(model, RewardModel) else model
    if lm.readout == "tokens":
        raise ModelError(
            f"The model `{lm.ref or 'created'}` writes tokens and outputs no scalar: give a reward model, or a value "
            'head as probe.model.rewards.analysable(ref, "value") loads it.'
        )
    return lm


def _start(lm: LM, baseline: Baseline) -> Float[Tensor, " d"]:
    """Return the embedding of the baseline, "no token"."""
    embedding = lm.model.get_input_embeddings()  # its output: Gemma's is scaled
    table: Tensor = embedding(torch.arange(len(embedding.weight), device=lm.device)).detach()
    if isinstance(baseline, int) and 0 <= baseline < len(table):
        return table[baseline]
    if baseline != "mean":
        raise ConfigError(
            f"The baseline {baseline!r} has no embedding: give mean, or a token id from 0 to {len(table) - 1}."
        )
    return table.mean(0)


def _read(lm: LM, ids: Sequence[int], embeddings: Float[Tensor, "n T d"]) -> Float[Tensor, "n T"]:
    """Return the scalar at every token for given outputs of the embedding layer; later additions are kept."""
    rows = torch.tensor([list(ids)] * len(embeddings), device=lm.device)
    mask = torch.ones_like(rows, dtype=torch.bool)
    own: Any = twin(lm.model)  # a copy, so that other threads do not run the hook
    own.get_input_embeddings().register_forward_hook(lambda *_: embeddings)
    output: Any = forward(own, rows, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False)
    return output.logits[..., 0]


@torch.no_grad()
def _left_out(lm: LM, ids: list[int], score: float) -> np.ndarray:
    """Return the score minus that of the text without each token, [T]."""
    if len(ids) == 1:
        return np.full(1, np.nan)
    rows = [ids[:j] + ids[j + 1 :] for j in range(len(ids))]
    size = max(1, PART // len(ids))
    parts = [lm.logits(rows[i : i + size])[:, -1, 0] for i in range(0, len(rows), size)]
    return score - torch.cat(parts).double().cpu().numpy()


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of values known in both; NaN for fewer than three, or for constant values."""
    finite = np.isfinite(a) & np.isfinite(b)
    if finite.sum() < 3 or np.ptp(a[finite]) == 0 or np.ptp(b[finite]) == 0:
        return float("nan")
    return float(stats.spearmanr(a[finite], b[finite]).statistic)


@dataclass(frozen=True)
class Contrast(Drawable):
    """Two completions of one prompt, scored by one reward model."""

    prompt: str
    chosen: TokenEffects
    rejected: TokenEffects

    @property
    def margin(self) -> float:
        """R(x, y+) - R(x, y-) in nats of Bradley-Terry log-odds."""
        return self.chosen.score - self.rejected.score

    @property
    def probability(self) -> float:
        """Probability sigma(margin) that the first completion is preferred (E9)."""
        return float(expit(self.margin))

    def prompt_effects(self, kind: Kind) -> np.ndarray:
        """Return the effect [P] of each prompt token on the margin: on the chosen text minus on the rejected one.

        It is zero for increments, because both texts begin with the prompt.
        """
        size = self.chosen.prompt_length
        return self.chosen.effects(kind)[:size] - self.rejected.effects(kind)[:size]

    @property
    def tokens(self) -> dict[str, Sequence[str]]:
        """Tokens of the prompt, the chosen and the rejected completion."""
        size = self.chosen.prompt_length
        return {
            "prompt": self.chosen.tokens[:size],
            "chosen": self.chosen.tokens[size:],
            "rejected": self.rejected.tokens[size:],
        }

    def effects(self, kind: Kind) -> dict[str, np.ndarray]:
        """Return the effect of each token: in the prompt on the margin, in a completion on its score."""
        size = self.chosen.prompt_length
        return {
            "prompt": self.prompt_effects(kind),
            "chosen": self.chosen.effects(kind)[size:],
            "rejected": self.rejected.effects(kind)[size:],
        }

    @property
    def agreement(self) -> float:
        """Spearman's rank correlation of both attributions of the margin over the prompt; NaN if undefined."""
        return rank_correlation(self.prompt_effects("gradient"), self.prompt_effects("occlusion"))

    def table(self) -> pd.DataFrame:
        """Return one row per token of either text, `text` being chosen or rejected."""
        sides = (("chosen", self.chosen), ("rejected", self.rejected))
        return pd.concat([side.table().assign(text=name) for name, side in sides], ignore_index=True)

    def figure(self) -> "go.Figure":
        """Draw the effect of each token of prompt, chosen and rejected completion on the reward."""
        from probe.rewards.figures import PART_COLOURS, token_effects

        return token_effects(self.tokens, self.effects("occlusion"), self.effects("gradient"), PART_COLOURS)


def contrast(
    model: LM | RewardModel, prompt: str, chosen: str, rejected: str, steps: int = STEPS, baseline: Baseline = "mean"
) -> Contrast:
    """Compare two completions of a prompt under one reward model: the margin, and the tokens that cause it.

    A reward is known only up to a constant for each prompt (Bradley-Terry, E9), so only differences between completions
    of one prompt are meaningful. So a completion's tokens are judged by their effect on its score, and a prompt's
    tokens by their effect on the margin R(x, y+) - R(x, y-). Arguments: see `attribute`.
    """
    lm = scalar(model)
    first, second = (attribute(lm, prompt, text, steps, baseline) for text in (chosen, rejected))
    return Contrast(prompt, first, second)


def truth_and_claim(world: "World", prompt: str) -> tuple[str, str] | None:
    """Return two completions of a world's prompt that are worth comparing; None if it asks nothing.

    Returns:
        The best answer (the truth, for an unseen entity the abstention), and the user's claim if it is false, else the
        first wrong answer.
    """
    try:
        options = world.candidates(prompt)
    except DataError:
        return None
    kinds = [world.verify(prompt, option).kind for option in options]
    best = next(
        (o for want in ("true", "abstain") for o, kind in zip(options, kinds, strict=True) if kind == want), None
    )
    worse = [o for want in ("deferred", "wrong") for o, kind in zip(options, kinds, strict=True) if kind == want]
    return (best, worse[0]) if best is not None and worse else None
