"""The search: BM25, recall and reciprocal rank against plain loops, intervals, shuffled documents."""

import math
from collections import Counter

import numpy as np
import pytest

from probe.errors import ConfigError, DataError
from probe.retrieval.search import Retriever, rank_of, recall_curve, reciprocal_rank, words
from probe.stats import bootstrap_mean
from probe.world import World

VOCABULARY = [f"w{i}" for i in range(30)]


def collection(seed: int, size: int = 40) -> list[str]:
    """Texts of very different lengths, one of them empty."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(VOCABULARY) + 1)
    lengths = rng.integers(0, 25, size)
    lengths[3] = 0
    return [" ".join(rng.choice(VOCABULARY, n, p=weights / weights.sum())) for n in lengths]


def slow_bm25(texts: list[str], query: str, k1: float, b: float) -> list[float]:
    """Lucene's variant by loops over texts and words."""
    split = [text.split() for text in texts]
    mean = sum(map(len, split)) / len(split)
    found = []
    for tokens in split:
        counts, score = Counter(tokens), 0.0
        for word in query.split():
            df = sum(word in other for other in split)
            tf = counts[word]
            if df and tf:
                idf = math.log(1 + (len(split) - df + 0.5) / (df + 0.5))
                score += idf * tf / (tf + k1 * (1 - b + b * len(tokens) / mean))
        found.append(score)
    return found


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (2.0, 0.0), (0.5, 1.0)])
def test_scores_are_those_of_plain_loops(k1: float, b: float) -> None:
    texts = collection(0)
    retriever = Retriever(texts, k1, b)
    for query in ("w0 w5 w11", "w2 w2 w7", "w29 unheard", "unheard", ""):
        assert retriever.scores(query) == pytest.approx(slow_bm25(texts, query, k1, b), abs=1e-12)


def test_ranking_is_that_of_plain_loops_and_equal_scores_keep_their_order() -> None:
    texts = collection(1) * 2  # every text twice: ties everywhere
    for query in ("w0 w5 w11", "w3", "w29 w28"):
        scores = slow_bm25(texts, query, 1.5, 0.75)
        slow = [i for i in sorted(range(len(texts)), key=lambda i: (-round(scores[i], 9), i)) if scores[i] > 0]
        found = Retriever(texts).find(query)
        assert list(found.index) == slow
        assert found.scores == pytest.approx([scores[i] for i in slow])
        assert list(Retriever(texts).find(query, 3).index) == slow[:3]
    assert len(Retriever(texts).find("unheard").index) == 0


def test_words_are_letters_and_digits_in_lower_case() -> None:
    assert words("Where's the Café, no. 7?") == ["where", "s", "the", "café", "no", "7"]
    assert list(Retriever(["one", "The CAFÉ."]).find("café").index) == [1]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    Retriever(collection(2)).find("w1 w2")
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(DataError, match="None of the 2 documents has a word"):
        Retriever(["", " ... "])
    with pytest.raises(ConfigError, match=r"b=1\.5"):
        Retriever(["a"], b=1.5)


def test_the_reciprocal_rank_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        found = rng.permutation(12)[: rng.integers(0, 12)].tolist()
        relevant = set(rng.permutation(12)[: rng.integers(1, 5)].tolist())
        first = 0.0
        for place in range(len(found)):
            if found[place] in relevant:
                first = first or 1 / (place + 1)
        assert reciprocal_rank(rank_of(found, relevant)) == pytest.approx(first)


def test_recall_curve_counts_ranks() -> None:
    ranks = [1, 1, 2, 5, 11, float("nan"), 3, 1]
    table = recall_curve(ranks, depths=(1, 2, 5, 20))
    assert table["value"].tolist() == pytest.approx([3 / 8, 4 / 8, 6 / 8, 7 / 8])
    assert (table["n"] == 8).all()
    assert ((table["ci_low"] < table["value"]) & (table["value"] < table["ci_high"])).all()


def test_intervals_of_recall_and_mrr_cover_the_truth() -> None:
    """Ranks drawn from a known distribution: the intervals hold its recall@3 and its MRR in 93 to 97 % of samples."""
    chances = np.array([0.42, 0.15, 0.14, 0.15, 0.14])
    reciprocal = 1 / np.arange(1, 6)
    recall, mrr = chances[:3].sum(), chances @ reciprocal
    rng = np.random.default_rng(4)
    held = np.zeros(2)
    times = 1500
    for time in range(times):
        ranks = 1 + rng.choice(5, 200, p=chances)
        row = recall_curve(ranks.tolist(), depths=(3,)).iloc[0]
        low, high = bootstrap_mean(reciprocal[ranks - 1], resamples=400, seed=time)[1:]
        held += row.ci_low <= recall <= row.ci_high, low <= mrr <= high
    assert (held / times >= 0.93).all()
    assert (held / times <= 0.97).all()


def test_shuffled_documents_are_found_by_chance() -> None:
    """The null: which document has the answer is shuffled, and recall@k falls from near one to k / N."""
    world = World()
    people = world.groups["known"]
    texts = [f"{name} lives in {world.truth(name, 'home')} ." for name in people]
    retriever = Retriever(texts)
    true, shuffled = [], []
    places = np.random.default_rng(5).permutation(len(people))
    for place, name in enumerate(people):
        found = list(retriever.find(f"where does {name} live in ?").index)
        true.append(rank_of(found, {place}) or math.nan)
        shuffled.append(rank_of(found, {places[place]}) or math.nan)
    assert recall_curve(true, (1,))["value"][0] == 1
    row = recall_curve(shuffled, (3,)).iloc[0]
    assert row.ci_low <= 3 / len(people) <= row.ci_high
