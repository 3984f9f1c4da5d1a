"""Text to token ids and back, and one forward pass of any (wrapped) causal language model of transformers.

It has one rule for the boundary of prompt and completion, one for padding, and readable forms of tokens.

Axes: B rows, T tokens, V vocabulary, d width.
"""

import inspect
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from probe.errors import DataError
from probe.model.confined import Exceeded, render
from probe.untrusted import foreign

SPACE, NEWLINE, TAB = "·", "↵", "⇥"

NAMED = 6
"""Maximum number of unknown words that a message names."""
UNKNOWN = ("<unk>", "[UNK]")
"""Common names of the unknown token, by which it is found if a tokenizer does not declare it."""
MARKS = ".,:;!?\"'()[]\u201c\u201d"
"""Punctuation that may be attached to a word."""


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode `text` with the beginning token that the tokenizer adds, and without an end token.

    A text that already starts with the beginning token (a chat template writes it) gets no second one.

    Raises:
        DataError: a word that the tokenizer does not know (see `require_known`).
    """
    ids = encode_all(tokenizer, [text])[0]
    if tokenizer.unk_token_id in ids:
        require_known(tokenizer, [text])
    return ids


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Encode each text as `encode` does, but much faster for many at once.

    Unknown words become the unknown token.
    """
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    has_bos = [bool(bos and text.startswith(bos)) for text in texts]
    encodings: dict[str, list[int]] = {}
    for present in set(has_bos):
        part = list(dict.fromkeys(text for text, own in zip(texts, has_bos, strict=True) if own == present))
        encodings |= zip(part, tokenizer(part, add_special_tokens=not present)["input_ids"], strict=True)
    for text, ids in encodings.items():
        if eos is not None and ids[-1:] == [tokenizer.eos_token_id] and not text.rstrip().endswith(eos) and bos != eos:
            ids.pop()
    return [list(encodings[text]) for text in texts]


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], answer: bool = False) -> str:
    """Write messages as the tokenizer's chat template does.

    Args:
        tokenizer: tokenizer with a chat template.
        messages: messages of the conversation, each with role and content.
        answer: whether to append the opening of an answer.

    Raises:
        DataError: the template refuses the messages, is broken, or needs too much time or memory
            (`probe.model.confined`).
    """
    owner = f"of `{tokenizer.name_or_path}`" if tokenizer.name_or_path else "of this model"

    def refuse(reason: str) -> DataError:
        return DataError(f"The chat template {owner} refuses the messages ({reason}): change them.")

    with foreign(refuse):
        template = tokenizer.get_chat_template()
        known = [{name: value for name, value in each.items() if value is not None} for each in messages]
        try:
            return render(template, known, tokenizer.special_tokens_map, answer)
        except Exceeded as limit:
            raise DataError(
                f"The chat template {owner} {limit} for these messages, so it is not used: send the prompt as plain"
                " text, or put another template into the model's chat_template.jinja."
            ) from None


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str | Sequence[int]) -> list[int]:
    """Return the ids of a text, or the given ids."""
    return encode(tokenizer, text) if isinstance(text, str) else [int(token) for token in text]


def split(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of its completion.

    The boundary is a token boundary of the joint text if there is one: if the ids of the joint text start with the
    prompt's ids, the rest is the completion. If a merge crosses the boundary, the two are encoded separately. No end
    token is added.

    Raises:
        DataError: the tokenizer does not know a word (see `require_known`).
    """
    head, rest = split_all(tokenizer, [prompt], [completion])[0]
    if tokenizer.unk_token_id in (*head, *rest):
        require_known(tokenizer, [prompt, completion])
    return head, rest


def split_all(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], completions: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Split each prompt and its completion as `split` does, but much faster for many at once."""
    both = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    ids, pairs = encode_all(tokenizer, [*prompts, *both]), []
    for head, whole, completion in zip(ids[: len(both)], ids[len(both) :], completions, strict=True):
        if whole[: len(head)] == head:
            pairs.append((head, whole[len(head) :]))
        else:
            pairs.append((head, list(tokenizer.encode(completion, add_special_tokens=False))))
    return pairs


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the words of a text that become the unknown token, each once.

    There are none if the tokenizer can encode everything. The unknown token written out counts as known.
    """
    unknown_id, letters = tokenizer.unk_token_id, {"add_special_tokens": False}
    if unknown_id is None or unknown_id not in tokenizer(text, **letters)["input_ids"]:
        return []
    if tokenizer.is_fast:
        read = tokenizer(text, return_offsets_mapping=True, **letters)
        ends = zip(read["input_ids"], read["offset_mapping"], strict=True)
        words = [text[start:stop].strip() for token, (start, stop) in ends if token == unknown_id]
    else:
        words = [word for word in text.split() if unknown_id in tokenizer(word, **letters)["input_ids"]]
    return [word for word in dict.fromkeys(words) if word and word != tokenizer.unk_token]


def unread(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the words and letters of a text that the model cannot read, each once.

    These are the words that become the unknown token, declared (`unknown_words`) or not, and the letters that a
    vocabulary without such a token drops.
    """
    unknown = unknown_words(tokenizer, text)
    if unknown:
        return unknown
    if not tokenizer.is_fast:
        return _dropped(tokenizer, text)
    read = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    unknown_ids, seen, words = unknown_tokens(tokenizer), [False] * len(text), list[str]()
    for token, (start, stop) in zip(read["input_ids"], read["offset_mapping"], strict=True):
        word, name = text[start:stop].strip(), unknown_ids.get(token)
        if name is not None and word and word != name:
            words.append(word)
        seen[start:stop] = [True] * (stop - start)
    if words or all(seen):
        return list(dict.fromkeys(words))
    return _dropped(tokenizer, text)  # offsets after a dropped letter are wrong


def unknown_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the tokens that stand for unknown words by their ids: the declared one, and undeclared ones in use."""
    inner = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    names = [*UNKNOWN, getattr(inner, "unk_token", None), tokenizer.unk_token]  # missing names get the id of the last
    ids = {tokenizer.convert_tokens_to_ids(name): name for name in names if name}
    return {token: name for token, name in ids.items() if token is not None}


def _dropped(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the letters of a text that its decoded tokens lack."""
    (ids,) = encode_all(tokenizer, [text])
    spelt = tokenizer.decode(ids, skip_special_tokens=False)
    lost = Counter(_folded(text)) - Counter(_folded(spelt))
    letters = [letter for letter in dict.fromkeys(text) if any(part in lost for part in _folded(letter))]
    return [letter for letter in letters if letter not in spelt] or letters


def _folded(text: str) -> str:
    """Return a text without blanks, accents, capitals and invisible characters, which a tokenizer may omit."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(part for part in parts if not part.isspace() and unicodedata.category(part)[0] not in "CM")


def near_words(tokenizer: PreTrainedTokenizerBase, word: str) -> list[str]:
    """Return words of the vocabulary close to an unknown one: without punctuation and capitals, or similarly spelt."""
    special = set(tokenizer.all_special_tokens)
    vocabulary = {token.strip("\u2581\u0120#") for token in tokenizer.get_vocab() if token not in special}
    core = word.strip(MARKS)
    if not core:
        return []
    same = [form for form in (core, core.lower()) if form in vocabulary]
    return same[:1] or get_close_matches(core.lower(), sorted(vocabulary), n=2, cutoff=0.75)


def require_known(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
    """Raise a DataError that names the words that the tokenizer does not know, with similar known ones.

    A model that reads the unknown token in place of a word would answer another question.
    """
    words = list(dict.fromkeys(word for text in texts for word in unknown_words(tokenizer, text)))
    if not words:
        return
    raise DataError(
        f"The tokenizer does not know {quote_words(words)}, and the model would read {tokenizer.unk_token} instead: "
        f"{near_clause(tokenizer, words)}write the text in words of the model (`tokenizer.get_vocab()` lists them), or "
        "give token ids."
    )


def quote_words(words: Sequence[str]) -> str:
    """Put words in quotes: name the first few, and count the others."""
    quotes = ", ".join(f"\u201c{word}\u201d" for word in words[:NAMED])
    return quotes + f" and {len(words) - NAMED} more words" * (len(words) > NAMED)


def near_clause(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> str:
    """Return a clause with known words similar to the unknown ones; empty if there are none."""
    near = {word: near_words(tokenizer, word) for word in words[:NAMED]}
    parts = [f"\u201c{word}\u201d is near {quote_words(forms)}" for word, forms in near.items() if forms]
    return f"{', '.join(parts)}; " if parts else ""


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return one readable string per token: white space made visible, special tokens kept, never empty."""
    readable = {token: _piece(tokenizer, token) for token in {int(token) for token in ids}}
    return [readable[int(token)] for token in ids]


def pad(
    sequences: Sequence[Sequence[int]], value: int, side: Literal["left", "right"] = "right"
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Return sequences as one tensor padded with `value`, and the mask that is true at real tokens."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.long)
    width = int(lengths.max()) if len(sequences) else 0
    columns = torch.arange(width)
    mask = columns >= width - lengths[:, None] if side == "left" else columns < lengths[:, None]
    ids = torch.full(mask.shape, value, dtype=torch.long)
    ids[mask] = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.long)
    return ids, mask


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return a token to pad with; it is always masked, so any will do if the tokenizer names none."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def _piece(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    raw = tokenizer.convert_ids_to_tokens(token)
    if raw is None:  # an id beyond the vocabulary: models pad their embedding to a round size
        return f"<{token}>"
    text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "\ufffd" in text or not text:  # part of a character: the tokenizer's own spelling of the bytes
        text = raw
    if raw.startswith("▁") and not text.startswith((" ", "▁")):
        text = " " + text
    text = text.replace("\r", "").replace("\n", NEWLINE).replace("\t", TAB)
    return "".join(SPACE if letter.isspace() else letter for letter in text) or f"<{token}>"


Ids = Sequence[int]


def forward(
    model: nn.Module, ids: Int[Tensor, "B T"], *, keep: int = 0, readout: nn.Module | None = None, **inputs: Any
) -> Any:
    """Run one forward pass for the logits of the last `keep` positions (0: all), and read `readout` at them.

    Arguments that the architecture does not take (ALiBi models have no position_ids) are left out.
    """
    inner = unwrap(model)
    parameters = arguments(inner)
    if keep and "logits_to_keep" in parameters:
        inputs["logits_to_keep"] = keep
    with _read(inner, readout) as readings:
        output = model(input_ids=ids, **{name: value for name, value in inputs.items() if name in parameters})
    output.logits = output.logits[:, -keep:]
    output.readout = readings[0][:, -keep:] if readings else None
    return output


@contextmanager
def _read(inner: Any, readout: nn.Module | None) -> Iterator[list[Float[Tensor, "B T"]]]:
    """Collect the output of `readout` at the states that enter the unembedding in a list, inside the context."""
    readings: list[Float[Tensor, "B T"]] = []
    if readout is None:
        yield readings
        return
    unembedding = inner.get_output_embeddings()
    handle = unembedding.register_forward_pre_hook(lambda _, states: readings.append(readout(states[0]).float()))
    try:
        yield readings
    finally:
        handle.remove()


def whole_logits(model: nn.Module, rows: Sequence[Ids]) -> Float[Tensor, "N T V"]:
    """Compute the logits of whole texts, padded on the right, without a cache."""
    ids, mask = (tensor.to(next(model.parameters()).device) for tensor in pad(rows, 0))
    return forward(model, ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False).logits


def positions(mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Count positions from the mask, so that left padding does not shift them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def unwrap(model: nn.Module) -> Any:
    """Return the model of transformers inside a wrapper such as DistributedDataParallel or an adapter of peft."""
    inner: Any = model if hasattr(model, "config") else model.module
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def bare(model: Any) -> Any:
    """Return the module inside torch.compile, DataParallel and DistributedDataParallel, but keep an adapter of peft."""
    while isinstance(model, nn.Module):
        inside = model._modules
        if inside.get("_orig_mod") is not None:  # of torch.compile, which passes every attribute on
            model = inside["_orig_mod"]
        elif not hasattr(model, "config") and inside.get("module") is not None:
            model = inside["module"]
        else:
            break
    return model


def context_length(model: nn.Module) -> int | None:
    """Return the longest sequence for which the model was built, in tokens; None if the configuration names none."""
    config = unwrap(model).config
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def can_cache(model: nn.Module) -> bool:
    """Return whether the model keeps keys and values (recurrent models keep another state)."""
    inner = unwrap(model)
    return "past_key_values" in arguments(inner) and not getattr(inner, "_is_stateful", False)


def arguments(model: nn.Module) -> frozenset[str]:
    """Return the names of the arguments that the forward pass of a model takes."""
    return _names(type(model).forward)


@lru_cache
def _names(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
