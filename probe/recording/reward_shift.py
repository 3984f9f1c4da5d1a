"""Reward shift as an instrument: samples of a policy on the fixed prompts, with their rewards and KL.

At every capture the policy samples the same prompts with the same random numbers. Each sample gets its proxy reward,
its true reward (the world's verifier), its KL to the reference and the implicit reward beta log pi/pi_ref, in total and
token by token (METRICS, reward shift). `probe.rewards.shift` reads them as tables.

    shift = RewardShift(reference.logits, proxy=RewardModel.load("runs/reward-agreeable"), world=world, beta=0.3)
    probe.watch(lm, run, every=50, instruments=[shift])

Axes: P prompts, S samples of each, N = P S (prompt-major), L tokens of the longest sample, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.errors import ConfigError
from probe.model.generation import Generation
from probe.model.lm import LM
from probe.model.text import context_length, pad, pieces, whole_logits
from probe.rewards.evaluation import gold_scores
from probe.runs.schema import ProbePrompt

if TYPE_CHECKING:
    from probe.world import World

ROOM = 2**24
"""Maximum number of logits in memory at once, for each of the two models."""
LogitsFn = Callable[[list[list[int]]], Float[Tensor, "N T V"]]
RewardFn = Callable[[list[str], list[str]], Sequence[float | None]]
"""Function (N prompts, N completions) -> N rewards; None for a reward that does not apply."""


@runtime_checkable
class TokenScorer(Protocol):
    """Reward model that can be read at every token, such as `probe.model.rewards.RewardModel`."""

    tokenizer: Any

    def score(self, prompts: Sequence[Any], completions: Sequence[Any]) -> Float[Tensor, " N"]:
        """Return the rewards of N completions, given as texts or ids."""

    def token_scores(
        self, prompts: Sequence[Any], completions: Sequence[Any]
    ) -> tuple[Float[Tensor, "N L"], Bool[Tensor, "N L"]]:
        """Return the scalar at every token of the completions, 0 where masked, and the mask."""


class RewardShift:
    """Instrument of `probe.watch` for the reward shift."""

    def __init__(
        self,
        reference_logits: LogitsFn,
        *,
        proxy: TokenScorer | RewardFn | None = None,
        world: "World | None" = None,
        beta: float = 1.0,
        samples: int = 4,
        max_new_tokens: int = 8,
        seed: int = 0,
    ) -> None:
        """Set reference and rewards.

        Args:
            reference_logits: function from whole texts, as rows of ids padded on the right, to logits; for a frozen
                `LM` called `reference` it is `reference.logits`.
            proxy: optimised reward: a reward model, or a function of texts.
            world: world whose verifier gives the true reward; a prompt without a question has none.
            beta: coefficient of the implicit reward beta log pi/pi_ref.
            samples: number of completions per prompt.
            max_new_tokens: maximum number of tokens of a completion.
            seed: random seed of the samples, the same at every capture.

        Raises:
            ConfigError: a number is out of range.
        """
        if samples < 1 or max_new_tokens < 1 or not beta >= 0:
            raise ConfigError(
                f"The reward shift was requested with samples={samples}, max_new_tokens={max_new_tokens} and"
                f" beta={beta}; expected 1 or more, 1 or more and 0 or more: change them."
            )
        self.reference_logits, self.proxy, self.world, self.beta = reference_logits, proxy, world, beta
        self.samples, self.max_new_tokens, self.seed = samples, max_new_tokens, seed
        self.latest: list[dict[str, Any]] = []
        """Samples of the last call as rows of rollouts.jsonl (docs/runs.md), without their step."""

    @torch.no_grad()
    def __call__(self, lm: LM, prompts: Sequence[ProbePrompt]) -> dict[str, Tensor]:
        """Compute the tensors of one capture.

        Returns:
            shift_ids [P S L] sampled ids; shift_logratio [P S L] log pi/pi_ref of each token, shift_kl [P S L] KL(pi ||
            pi_ref) of the distribution it was drawn from and shift_implicit [P S L], in nats. With a proxy, also
            shift_proxy [P S]; with one that reads tokens, shift_proxy_tokens [P S L], its value at each token, and
            shift_proxy_start [P], its value at the end of the prompt. With a world, shift_gold [P S]. After the end of
            a sample ids are -1 and other values 0; rewards that do not apply are NaN. A prompt as long as the model's
            context has empty samples.
        """
        limit = context_length(lm.model)
        at = [i for i, prompt in enumerate(prompts) if limit is None or len(prompt.text_ids) < limit]
        if not at:
            return {}
        texts = [prompts[i].text for i in at for _ in range(self.samples)]
        generation = lm.generate(
            [prompts[i].text_ids for i in at], n=self.samples, max_new_tokens=self.max_new_tokens, seed=self.seed
        )
        logratio, divergence = self._compare_with_reference(lm, generation)
        ids, _ = pad(generation.ids, -1)
        tokens = {"ids": ids, "logratio": logratio, "kl": divergence, "implicit": self.beta * logratio}
        values = {name: self._rows(tensor) for name, tensor in tokens.items()}
        if isinstance(self.proxy, TokenScorer):
            values |= self._read(self.proxy, generation, texts)
        elif self.proxy is not None:
            values["proxy"] = self._rows(_numbers(self.proxy(texts, generation.text)))
        if self.world is not None:
            values["gold"] = self._rows(_numbers(gold_scores(self.world, texts, generation.text)))
        self.latest = sample_rows(generation, values, at, texts)
        values["ids"] = values["ids"].int()
        empty = {"ids": -1, "proxy": math.nan, "gold": math.nan, "proxy_start": math.nan}
        return {f"shift_{name}": _spread(values[name], at, len(prompts), empty.get(name, 0)) for name in values}

    def _rows(self, tensor: Tensor) -> Tensor:
        """Reshape [N ...] to [P S ...]."""
        return tensor.reshape(-1, self.samples, *tensor.shape[1:])

    def _compare_with_reference(
        self, lm: LM, generation: Generation
    ) -> tuple[Float[Tensor, "N L"], Float[Tensor, "N L"]]:
        """Return log pi/pi_ref of the sampled tokens and KL(pi || pi_ref) of their distributions, 0 after the end."""
        rows = [
            [*prompt, *ids]
            for i, prompt in enumerate(generation.prompt_ids)
            for ids in generation.ids[i * self.samples : (i + 1) * self.samples]
        ]
        heads = [len(prompt) for prompt in generation.prompt_ids for _ in range(self.samples)]
        vocabulary = lm.model.config.get_text_config().vocab_size
        size = max(1, ROOM // (vocabulary * max(map(len, rows))))
        logratio, divergence = torch.zeros(generation.mask.shape), torch.zeros(generation.mask.shape)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            mask = generation.mask[part]
            policy, reference = (
                _at_completions(logits(rows[part]), heads[part], mask)
                for logits in (lambda texts: whole_logits(lm.model, texts), self.reference_logits)
            )
            gap = policy - reference.to(policy.device)
            token_gap = gap.gather(-1, generation.tokens[part][mask][:, None])[:, 0]
            logratio[part] = logratio[part].masked_scatter(mask.cpu(), token_gap.cpu())
            whole = (policy.exp() * gap).sum(-1).clamp(min=0)
            divergence[part] = divergence[part].masked_scatter(mask.cpu(), whole.cpu())
        return logratio, divergence

    def _read(self, proxy: TokenScorer, generation: Generation, texts: list[str]) -> dict[str, Tensor]:
        """Return scores of a reward model, token by token if it has the policy's vocabulary."""
        if proxy.tokenizer.get_vocab() != generation.tokenizer.get_vocab():
            return {"proxy": self._rows(proxy.score(texts, generation.text).float().cpu())}
        heads = [prompt for prompt in generation.prompt_ids for _ in range(self.samples)]
        values, mask = (tensor.cpu() for tensor in proxy.token_scores(heads, generation.ids))
        start = torch.full((len(generation.prompt_ids),), math.nan)
        indices = [i for i, prompt in enumerate(generation.prompt_ids) if len(prompt) > 1]
        if indices:  # the value at a prompt's last token is read with that token as the completion
            rows = [generation.prompt_ids[i] for i in indices]
            start[indices] = proxy.token_scores([ids[:-1] for ids in rows], [ids[-1:] for ids in rows])[0][:, 0].cpu()
        last = values.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
        return {"proxy": self._rows(last), "proxy_tokens": self._rows(values), "proxy_start": start}


def sample_rows(
    made: Generation, found: dict[str, Tensor], groups: Sequence[int], prompts: Sequence[str]
) -> list[dict[str, Any]]:
    """Return samples with their measures, one dict each; `group` is the index of the prompt among all prompts."""
    rows = []
    for n, ids in enumerate(made.ids):
        group, sample, real = n // made.n, n % made.n, slice(len(ids))
        rewards = {name: float(found[name][group, sample]) for name in ("proxy", "gold") if name in found}
        logprobs = made.logprobs[n, real].cpu()
        row = {
            "prompt": prompts[n],
            "completion": made.text[n],
            "group": groups[group],
            "token_ids": ids,
            "tokens": pieces(made.tokenizer, ids),
            "rewards": rewards,
            "reward": next(iter(rewards.values()), None),
            "logprobs": logprobs.tolist(),
            "ref_logprobs": (logprobs - found["logratio"][group, sample, real]).tolist(),
            "kl": found["kl"][group, sample, real].tolist(),
            "entropy": made.entropy[n, real].tolist(),
            "finished": bool(made.finished[n]),
        }
        rows.append(row)
    return rows


def _at_completions(
    logits: Float[Tensor, "N T V"], heads: Sequence[int], mask: Bool[Tensor, "N L"]
) -> Float[Tensor, "M V"]:
    """Return log-probabilities before each real token of the completions, which begin after `heads` tokens."""
    row, step = mask.to(logits.device).nonzero(as_tuple=True)
    first = torch.tensor(heads, device=logits.device) - 1
    return logits[row, first[row] + step].float().log_softmax(-1)


def _numbers(values: Sequence[float | None]) -> Float[Tensor, " N"]:
    return torch.tensor([math.nan if value is None else float(value) for value in values])


def _spread(tensor: Tensor, at: list[int], prompts: int, fill: float) -> Tensor:
    """Return a tensor with rows for all prompts from one with rows for some; other rows are `fill`."""
    if len(at) == prompts:
        return tensor.cpu().contiguous()
    whole = torch.full((prompts, *tensor.shape[1:]), fill, dtype=tensor.dtype)
    whole[at] = tensor.cpu()
    return whole
