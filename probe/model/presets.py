"""The sizes of models that `LM.create` builds: small Llama configurations (E2 to E6)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe.errors import ConfigError

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a Llama-like model: rotary positions, RMSNorm before each part, SwiGLU."""

    layers: int = 4
    """Number of blocks."""
    width: int = 128
    """Dimension of the residual stream."""
    heads: int = 4
    """Number of attention heads per block; `width` is a multiple of it, and `width / heads` is even."""
    mlp: int = 320
    """Number of hidden units of the gated feed-forward part."""
    context: int = 512
    """Maximum length of a sequence in tokens."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    tie_embeddings: bool = False
    """Whether the unembedding shares the embedding's weights."""
    init_std: float = 0.02
    """Standard deviation of the initial weights."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "mlp", "context"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"ModelConfig({name}={getattr(self, name)}) is not possible: give a number from 1 on."
                )
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(
                f"ModelConfig(width={self.width}, heads={self.heads}) is not possible: rotary positions need "
                "width / heads to be an even whole number."
            )

    def llama(self, tokenizer: "PreTrainedTokenizerBase") -> "LlamaConfig":
        """Return the Hugging Face configuration of this size with the vocabulary of `tokenizer`."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=self.context,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=self.tie_embeddings,
            initializer_range=self.init_std,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )


PRESETS = {
    # Rotary base and start as in the trials of docs/log.md, which do not isolate them from the mixture.
    "tiny": ModelConfig(rope_theta=1000.0, init_std=0.08),  # 0.86 M parameters with the world's vocabulary
    "icl": ModelConfig(layers=2, width=64, heads=4, mlp=160, context=256, rope_theta=1000.0, init_std=0.125),
    "small": ModelConfig(layers=8, width=384, heads=6, mlp=1024, context=1024),
}


def model_config(size: str | ModelConfig) -> ModelConfig:
    """Return the configuration that `size` names, or `size` itself if it is a configuration.

    Raises:
        ConfigError: no preset has that name.
    """
    if isinstance(size, ModelConfig):
        return size
    if size not in PRESETS:
        raise ConfigError(f"There is no model size {size!r}: give {', '.join(map(repr, PRESETS))} or a ModelConfig.")
    return PRESETS[size]
