"""A tokenizer trained on a user's own text: characters, or byte-level pairs (BPE)."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from probe.errors import ConfigError

BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"
SPECIAL = [PAD, BOS, EOS, UNK]
BYTES = 256


def train_tokenizer(
    texts: Iterable[str], kind: Literal["char", "bpe"], vocab_size: int, context: int
) -> PreTrainedTokenizerFast:
    """A tokenizer for `texts` that puts `<bos>` first; decoding gives the text back to the letter.

    Args:
        texts: what to learn from, taken once.
        kind: `char` has a token for each of the most frequent characters and `<unk>` for others; `bpe` merges bytes,
            so it knows every text.
        vocab_size: largest number of tokens, special tokens included.
        context: longest sequence of the model that it is for.

    Raises:
        ConfigError: the vocabulary is too small for the kind.
    """
    least = len(SPECIAL) + (BYTES if kind == "bpe" else 1)
    if vocab_size < least:
        raise ConfigError(f"--vocab-size is {vocab_size}; expected at least {least} with --tokenizer {kind}.")
    tokenizer = (_train_bpe if kind == "bpe" else _train_characters)(texts, vocab_size)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        padding_side="left",
    )


def _train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_characters(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted(counts, key=lambda letter: (-counts[letter], letter))[: vocab_size - len(SPECIAL)]
    ids = {token: i for i, token in enumerate([*SPECIAL, *sorted(kept)])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer
