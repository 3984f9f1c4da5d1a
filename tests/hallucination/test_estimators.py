"""Estimators of the hallucination experiment against slow references, enumeration and what they must cover."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from probe import stats
from probe import stats as resampling
from probe.errors import ConfigError, DataError
from probe.hallucination.confidence import (
    EQUIVALENCES,
    TARGETS,
    agreement,
    answers_above,
    aurc,
    auroc,
    clusters,
    discrete_entropy,
    equivalence,
    exact_entropy,
    expected_discrete,
    normalise,
    penalty,
    reliability_part,
    risk_coverage,
    risk_table,
    score,
    target_curves,
    with_rest,
)
from probe.hallucination.experiment import METRICS, CalibrationError, PlainError
from probe.hallucination.world import JudgedAnswers, exposure_class, singletons, validity_bound
from probe.world import World, WorldConfig


def random_case(rng: np.random.Generator, prompts: int = 6) -> JudgedAnswers:
    """Answer sets of unequal sizes; the training distribution has no errors, the model is anything."""
    width = 16
    sizes = rng.integers(8, width + 1, prompts)
    mask = np.arange(width) < sizes[:, None]
    valid = np.zeros_like(mask)
    for row, size in enumerate(sizes):
        valid[row, rng.permutation(size)[: rng.integers(1, 4)]] = True
    sharpness = 10 ** rng.uniform(-1, 2.5)
    model = rng.gamma(sharpness, size=mask.shape) * mask + 1e-9 * mask
    if rng.random() < 0.5:  # one that has learned something
        model += valid * rng.gamma(2.0, 5.0 * sharpness, size=mask.shape)
    train = rng.gamma(0.5, size=mask.shape) * valid + 1e-9 * valid
    return JudgedAnswers(model / model.sum(1, keepdims=True), train / train.sum(1, keepdims=True), valid, mask)


def slow_bound(case: JudgedAnswers, mu: np.ndarray) -> tuple[float, float, float, float]:
    """error, err_iiv, ratio and delta, written down answer by answer from the mixture D."""
    model, train, valid, mask = case
    errors = [[a for a in range(mask.shape[1]) if mask[c, a] and not valid[c, a]] for c in range(len(mask))]
    goods = [[a for a in range(mask.shape[1]) if mask[c, a] and valid[c, a]] for c in range(len(mask))]
    threshold = 1 / min(map(len, errors))
    err = iiv = model_says = train_says = 0.0
    for c, weight in enumerate(mu):
        for a in goods[c] + errors[c]:
            says_valid = model[c, a] > threshold
            drawn = weight * (0.5 * train[c, a] + (0.5 / len(errors[c]) if a in errors[c] else 0.0))
            iiv += drawn * (says_valid != (a in goods[c]))
            model_says += weight * model[c, a] * says_valid
            train_says += weight * train[c, a] * says_valid
        err += weight * sum(model[c, a] for a in errors[c])
    return err, iiv, max(map(len, goods)) / min(map(len, errors)), abs(model_says - train_says)


def test_each_term_of_the_bound_is_that_of_the_definition_and_the_bound_holds() -> None:
    rng, useful = np.random.default_rng(0), 0
    for _ in range(400):
        case, mu = random_case(rng), rng.dirichlet(np.ones(6))
        found = validity_bound(case, mu)
        assert (found.error, found.iiv_error, found.ratio, found.delta) == pytest.approx(slow_bound(case, mu))
        assert found.error >= found.bound - 1e-12
        useful += found.bound > 0.02
    assert useful > 10  # the inequality was put to the test


def test_the_bound_is_nearly_tight_for_a_model_that_knows_nothing_and_zero_for_one_that_knows_all() -> None:
    errors, prompts = 11, 5
    mask = np.ones((prompts, errors + 1), dtype=bool)
    valid = np.zeros_like(mask)
    valid[np.arange(prompts), np.arange(prompts)] = True
    flat = np.full(mask.shape, 1 / (errors + 1))
    found = validity_bound(JudgedAnswers(flat, valid.astype(float), valid, mask))
    assert found.error == pytest.approx(11 / 12)
    assert (found.iiv_error, found.ratio, found.delta) == pytest.approx((0.5, 1 / 11, 0.0))
    assert found.bound == pytest.approx(1 - 1 / 11)
    knows = validity_bound(JudgedAnswers(valid.astype(float), valid.astype(float), valid, mask))
    assert (knows.error, knows.iiv_error, knows.delta) == (0, 0, 0)


def test_the_bound_refuses_what_it_does_not_hold_for() -> None:
    case = random_case(np.random.default_rng(1))
    with pytest.raises(DataError, match="p\\(V\\) = 1"):
        validity_bound(case._replace(train=case.model))
    with pytest.raises(DataError, match="normalise"):
        validity_bound(case._replace(model=2 * case.model))
    with pytest.raises(DataError, match="no error"):
        validity_bound(case._replace(valid=case.mask))
    with pytest.raises(DataError, match="at least one"):
        validity_bound(case.take(np.zeros(6, dtype=bool)))


def test_singletons_are_those_of_an_epoch_of_the_corpus() -> None:
    mixture = {"statement": 0.3, "question": 0.3, "chatter": 0.2, "opinion": 0.2}
    world = World(WorldConfig(epoch=2500, known=6, rare=7, strangers=2, heldout=2, phases=0, mixture=mixture), seed=3)
    stream = world.documents(seed=1)
    said = Counter(
        (document.meta["person"], document.meta["relation"])
        for document in (next(stream) for _ in range(2500))
        if document.kind in ("statement", "question")
    )
    found = singletons(world.exposure)
    once = sum(count == 1 for count in said.values())
    assert once == found.singletons == 10  # two rare people with five facts each
    assert found.documents == sum(said.values()) == 1500
    assert found.rate == once / 1500
    assert found.share == once / len(said)
    with pytest.raises(DataError, match="no fact"):
        singletons([0, 0])


def test_every_count_is_in_one_class() -> None:
    classes = [exposure_class(count) for count in range(5000)]
    assert all(each.low <= count <= each.high for count, each in enumerate(classes))
    assert [each.low for each in dict.fromkeys(classes)] == [0, 1, 2, 3, 4, 5, 6, 16, 64, 256, 1024, 4096]
    assert classes[3].label == "3"
    with pytest.raises(DataError, match="start at 0"):
        exposure_class(-1)


def test_expected_discrete_entropy_is_that_over_all_sequences_of_samples() -> None:
    p = np.array([0.6, 0.3, 0.1])
    slow = sum(np.prod(p[list(draw)]) * discrete_entropy(draw) for draw in product(range(3), repeat=5))
    assert expected_discrete(p, 5) == pytest.approx(slow)
    assert expected_discrete(p, 4000) == pytest.approx(reference.entropy(p), abs=1e-3)  # consistent, from below
    assert expected_discrete(p, 10) < reference.entropy(p)


def test_exact_entropy_counts_what_is_no_answer_as_one_meaning() -> None:
    logprobs = np.log([[0.5, 0.25, 0.05], [0.2, 0.2, 0.6]])
    assert exact_entropy(logprobs)[0] == pytest.approx(reference.entropy([0.5, 0.25, 0.05, 0.2]))
    assert exact_entropy(logprobs)[1] == pytest.approx(reference.entropy([0.2, 0.2, 0.6]))
    assert with_rest(np.array([[0.0, -np.inf]])).tolist() == [[1, 0, 0]]


def test_clusters_join_the_first_one_whose_head_is_equivalent() -> None:
    near = lambda a, b: abs(int(a) - int(b)) <= 1  # noqa: E731 - not transitive
    assert clusters(["1", "2", "3", "0", "4"], near) == [0, 0, 1, 0, 1]
    assert clusters(["The cat.", "a cat", "dog"]) == [0, 0, 1]
    assert discrete_entropy([0, 0, 1, 1]) == pytest.approx(np.log(2))
    assert agreement(["A cat", "dog", "the cat!", "cats"], "cat") == 0.5
    assert normalise("  An Apple, the Pear... ") == "apple pear"
    with pytest.raises(DataError, match="at least one"):
        discrete_entropy([])
    with pytest.raises(ConfigError, match="normalised, exact"):
        equivalence("entailment")
    assert equivalence("exact") is EQUIVALENCES["exact"]


def test_the_interval_of_sampled_entropy_covers_what_samples_give_on_average() -> None:
    rng = np.random.default_rng(0)
    pool = rng.dirichlet(np.full(5, 0.4), size=40)
    truth = np.mean([expected_discrete(p, 8) for p in pool])
    covered = 0
    for _ in range(1500):
        counts = np.array([rng.multinomial(8, pool[i]) for i in rng.integers(0, 40, 60)]) / 8
        _, low, high = stats.bootstrap_mean(reference.entropy(counts, axis=1), resamples=300)
        covered += low <= truth <= high
    assert 0.93 <= covered / 1500 <= 0.97


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 6, 70).astype(float), rng.integers(0, 2, 70)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs))
    u = reference.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert auroc(scores, labels) == pytest.approx(u / len(pairs))
    assert np.isnan(auroc([1.0, 2.0], [1, 1]))
    assert auroc(np.zeros(9), [1] + 8 * [0]) == 0.5  # one who always says the same
    with pytest.raises(DataError, match="0 or 1"):
        auroc([1.0], [0.5])


def test_risk_coverage_is_the_mean_over_orders_of_ties() -> None:
    rng = np.random.default_rng(3)
    confidence, wrong = np.array([0.9, 0.5, 0.5, 0.5, 0.2, 0.2]), np.array([0, 1, 0, 1, 1, 0])
    curves = []
    for _ in range(4000):
        order = np.lexsort((rng.random(6), -confidence))
        curves.append(np.cumsum(wrong[order]) / np.arange(1, 7))
    coverage, risk = risk_coverage(confidence, wrong)
    assert coverage == pytest.approx(np.arange(1, 7) / 6)
    assert risk == pytest.approx(np.mean(curves, axis=0), abs=0.02)
    assert aurc(confidence, wrong) == pytest.approx(risk.mean())
    assert aurc(np.zeros(6), wrong) == pytest.approx(0.5)  # a constant confidence: the error rate
    table = risk_table(rng.random(300), rng.integers(0, 2, 300), points=20)
    assert len(table) == 20
    assert (table["ci_low"] <= table["ci_high"]).all()
    assert (table["ci_low"] <= table["value"]).mean() > 0.9
    right = risk_table(rng.random(300), np.zeros(300), points=20)  # no error seen is not none
    assert right["ci_high"].to_numpy() == pytest.approx([stats.wilson(0, n).high for n in right["n"]])


def fast_auroc(errors: np.ndarray) -> np.ndarray:
    """[R] AUROC of right answers from [R N] errors, the surest first, no ties among different items."""
    right, n = 1 - errors, errors.shape[1]
    behind = errors.sum(1, keepdims=True) - np.cumsum(errors, axis=1)
    return (right * behind).sum(1) / (right.sum(1) * (n - right.sum(1)))


def fast_aurc(errors: np.ndarray) -> np.ndarray:
    """[R] AURC of the same."""
    return (np.cumsum(errors, axis=1) / np.arange(1, errors.shape[1] + 1)).mean(1)


@pytest.mark.parametrize(("name", "fast"), [("auroc", fast_auroc), ("aurc", fast_aurc)])
def test_the_intervals_of_rank_statistics_cover(
    name: str, fast: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The percentile bootstrap of the summary, replayed without its loop; one data set shows that it is the same."""
    n, resamples = 200, 400
    monkeypatch.setattr(resampling, "RESAMPLES", resamples)
    rng, metric = np.random.default_rng(4), next(each for each in METRICS if each.name == name)

    def draw(n: int) -> pd.DataFrame:
        right = rng.random(n) < 0.5
        return pd.DataFrame({"right": right.astype(float), "confidence": rng.normal(1.2 * right)})

    def interval(items: pd.DataFrame, index: np.ndarray) -> np.ndarray:
        errors = 1 - items.sort_values("confidence", ascending=False)["right"].to_numpy()
        return np.quantile(fast(errors[np.sort(index, axis=1)]), [0.025, 0.975])

    items = draw(n).sort_values("confidence", ascending=False, ignore_index=True)
    same = np.random.default_rng(0)
    index = np.stack([same.integers(0, n, n) for _ in range(resamples)])
    assert interval(items, index) == pytest.approx(list(metric.estimate(items, 0)[1:]))
    big = draw(400_000)
    truth = reference.norm.cdf(1.2 / np.sqrt(2)) if name == "auroc" else aurc(big["confidence"], 1 - big["right"])
    found = [interval(draw(n), rng.integers(0, n, (resamples, n))) for _ in range(1500)]
    covered = np.mean([low <= truth <= high for low, high in found])
    assert 0.93 <= covered <= 0.97


def test_calibration_error_is_compared_item_by_item() -> None:
    rng = np.random.default_rng(5)
    p = rng.random(500)
    ours = pd.DataFrame({"confidence": p, "right": (rng.random(500) < p).astype(float)})
    theirs = ours.assign(confidence=np.clip(p + 0.2, 0, 1))
    metric = CalibrationError("reliability")
    same = metric.difference(ours, ours, 0)  # the same model twice: nothing varies, and 500 items leave room for little
    assert same == pytest.approx((0, -same.high, same.high))
    assert 0 < same.high < 0.02
    found = metric.difference(theirs, ours, 0)
    assert found.value == pytest.approx(metric.estimate(theirs, 0).value - metric.estimate(ours, 0).value)
    assert 0 < found.low < found.value < found.high


def test_miscalibration_is_the_mean_product_of_gaps() -> None:
    """Against all pairs of a bin, pair by pair; items of one unit, and what is drawn twice, are no pair."""
    rng = np.random.default_rng(0)
    p, right = rng.random(60), rng.integers(0, 2, 60).astype(float)
    for units in (np.arange(60), np.arange(60) // 3):
        weights = np.array([np.ones(units.max() + 1), rng.integers(0, 3, units.max() + 1)])
        expected = []
        for row in weights[:, units]:
            total = 0.0
            for b in range(10):
                inside = [i for i in range(60) if int(p[i] * 10) == b]
                pairs = [(i, j) for i in inside for j in inside if units[i] != units[j]]
                weight = sum(row[i] * row[j] for i, j in pairs)
                product = sum(row[i] * row[j] * (p[i] - right[i]) * (p[j] - right[j]) for i, j in pairs)
                total += sum(row[i] for i in inside) * (product / weight if weight else 0.0)
            expected.append(total / row.sum())
        assert reliability_part(p, right, weights, units) == pytest.approx(expected)


def test_a_model_that_is_twenty_points_too_sure_is_off_by_their_square() -> None:
    rng = np.random.default_rng(0)
    p = 0.3 + 0.6 * rng.random(4000)
    right = (rng.random(4000) < p - 0.2).astype(float)
    assert CalibrationError("x").estimate(pd.DataFrame({"confidence": p, "right": right}), 0).value == pytest.approx(
        0.04, abs=0.01
    )


def test_two_calibrated_models_are_no_different_where_one_is_surer() -> None:
    """At most 7 % of the intervals of the difference exclude 0; of plain calibration errors a third and more did."""
    rng, excluded, plain = np.random.default_rng(0), 0, []
    for seed in range(200):
        unsure, half = rng.beta(3, 3, 100), rng.random(100) < 0.5
        sure = np.where(half, rng.beta(20, 1, 100), rng.beta(1, 20, 100))
        sides = [pd.DataFrame({"confidence": p, "right": (rng.random(100) < p) * 1.0}) for p in (unsure, sure)]
        low, high = CalibrationError("reliability").difference(*sides, seed)[1:]
        excluded += low > 0 or high < 0
        plain.append(PlainError("ece").difference(*sides, seed))
    assert excluded <= 0.07 * 200
    assert np.mean([each.value for each in plain]) > 0.05  # the bias of the less sure one
    assert all(math.isnan(each.low) for each in plain)  # so that nothing is concluded from it


def test_points_under_a_target_are_those_of_the_definition() -> None:
    assert [penalty(t) for t in (0.0, 0.5, 0.75, 0.9)] == pytest.approx([0, 1, 3, 9])
    for t in TARGETS:  # answering pays exactly where the chance to be right exceeds t
        for chance in np.linspace(0.005, 0.995, 100):
            assert (score([chance], [1 - chance], t)[0] > 1e-9) == (chance > t + 1e-9)
    confidence, right = np.array([0.95, 0.6, 0.4]), np.array([1, 0, 1])
    assert [each.tolist() for each in answers_above(confidence, right, 0.5)] == [[1, 0, 0], [0, 1, 0]]
    table = target_curves([0.5, 0.5, 0.0], [0.5, 0.0, 0.2], confidence, right, targets=[0.75])
    value = table.set_index(["way", "outcome"])["value"]
    assert value["own", "accuracy"] == pytest.approx(1 / 3)
    assert value["own", "error"] == pytest.approx(0.7 / 3)
    assert value["own", "abstention"] == pytest.approx(1.3 / 3)
    assert value["own", "score"] == pytest.approx((1 - 3 * 0.7) / 3)
    assert value["target"].tolist() == pytest.approx([1 / 3, 0, 2 / 3, 1 / 3])
    with pytest.raises(ConfigError, match="below 1"):
        penalty(1.0)
    with pytest.raises(DataError, match="lists of the same length"):
        target_curves([1.0], [0.0], confidence, right)


def test_no_threshold_beats_the_target_for_a_calibrated_model() -> None:
    rng = np.random.default_rng(6)
    confidence = rng.random(200_000)
    right = (rng.random(200_000) < confidence).astype(float)
    for target in (0.5, 0.75):
        points = {cut: score(*answers_above(confidence, right, cut), target).mean() for cut in (0.3, 0.5, 0.75, 0.9)}
        assert max(points, key=lambda cut: points[cut]) == target
