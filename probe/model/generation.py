"""The sampler (E16): a custom loop with a key-value cache around a model of transformers.

Each prompt is run once, and samples of a prompt share a row until they differ. Tokens are drawn by temperature, top-k,
top-p and min-p; the model's own generation_config decides only where texts end, never how tokens are drawn.

Random numbers do not come from a generator's state: the number for a token is a hash of the seed, the prompt, the
sample's index and the step. So a seed reproduces samples, a sample does not depend on its batch, and two models that
sample the same prompt with the same seed differ only where their distributions do.

Axes: P prompts, N = P n samples (prompt-major), L steps, V vocabulary.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import ConfigError, DataError
from probe.model import sharing
from probe.model.placement import input_device
from probe.model.scoring import check_lengths, entropy
from probe.model.text import (
    Ids,
    can_cache,
    context_length,
    encode_all,
    forward,
    pad,
    pad_id,
    positions,
    require_known,
    whole_logits,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Rules of sampling: each token is drawn from the logits by temperature, then top-k, top-p and min-p."""

    n: int = 1
    """Samples a prompt; a prompt that occurs twice gets different samples."""
    max_new_tokens: int = 32
    """A sample ends there at the latest, or where the model's context ends."""
    temperature: float = 1.0
    """Divisor of the logits; 0 takes the most probable token (greedy)."""
    top_k: int | None = None
    """Number of most probable tokens to keep."""
    top_p: float | None = None
    """Probability mass p; the smallest set of most probable tokens that reaches it is kept."""
    min_p: float | None = None
    """Minimum probability of a kept token, as a share of the most probable token's."""
    seed: int | Sequence[int] | None = None
    """Random seed; None takes one from torch's global generator. With one seed per prompt, the samples of a prompt do
    not depend on the other prompts, not even on equal ones."""
    stop: Sequence[int | str] | None = None
    """Tokens (ids, or texts of one token) that end a sample, in place of the end tokens that the tokenizer and the
    model's generation_config name; `()` never ends early."""
    top_logprobs: int | None = None
    """Number of most probable tokens to return at each step."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"The temperature {self.temperature} is not possible: give 0 (greedy) or a positive number."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k} would leave no token: give 1 or more, or leave it out.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p} is not a share of probability: give a number above 0 and up to 1.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p = {self.min_p} is not a share of probability: give a number from 0 to 1.")
        for name in ("n", "max_new_tokens", "top_logprobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value} is not possible: give 1 or more.")

    def draw(self, probabilities: Float[Tensor, "N V"], chance: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
        """Draw one token for each row by inverting the cumulative distribution at `chance` in [0, 1).

        The probabilities of a row may have any positive sum.
        """
        if self.temperature == 0:
            return probabilities.argmax(-1)
        total = probabilities.cumsum(-1, dtype=torch.float64)
        tokens = torch.searchsorted(total, (chance * total[:, -1])[:, None], right=True)[:, 0]
        return tokens.clamp(max=total.shape[-1] - 1)  # with NaN logits the index is past the end

    @property
    def truncates(self) -> bool:
        """Whether top-k, top-p or min-p exclude tokens; greedy sampling needs none of them."""
        return self.temperature > 0 and (self.top_k, self.top_p, self.min_p) != (None, None, None)

    def truncate(self, probabilities: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Set the probabilities of tokens that top-k, top-p and min-p exclude to 0, without normalising."""
        if self.top_k is not None and self.top_k < probabilities.shape[-1]:
            least = probabilities.topk(self.top_k, dim=-1)
            probabilities = torch.zeros_like(probabilities).scatter(-1, least.indices, least.values)
        if self.top_p is not None and self.top_p < 1:
            values, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = values.cumsum(-1) - values
            values = values.masked_fill(before >= self.top_p * values.sum(-1, keepdim=True), 0)
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, values)
        if self.min_p is not None:
            most = probabilities.amax(-1, keepdim=True)
            probabilities = probabilities.masked_fill(probabilities < self.min_p * most, 0)
        return probabilities


def draws(seed: int | Sequence[int], prompts: Sequence[Sequence[int]], n: int, steps: int) -> np.ndarray:
    """Return uniform numbers [N, steps] in [0, 1) that depend only on seed, prompt, sample index and step.

    A hash of the prompt and its seed starts a row; splitmix64 (Steele, Lea and Flood 2014) continues it. If a prompt
    occurs again with the same seed, its samples continue the numbering.
    """
    before: Counter[str] = Counter()
    starts, firsts = [], []
    seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
    for ids, own in zip(prompts, seeds, strict=True):
        name = f"{own}:{tuple(int(token) for token in ids)}"
        firsts.append(before[name] * n)
        before[name] += 1
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        starts.append(int.from_bytes(digest, "little"))
    sample = np.asarray(firsts, dtype=np.uint64)[:, None] + np.arange(n, dtype=np.uint64)
    rows = _splitmix(np.asarray(starts, dtype=np.uint64)[:, None] + _splitmix(sample)).reshape(-1, 1)
    numbers = _splitmix(rows + np.arange(steps, dtype=np.uint64))
    return (numbers >> np.uint64(16)) * 2.0**-48


def _splitmix(state: np.ndarray) -> np.ndarray:
    state = state * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


FORCED = ((2, 1, 2), (1, 2, 0))
"""Tokens of two steps of three samples, on which cached steps are compared with whole texts."""
PARENTS = (0, 0, 1)
"""Text that each of the three samples continues."""
SAMPLES = ("tokens", "mask", "logprobs", "entropy", "finished")
"""Names of the tensors of a `Generation`."""
LogitsFn = Callable[[Sequence[Ids]], Float[Tensor, "N T V"]]
Run = Generator[Float[Tensor, "M V"], tuple[Int[Tensor, " K"], Int[Tensor, " K"]], None]
"""Generator that yields logits of M different texts, and receives K tokens with the index of the text that each
extends."""


@dataclass(frozen=True)
class Generation:
    """n samples for each of P prompts, prompt-major."""

    prompts: list[str]
    """Texts of the P prompts."""
    prompt_ids: list[list[int]]
    """Token ids of the prompts."""
    tokens: Int[Tensor, "N L"]
    """Sampled ids, with the end token if one was drawn, padded after it."""
    mask: Bool[Tensor, "N L"]
    """True at sampled tokens."""
    logprobs: Float[Tensor, "N L"]
    """Log-probability of each token in nats at the sampling temperature (greedy: at 1), before truncation."""
    entropy: Float[Tensor, "N L"]
    """Entropy of that distribution in nats; 0 where masked."""
    finished: Bool[Tensor, " N"]
    """Whether the sample ended with an end token, rather than at the length limit."""
    n: int
    """Number of samples per prompt."""
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    """Tokenizer that decodes the ids."""
    top: tuple[Int[Tensor, "N L k"], Float[Tensor, "N L k"]] | None = None
    """The k most probable tokens at each step and their log-probabilities, if requested."""
    kept: Float[Tensor, "N L"] | None = None
    """Probability of all tokens that top-k, top-p and min-p leave at each step, 1 where masked; None without them, and
    for samples that were stored."""

    @cached_property
    def ids(self) -> list[list[int]]:
        """Sampled ids of each sample without padding."""
        lengths = self.mask.sum(1).tolist()
        return [row[:length] for row, length in zip(self.tokens.tolist(), lengths, strict=True)]

    @cached_property
    def text(self) -> list[str]:
        """Text of each sample without special tokens."""
        different = {tuple(ids) for ids in self.ids}
        texts = {ids: self.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in different}
        return [texts[tuple(ids)] for ids in self.ids]

    def __len__(self) -> int:
        return len(self.tokens)

    def table(self) -> "pd.DataFrame":
        """Return a table with one row per sample.

        Its columns are prompt, sample, text, tokens, finished, logprob (nats, summed) and entropy (nats per token).
        """
        lengths = self.mask.sum(1)
        return pd.DataFrame(
            {
                "prompt": [prompt for prompt in self.prompts for _ in range(self.n)],
                "sample": list(range(self.n)) * len(self.prompts),
                "text": self.text,
                "tokens": lengths.tolist(),
                "finished": self.finished.tolist(),
                "logprob": self.logprobs.where(self.mask, 0).sum(1).tolist(),
                "entropy": (self.entropy.where(self.mask, 0).sum(1) / lengths.clamp(min=1)).tolist(),
            }
        )

    def _repr_html_(self) -> str:
        return str(self.table().to_html(index=False, border=0, escape=True, float_format="{:.3g}".format))


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] | Sequence[Ids],
    sampling: Sampling,
    logits: LogitsFn | None = None,
) -> Generation:
    """Draw completions for each prompt.

    Args:
        model: a causal language model of transformers; it samples in evaluation mode.
        tokenizer: tokenizer that encodes prompts given as text and decodes the samples.
        prompts: texts or token ids.
        sampling: rules of sampling.
        logits: function from whole texts, padded on the right, to logits [N T V]; it replaces the cached loop at every
            step.

    Raises:
        ConfigError: a stop text has several tokens.
        DataError: a prompt has no tokens, or leaves no room in the model's context.
    """
    texts, ids = encode_prompts(tokenizer, prompts)
    check_lengths(model, ids, [len(prompt) + 1 for prompt in ids])
    ends = end_tokens(model, tokenizer) if sampling.stop is None else _stop_tokens(tokenizer, sampling.stop)
    limit = context_length(model)
    n, most = sampling.n, sampling.max_new_tokens
    room = [most if limit is None else min(most, limit - len(p)) for p in ids for _ in range(n)]
    if not ids:
        raise DataError("No prompt was given, so there is nothing to continue: give at least one.")
    chances = np.zeros((len(room), max(room)))
    if sampling.temperature > 0:
        seed = int(torch.randint(2**62, ())) if sampling.seed is None else sampling.seed
        chances = draws(seed, ids, n, max(room))
    training = model.training
    if training:
        model.eval()
    try:
        if logits is None and not (can_cache(model) and _sound(model, max(map(len, ids)) + max(room))):
            logits = partial(whole_logits, model)
        run = _run_cached(model, ids, max(room)) if logits is None else _whole(partial(_next_logits, logits), ids)
        samples = _loop(run, sampling, chances, room, ends, pad_id(tokenizer))
    finally:
        if training:
            model.train()
    return Generation(prompts=texts, prompt_ids=ids, n=n, tokenizer=tokenizer, **samples)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a text: the tokenizer's end token and those of the model's generation_config."""
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
    return sorted(token for token in ids if token is not None)


def _loop(
    run: Run, sampling: Sampling, chances: np.ndarray, room: list[int], ends: list[int], padding: int
) -> dict[str, Any]:
    """Draw tokens until every sample has ended; `run` takes the tokens of a step and gives the next logits.

    Samples of a prompt share a row as long as they agree; rows of ended samples are removed.
    """
    logits, k = next(run), sampling.top_logprobs
    device, count = logits.device, len(room)
    chance = torch.from_numpy(chances).to(device)
    remaining = torch.tensor(room, device=device)
    end = torch.tensor(ends, dtype=torch.long, device=device)
    rows = torch.arange(count, device=device)  # the samples that have not ended
    context = rows // sampling.n  # the row of the logits for each of them
    finished = torch.zeros(count, dtype=torch.bool, device=device)
    columns: list[tuple[Tensor, ...]] = []
    for step in range(chance.shape[1]):
        scores = logits.float()
        logprobs = (scores / sampling.temperature if sampling.temperature not in (0, 1) else scores).log_softmax(-1)
        probabilities = logprobs.exp()
        uncertainty = entropy(logprobs)
        allowed = sampling.truncate(probabilities) if sampling.truncates else probabilities
        picks = sampling.draw(allowed[context], chance[rows, step])
        fields = [(torch.ones_like(finished[rows]), 0), (picks, padding), (logprobs[context, picks], 0)]
        fields.append((uncertainty[context], 0))
        fields += [(allowed.sum(-1)[context], 1)] if sampling.truncates else []
        fields += [(best[context], 0) for best in (logprobs.topk(min(k, logprobs.shape[-1])) if k else ())]
        columns.append(tuple(_spread(values, rows, count, fill) for values, fill in fields))
        is_end = (picks[:, None] == end).any(-1)
        finished[rows] = is_end
        on = ~is_end & (remaining[rows] > step + 1)
        rows, context, picks = rows[on], context[on], picks[on]
        if not len(rows):
            break
        pairs, context = torch.unique(context * logprobs.shape[-1] + picks, return_inverse=True)
        logits = run.send((pairs % logprobs.shape[-1], pairs // logprobs.shape[-1]))
    mask, tokens, values, spread, *rest = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    kept, *top = rest if sampling.truncates else [None, *rest]
    return {
        "tokens": tokens,
        "mask": mask,
        "logprobs": values,
        "entropy": spread,
        "finished": finished,
        "top": (top[1], top[0]) if top else None,
        "kept": kept,
    }


def _spread(values: Tensor, rows: Tensor, count: int, fill: int) -> Tensor:
    """Place the values of some samples among all samples, with `fill` for the others."""
    if len(rows) == count:
        return values
    return values.new_full((count, *values.shape[1:]), fill).index_copy(0, rows, values)


def _run_cached(model: PreTrainedModel, prompts: list[list[int]], steps: int) -> Run:
    """Yield logits [M V] of the next token, from one pass over each prompt and then one token per step."""
    device = input_device(model)
    ids, prompt_mask = (tensor.to(device) for tensor in pad(prompts, 0, "left"))
    cache = DynamicCache(config=model.config)
    inputs = {"attention_mask": prompt_mask.long(), "position_ids": positions(prompt_mask), "past_key_values": cache}
    output = forward(model, ids, keep=1, use_cache=True, **inputs)
    cache = output.past_key_values
    lengths = prompt_mask.sum(1)[:, None]
    mask = torch.cat([prompt_mask, prompt_mask.new_ones(len(prompt_mask), steps)], dim=1).long()
    last = (context_length(model) or 2**31) - 1
    for step in range(steps):
        tokens, parents = yield output.logits[:, 0]
        if not torch.equal(parents, torch.arange(len(lengths), device=device)):
            cache.batch_select_indices(parents)
            lengths, mask = lengths[parents], mask[parents]
        inputs = {
            "attention_mask": mask[:, : ids.shape[1] + step + 1],
            "position_ids": (lengths + step).clamp(max=last),
            "past_key_values": cache,
        }
        output = forward(model, tokens[:, None], keep=1, use_cache=True, **inputs)


def _sound(model: PreTrainedModel, width: int) -> bool:
    """Return whether cached steps and whole texts give the same results.

    This is checked on texts of up to `width` tokens, padded, in several rows.
    """

    def forced(quick: bool) -> sharing.Measure:
        def values(model: Any, prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> Tensor:
            """Return log-probabilities of the third token after two given ones.

            They are those of both samples of the first prompt and of the sample of the second.
            """
            texts = [[*prompts[0], *groups[0][0][: -len(FORCED)]], list(prompts[1])]
            if not quick:
                rows = [[*texts[parent], *tokens] for parent, *tokens in zip(PARENTS, *FORCED, strict=True)]
                return _each_alone(model, rows).log_softmax(-1).flatten()
            run, parents = _run_cached(model, texts, len(FORCED) + 1), torch.tensor(PARENTS, device=input_device(model))
            next(run)
            for step in FORCED:
                tokens = torch.tensor(step, device=input_device(model))
                logits = run.send((tokens, parents))
                parents = torch.arange(len(step), device=input_device(model))
            return logits.log_softmax(-1).flatten()

        return values

    return sharing.agrees(model, "generation", width, forced(True), forced(False))


def _next_logits(logits: LogitsFn, rows: list[list[int]]) -> Float[Tensor, "N V"]:
    """Return the logits of the token after each text, from one pass over all of them."""
    return torch.stack([score[len(row) - 1] for score, row in zip(logits(rows), rows, strict=True)])


def _each_alone(model: PreTrainedModel, rows: list[list[int]]) -> Float[Tensor, "N V"]:
    """Return the logits of the token after each text, from a pass over each text alone."""
    ids = (torch.tensor([row], device=input_device(model)) for row in rows)
    return torch.cat([forward(model, each, keep=1, use_cache=False).logits[:, 0] for each in ids])


def _whole(next_logits: LogitsFn, prompts: list[list[int]]) -> Run:
    """Yield logits of the next token, as `_run_cached` does, from a pass over each whole text at every step."""
    rows = prompts
    while True:
        tokens, parents = yield next_logits(rows)
        rows = [[*rows[parent], token] for token, parent in zip(tokens.tolist(), parents.tolist(), strict=True)]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str] | Sequence[Ids]
) -> tuple[list[str], list[list[int]]]:
    """Return prompts as text and as ids.

    Raises:
        DataError: the tokenizer does not know a word.
    """
    strings = [prompt for prompt in prompts if isinstance(prompt, str)]
    rows = encode_all(tokenizer, strings)
    require_known(tokenizer, [text for text, ids in zip(strings, rows, strict=True) if tokenizer.unk_token_id in ids])
    encodings = iter(rows)
    ids = [next(encodings) if isinstance(prompt, str) else [int(i) for i in prompt] for prompt in prompts]
    texts = [p if isinstance(p, str) else tokenizer.decode(i) for p, i in zip(prompts, ids, strict=True)]
    return texts, ids


def _stop_tokens(tokenizer: PreTrainedTokenizerBase, stop: Sequence[int | str]) -> list[int]:
    ids: list[int] = []
    for token in stop:
        parts = [token] if isinstance(token, int) else tokenizer.encode(token, add_special_tokens=False)
        if len(parts) != 1:
            raise ConfigError(
                f"The stop text {token!r} is {len(parts)} tokens and must be one: give a token or its id."
            )
        ids += parts
    return ids
