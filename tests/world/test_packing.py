"""Packing: nothing lost, nothing split that fits, little padding."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import DataError
from probe.world import KINDS, Document, World, WorldConfig
from probe.world.packing import pack


def rows_of(documents, tokenizer, length):
    return list(pack(documents, tokenizer, length))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 150), length=st.integers(48, 200))
def test_whole_documents_each_exactly_once(world, tokenizer, seed, n, length):
    documents = list(islice(world.documents(seed), n))
    found: Counter[str] = Counter()
    for ids, kinds in rows_of(documents, tokenizer, length):
        assert ids.shape == kinds.shape == (length,)
        assert ids[0] == tokenizer.bos_token_id
        real = ids[kinds >= 0]
        assert (ids[len(real) :] == tokenizer.pad_token_id).all()
        text = tokenizer.decode(real.tolist())
        found.update(part.strip() for part in text.split("<bos>")[1:])
    assert found == Counter(document.text for document in documents)


def test_kinds_mark_each_token(world, tokenizer):
    texts = {document.text: document.kind for document in islice(world.documents(0), 500)}
    for ids, kinds in rows_of(islice(world.documents(0), 500), tokenizer, 96):
        starts = np.flatnonzero(ids == tokenizer.bos_token_id).tolist()
        ends = [*starts[1:], int((kinds >= 0).sum())]
        for start, end in zip(starts, ends, strict=True):
            text = tokenizer.decode(ids[start + 1 : end].tolist())
            assert {KINDS[i] for i in kinds[start:end]} == {texts[text]}


def test_less_than_two_percent_is_padding(world, tokenizer):
    padded = sum(int((kinds < 0).sum()) for _, kinds in islice(pack(world.documents(0), tokenizer, 96), 500))
    assert padded < 0.02 * 500 * 96


def test_a_document_longer_than_a_row_is_split(tokenizer):
    document = Document("markov", "chain 1 : " + " ".join(["z0", "z1"] * 40), {})
    rows = rows_of([document], tokenizer, 32)
    text = " ".join(tokenizer.decode(ids[kinds >= 0].tolist()) for ids, kinds in rows)
    assert text == f"<bos> {document.text}"
    assert len(rows) == 3


def test_other_kinds_and_unknown_words(tokenizer):
    poem = Document("poem", "mira waved zyx", {})
    ((ids, kinds),) = pack([poem], tokenizer, 5, kinds=["poem"])
    assert kinds.tolist() == [0, 0, 0, 0, -1]
    assert ids.tolist()[3:] == [tokenizer.unk_token_id, tokenizer.pad_token_id]
    with pytest.raises(DataError, match="the kind 'poem'"):
        rows_of([poem], tokenizer, 5)


def test_a_full_row_of_chains_wastes_nothing(tokenizer):
    world = World(WorldConfig(mixture={"markov": 1}, orders=(1,), chain=92))
    for _, kinds in islice(pack(world.documents(0), tokenizer, 96), 10):
        assert (kinds == KINDS.index("markov")).all()


def test_another_tokenizer_packs_too(tokenizer):
    """A tokenizer that is not the world's goes the slow way to the same rows."""
    larger = World().tokenizer()
    larger.add_tokens(["zyx"])
    documents = list(islice(World().documents(0), 40))
    for fast, slow in zip(rows_of(documents, tokenizer, 96), rows_of(documents, larger, 96), strict=True):
        assert (fast[0] == slow[0]).all()
        assert (fast[1] == slow[1]).all()
