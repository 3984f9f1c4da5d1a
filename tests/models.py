"""Small random models of several architectures, and small tokenizers: what the tests run on instead of a download.

The weights are drawn wider than usual, so that logits differ by whole nats and a wrong position or mask is seen.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from probe.model.lm import LM
from probe.model.rewards import RewardModel

SPECIAL = ["<pad>", "<unk>", "<bos>", "<end>"]
PEOPLE = ["mira", "tom", "ana"]
PLACES = ["oslo", "rome", "paris"]
OTHER = ["lives", "works", "in", "at", "the", "where", "does", "do", "is", "cat", "dog", "one", "two", ".", "?"]
WORDS = [*PEOPLE, *PLACES, *OTHER, "<user>", "<bot>"]
CONTEXT = 48
STD = 0.25


def word_tokenizer(closed: bool = False) -> PreTrainedTokenizerFast:
    """One token a word; `<bos>` is put first.

    A closed one says which token stands for words that it does not know, as those of a world do; such words are refused
    then. An open one reads any text.
    """
    ids = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])])
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names, **({"unk_token": "<unk>"} if closed else {}))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs with merges that cross word boundaries nowhere; no beginning and no padding token (like GPT-2's)."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    inner.train_from_iterator(
        ["mira lives in oslo .", "the cat lives in the house .", "where does mira live ?"], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def digit_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, so that " 15" and " 14" begin with the same two tokens, as where digits are tokens of their own."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(
        [], BpeTrainer(special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def char_tokenizer(letters: str, unknown: str | None = "<unk>", declared: bool = True) -> PreTrainedTokenizerFast:
    """One token a letter; others become the unknown token, declared or not, or are dropped where there is none."""
    ids = {piece: number for number, piece in enumerate(["<pad>", "<end>", *([unknown] if unknown else []), *letters])}
    inner = Tokenizer(BPE(ids, [], unk_token=unknown))
    inner.decoder = decoders.Fuse()
    names = {"pad_token": "<pad>", "eos_token": "<end>"} | ({"unk_token": unknown} if unknown and declared else {})
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": STD,
}


def llama(vocab: int, **changes: Any) -> PreTrainedModel:
    """RMSNorm, rotary positions, SwiGLU, two query heads on one key head."""
    sizes: dict[str, Any] = SIZES | {"vocab_size": vocab, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes | changes))


def gpt2(vocab: int, **changes: Any) -> PreTrainedModel:
    """LayerNorm, learned absolute positions, fused queries, keys and values, tied embeddings."""
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
    config = {"vocab_size": vocab, "initializer_range": STD, "bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(GPT2Config(**config | sizes | changes))


def qwen3(vocab: int, **changes: Any) -> PreTrainedModel:
    """Llama with norms on queries and keys, a head dimension of its own and tied embeddings."""
    sizes: dict[str, Any] = SIZES | {
        "vocab_size": vocab,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "tie_word_embeddings": True,
    }
    return Qwen3ForCausalLM(Qwen3Config(**sizes | changes))


def gpt_neox(vocab: int, **changes: Any) -> PreTrainedModel:
    """LayerNorm, attention and feed-forward in parallel, partly rotary, fused and interleaved projections."""
    sizes: dict[str, Any] = SIZES | {"vocab_size": vocab, "bos_token_id": None, "eos_token_id": None}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes | changes))


def mistral(vocab: int, **changes: Any) -> PreTrainedModel:
    """Llama with a sliding window of 6 tokens, so that its cache forgets."""
    sizes: dict[str, Any] = SIZES | {
        "vocab_size": vocab,
        "num_key_value_heads": 2,
        "sliding_window": 6,
        "eos_token_id": None,
    }
    return MistralForCausalLM(MistralConfig(**sizes | changes))


def bloom(vocab: int, **changes: Any) -> PreTrainedModel:
    """Positions from a bias on the scores (ALiBi): the forward pass takes no position_ids."""
    sizes: dict[str, Any] = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": STD}
    config = {"vocab_size": vocab, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return BloomForCausalLM(BloomConfig(**config | sizes | changes))


def gemma2(vocab: int, **changes: Any) -> PreTrainedModel:
    """A soft cap on the logits, a sliding window in every other block."""
    sizes: dict[str, Any] = SIZES | {
        "vocab_size": vocab,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 6,
        "final_logit_softcapping": 3.0,
    }
    return Gemma2ForCausalLM(Gemma2Config(**sizes | changes))


def gemma3(vocab: int, **changes: Any) -> PreTrainedModel:
    """Norms on queries and keys, a window and a base of the rotation of its own in the first block, no caps."""
    sizes: dict[str, Any] = SIZES | {
        "vocab_size": vocab,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes | changes))


def opt(vocab: int, **changes: Any) -> PreTrainedModel:
    """Learned positions two rows into their table, ReLU, an MLP that runs all tokens of the batch in one axis."""
    sizes: dict[str, Any] = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"vocab_size": vocab, "word_embed_proj_dim": 32, "max_position_embeddings": CONTEXT, "init_std": STD}
    return OPTForCausalLM(OPTConfig(**config | sizes | changes))


def gptj(vocab: int, **changes: Any) -> PreTrainedModel:
    """Attention and feed-forward in parallel from one norm, neighbouring directions rotated, a bias of the logits."""
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "rotary_dim": 4}
    config = {"vocab_size": vocab, "initializer_range": STD, "bos_token_id": None, "eos_token_id": None}
    return GPTJForCausalLM(GPTJConfig(**config | sizes | changes))


def mixtral(vocab: int, **changes: Any) -> PreTrainedModel:
    """Mistral's attention, and two of four experts for each token."""
    sizes: dict[str, Any] = SIZES | {"vocab_size": vocab, "num_key_value_heads": 2, "num_local_experts": 4}
    return MixtralForCausalLM(MixtralConfig(**sizes | changes))


def phi3(vocab: int, **changes: Any) -> PreTrainedModel:
    """Fused projections in attention and in the gated feed-forward part."""
    sizes: dict[str, Any] = SIZES | {
        "vocab_size": vocab,
        "num_key_value_heads": 2,
        "original_max_position_embeddings": CONTEXT,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return Phi3ForCausalLM(Phi3Config(**sizes | changes))


def mamba(vocab: int, **changes: Any) -> PreTrainedModel:
    """A recurrent model: neither attention nor keys and values to keep."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": STD}
    config = {"vocab_size": vocab, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return MambaForCausalLM(MambaConfig(**config | sizes | changes))


MODELS: dict[str, Callable[..., PreTrainedModel]] = {"llama": llama, "gpt2": gpt2, "qwen3": qwen3, "gpt_neox": gpt_neox}
OTHERS: dict[str, Callable[..., PreTrainedModel]] = {"mistral": mistral, "bloom": bloom, "gemma2": gemma2, "phi3": phi3}
MORE: dict[str, Callable[..., PreTrainedModel]] = {"gemma3": gemma3, "opt": opt, "gptj": gptj, "mixtral": mixtral}
RECURRENT: dict[str, Callable[..., PreTrainedModel]] = {"mamba": mamba}
ARCHITECTURES = list(MODELS)


def random_lm(
    name: str = "llama", tokenizer: PreTrainedTokenizerBase | None = None, seed: int = 0, **changes: Any
) -> LM:
    """A random model in evaluation mode, with the word tokenizer by default; torch's generator stays as it was."""
    tokenizer = tokenizer or word_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (MODELS | OTHERS | MORE | RECURRENT)[name](len(tokenizer), **changes)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases too, so that leaving one out is seen
                parameter.data += 0.1 * torch.randn(parameter.shape)
    return LM(model.eval(), tokenizer)


def in_double(lm: LM) -> None:
    """Double precision, in which the default kernel of experts does not compute."""
    if hasattr(lm.model.config, "num_local_experts"):
        lm.model.set_experts_implementation("eager")
    lm.model.double()


def random_reward_model(name: str = "llama", seed: int = 0) -> RewardModel:
    """A random reward model of an architecture, with the word tokenizer."""
    lm = random_lm(name, seed=seed)
    config = copy.deepcopy(lm.model.config)
    config.num_labels, config.pad_token_id = 1, lm.tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
    return RewardModel(model.eval(), lm.tokenizer)


def saved_lm(directory: Path, name: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """The directory of a random model that was saved."""
    return random_lm(name, seed=seed, **changes).save(directory)


def reloaded(tokenizer: PreTrainedTokenizerBase, directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as it comes back from disk."""
    tokenizer.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


SMALL: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim"), 32)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "ffn_hidden_size", "dff"), 48)
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4)
    | dict.fromkeys(("decoder_layers", "num_decoder_layers"), 2)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4)
    | dict.fromkeys(("max_position_embeddings", "n_positions"), 512)
    | dict.fromkeys(("sliding_window", "window_size", "attention_window_size", "attention_chunk_size"), 12)
    | dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    | dict.fromkeys(("initializer_range", "init_std"), STD)
    | {"num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    | {"n_group": 1, "topk_group": 1, "state_size": 4, "mamba_d_state": 4, "is_decoder": True}
    | {"mamba_n_heads": 4, "mamba_d_head": 16, "use_sliding_window": True, "rotary_dim": 4, "q_lora_rank": 8}
    | {"kv_lora_rank": 8}
)
"""Sizes of `tiny` by the names that configurations have for them."""
LATENT = {"num_key_value_heads": 4, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
OWN: dict[str, dict[str, Any]] = {
    "codegen": {"n_ctx": 512},
    "cwm": {"bos_token_id": ..., "eos_token_id": ..., "pad_token_id": ...},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "falcon": {"alibi": True, "head_dim": ...},
    "glm4_moe_lite": LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "minicpm3": LATENT,
    "modernbert-decoder": {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "local_attention": 12},
    "qwen2": {"max_window_layers": 2},
    "youtu": LATENT,
}
"""What single types need beside; `...` leaves a size out."""


def tiny(kind: str, vocab: int = 27, **changes: Any) -> PreTrainedModel:
    """A small random causal model of any type that transformers has, with windows of 12 tokens where it has some."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    config = CONFIG_MAPPING[kind]
    base = config()
    known = {name: size for name, size in SMALL.items() if hasattr(base, name) and name not in base.attribute_map}
    sizes = {"vocab_size": vocab} | known | OWN.get(kind, {}) | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, names)(config(**{key: size for key, size in sizes.items() if size is not ...}))
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()
