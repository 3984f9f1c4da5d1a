"""One capture: attention, lens, norms and direct attribution of a model on fixed prompts, all of one hooked pass.

Looking changes nothing: a capture runs without gradients on a module tree of its own that shares the parameters
(`LM.bridge`), and leaves random generators, training mode and the hooks of the model as they were.

Axes: P prompts, D blocks, H heads, T tokens (padded on the right, zero there), k predictions, A answers, n neurons.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from probe.logits.attribution import attribute_last, last_names, last_posts
from probe.logits.lens import lens_logprobs, read_lens, residual_names
from probe.model.lm import LM
from probe.model.text import pad, pad_id
from probe.runs.schema import NEURONS, TOP_K, ProbePrompt


def measure(lm: LM, prompts: Sequence[ProbePrompt]) -> dict[str, Tensor]:
    """The tensors of one capture (docs/runs.md), all prompts in one batch.

    Returns:
        attention [P D H T T] (rows are queries); lens_top_ids, lens_top_logprobs [P D+1 T k] and
        lens_answer_logprobs [P D+1 T A] of the logit lens, in nats, row 0 after the embedding and row D the output;
        lens_answer_ranks [P D+1 T A] (0 is the likeliest), lens_entropy and lens_margin [P D+1 T] in nats; entropy
        [P T] of the output and margin [P T] between its two likeliest tokens, in nats; residual_norm [P D+1 T]. Where
        the parts of the model sum to its logits, attribution [P D H+1] of the first answer minus the second after the
        last token, MLPs last, attribution_total [P 2]: what the other parts add, and the target's value, and
        promoted_ids [P D H+1 2 k]: the tokens that each part promotes, and those that it suppresses. Where neurons
        make up the MLPs too, neuron_ids and neuron_attribution [P D n]: the neurons of each block that add or take
        most, the strongest first.

    Raises:
        ModelError: the architecture cannot be hooked or read by the lens.
    """
    ids, mask = pad([prompt.token_ids for prompt in prompts], pad_id(lm.tokenizer))
    answers, _ = pad([prompt.answer_ids for prompt in prompts], -1)
    with undisturbed(lm.model):
        residuals = residual_names(lm)
        patterns = [f"blocks.{block}.attn.hook_pattern" for block in range(len(residuals) - 1)]
        parts = last_names(lm)
        hooks = [*patterns, *residuals, *parts]
        last = mask.sum(1) - 1
        with last_posts(lm, ids.shape, last) as posts:
            logits, cache = lm.run_with_cache([prompt.token_ids for prompt in prompts], hooks)
        lens = read_lens(lens_logprobs(lm, cache, logits), ids, TOP_K, answers)
        written = attribute_last(lm, parts, cache, logits, last, answers, TOP_K, posts, NEURONS)
        attention = torch.stack([cache[name] for name in patterns], dim=1)
        norms = torch.stack([cache[name].float().norm(dim=-1) for name in residuals], dim=1)
    mask = mask.to(logits.device)
    pairs = (mask[:, :, None] & mask[:, None, :])[:, None, None]
    layers = mask[:, None, :]
    asked = layers[..., None] & (answers >= 0).to(mask.device)[:, None, None, :]
    top = lens.top_logprobs
    margin = top[..., 0] - top[..., min(1, top.shape[-1] - 1)]
    tensors = {
        "attention": _zero(attention, pairs),
        "lens_top_ids": _zero(lens.top_ids, layers[..., None]),
        "lens_top_logprobs": _zero(top, layers[..., None]),
        "lens_answer_logprobs": _zero(lens.answer_logprobs, asked),
        "lens_answer_ranks": _zero(lens.answer_ranks, asked),
        "lens_entropy": _zero(lens.entropy, layers),
        "lens_margin": _zero(margin, layers),
        "entropy": _zero(lens.entropy[:, -1], mask),
        "margin": _zero(margin[:, -1], mask),
        "residual_norm": _zero(norms, layers),
    }
    if written is not None:
        tensors["attribution"] = written.parts
        tensors["attribution_total"] = torch.stack([written.rest, written.value], dim=-1)
        tensors["promoted_ids"] = written.promoted
        if written.neurons is not None:
            tensors["neuron_ids"], tensors["neuron_attribution"] = written.neurons
    return tensors


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, full precision and no gradients inside; afterwards mode and random generators are as before."""
    training = [module for module in model.modules() if module.training]
    device = next(model.parameters()).device
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
    """`tensor` with zeros where nothing real stands."""
    return torch.where(where, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))
