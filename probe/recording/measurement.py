"""Measurement of one capture: attention, lens, norms and attribution of a model on the fixed prompts.

One hooked pass gives all of it. The activations of a block are read as they are computed and then dropped, so besides
the result only one block is in memory; a large result lies in a temporary file until it is written.

Axes: P prompts (p of them in one batch), D blocks, H heads, T tokens, C captured columns (the last tokens of each
prompt), k predictions, A answers, n neurons, d width, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad as widen

from probe.logits.lens import LensReader, LensRows
from probe.logits.readout import require_own_logits, residual_names, unembed
from probe.logits.shares import attribute_last, last_hooks, last_names
from probe.model.lm import LM, SMALL
from probe.model.memory import require_room
from probe.model.placement import input_device
from probe.model.text import pad, pad_id
from probe.recording.attention_rows import AttentionRows
from probe.recording.capture_plan import CaptureOptions, CapturePlan, Shape, plan_capture
from probe.runs.captures import COLUMNS
from probe.runs.schema import NEURONS, TOP_K, ProbePrompt

TOGETHER = 2**25
"""Maximum number of attention weights of one block of prompts that are run as one batch."""
UNEMBEDDED, READ = 2**24, 2**20
"""Maximum numbers of logits that are computed at once, which saves reading the unembedding again, and that are read at
once, which stay in the processor's cache."""
LARGEST = float(torch.finfo(torch.float16).max)
EVERYTHING = CaptureOptions(budget=0)
"""Options without any limit."""
Batch = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Readings by column [p ... C ...], and activations after the last token [p ...]."""


def measure(
    lm: LM,
    prompts: Sequence[ProbePrompt],
    plan: CapturePlan | None = None,
    *,
    first: Path | None = None,
    scratch: Path | None = None,
) -> dict[str, Tensor]:
    """Compute the tensors of one capture (docs/runs.md).

    Args:
        lm: the model.
        prompts: the prompts.
        plan: what to capture; default: everything.
        first: file of the run's first capture, from which heads are said to have moved.
        scratch: folder for large results until they are written.

    Returns:
        attention [P D H T T] (rows are queries), if every block has heads and all of it is captured, else the tensors
        of `AttentionRows`; lens_top_ids, lens_top_logprobs [P D+1 C k] and lens_answer_logprobs [P D+1 C A] of the
        logit lens, in nats, row 0 after the embedding and row D the output; lens_answer_ranks [P D+1 C A] (0 is the
        most probable), lens_entropy and lens_margin [P D+1 C] in nats; entropy [P C] of the output and margin [P C]
        between its two most probable tokens, in nats; residual_norm [P D+1 C]; residual_last [P D+1 d], the residual
        stream at the last token, up to the largest number of half precision. If the parts of the model sum to its
        logits, promoted_ids [P D H+1 2 k]: the tokens that each part promotes, and those that it suppresses;
        attribution [P D H+1] of the first answer minus the second after the last token, MLPs last, and
        attribution_total [P 2]: the contribution of the other parts, and the target's value. If neurons also sum to the
        MLPs, neuron_ids and neuron_attribution [P D n]: the neurons of each block with the largest absolute
        contributions, strongest first. NaN for prompts without answers.

    Raises:
        ModelError: the architecture cannot be hooked or read by the lens.
        DataError: one block of the longest prompt does not fit into the free memory.
    """
    plan = plan or plan_for(lm, prompts, EVERYTHING)
    answers, _ = pad([prompt.answer_ids for prompt in prompts], -1)
    rows = AttentionRows(plan, first, scratch) if "attention" in plan.parts and plan.heads else None
    with leave_undisturbed(lm.model):
        batches = [
            _read_batch(lm, prompts[part], answers[part], plan, rows, part.start)
            for part in _batches(plan.shape.lengths, plan.shape.heads)
        ]
        tensors = _join([columns for columns, _ in batches])
        last = {name: torch.cat([each[name] for _, each in batches]) for name in batches[0][1]}
        if "norms" in plan.parts:
            tensors["residual_last"] = last.pop("residual_last")
        attribution = attribute_last(lm, last, answers, TOP_K, NEURONS) if last else None
    if attribution is not None:
        without = (answers < 0).all(1).to(attribution.parts.device)  # no attribution: NaN, not 0
        tensors["promoted_ids"] = attribution.promoted
        tensors["attribution"] = _missing(attribution.parts, without)
        tensors["attribution_total"] = _missing(torch.stack([attribution.rest, attribution.value], dim=-1), without)
        if attribution.neurons is not None:
            tensors["neuron_ids"], values = attribution.neurons
            tensors["neuron_attribution"] = _missing(values, without)
    if plan.columns < max(plan.shape.lengths):
        tensors[COLUMNS] = torch.tensor([plan.columns], dtype=torch.int32)
    return tensors | (rows.tensors() if rows else {})


def plan_for(lm: LM, prompts: Sequence[ProbePrompt], options: CaptureOptions) -> CapturePlan:
    """Plan the captures of a model.

    Raises:
        ConfigError: see `plan_capture`.
        ModelError: the architecture cannot be hooked.
    """
    shape = Shape(
        lengths=tuple(prompt.length for prompt in prompts),
        depth=int(lm.bridge.cfg.n_layers),
        heads=int(lm.bridge.cfg.n_heads) if _pattern_names(lm) else 0,
        width=int(lm.bridge.cfg.d_model),
        answers=max(len(prompt.answer_ids) for prompt in prompts),
        attributed=bool(last_names(lm)),
    )
    return plan_capture(options, shape)


def _pattern_names(lm: LM) -> list[str]:
    """Return the hook names of the attention patterns, one per block; none if a block has no heads."""
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(lm.bridge.cfg.n_layers)]
    return names if all(name in lm.bridge.hook_dict for name in names) else []


def _batches(lengths: Sequence[int], heads: int) -> Iterator[slice]:
    """Yield neighbouring prompts that are run as one batch."""
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or (end + 1 - start) * max(heads, 1) * max(lengths[start : end + 1]) ** 2 > TOGETHER:
            yield slice(start, end)
            start = end


def _read_batch(
    lm: LM,
    prompts: Sequence[ProbePrompt],
    answers: Int[Tensor, "p A"],
    plan: CapturePlan,
    rows: AttentionRows | None,
    first: int,
) -> Batch:
    """Run some prompts, of which the first has the number `first`, and read each block as it is computed."""
    texts = [list(prompt.token_ids) for prompt in prompts]
    ids, mask = pad(texts, pad_id(lm.tokenizer))
    if ids.numel() > SMALL:
        require_room(lm, texts, ())
    kept, real = _last_columns([len(text) for text in texts], plan.columns)
    names = residual_names(lm)
    lens = _LensColumns(lm, ids.gather(1, kept), answers) if "lens" in plan.parts else None
    norms, last = list[Tensor](), dict[str, Tensor]()

    def read_state(state: Tensor, hook: Any) -> None:
        states = _columns(state, kept)
        norms.append(states.float().norm(dim=-1))
        if lens is not None and len(norms) < len(names):
            lens.add(unembed(lm, part) for part in lens.split(states))

    hooks: list[Any] = [(name, read_state) for name in names]
    if rows is not None:
        patterns = enumerate(_pattern_names(lm))
        hooks += [(name, partial(rows.take, block, first)) for block, name in patterns]
    parts = last_names(lm) if "attribution" in plan.parts else []
    hooks += last_hooks([*parts, *names], ids.shape, mask.sum(1) - 1, last)
    with lm.hooks(hooks):
        logits = lm.logits(texts)
    last["logits"] = logits[torch.arange(len(texts)), mask.sum(1) - 1].float()
    if lens is not None:
        require_own_logits(lm, last[names[-1]], last["logits"])
        lens.add(lens.split(_columns(logits, kept)))
    columns = {"residual_norm": torch.stack(norms, dim=1)} if "norms" in plan.parts else {}
    ends = torch.stack([last[name].to(logits.device) for name in names], dim=1).clamp(-LARGEST, LARGEST)
    columns |= _lens_tensors(lens.readings(), answers) if lens is not None else {}
    real = real.to(logits.device)
    masked = {name: _zero(tensor, _along(real, tensor)) for name, tensor in columns.items()}
    return masked, (last if parts else {}) | ({"residual_last": ends} if "norms" in plan.parts else {})


class _LensColumns:
    """Lens at some columns of a batch, some columns at a time if there are too many logits."""

    def __init__(self, lm: LM, ids: Int[Tensor, "p C"], answers: Int[Tensor, "p A"]) -> None:
        vocabulary = len(ids) * lm.model.get_output_embeddings().weight.shape[0]
        self.size = max(1, READ // vocabulary)
        self.together = self.size * max(1, UNEMBEDDED // (self.size * vocabulary))
        self.readers = [LensReader(part, TOP_K, answers) for part in ids.split(self.size, 1)]

    def split(self, values: Float[Tensor, "p C n"]) -> Sequence[Float[Tensor, "p c n"]]:
        """Return the columns in the parts that go through the unembedding at once."""
        return values.split(self.together, 1)

    def add(self, logits: Iterable[Float[Tensor, "p c V"]]) -> None:
        """Read the next layer."""
        parts = (part for several in logits for part in several.split(self.size, 1))
        for reader, part in zip(self.readers, parts, strict=True):
            reader.add(part.float().log_softmax(-1))

    def readings(self) -> LensRows:
        """Return the readings of all layers and columns."""
        return LensRows(*(torch.cat(part, 2) for part in zip(*(each.readings() for each in self.readers), strict=True)))


def _lens_tensors(lens: LensRows, answers: Int[Tensor, "p A"]) -> dict[str, Tensor]:
    """Return the tensors of the lens; those of missing answers are 0."""
    top, given = lens.top_logprobs, (answers >= 0).to(lens.top_ids.device)[:, None, None, :]
    margin = top[..., 0] - top[..., min(1, top.shape[-1] - 1)]
    return {
        "lens_top_ids": lens.top_ids,
        "lens_top_logprobs": top,
        "lens_answer_logprobs": _zero(lens.answer_logprobs, given),
        "lens_answer_ranks": _zero(lens.answer_ranks, given),
        "lens_entropy": lens.entropy,
        "lens_margin": margin,
        "entropy": lens.entropy[:, -1],
        "margin": margin[:, -1],
    }


def _last_columns(lengths: Sequence[int], most: int) -> tuple[Int[Tensor, "p C"], Bool[Tensor, "p C"]]:
    """Return the positions of the last `most` tokens of each prompt, and which of them are tokens of the prompt."""
    size = torch.tensor(lengths)[:, None]
    positions = (size - most).clamp(min=0) + torch.arange(min(most, max(lengths)))
    return positions.clamp(max=max(lengths) - 1), positions < size


def _columns(values: Float[Tensor, "p T n"], kept: Int[Tensor, "p C"]) -> Float[Tensor, "p C n"]:
    """Return some positions of each prompt."""
    if kept.shape[1] == values.shape[1]:
        return values
    at = kept.to(values.device)
    return values[torch.arange(len(at), device=at.device)[:, None], at]


def _along(real: Bool[Tensor, "p C"], tensor: Tensor) -> Bool[Tensor, "p ..."]:
    """Return the mask of tokens in a shape that fits a tensor [p C], [p D+1 C] or [p D+1 C n]."""
    return real if tensor.dim() == 2 else real[:, None, :, *[None] * (tensor.dim() - 3)]


def _join(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the readings of all batches; columns of shorter prompts are filled with zeros."""
    joined = {}
    for name, tensor in batches[0].items():
        after = max(0, tensor.dim() - 3)  # axes after that of the columns
        widths = [each[name].shape[tensor.dim() - 1 - after] for each in batches]
        fills = [(0, 0) * after + (0, max(widths) - width) for width in widths]
        joined[name] = torch.cat([widen(each[name], fill) for each, fill in zip(batches, fills, strict=True)])
    return joined


def _missing(tensor: Float[Tensor, "P ..."], where: Tensor) -> Float[Tensor, "P ..."]:
    """Return `tensor` with NaN for some prompts."""
    return tensor.masked_fill(where.view(-1, *[1] * (tensor.dim() - 1)), torch.nan)


@contextmanager
def leave_undisturbed(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, full precision and no gradients; restore mode and random generators afterwards."""
    training = [module for module in model.modules() if module.training]
    device = input_device(model)
    with (
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _zero(tensor: Tensor, where: Tensor) -> Tensor:
    """Return `tensor` with zeros elsewhere."""
    return torch.where(where, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))
