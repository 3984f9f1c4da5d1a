"""The reward shift as an instrument: what a policy answers to the fixed prompts now, and what that earns and costs.

At every capture the policy samples the same prompts with the same random numbers. Each sample gets its proxy reward,
its true reward (the world's verifier), its KL to the reference and the implicit reward beta log pi/pi_ref, as a whole
and token by token (METRICS, reward shift). `probe.rewards.shift` reads them back as tables.

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
"""Logits that are held at once, for each of the two models."""
LogitsFn = Callable[[list[list[int]]], Float[Tensor, "N T V"]]
RewardFn = Callable[[list[str], list[str]], Sequence[float | None]]
"""(N prompts, N completions) -> N rewards, None where it does not apply."""


@runtime_checkable
class TokenScorer(Protocol):
    """A reward model that can be read at every token, such as `probe.model.rewards.RewardModel`."""

    tokenizer: Any

    def score(self, prompts: Sequence[Any], completions: Sequence[Any]) -> Float[Tensor, " N"]:
        """The rewards of N completions, texts or ids."""

    def token_scores(
        self, prompts: Sequence[Any], completions: Sequence[Any]
    ) -> tuple[Float[Tensor, "N L"], Bool[Tensor, "N L"]]:
        """The scalar at every token of the completions, 0 where masked, and the mask."""


class RewardShift:
    """An instrument for `probe.watch`."""

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
        """Say what to compare with.

        Args:
            reference_logits: whole texts as rows of ids to logits, padded on the right; for a frozen `LM` called
                `reference` that is `reference.logits`.
            proxy: the reward that is optimised: a reward model, or a function of texts.
            world: whose verifier gives the true reward; a prompt that asks nothing has none.
            beta: the implicit reward is beta log pi/pi_ref.
            samples: completions of each prompt.
            max_new_tokens: longest completion.
            seed: of the samples, the same at every capture.

        Raises:
            ConfigError: a number that is not possible.
        """
        if samples < 1 or max_new_tokens < 1 or not beta >= 0:
            raise ConfigError(
                f"The reward shift was asked for with samples={samples}, max_new_tokens={max_new_tokens} and"
                f" beta={beta}; expected 1 or more, 1 or more and 0 or more: change them."
            )
        self.reference_logits, self.proxy, self.world, self.beta = reference_logits, proxy, world, beta
        self.samples, self.max_new_tokens, self.seed = samples, max_new_tokens, seed
        self.latest: list[dict[str, Any]] = []
        """The samples of the last call as rows of rollouts.jsonl (docs/runs.md), but for their step."""

    @torch.no_grad()
    def __call__(self, lm: LM, prompts: Sequence[ProbePrompt]) -> dict[str, Tensor]:
        """The tensors of one capture.

        Returns:
            shift_ids [P S L] sampled ids; shift_logratio [P S L] log pi/pi_ref of each token, shift_kl [P S L]
            KL(pi || pi_ref) of the distribution it was drawn from and shift_implicit [P S L], in nats. With a proxy
            shift_proxy [P S]; with one that reads tokens shift_proxy_tokens [P S L], its value at each token, and
            shift_proxy_start [P], its value where the prompt ends. With a world shift_gold [P S]. Beyond a sample ids
            are -1 and the others 0; NaN where a reward does not apply. A prompt as long as the model's context has
            empty samples.
        """
        limit = context_length(lm.model)
        at = [i for i, prompt in enumerate(prompts) if limit is None or prompt.length < limit]
        if not at:
            return {}
        texts = [prompts[i].text for i in at for _ in range(self.samples)]
        made = lm.generate(
            [prompts[i].token_ids for i in at], n=self.samples, max_new_tokens=self.max_new_tokens, seed=self.seed
        )
        logratio, divergence = self._compared(lm, made)
        ids, _ = pad(made.ids, -1)
        tokens = {"ids": ids, "logratio": logratio, "kl": divergence, "implicit": self.beta * logratio}
        found = {name: self._rows(tensor) for name, tensor in tokens.items()}
        if isinstance(self.proxy, TokenScorer):
            found |= self._read(self.proxy, made, texts)
        elif self.proxy is not None:
            found["proxy"] = self._rows(_numbers(self.proxy(texts, made.text)))
        if self.world is not None:
            found["gold"] = self._rows(_numbers(gold_scores(self.world, texts, made.text)))
        self.latest = sample_rows(made, found, at, texts)
        found["ids"] = found["ids"].int()
        empty = {"ids": -1, "proxy": math.nan, "gold": math.nan, "proxy_start": math.nan}
        return {f"shift_{name}": _spread(found[name], at, len(prompts), empty.get(name, 0)) for name in found}

    def _rows(self, tensor: Tensor) -> Tensor:
        """[N ...] as [P S ...]."""
        return tensor.reshape(-1, self.samples, *tensor.shape[1:])

    def _compared(self, lm: LM, made: Generation) -> tuple[Float[Tensor, "N L"], Float[Tensor, "N L"]]:
        """log pi/pi_ref of the sampled tokens and KL(pi || pi_ref) of their distributions, 0 beyond a sample."""
        rows = [
            [*prompt, *ids]
            for i, prompt in enumerate(made.prompt_ids)
            for ids in made.ids[i * self.samples : (i + 1) * self.samples]
        ]
        heads = [len(prompt) for prompt in made.prompt_ids for _ in range(self.samples)]
        vocabulary = lm.model.config.get_text_config().vocab_size
        size = max(1, ROOM // (vocabulary * max(map(len, rows))))
        logratio, divergence = torch.zeros(made.mask.shape), torch.zeros(made.mask.shape)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            mask = made.mask[part]
            policy, reference = (
                _at_completions(logits(rows[part]), heads[part], mask)
                for logits in (lambda texts: whole_logits(lm.model, texts), self.reference_logits)
            )
            gap = policy - reference.to(policy.device)
            chosen = gap.gather(-1, made.tokens[part][mask][:, None])[:, 0]
            logratio[part] = logratio[part].masked_scatter(mask.cpu(), chosen.cpu())
            whole = (policy.exp() * gap).sum(-1).clamp(min=0)
            divergence[part] = divergence[part].masked_scatter(mask.cpu(), whole.cpu())
        return logratio, divergence

    def _read(self, proxy: TokenScorer, made: Generation, texts: list[str]) -> dict[str, Tensor]:
        """What a reward model gives; token by token where it has the vocabulary of the policy."""
        if proxy.tokenizer.get_vocab() != made.tokenizer.get_vocab():
            return {"proxy": self._rows(proxy.score(texts, made.text).float().cpu())}
        heads = [prompt for prompt in made.prompt_ids for _ in range(self.samples)]
        values, mask = (tensor.cpu() for tensor in proxy.token_scores(heads, made.ids))
        start = torch.full((len(made.prompt_ids),), math.nan)
        longer = [i for i, prompt in enumerate(made.prompt_ids) if len(prompt) > 1]
        if longer:  # what stands at a prompt's last token is read as if that were the completion
            cut = [made.prompt_ids[i] for i in longer]
            start[longer] = proxy.token_scores([ids[:-1] for ids in cut], [ids[-1:] for ids in cut])[0][:, 0].cpu()
        last = values.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
        return {"proxy": self._rows(last), "proxy_tokens": self._rows(values), "proxy_start": start}


def sample_rows(
    made: Generation, found: dict[str, Tensor], groups: Sequence[int], prompts: Sequence[str]
) -> list[dict[str, Any]]:
    """Samples with what was found of them, one dict each; `group` is the number of the prompt among all."""
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
    """Log-probabilities in front of each real token of the completions, which begin after `heads` tokens."""
    row, step = mask.to(logits.device).nonzero(as_tuple=True)
    first = torch.tensor(heads, device=logits.device) - 1
    return logits[row, first[row] + step].float().log_softmax(-1)


def _numbers(values: Sequence[float | None]) -> Float[Tensor, " N"]:
    return torch.tensor([math.nan if value is None else float(value) for value in values])


def _spread(tensor: Tensor, at: list[int], prompts: int, fill: float) -> Tensor:
    """The rows of some prompts among those of all."""
    if len(at) == prompts:
        return tensor.cpu().contiguous()
    whole = torch.full((prompts, *tensor.shape[1:]), fill, dtype=tensor.dtype)
    whole[at] = tensor.cpu()
    return whole
