"""Text to ids and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from probe.errors import DataError
from probe.model.text import (
    encode,
    encode_all,
    near_words,
    pad,
    pad_id,
    pieces,
    split,
    split_all,
    text_ids,
    unknown_words,
    unread,
)
from tests.models import WORDS, byte_tokenizer, char_tokenizer, digit_tokenizer, word_tokenizer

WORD, BYTE = word_tokenizer(), byte_tokenizer()
sentences = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


def test_the_beginning_token_is_added_once():
    assert encode(WORD, "mira lives")[0] == WORD.bos_token_id
    assert encode(WORD, "<bos> mira lives") == encode(WORD, "mira lives")


def test_an_end_token_that_the_tokenizer_appends_is_left_out():
    from tokenizers import processors

    tokenizer = word_tokenizer()
    ends = [("<bos>", tokenizer.bos_token_id), ("<end>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <end>", special_tokens=ends
    )
    assert tokenizer.encode("mira")[-1] == tokenizer.eos_token_id
    assert encode(tokenizer, "mira") == encode(WORD, "mira")
    assert encode(tokenizer, "mira <end>")[-1] == tokenizer.eos_token_id


@given(sentences, sentences)
def test_split_words_join_to_the_whole(prompt, completion):
    head, tail = split(WORD, prompt, " " + completion)
    assert head + tail == encode(WORD, f"{prompt} {completion}")


@given(st.text(max_size=12), st.text(max_size=12))
def test_split_bytes_decode_to_the_whole(prompt, completion):
    head, tail = split(BYTE, prompt, completion)
    assert head == encode(BYTE, prompt)
    assert BYTE.decode(head + tail, clean_up_tokenization_spaces=False) == prompt + completion


@given(st.lists(st.text(max_size=9), max_size=6), st.lists(sentences, max_size=6))
def test_many_are_encoded_as_one_by_one(texts, words):
    assert encode_all(BYTE, texts) == [BYTE.encode(text) for text in texts]
    begun = [f"<bos> {text}" for text in words]
    assert encode_all(WORD, [*words, *begun]) == [WORD.encode(text) for text in words] * 2


def test_many_are_split_as_one_by_one():
    pairs = [("mira li", "ves in"), ("mira", " lives"), ("the c", "at"), ("", "oslo"), ("mira", "")]
    found = split_all(BYTE, [prompt for prompt, _ in pairs], [text for _, text in pairs])
    assert found == [split(BYTE, prompt, text) for prompt, text in pairs]
    joined = [
        BYTE.encode(prompt + text) == head + tail for (prompt, text), (head, tail) in zip(pairs, found, strict=True)
    ]
    assert joined == [False, True, False, True, True]


def test_split_where_a_merge_crosses_the_boundary():
    whole = encode(BYTE, "the house")
    cut = split(BYTE, "the hou", "se")
    assert [*cut[0], *cut[1]] != whole
    assert cut == (encode(BYTE, "the hou"), encode(BYTE, "se"))


@given(st.text(min_size=1, max_size=20))
def test_pieces_are_readable_and_one_a_token(text):
    ids = encode(BYTE, text)
    parts = pieces(BYTE, ids)
    assert len(parts) == len(ids)
    assert all(part and not any(letter.isspace() for letter in part) for part in parts)


def test_pieces_show_white_space_and_special_tokens():
    assert pieces(WORD, encode(WORD, "mira <end>")) == ["<bos>", "mira", "<end>"]
    assert "".join(pieces(BYTE, encode(BYTE, "the cat\n\tlives"))) == "the·cat↵⇥lives"
    assert pieces(BYTE, [BYTE.eos_token_id, 10_000]) == ["<|end|>", "<10000>"]


def test_pieces_of_a_character_in_parts_keep_every_part():
    ids = encode(BYTE, "é")
    assert len(ids) == 2
    assert "\ufffd" not in "".join(pieces(BYTE, ids))


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=5), st.sampled_from(["left", "right"]))
def test_padding_round_trip(sequences, side):
    ids, mask = pad(sequences, -1, side)
    assert ids.shape == mask.shape == (len(sequences), max(map(len, sequences), default=0))
    assert [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)] == sequences
    assert (ids[~mask] == -1).all()
    edge = 0 if side == "right" else -1
    if ids.shape[1]:
        assert mask[:, edge].tolist() == [len(sequence) > 0 for sequence in sequences]


@pytest.mark.parametrize(("tokenizer", "expected"), [(WORD, WORD.pad_token_id), (BYTE, BYTE.eos_token_id)])
def test_there_is_always_something_to_pad_with(tokenizer, expected):
    assert pad_id(tokenizer) == expected
    assert pad([[1], []], pad_id(tokenizer))[0].dtype == torch.long


def test_unknown_words_are_named_with_near_ones():
    tokenizer = word_tokenizer(closed=True)
    text = "Where does mira lived in Paris?"
    assert unknown_words(tokenizer, text) == ["Where", "lived", "Paris?"]
    assert unknown_words(tokenizer, "mira lives in <unk> .") == []
    assert near_words(tokenizer, "Paris?") == ["paris"]
    assert near_words(tokenizer, "lived") == ["lives"]
    assert near_words(tokenizer, "zzzz") == near_words(tokenizer, "?!") == []
    for encoding in (encode, lambda tokenizer, text: split(tokenizer, "mira", f" {text}"), text_ids):
        with pytest.raises(
            DataError, match="does not know \u201cWhere\u201d, \u201clived\u201d, \u201cParis\\?\u201d, and the"
        ):
            encoding(tokenizer, text)
    with pytest.raises(DataError, match="\u201clived\u201d is near \u201clives\u201d"):
        encode(tokenizer, text)
    many = " ".join(f"w{i}" for i in range(9))
    with pytest.raises(DataError, match="\u201cw5\u201d and 3 more words"):
        encode(tokenizer, many)


def test_ids_and_whole_corpora_may_hold_the_unknown_token():
    tokenizer = word_tokenizer(closed=True)
    unknown = tokenizer.unk_token_id
    assert text_ids(tokenizer, [unknown, 5]) == [unknown, 5]
    assert encode_all(tokenizer, ["mira sings"])[0][-1] == unknown


def test_a_tokenizer_that_can_spell_everything_knows_every_word():
    tokenizer = byte_tokenizer()
    assert unknown_words(tokenizer, "What is the capital of Z\u00fcrich? \U0001f600") == []
    tokenizer.unk_token = "<|end|>"  # as GPT-2 has it
    assert unknown_words(tokenizer, "one <|end|> two") == []
    assert encode(tokenizer, "one <|end|> two")


@pytest.mark.parametrize("closed", [True, False])
def test_words_that_are_not_read_are_named_whether_or_not_the_unknown_token_is_declared(closed: bool):
    tokenizer = word_tokenizer(closed)
    assert unread(tokenizer, "Where does mira lived in Paris?") == ["Where", "lived", "Paris?"]
    assert unread(tokenizer, "mira lives in <unk> .") == unread(tokenizer, "") == []


@pytest.mark.parametrize(("unknown", "declared"), [("<unk>", True), ("<unk>", False), ("?!", False), (None, False)])
@given(st.text("abc \n", max_size=8), st.lists(st.sampled_from("xyZ\u00e9\u65e5"), max_size=3), st.randoms())
def test_letters_that_are_not_read_are_named(unknown, declared, known, others, random):
    tokenizer, text = char_tokenizer("abc \n", unknown, declared), [*known, *others]
    random.shuffle(text)
    assert sorted(unread(tokenizer, "".join(text))) == sorted(set(others))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_whoever_spells_with_bytes_reads_every_text(text):
    assert unread(byte_tokenizer(), text) == unread(digit_tokenizer(), text) == []


def test_capitals_and_accents_that_are_taken_off_are_no_loss():
    inner = Tokenizer(WordPiece({"[UNK]": 0, "the": 1, "e": 2, "##e": 3}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert unread(tokenizer, "The \u00e9 e\u0301e\u200b") == []
    assert unread(tokenizer, "the zz") == ["zz"]
