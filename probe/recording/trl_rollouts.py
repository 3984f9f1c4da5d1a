"""Rollouts of TRL's GRPOTrainer and RLOOTrainer, as rows of rollouts.jsonl (docs/runs.md), and metrics of its samples.

TRL does not pass its samples to callbacks, and its public record (`log_completions`) has their texts, rewards and
advantages without token ids, and only of steps that are logged. So the method that makes a batch of scored completions
is wrapped during training; its result is unchanged, whether transformers or vLLM sampled. Log-probabilities and
entropies of the few recorded completions are computed again under the policy and the reference, without dropout, with
one pass of each over the recorded prompts.

TRL logs rewards, lengths and, with vLLM, most of the gap between sampler and trainer. `SampleMetrics` adds what
Probe's own trainers log beside these, by the same functions: repetition, the correlation of reward and length, the
effective sample size, and, of recorded completions, the entropy by position.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from probe.model.adapted import reference_active
from probe.model.scoring import TokenLogprobs, completion_logprobs
from probe.model.template_marks import decoded_row
from probe.model.text import pieces
from probe.recording.recorder import leave_undisturbed
from probe.recording.signs import entropy_by_position, gap_metrics, group_metrics
from probe.runs.encoded_rows import ROWS, EncodedRow

EVERY, KEPT = 10, 4
"""Steps between two recorded ones, and number of prompts whose completions are recorded, as in `probe train rlvr`."""
SAMPLE = "_generate_and_score_completions"
"""Name of TRL's method that makes a batch of completions with their advantages from rows of the data."""
BATCH = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
"""Names of the batch's tensors with one row per completion."""

EFFECTIVE = "sampling/effective_sample_size"
"""Measure of the gap between sampler and trainer that TRL does not log."""
SAMPLED = "sampling_per_token_logps"
"""Name of the log-probabilities under the engine that sampled, in a batch by vLLM; others have none."""

Row = dict[str, Any]
Write = Callable[[list[Row]], None]


def misfit(trainer: Any) -> str | None:
    """Return why the rollouts of a GRPOTrainer or RLOOTrainer cannot be recorded, as a sentence; None if they can."""
    if trainer is None:
        return (
            "Rollouts are not recorded, because trainers do not show them to their callbacks: add this one by"
            " `trainer.add_callback(ProbeCallback(..., trainer=trainer))`."
        )
    lacking = [name for name in (SAMPLE, "_logs", "reward_func_names", "reward_weights") if not hasattr(trainer, name)]
    return f"Rollouts are not recorded: {_foreign(trainer, lacking[0])}" if lacking else None


class SampleMetrics:
    """Metrics of the samples since the last row of a trainer's log; their means go into the next one, as TRL's do."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of a batch."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """Return the mean of each metric over the batches in which it is a number, and begin anew."""
        known = {name: [each for each in values if not math.isnan(each)] for name, values in self._values.items()}
        self._values = {}
        return {name: math.fsum(values) / len(values) if values else math.nan for name, values in known.items()}


def sample_metrics(trainer: Any, batch: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a batch that TRL does not log (docs/metrics.md): of this process, of whole groups.

    Args:
        trainer: a GRPOTrainer or RLOOTrainer; its rewards must be those of this batch.
        batch: see `rollout_rows`; `old_per_token_logps` [N L] too where TRL computes them.
    """
    size, local = trainer.num_generations, len(batch["completion_ids"])
    count = local // size * size
    ids = [_completion(trainer, batch, n) for n in range(count)]
    weights = trainer.reward_weights.tolist()
    rewards = [_weighted_sum(list(each.values()), weights) for each in _rewards(trainer, local, count)]
    places = range(0, count, size)
    groups = [ids[first : first + size] for first in places]
    metrics = group_metrics(groups, [rewards[first : first + size] for first in places]) if groups else {}
    sampled, old = batch.get(SAMPLED), batch.get("old_per_token_logps")
    if sampled is not None and old is not None:
        mask = batch["completion_mask"].bool() & batch.get("tool_mask", batch["completion_mask"]).bool()
        gaps: Tensor = (old - sampled)[mask & ~sampled.isnan()]
        metrics |= {name: value for name, value in gap_metrics(gaps).items() if name == EFFECTIVE}
    return metrics


def record(
    trainer: Any,
    write: Write,
    metrics: SampleMetrics,
    show: Callable[[list[EncodedRow]], None],
    complain: Callable[[str], None],
) -> Callable[[], None]:
    """Record a trainer's samples from now on, at the first step and then every `EVERY` steps.

    Args:
        trainer: a GRPOTrainer or RLOOTrainer without a `misfit`.
        write: function that receives the rows of a step.
        metrics: metrics to which those of each batch are added.
        show: function that receives, once, the prompts of the first batch as the model reads them.
        complain: function that receives, once, a sentence on why nothing more can be recorded.

    Returns:
        A function that ends the recording and restores the trainer.
    """
    sample, wrapped_before = getattr(trainer, SAMPLE), SAMPLE in vars(trainer)
    newest = -EVERY

    def sample_and_record(inputs: Sequence[Mapping[str, Any]]) -> Any:
        nonlocal newest
        batch, step = sample(inputs), int(trainer.state.global_step) + 1
        if not trainer.model.training:
            return batch
        lacking = [name for name in BATCH if name not in batch]
        if lacking:
            end()
            complain(f"Rollouts are not recorded: {_foreign(trainer, lacking[0])}")
            return batch
        metrics.add(sample_metrics(trainer, batch))
        if newest < 0:
            show(prompt_rows(trainer, batch))
        due = step % EVERY == 0 or step == trainer.state.max_steps or step >= newest + EVERY
        if not due or step == newest:  # a step may have several batches
            return batch
        newest = step
        rows = rollout_rows(trainer, step, inputs, batch)
        metrics.add(entropy_by_position([row["entropy"] for row in rows if "entropy" in row]))
        write(rows)
        return batch

    def end() -> None:
        if wrapped_before:
            setattr(trainer, SAMPLE, sample)
        else:
            vars(trainer).pop(SAMPLE, None)

    setattr(trainer, SAMPLE, sample_and_record)
    return end


def prompt_rows(trainer: Any, batch: Mapping[str, Any]) -> list[EncodedRow]:
    """Return the first prompts of a batch as the model reads them."""
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    both = list(zip(batch["prompt_ids"], batch["prompt_mask"], strict=True))[:: trainer.num_generations][:ROWS]
    return [decoded_row(tokenizer, ids[mask.bool()].tolist(), ()) for ids, mask in both]


def rollout_rows(
    trainer: Any, step: int, inputs: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], kept: int = KEPT
) -> list[Row]:
    """Return the completions of the first `kept` prompts of a batch that a trainer has just made, one row each.

    Args:
        trainer: a GRPOTrainer or RLOOTrainer; its rewards must be those of this batch.
        step: training step that uses them.
        inputs: N rows of the data; each prompt occurs as often as it has completions.
        batch: prompt_ids and prompt_mask [N P], completion_ids and completion_mask [N L], advantages [N] or [N L], and
            sampling_per_token_logps [N L] if vLLM sampled.
        kept: number of prompts to record.
    """
    size = trainer.num_generations
    count = min(len(inputs), kept * size)
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    prompts = [batch["prompt_ids"][n][batch["prompt_mask"][n].bool()].tolist() for n in range(count)]
    completions = [_completion(trainer, batch, n) for n in range(count)]
    rewards = _rewards(trainer, len(inputs), count)
    weights = trainer.reward_weights.tolist()
    ends = {*getattr(trainer, "eos_token_ids", ()), tokenizer.eos_token_id, tokenizer.pad_token_id}
    policy, reference, sampled = None, None, batch.get(SAMPLED)
    if "pixel_values" not in batch:  # completions on images cannot be scored from the text alone
        policy = _score(trainer, trainer.model, prompts, completions)
        reference = _reference(trainer, prompts, completions) if trainer.beta else None
    rows = []
    for n, ids in enumerate(completions):
        prompt, real, advantage = inputs[n].get("prompt"), slice(len(ids)), batch["advantages"][n].tolist()
        row = {
            "step": step,
            "prompt": prompt if isinstance(prompt, str) else tokenizer.decode(prompts[n]),
            "completion": tokenizer.decode(ids, skip_special_tokens=True),
            "group": n // size,
            "token_ids": ids,
            "tokens": pieces(tokenizer, ids),
            "rewards": rewards[n],
            "reward": _weighted_sum(list(rewards[n].values()), weights),
            "advantage": advantage[real] if isinstance(advantage, list) else advantage,
            "logprobs": None if policy is None else policy.values[n, real].tolist(),
            "ref_logprobs": None if reference is None else reference.values[n, real].tolist(),
            "entropy": None if policy is None else policy.entropy[n, real].tolist(),
            "sampling_logprobs": None if sampled is None else sampled[n][real].tolist(),
            "finished": ids[-1:] != [] and ids[-1] in ends,
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def _completion(trainer: Any, batch: Mapping[str, Any], n: int) -> list[int]:
    """Return the tokens of a completion.

    If TRL is set to exclude truncated completions from the loss, it masks all of their tokens. Here such a completion
    keeps its tokens.
    """
    ids, mask = batch["completion_ids"][n], batch["completion_mask"][n].bool()
    return ids[mask].tolist() if mask.any() else ids[: trainer.max_completion_length].tolist()


def _rewards(trainer: Any, local: int, count: int) -> list[dict[str, float | None]]:
    """Return each reward of the first `count` completions; with several processes those of the main one come first."""
    total = local * trainer.accelerator.num_processes
    columns = {name: list(trainer._logs["rewards"][name])[-total:] for name in trainer.reward_func_names}
    return [
        {name: None if math.isnan(values[n]) else values[n] for name, values in columns.items()} for n in range(count)
    ]


def _weighted_sum(values: Sequence[float | None], weights: Sequence[float]) -> float:
    """Return the weighted sum of rewards that is optimised; NaN if none of its parts applies."""
    parts = [weight * value for value, weight in zip(values, weights, strict=True) if value is not None]
    return math.fsum(parts) if parts else math.nan


def _score(
    trainer: Any, model: nn.Module, prompts: Sequence[list[int]], completions: Sequence[list[int]]
) -> TokenLogprobs:
    """Return log-probabilities and entropies of N completions, at their sampling temperature."""
    model, size = trainer.accelerator.unwrap_model(model), trainer.num_generations
    groups = [list(completions[first : first + size]) for first in range(0, len(completions), size)]
    with leave_undisturbed(model):
        return completion_logprobs(model, prompts[::size], groups, temperature=trainer.temperature)


def _reference(trainer: Any, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> TokenLogprobs:
    """Score completions under the reference: a separate model, or the base or the first state of the adapter."""
    if trainer.ref_model is not None:
        return _score(trainer, trainer.ref_model, prompts, completions)
    with reference_active(trainer.accelerator.unwrap_model(trainer.model)):
        return _score(trainer, trainer.model, prompts, completions)


def _foreign(trainer: Any, name: str) -> str:
    """Return a sentence that a trainer lacks `name`, so this module does not support its version."""
    import trl

    return (
        f"{type(trainer).__name__} of TRL {trl.__version__} has no `{name}`, which the one of TRL 1.16 has: use"
        " that version, or record no rollouts."
    )
