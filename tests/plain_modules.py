"""Models that are no models of transformers: nanoGPT's GPT in a few lines, and one with rotary positions."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

import probe
from tests.models import random_lm


class CausalSelfAttention(nn.Module):
    """One layer for queries, keys and values, one for the output."""

    def __init__(self, width: int, heads: int, flash: bool) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.n_head, self.flash = heads, flash

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        if self.flash:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            att = q @ k.transpose(-2, -1) / k.shape[-1] ** 0.5
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            y = F.softmax(att.masked_fill(later, -torch.inf), dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Attention and feed-forward part, each with a norm before it."""

    def __init__(self, width: int, heads: int, flash: bool) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), CausalSelfAttention(width, heads, flash)
        self.ln_2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """nanoGPT's model: without targets it gives the logits of the last position alone."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, context: int, flash: bool = True) -> None:
        super().__init__()
        self.config = SimpleNamespace(block_size=context, n_head=heads)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, width),
                "wpe": nn.Embedding(context, width),
                "h": nn.ModuleList([Block(width, heads, flash) for _ in range(depth)]),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.transformer.wte(idx) + self.transformer.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


NANO: dict[str, Any] = {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "blocks": "transformer.h",
    "attention_norm": "ln_1",
    "attention": "attn",
    "heads": 4,
    "qkv": "c_attn",
    "out": "c_proj",
    "mlp_norm": "ln_2",
    "mlp": "mlp",
    "mlp_in": "c_fc",
    "mlp_out": "c_proj",
    "final_norm": "transformer.ln_f",
    "unembedding": "lm_head",
    "call": lambda module, ids: module(ids, targets=ids)[0],
}
"""The map of nanoGPT's GPT."""


def nano_gpt(like: GPT2LMHeadModel, flash: bool = True) -> GPT:
    """A GPT with the weights of a model of transformers, whose layers store them transposed."""
    config = like.config
    module = GPT(config.vocab_size, config.n_embd, config.n_layer, config.n_head, config.n_positions, flash)
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {name: value.T if name.endswith(turned) else value for name, value in like.state_dict().items()}
    module.load_state_dict(state)
    return module.eval()


def nano_lm(flash: bool = True, tokenizer: PreTrainedTokenizerBase | None = None, **changes: Any) -> probe.LM:
    """nanoGPT's GPT with random weights, those of `random_lm("gpt2")`."""
    like = random_lm("gpt2", tokenizer)
    return probe.LM(nano_gpt(like.model, flash), like.tokenizer, mapping=probe.ModuleMap(**NANO | changes))


class Rotary(nn.Module):
    """Attention with rotary positions, norms of queries and keys, two query heads on one key head, no biases."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, groups * self.size, bias=False)
        self.v_proj = nn.Linear(width, groups * self.size, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def turn(self, x: Tensor) -> Tensor:
        x = F.rms_norm(x, (self.size,))
        angles = torch.arange(x.shape[2])[:, None] / 100 ** (torch.arange(self.size // 2) / (self.size // 2))
        one, two = x.chunk(2, dim=-1)
        return torch.cat([one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()], dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(-2)), None


class RotaryBlock(nn.Module):
    """Attention and a gated feed-forward part on one stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.mixer = Rotary(width, 4, 2)
        self.ffn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("gate", "up", "down")})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))[0]
        h = self.norm2(x)
        return x + self.ffn["down"](F.silu(self.ffn["gate"](h)) * self.ffn["up"](h))


class RotaryLM(nn.Module):
    """Blocks in a Sequential, and no final norm."""

    def __init__(self, vocabulary: int, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.body = nn.Sequential(*[RotaryBlock(width) for _ in range(depth)])
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.tokens(ids)))


ROTARY: dict[str, Any] = {
    "embedding": "tokens",
    "blocks": "body",
    "attention_norm": "norm1",
    "attention": "mixer",
    "heads": 4,
    "key_value_heads": 2,
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "out": "o_proj",
    "mlp_norm": "norm2",
    "unembedding": "head",
}
"""The map of `RotaryLM`; its feed-forward part is run layer by layer, so there is none to name."""


MAMBA: dict[str, Any] = {
    "embedding": "backbone.embeddings",
    "blocks": "backbone.layers",
    "final_norm": "backbone.norm_f",
    "unembedding": "lm_head",
}
"""The map of MambaForCausalLM, taken as a plain module."""
