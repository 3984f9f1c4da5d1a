"""Identity of a model: its weights, and its tokenizer, chat templates and end tokens.

Two models with equal weights are different models if a prompt becomes different tokens, if a chat is written
differently, or if an answer ends at a different token. So the fingerprint of a model covers both.
"""

import hashlib
import json
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from probe.errors import ModelError
from probe.model.folders import sound_folder
from probe.model.references import GENERATION_CONFIG
from probe.untrusted import foreign

NAMED = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
"""Special tokens with a role in a tokenizer."""
FLAGS = ("add_bos_token", "add_eos_token", "split_special_tokens", "clean_up_tokenization_spaces")
"""Attributes of a tokenizer that affect its tokens and may be missing from its file."""
MOMENTARY = ("truncation", "padding", "version")
"""Parts of a fast tokenizer that a call can change, and the version of its file."""
ASIDE = {"_from_model_config", "transformers_version", "use_cache", "return_dict_in_generate"}
ASIDE |= {"output_attentions", "output_hidden_states", "output_scores", "output_logits"}
"""Generation settings that do not affect the written text."""
SAMPLE = (
    "The 27 cats'  sat\n\ton \u201cmats\u201d, na\u00efve \u6771\u4eac \U0001f642 <s> </s> <pad> www.x-y.org ABC abc"
)
"""Text whose tokens, with the vocabulary, identify a tokenizer that has no file."""

_HASHES: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, str]]" = WeakKeyDictionary()
_LOCK = Lock()


def combine(weights: str, texts: str) -> str:
    """Combine the fingerprint of a model's weights with the hash of its tokenizer and generation settings."""
    return _hash([weights, texts])


def texts_hash(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> str:
    """Return the SHA-256, in hexadecimal, of a model's tokenizer and generation settings.

    Args:
        tokenizer: the tokenizer; its vocabulary, merges, normaliser, special tokens and chat templates count, but not
            truncation and padding, which any call may set.
        generation: the model's generation settings, if it has any.
    """
    return _hash([_tokenizer_hash(tokenizer), generation_facts(generation)])


def generation_facts(generation: GenerationConfig | None) -> dict[str, Any]:
    """Return generation settings that differ from the defaults and affect the written text."""
    facts = {} if generation is None else generation.to_diff_dict()
    return {name: value for name, value in facts.items() if value is not None and name not in ASIDE}


def read_generation(directory: Path) -> GenerationConfig:
    """Read the generation settings of the model in a directory, as they are after loading.

    Raises:
        ModelError: they are broken.
    """

    def refuse(reason: str) -> ModelError:
        return ModelError(f"`{directory}` has no usable generation settings ({reason}): copy the model again.")

    with foreign(refuse):
        if (directory / GENERATION_CONFIG).is_file():
            return GenerationConfig.from_pretrained(sound_folder(directory), local_files_only=True)
        config = AutoConfig.from_pretrained(sound_folder(directory), trust_remote_code=False, local_files_only=True)
        return GenerationConfig.from_model_config(config)


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the hash of a tokenizer; compute it again only if its stamp has changed."""
    stamp = _stamp(tokenizer)
    with _LOCK:
        known = _HASHES.get(tokenizer)
    if known is not None and known[0] == stamp:
        return known[1]
    digest = _hash([_content(tokenizer), stamp])
    with _LOCK:
        _HASHES[tokenizer] = stamp, digest
    return digest


def _stamp(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """Return cheap signs of a tokenizer's state, without reading its vocabulary."""
    added = {index: repr(token) for index, token in tokenizer.added_tokens_decoder.items()}
    return [
        len(tokenizer),
        {
            name: [getattr(tokenizer, f"{name}_token", None), getattr(tokenizer, f"{name}_token_id", None)]
            for name in NAMED
        },
        {name: bool(getattr(tokenizer, name, False)) for name in FLAGS},
        getattr(tokenizer, "chat_template", None),
        sorted(added.items()),
        _parts(tokenizer),
    ]


def _parts(tokenizer: PreTrainedTokenizerBase) -> list[str] | None:
    """Return the normaliser, pre-tokenizer, post-processor and decoder of a fast tokenizer; None for any other."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    try:
        parts = [getattr(backend, name) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
        return [part.__getstate__().decode() if part is not None else "" for part in parts]
    except Exception:  # a part that the library cannot serialise
        return None


def _content(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return all that a tokenizer holds, as JSON values.

    For a tokenizer that cannot be serialised, return its vocabulary and the tokens of a sample.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    try:
        content = json.loads(backend.to_str())
    except Exception:  # there is no backend, or it has a part written in Python
        return [type(tokenizer).__name__, tokenizer.get_vocab(), list(tokenizer(SAMPLE)["input_ids"])]
    return {name: value for name, value in content.items() if name not in MOMENTARY}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
