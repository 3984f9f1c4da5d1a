"""One gradient for all methods: the weight of each token of a batch in a method's step (E25).

    - grad L = sum_t w_t grad log pi(y_t | x, y_<t),      w_t = - dL / d log pi(y_t | x, y_<t)

Gradient descent moves along the right side: a token with w_t > 0 becomes more probable, one with w_t < 0 less. Methods
differ in w_t and in the source of y. With n unmasked tokens in the batch and r_t = pi / pi_old,

    method     y                        w_t
    pretrain   documents                1 / n
    sft        demonstrations           1 / n
    rsft       samples of pi            1 / n for a selected sample, else 0
    dpo        pairs                    +- beta sigma(- beta Delta) / pairs
      conservative                      +- beta [(1 - eps) sigma(- beta Delta) - eps sigma(beta Delta)] / pairs
      ipo                               +- 2 (1 / (2 beta) - Delta') / (pairs |y|)
    rlhf       samples of pi_old        A_t r_t / n, 0 where clipped
    rlvr       samples of pi_old        c_t (A r_t + beta k_t), without the first term where clipped

DPO has + at the tokens of y+ and - at those of y-; Delta is the margin of log pi/pi_ref between the two, Delta' that of
its means per token. Tokens are clipped where A > 0 and r_t > 1 + epsilon (in RLVR epsilon_high), and where A < 0 and
r_t < 1 - epsilon. c_t is the factor of `--normalisation`: 1 / (N |y|) (grpo, gspo), 1 / (N max_new_tokens) (dr_grpo) or
1 / n (dapo, cispo). In gspo r_t is exp(mean_t log pi/pi_old) at all tokens of a completion, and the clip removes whole
completions; in cispo it is min(pi / pi_old, 1 + epsilon_high), and nothing is clipped. k_t is minus the derivative of
the KL estimator: with x = log pi/pi_ref it is - x pi / pi_old (k3w), e^-x - 1 (k3), - x (k2), - 1 (k1).

The KL enters DPO in the margin, RLHF in the rewards and hence in A_t, and RLVR as a term of the loss and hence of w_t
(`TokenWeights.kl`). No loss here has an entropy bonus or a KL over the whole vocabulary, which would not be sums over
the tokens of the batch. Terms that do not depend on log pi are separate: RLHF's value head, whose loss adds sum_t v_t
grad V_t with v_t = - vf_coef (V_t - return_t) / n, 0 where its clip acts (it reaches the policy's layers too); and the
penalty of EWC in continual learning, a function of the weights that is added to the gradient of pretrain or sft.
Optimiser, learning rate and clipping of the norm are applied afterwards.

    from trainers.gradient import side_by_side
    side_by_side(lm, "where does mira live ?", [" oslo", " rome"], rewards=[1.0, 0.0]).figure()

Axes: N completions, L tokens of the longest one. Weights are 0 where masked.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probe import LM
from probe.analyses.analysis_record import Input
from probe.errors import ConfigError, DataError
from probe.logits.lens import require_same_tokens
from probe.model.scoring import check_lengths, completion_logprobs
from probe.model.text import pieces
from probe.plotting.notebook import Drawable, titled
from trainers.config import (
    DPOConfig,
    OnlineConfig,
    PretrainConfig,
    RLHFConfig,
    RLVRConfig,
    RSFTConfig,
    SFTConfig,
    TrainConfig,
)
from trainers.dpo import pair_logprobs
from trainers.loop import LossFunction
from trainers.preferences import Preference
from trainers.pretrain import PADDING, row_tensors
from trainers.rlhf import Experience, learn
from trainers.rlvr import NORMALISATIONS, Surrogate, bounded, surrogate, with_advantages
from trainers.rsft import SELECTIONS, SelectedGroup
from trainers.sampling import Completion, CompletionGroup, group_logprobs, pad_rows
from trainers.scalar_heads import ModelWithHead, ValueHead, width_of
from trainers.sft import Demonstration, encode_completion

if TYPE_CHECKING:
    import plotly.graph_objects as go


COLUMNS = 18
"""Token columns in the figure: a long prompt is cut to the columns that the answers leave."""
Scale = Annotated[Literal["one scale", "own scale"], Input("Colour", key="gradient_scale")]


class TokenWeights(NamedTuple):
    """Weights of the tokens of a batch."""

    values: Float[Tensor, "N L"]
    """w_t, including the KL part."""
    kl: Float[Tensor, "N L"]
    """Part of w_t from a KL in the loss; 0 if the loss has none."""


def imitation_weights(logprobs: Float[Tensor, "N L"], mask: Bool[Tensor, "N L"]) -> TokenWeights:
    """Return 1 / n at each of the n tokens of `mask`: pretraining (E7) and SFT (E8)."""
    values = mask.to(logprobs.dtype) / mask.sum().clamp(min=1)
    return TokenWeights(values, torch.zeros_like(values))


def selection_weights(
    logprobs: Float[Tensor, "N L"], mask: Bool[Tensor, "N L"], kept: Bool[Tensor, " N"]
) -> TokenWeights:
    """Return 1 / n at each of the n tokens of the `kept` samples, 0 at the tokens of the others: RSFT (E14)."""
    return imitation_weights(logprobs, mask & kept[:, None])


def pair_weights(
    logprobs: Float[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    reference: Float[Tensor, " N"],
    beta: float = DPOConfig.beta,
    loss: str = DPOConfig.loss,
    label_smoothing: float = DPOConfig.label_smoothing,
) -> TokenWeights:
    """Return weights of opposite sign for the completions of a pair: DPO, conservative DPO and IPO (E13, E13').

    Both completions have weights of the same size: at each token, or with IPO in the sum over tokens.

    Args:
        logprobs: rows 0, 2, ... are the chosen completions, rows 1, 3, ... the rejected ones of the same pairs.
        mask: real tokens.
        reference: log pi_ref of each completion, summed over its tokens.
        beta: as in the loss.
        loss: `sigmoid`, `conservative` or `ipo`.
        label_smoothing: eps of `conservative`.

    Raises:
        ConfigError: the loss is unknown.
        DataError: the number of completions is odd.
    """
    if len(logprobs) % 2:
        raise DataError(f"Pairs were given as {len(logprobs)} completions: give a chosen and a rejected one for each.")
    ratios = logprobs.where(mask, 0).sum(1) - reference
    lengths = mask.sum(1).clamp(min=1)
    sizes = torch.ones_like(ratios)
    if loss == "ipo":
        chosen, rejected = (ratios / lengths).view(-1, 2).unbind(1)
        pulls, sizes = 2 * (1 / (2 * beta) - (chosen - rejected)), 1 / lengths
    elif loss in ("sigmoid", "conservative"):
        chosen, rejected = ratios.view(-1, 2).unbind(1)
        margins, share = beta * (chosen - rejected), label_smoothing if loss == "conservative" else 0.0
        pulls = beta * ((1 - share) * (-margins).sigmoid() - share * margins.sigmoid())
    else:
        raise ConfigError(f"The loss of pairs {loss!r} has no weights here: give sigmoid, conservative or ipo.")
    pulls = torch.stack([pulls, -pulls], dim=1).flatten() * sizes / max(len(pulls), 1)
    values = pulls[:, None].where(mask, 0)
    return TokenWeights(values, torch.zeros_like(values))


def clipped_weights(
    ratio: Float[Tensor, "N _"],
    advantages: Float[Tensor, "N _"],
    epsilon: float,
    epsilon_high: float,
) -> Float[Tensor, "N _"]:
    """Return A r with r = pi / pi_old, or 0 where clipping removes the gradient (E11), without a denominator."""
    clipped = ((advantages > 0) & (ratio > 1 + epsilon_high)) | ((advantages < 0) & (ratio < 1 - epsilon))
    return (advantages * ratio).where(~clipped, 0)


def bounded_weights(
    ratio: Float[Tensor, "N _"],
    advantages: Float[Tensor, "N _"],
    epsilon: float,
    epsilon_high: float,
) -> Float[Tensor, "N _"]:
    """Return A min(r, 1 + epsilon_high) with r = pi / pi_old, without a denominator: CISPO."""
    return advantages * ratio.clamp(max=1 + epsilon_high)


REWARD_WEIGHTS: dict[Callable[..., Surrogate], Callable[..., Float[Tensor, "N _"]]] = {
    surrogate: clipped_weights,
    bounded: bounded_weights,
}
"""Weights of tokens by the surrogate whose gradient they are."""


def policy_weights(
    logprobs: Float[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    old: Float[Tensor, "N L"],
    advantages: Float[Tensor, "N L"],
    epsilon: float = RLHFConfig.epsilon,
) -> TokenWeights:
    """Return A_t r_t / n, 0 where clipped: RLHF by PPO (E11). The KL is in the advantages.

    Args:
        logprobs: log pi.
        mask: the n tokens of completions that have a reward.
        old: log pi of the policy that sampled.
        advantages: A_t, whitened.
        epsilon: clipping range.
    """
    values = clipped_weights((logprobs - old).exp(), advantages, epsilon, epsilon).where(mask, 0)
    values = values / mask.sum().clamp(min=1)
    return TokenWeights(values, torch.zeros_like(values))


def kl_weights(drift: Float[Tensor, "N L"], ratio: Float[Tensor, "N L"], estimator: str) -> Float[Tensor, "N L"]:
    """Return - d k / d log pi of an estimator k of KL(pi || pi_ref) at each token.

    It is computed from x = log pi / pi_ref (`drift`) and pi / pi_old (`ratio`).

    Raises:
        ConfigError: the estimator is unknown.
    """
    if estimator == "k1":
        return -torch.ones_like(drift)
    if estimator == "k2":
        return -drift
    if estimator == "k3":
        return torch.expm1(-drift)
    if estimator == "k3w":
        return -ratio * drift
    raise ConfigError(f"The KL estimator {estimator!r} has no weights here: give k1, k2, k3 or k3w.")


@dataclass(frozen=True)
class GroupTerms:
    """Terms of the loss of RLVR in log-probabilities: an entropy bonus is none of them."""

    beta: float = RLVRConfig.beta
    """Weight of the KL; 0 leaves it out."""
    kl_estimator: str = RLVRConfig.kl_estimator
    """`k1`, `k2`, `k3` or `k3w`."""
    normalisation: str = RLVRConfig.normalisation
    """`grpo`, `dr_grpo`, `dapo`, `gspo` or `cispo`."""
    max_new_tokens: int = RLVRConfig.max_new_tokens
    """Maximum number of tokens of a completion, by which `dr_grpo` divides."""
    epsilon: float = RLVRConfig.epsilon
    """Clipping range of the ratio below 1."""
    epsilon_high: float = RLVRConfig.epsilon_high
    """Clipping range of the ratio above 1."""

    @classmethod
    def of(cls, config: RLVRConfig) -> "GroupTerms":
        """Return the terms of a training."""
        return cls(**{each.name: getattr(config, each.name) for each in fields(cls)})


def group_weights(
    logprobs: Float[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    old: Float[Tensor, "N L"],
    advantages: Float[Tensor, " N"],
    reference: Float[Tensor, "N L"] | None = None,
    terms: GroupTerms = GroupTerms(),
) -> TokenWeights:
    """Return c_t (A r_t + beta k_t), without A r_t where clipped: RLVR (E15).

    In GSPO r_t is the ratio of the completion at each of its tokens, in A r_t and the clip; in CISPO it is bounded in A
    r_t, and nothing is clipped.

    Args:
        logprobs: log pi.
        mask: tokens of the completions that count.
        old: log pi of the policy that sampled.
        advantages: one for each completion, within its group.
        reference: log pi_ref; None leaves the KL out.
        terms: of the loss.

    Raises:
        ConfigError: the estimator or normalisation is unknown.
    """
    if terms.normalisation not in NORMALISATIONS:
        names = ", ".join(NORMALISATIONS)
        raise ConfigError(f"The normalisation {terms.normalisation!r} has no weights here: give one of {names}.")
    variant = NORMALISATIONS[terms.normalisation]
    now, before = variant.unit.logprobs(logprobs, mask), variant.unit.logprobs(old, mask)
    weights = REWARD_WEIGHTS[variant.surrogate]
    reward = weights((now - before).exp(), advantages[:, None], terms.epsilon, terms.epsilon_high).where(mask, 0)
    kl = torch.zeros_like(reward)
    if terms.beta and reference is not None:
        drift, ratio = logprobs - reference, (logprobs - old).exp()
        kl = (terms.beta * kl_weights(drift, ratio, terms.kl_estimator)).where(mask, 0)
    shares, count = variant.weights(mask, terms.max_new_tokens)
    shares = shares / max(count, 1)
    return TokenWeights(shares * (reward + kl), shares * kl)


def value_weights(
    values: Float[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    old: Float[Tensor, "N L"],
    returns: Float[Tensor, "N L"],
    epsilon: float = RLHFConfig.epsilon_value,
    vf_coef: float = RLHFConfig.vf_coef,
) -> Float[Tensor, "N L"]:
    """Return v_t = - dL / dV_t = - vf_coef (V_t - return_t) / n, 0 where clipped: the value head of RLHF (E11).

    V_t is clipped if it is further than `epsilon` (0: no clipping) from the old value and its error is below that of
    the bound.
    """
    errors = values - returns
    bound = values.clamp(old - epsilon, old + epsilon) if epsilon else values
    clipped = (bound - returns).square() > errors.square()
    return (-vf_coef * errors).where(mask & ~clipped, 0) / mask.sum().clamp(min=1)


@dataclass(frozen=True)
class Gradient:
    """The gradient of a method on a batch, token by token."""

    method: str
    """Name of the method in `probe train`."""
    completions: list[list[int]]
    """[N] ids of y; in pretraining all tokens of a row but the first."""
    logprobs: Float[Tensor, "N L"]
    """log pi(y_t | x, y_<t) in nats, at the temperature of the method; gradients flow through it."""
    mask: Bool[Tensor, "N L"]
    """Mask of the tokens in the loss."""
    weights: TokenWeights
    """w_t, without gradient."""
    values: Float[Tensor, "N L"] | None = None
    """V_t of the value head, with gradient; only for RLHF."""
    value_weights: Float[Tensor, "N L"] | None = None
    """v_t, without gradient."""

    def objective(self) -> Float[Tensor, ""]:
        """Return sum_t w_t log pi(y_t) + sum_t v_t V_t, whose gradient is minus that of the mean loss."""
        total = (self.weights.values * self.logprobs).sum()
        if self.values is None or self.value_weights is None:
            return total
        return total + (self.value_weights * self.values).sum()


def token_weights(method: str, logprobs: Float[Tensor, "N L"], mask: Bool[Tensor, "N L"], **facts: Any) -> TokenWeights:
    """Compute w_t of a method from the log-probabilities of tokens and the method's other quantities.

    Args:
        method: pretrain, sft, rsft, dpo, rlhf or rlvr.
        logprobs: log pi(y_t | x, y_<t) in nats.
        mask: tokens in the loss.
        facts: further arguments of the method's function: none (`imitation_weights`, pretrain and sft), or see
            `selection_weights` (rsft), `pair_weights` (dpo), `policy_weights` (rlhf), `group_weights` (rlvr).

    Raises:
        ConfigError: the method is unknown.
        DataError: log-probabilities and mask have different shapes.
    """
    functions = {each.method: each.weights for each in KINDS.values()}
    if method not in functions:
        raise ConfigError(f"The method {method!r} has no weights of tokens: give one of {', '.join(functions)}.")
    if logprobs.shape != mask.shape:
        raise DataError(
            f"The log-probabilities have the shape {list(logprobs.shape)} and the mask {list(mask.shape)}: give one"
            " flag for each token."
        )
    with torch.no_grad():
        return functions[method](logprobs.detach(), mask, **facts)


def read(config: TrainConfig, model: nn.Module, examples: Sequence[Any]) -> Gradient:
    """Compute the gradient of a trainer's batch, token by token.

    Args:
        config: options of the method, of which only those of the loss matter.
        model: model of the method's loss: a causal language model, for RLHF with its head (`ModelWithHead`); in
            evaluation mode, since dropout would differ from pass to pass.
        examples: the whole batch of an update, in the form of the method's loss; it determines the denominators.

    Raises:
        ConfigError: the method has no such weights.
        DataError: a prompt is empty, or a sequence is longer than the model's context.
    """
    return _kind(config).read(config, model, examples)


def gradient_gap(config: TrainConfig, loss: LossFunction, model: nn.Module, examples: Sequence[Any]) -> float:
    """Measure the distance between the weighted sum and the gradient of the trainer's loss, which is 0 up to rounding.

    Returns:
        The largest ratio |difference| / |gradient of the loss| over the parameters, as Euclidean norms by autograd; the
        denominator is at least 10^-4 of the norm of the whole gradient.

    Args:
        config: options of the method.
        loss: the trainer's `Method.loss`.
        model: as in `read`.
        examples: as in `read`.

    Raises:
        ConfigError, DataError: as in `read`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    result = loss(model, examples, False)
    totals = result.total / max(result.count, 1), read(config, model, examples).objective()
    own, ours = (torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True) for total in totals)
    floor = 1e-4 * max(float(torch.nn.utils.get_total_norm(gradients)) for gradients in (own, ours))
    gaps = [float((a + b).norm()) / max(float(a.norm()), floor) for a, b in zip(own, ours, strict=True) if floor]
    return max(gaps, default=0.0)


def _kind(config: TrainConfig) -> "GradientMethod":
    if type(config) not in KINDS:
        names = ", ".join(options.__name__ for options in KINDS)
        raise ConfigError(
            f"{type(config).__name__} is of a method without weights of tokens: give one of {names} (for continual"
            " learning that of its objective)."
        )
    return KINDS[type(config)]


def _documents(config: PretrainConfig, model: nn.Module, rows: Sequence[np.ndarray]) -> Gradient:
    inputs, targets = row_tensors(rows, next(model.parameters()).device)
    mask = targets != PADDING
    logprobs = model(input_ids=inputs, use_cache=False).logits.float().log_softmax(-1)
    logprobs = logprobs.gather(-1, targets.clamp(min=0)[..., None])[..., 0].where(mask, 0)
    completions = [row[real].tolist() for row, real in zip(targets, mask, strict=True)]
    return Gradient("pretrain", completions, logprobs, mask, token_weights("pretrain", logprobs, mask))


def _demonstrations(config: SFTConfig, model: nn.Module, examples: Sequence[Demonstration]) -> Gradient:
    completions = [example.completion for example in examples]
    outputs = completion_logprobs(model, [example.prompt for example in examples], [[ids] for ids in completions])
    learned = pad_rows([example.learned for example in examples], outputs.mask.device).bool()
    return Gradient("sft", completions, outputs.values, learned, token_weights("sft", outputs.values, learned))


def _selections(config: RSFTConfig, model: nn.Module, examples: Sequence[SelectedGroup]) -> Gradient:
    completions = [completion.ids for example in examples for completion in example.group.completions]
    outputs = group_logprobs(model, [example.group for example in examples])
    flags = [i in example.kept for example in examples for i in range(len(example.group.completions))]
    kept = torch.tensor(flags, device=outputs.mask.device)
    weights = token_weights("rsft", outputs.values, outputs.mask, kept=kept)
    return Gradient("rsft", completions, outputs.values, outputs.mask & kept[:, None], weights)


def _pairs(config: DPOConfig, model: nn.Module, examples: Sequence[Preference]) -> Gradient:
    outputs, _ = pair_logprobs(model, examples)
    sums = [value for pair in examples for value in (pair.ref_chosen, pair.ref_rejected)]
    weights = token_weights(
        "dpo",
        outputs.values,
        outputs.mask,
        reference=torch.tensor(sums, device=outputs.values.device),
        beta=config.beta,
        loss=config.loss,
        label_smoothing=config.label_smoothing,
    )
    completions = [ids for pair in examples for ids in (pair.chosen, pair.rejected)]
    return Gradient("dpo", completions, outputs.values, outputs.mask, weights)


def _experiences(config: RLHFConfig, model: nn.Module, examples: Sequence[Experience]) -> Gradient:
    assert isinstance(model, ModelWithHead)
    groups = [example.group for example in examples]
    outputs = group_logprobs(model.model, groups, config.temperature, model.head)
    assert outputs.readout is not None
    device, traces = outputs.values.device, [trace for example in examples for trace in example.traces]
    old, old_values, advantages, returns = (
        pad_rows([getattr(trace, name) for trace in traces], device)
        for name in ("logprobs", "values", "advantages", "returns")
    )
    mask = outputs.mask & torch.tensor([trace.counts for trace in traces], device=device)[:, None]
    return Gradient(
        "rlhf",
        [completion.ids for group in groups for completion in group.completions],
        outputs.values,
        mask,
        token_weights("rlhf", outputs.values, mask, old=old, advantages=advantages, epsilon=config.epsilon),
        outputs.readout,
        value_weights(outputs.readout.detach(), mask, old_values, returns, config.epsilon_value, config.vf_coef),
    )


def _groups(config: RLVRConfig, model: nn.Module, examples: Sequence[Any]) -> Gradient:
    completions = [completion for example in examples for completion in example.group.completions]
    outputs = group_logprobs(model, [example.group for example in examples], config.temperature)
    logprobs, device = outputs.values, outputs.values.device
    keep = torch.tensor([c.finished or not config.mask_truncated for c in completions], device=device)
    mask = outputs.mask & keep[:, None]
    has_reference = completions[0].ref_logprobs is not None
    weights = token_weights(
        "rlvr",
        logprobs,
        mask,
        old=logprobs.detach() if config.on_policy else pad_rows([c.logprobs for c in completions], device),
        advantages=torch.tensor([a for example in examples for a in example.advantages], device=device),
        reference=pad_rows([c.ref_logprobs or [] for c in completions], device) if has_reference else None,
        terms=GroupTerms.of(config),
    )
    return Gradient("rlvr", [c.ids for c in completions], logprobs, mask, weights)


class GradientMethod(NamedTuple):
    """A method: its name, its source of y, and its weights."""

    method: str
    """Name of the method in `probe train`."""
    source: str
    """Source of y, in words."""
    weights: Callable[..., TokenWeights]
    """Function from log-probabilities, mask and the method's other quantities to weights."""
    read: Callable[[Any, nn.Module, Sequence[Any]], Gradient]
    """Function from config, model and examples to the gradient."""


KINDS: dict[type[TrainConfig], GradientMethod] = {
    PretrainConfig: GradientMethod("pretrain", "documents", imitation_weights, _documents),
    SFTConfig: GradientMethod("sft", "demonstrations", imitation_weights, _demonstrations),
    RSFTConfig: GradientMethod("rsft", "samples of the policy, selected", selection_weights, _selections),
    DPOConfig: GradientMethod("dpo", "pairs", pair_weights, _pairs),
    RLHFConfig: GradientMethod("rlhf", "samples of the policy", policy_weights, _experiences),
    RLVRConfig: GradientMethod("rlvr", "samples of the policy", group_weights, _groups),
}
"""Methods by the class of their options, in the order of the paper."""


@dataclass(frozen=True)
class SideBySide(Drawable):
    """Token weights of several methods on the same completions of one prompt."""

    rows: pd.DataFrame
    """Rows of `table`."""
    policy: str = "base"
    """Model that takes the step: base or aligned."""
    answers: tuple[str, ...] = ()
    """Completions as they were given."""
    names: tuple[str, str] = ("base", "aligned")
    """Names of the two models."""
    notes = (
        "Rows are answers with their reward. Blue tokens become more probable, orange ones less; hover for the weight."
        " A method that does not learn from an answer has no row for it. Of a long prompt only the last tokens are"
        " drawn; the CSV holds all.",
    )

    def sentence(self) -> str:
        """State which methods only raise probabilities, which also lower them, and where the largest weight is."""
        lowest = {str(method): part["weight"].min() for method, part in self.rows.groupby("method", sort=False)}
        up, down = ([name for name, weight in lowest.items() if (weight < 0) == lowers] for lowers in (False, True))
        most = self.rows.iloc[int(self.rows["weight"].abs().to_numpy().argmax())]
        parts = [
            f"{join(up)} only push tokens up" if up else "",
            f"{join(down)} push some up and some down" if down else "",
        ]
        policy = self.names[self.policy == "aligned"]
        count = self.rows["completion"].nunique()
        return (
            f"In a step of {policy} on {count} answers {', and '.join(filter(None, parts))}; the largest weight is that"
            f" of {most['method']} at \u201c{str(most['token']).strip()}\u201d of answer {most['completion'] + 1}"
            f" ({most['weight']:+.2g})."
        ).replace("(-", "(\u2212")

    def table(self) -> pd.DataFrame:
        """Return one row for each method and token that it learns from.

        Columns: method, source, completion (number from 0), reward, position (in prompt and completion, from 0), id,
        token, weight (w_t) and kl (the part of w_t from a KL in the loss).
        """
        return self.rows.copy()

    def figures(self, scale: Scale = "one scale") -> "dict[str, go.Figure]":
        """Draw one panel per method and one row per completion, with only the last tokens of a long prompt.

        Args:
            scale: one scale for all methods, or a scale relative to the largest weight of each method.
        """
        from probe.rewards.figures import token_weights as draw

        start = self.rows.loc[self.rows["method"] != "pretrain", "position"].min()
        room = max(2, COLUMNS - (self.rows["position"].max() - start))
        end = self.rows[self.rows["position"] >= start - room]
        title = f"What each token weighs in a step of {self.names[self.policy == 'aligned']}"
        return {"gradient": titled(draw(end, scale == "own scale"), title)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all weights."""
        return {"gradient": self.table()}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return one row per method (tokens raised and lowered, by how much, and where most), and one per answer."""
        rows = []
        for method, part in self.rows.groupby("method", sort=False):
            most = part.iloc[int(part["weight"].abs().to_numpy().argmax())]
            up, down = part["weight"] > 0, part["weight"] < 0
            rows.append(
                {
                    "method": method,
                    "learns from": most["source"],
                    "tokens raised": int(up.sum()),
                    "tokens lowered": int(down.sum()),
                    "sum of weights up": float(part.loc[up, "weight"].sum()),
                    "sum down": float(part.loc[down, "weight"].sum()),
                    "largest weight": float(most["weight"]),
                    "at": f"{most['token']} (answer {most['completion'] + 1})",
                }
            )
        scores = self.rows.drop_duplicates("completion").sort_values("completion")
        said = self.answers or [f"answer {number + 1}" for number in scores["completion"]]
        answers = {"answer": [said[number] for number in scores["completion"]], "reward": scores["reward"].tolist()}
        return {"Methods": pd.DataFrame(rows), "Answers": pd.DataFrame(answers)}

    def figure(self, relative: bool = False) -> "go.Figure":
        """Draw one panel per method and one row per completion: tokens coloured by w_t, on one scale centred on zero.

        Args:
            relative: scale colours to the largest weight of each method, since sizes can differ by orders of magnitude
                (IPO's are near 1 / beta, Dr. GRPO's are divided by the longest completion allowed).
        """
        from probe.rewards.figures import token_weights as draw

        return draw(self.rows, relative)


def side_by_side(
    lm: LM,
    prompt: str,
    completions: Sequence[str],
    rewards: Sequence[float],
    reference: LM | None = None,
    configs: Mapping[str, TrainConfig] | None = None,
) -> SideBySide:
    """Compute w_t of every method for completions of one prompt, as in the first update of a step, where pi_old is pi.

    Pretraining and SFT learn the completion with the highest reward, pretraining together with the prompt; DPO learns
    the pair of the completions with the highest and the lowest reward; RSFT, RLHF and RLVR use all completions as
    samples. RLHF's value head is new and predicts 0.

    Args:
        lm: the policy.
        prompt: text before every completion.
        completions: at least two; each gets the end token.
        rewards: one reward per completion, the score in RLHF, RSFT and RLVR; not all equal.
        reference: pi_ref; by default the policy itself, as at the start of a training.
        configs: title -> options of a method, of which those of the loss matter; by default one for each method.

    Raises:
        ConfigError: a method has no such weights.
        DataError: there are too few completions, the rewards are equal, not finite or do not match in number, the
            reference has other tokens, or a text is too long.
    """
    if len(completions) != len(rewards) or not np.isfinite(rewards).all() or len(set(rewards)) < 2:
        raise DataError(
            f"{len(completions)} completions have the rewards {list(rewards)}: give each a finite number, and two of"
            " them different ones."
        )
    if reference is not None:
        require_same_tokens(lm, reference)
    titles = configs or {kind.method: options(**_PATHS) for options, kind in KINDS.items()}
    encoded = [encode_completion(lm, prompt, text) for text in completions]
    check_lengths(lm.model, [encoded[0].prompt], [example.tokens for example in encoded])
    case = _Case(lm, reference or lm, encoded, list(completions), list(map(float, rewards)))
    with torch.no_grad():
        tables = [case.table(title, config) for title, config in titles.items()]
    return SideBySide(pd.concat(tables, ignore_index=True))


_PATHS: dict[str, Any] = {"out": Path("unused"), "base": "unused"}
"""Required options that no loss reads."""


@dataclass(frozen=True)
class _Case:
    """Completions of one prompt, from which the examples of each method are made."""

    lm: LM
    reference: LM
    encoded: list[Demonstration]
    texts: list[str]
    rewards: list[float]

    def table(self, title: str, config: TrainConfig) -> pd.DataFrame:
        """Return the rows of one method, one per token of each completion that it uses."""
        kind = _kind(config)
        model, examples, numbers = self.examples(config)
        gradient = kind.read(config, model, examples)
        rows = []
        for number, ids, row, kl in zip(numbers, gradient.completions, *gradient.weights, strict=True):
            start = self.encoded[number].tokens - len(ids)
            columns = zip(ids, pieces(self.lm.tokenizer, ids), row.tolist(), kl.tolist(), strict=False)
            rows += [
                (title, kind.source, number, self.rewards[number], start + t, *column)
                for t, column in enumerate(columns)
            ]
        names = ["method", "source", "completion", "reward", "position", "id", "token", "weight", "kl"]
        return pd.DataFrame(rows, columns=names)

    def examples(self, config: TrainConfig) -> tuple[nn.Module, list[Any], list[int]]:
        """Return the model, the examples, and the number of the completion in each row of their gradient."""
        best, worst = (self.rewards.index(end) for end in (max(self.rewards), min(self.rewards)))
        model, prompt, every = self.lm.model, self.encoded[0].prompt, list(range(len(self.rewards)))
        match config:
            case PretrainConfig():
                return model, [np.array([*prompt, *self.encoded[best].completion])], [best]
            case SFTConfig():
                return model, [self.encoded[best]], [best]
            case DPOConfig():
                chosen, rejected = (self.encoded[number].completion for number in (best, worst))
                first, second = map(math.fsum, self.logprobs(self.reference, [chosen, rejected], 1.0))
                return model, [Preference(prompt, chosen, rejected, first, second)], [best, worst]
            case RSFTConfig():
                kept = SELECTIONS[config.select](self.rewards, config.threshold)
                return model, [SelectedGroup(self.group(config), kept)], every
            case RLHFConfig():
                group = self.group(config)
                logprobs = [completion.logprobs for completion in group.completions]
                traces = learn(group.completions, logprobs, [[0.0] * len(r) for r in logprobs], config.beta, config)
                head = ValueHead(width_of(model)).to(self.lm.device)
                return ModelWithHead(model, head), [Experience(group, traces)], every
            case RLVRConfig():
                return model, with_advantages([self.group(config)], config.normalisation), every
        raise AssertionError(config)

    def logprobs(self, lm: LM, completions: list[list[int]], temperature: float) -> list[list[float]]:
        """Return log pi of each token of the completions under `lm`."""
        values = completion_logprobs(lm.model, [self.encoded[0].prompt], [completions], temperature=temperature).values
        return [row[: len(ids)] for row, ids in zip(values.tolist(), completions, strict=True)]

    def group(self, config: OnlineConfig) -> CompletionGroup:
        """Return all completions as a group sampled from the policy."""
        ids = [example.completion for example in self.encoded]
        policy, reference = (self.logprobs(lm, ids, config.temperature) for lm in (self.lm, self.reference))
        columns = zip(ids, self.texts, policy, reference, self.rewards, strict=True)
        made = [Completion(y, text, p, [], True, {}, reward, ref) for y, text, p, ref, reward in columns]
        return CompletionGroup("", self.encoded[0].prompt, {}, made, 0)


def join(names: Sequence[str]) -> str:
    """Join names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
