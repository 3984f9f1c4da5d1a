"""Detection of tokenizer parts with unbounded time or memory: regular expressions, and output that grows.

It reads the JSON description of a part by the library `tokenizers`. An unknown part is reported, not refused: a
tokenizer with one is tried in a child process first (`probe.model.confined`).
"""

import re
from collections.abc import Iterator
from typing import Any

from probe.errors import brief
from probe.untrusted import parse_json

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = frozenset(
    {
        rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",  # GPT-2
        rf"{_CONTRACTIONS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",  # CLIP
        *(
            rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?[^\s{others}\p{{N}}]+[\r\n]*{_SPACES}"
            for letters, others in ((r"\p{L}", r"\p{L}"), (r"[\p{L}\p{M}]", r"\p{L}\p{M}"))
            for digits in (r"\p{N}", r"\p{N}{1,3}", r"\p{N}{1,2}", r"\p{N}+")  # Qwen, Llama 3, and those like them
        ),
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}",  # GPT-4o, gpt-oss
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        + _SPACES,  # DeepSeek-V3
    }
)
"""Regular expressions of published models, whose time is known to be linear in the length of the text."""
STEADY = frozenset(
    {
        *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Prepend", "Strip", "StripAccents"),
        *("BertPreTokenizer", "CharDelimiterSplit", "Digits", "FixedLength", "Metaspace", "Punctuation", "Split"),
        *("UnicodeScripts", "Whitespace", "WhitespaceSplit", "BertProcessing", "RobertaProcessing"),
        *("TemplateProcessing", "BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Replace", "WordPiece"),
    }
)
"""Parts whose output is at most a few times as long as their input."""
SIMPLE = re.compile(r"(?:\\[\w\W]|\[(?:\\[\w\W]|[^\[\]\\])+\]|[^\\()\[\]{}*+?|])+(?:[*+?]|\{\d+(?:,\d*)?\})?\$?")
"""Pattern of regular expressions without alternatives that repeat only their end."""
LONGEST = 16
"""Largest number of characters that a part may write for one character."""
GROWING = 3
"""Largest number of such growing parts in encoding or decoding, since each multiplies the output of the one before."""
WORD = 1000
"""Largest length of a word for WordPiece, whose time grows with its square."""


def odd_part(tokenizer: Any, parts: tuple[str, ...] = PARTS) -> str | None:
    """Describe the first part of a tokenizer that is not known to be bounded; None if all are.

    Args:
        tokenizer: `tokenizers.Tokenizer` to check.
        parts: names of the used parts, a subset of `PARTS`.
    """
    longest = getattr(tokenizer.model, "max_input_chars_per_word", 0)
    if longest > WORD:
        return f"words of up to {longest:,} letters"
    growing = {"encoding": 0, "decoding": 0}
    for name in parts:
        part = getattr(tokenizer, name)
        for each in [] if part is None else _parts(parse_json(part.__getstate__())):
            if each["type"] not in STEADY:
                return f"a {each['type']}"
            pattern = each["pattern"] if isinstance(each.get("pattern"), dict) else {}
            regex = pattern.get("Regex")
            if regex is not None and regex not in PATTERNS and not SIMPLE.fullmatch(regex):
                return f"the regular expression {brief(regex)!r}"
            texts = each["single"] if each["type"] == "TemplateProcessing" else ()
            if sum("Sequence" in text for text in texts) > 1:
                return "a template that repeats the text"
            written = each.get("content", each.get("prepend", ""))
            if len(written) > LONGEST:
                return f"the replacement {brief(written)!r}"
            lengthens = each["type"] in ("ByteLevel", "Metaspace") or len(written) > len(pattern.get("String", ""))
            growing["decoding" if name == "decoder" else "encoding"] += lengthens and each["type"] != "Strip"
    most = max(growing.values())
    return f"{most} parts that each lengthen the text" if most > GROWING else None


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """Yield a part, or the parts of a (possibly nested) sequence."""
    if part["type"] != "Sequence":
        yield part
        return
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        for each in part.get(key, ()):
            yield from _parts(each)
