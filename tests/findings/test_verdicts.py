"""The plan's verdicts against simulations: how often a claim holds where nothing is there, and where something is."""

import hashlib
import json

import numpy as np
import pytest
import scipy.stats

from probe.cli import main
from probe.findings.claims import CLAIMS
from probe.findings.verdicts import FILE, Terms, holm, p_of_interval, p_over_trainings, read_plan, verdict
from probe.stats import Interval, bootstrap_mean

PLAN = read_plan()
UP = Terms("p", "c", "r", "n", 0.05, "above", 100)
DOWN = Terms("p", "c", "r", "n", -0.2, "below", 100)
MEASURED = (0, 40)


def test_every_claim_has_its_terms_and_no_terms_are_left_over():
    assert [claim.name for claim in CLAIMS] == list(PLAN.claims)
    for terms in PLAN.claims.values():
        assert terms.direction in ("above", "below")
        assert all((terms.population, terms.comparison, terms.refuted_by, terms.null))
        assert terms.n > 0


def test_the_hash_is_that_of_the_file(capsys: pytest.CaptureFixture[str]):
    expected = hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]
    assert PLAN.hash == expected
    assert main(["findings", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert shown == f"{FILE.read_text().rstrip()}\n# hash {expected}\n"
    assert main(["findings", "--plan", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["hash"] == expected
    assert told["claims"]["exposure"]["threshold"] == PLAN.claims["exposure"].threshold


def test_other_terms_have_another_hash():
    assert len({UP.hash, DOWN.hash, Terms("p", "c", "r", "n", 0.06, "above", 100).hash}) == 3
    assert Terms("p", "c", "r", "n", 0.05, "above", 100).hash == UP.hash


@pytest.mark.parametrize(
    ("terms", "effect", "p", "null", "expected"),
    [
        (UP, 0.4, 0.001, MEASURED, "holds"),
        (UP, 0.01, 0.001, MEASURED, "fails"),
        (UP, -0.4, 0.001, MEASURED, "fails"),
        (UP, 0.4, 0.06, MEASURED, "undecided"),
        (UP, 0.4, float("nan"), MEASURED, "undecided"),
        (UP, 0.4, 0.001, (0, 0), "undecided"),  # no null was measured
        (UP, 0.4, 0.001, (5, 5), "undecided"),  # its null holds too
        (UP, -0.4, 0.001, (5, 5), "fails"),
        (DOWN, -0.8, 0.001, MEASURED, "holds"),
        (DOWN, -0.1, 0.001, MEASURED, "fails"),
    ],
)
def test_verdicts(terms: Terms, effect: float, p: float, null: tuple[int, int], expected: str):
    assert verdict(terms, effect, p, null, PLAN) == expected
    tuned = verdict(terms, effect, p, null, PLAN, held_out=False)
    assert tuned == ("undecided" if expected == "holds" else expected)


def test_the_t_test_is_scipys():
    values = [0.3, 0.1, 0.25, 0.4]
    assert p_over_trainings(values, 0.05) == pytest.approx(scipy.stats.ttest_1samp(values, 0.05).pvalue)
    assert np.isnan(p_over_trainings([0.3], 0.05))
    assert np.isnan(p_over_trainings([0.3, 0.3], 0.05))


def test_one_training_is_judged_by_its_interval():
    rng = np.random.default_rng(0)
    ps = [p_of_interval(bootstrap_mean(rng.normal(0.05, 0.3, 200), resamples=400), 0.05) for _ in range(300)]
    assert 0.02 <= np.mean(np.array(ps) <= 0.05) <= 0.09
    assert np.isnan(p_of_interval(Interval(0.3, np.nan, np.nan), 0.05))


def test_holm_is_the_textbooks_and_counts_what_is_missing():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(p, 4) == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.01}, 14) == pytest.approx({"a": 0.14})
    assert holm({"a": float("nan"), "b": 0.001}, 2) == pytest.approx({"a": 1.0, "b": 0.002})


def test_where_nothing_is_there_few_families_of_claims_have_a_verdict():
    """Fourteen claims at their thresholds, four trainings each: some claim is decided in 5 % of families at most."""
    rng, count = np.random.default_rng(1), 400
    decided = 0
    for _ in range(count):
        ps = {str(i): p_over_trainings(rng.normal(0.05, 0.1, 4), 0.05) for i in range(14)}
        decided += min(holm(ps, 14).values()) <= PLAN.level
    assert decided / count <= 0.08


def test_where_something_is_there_claims_hold():
    rng, held = np.random.default_rng(2), 0
    for _ in range(100):
        ps = {str(i): p_over_trainings(rng.normal(0.6, 0.03, 4), 0.05) for i in range(14)}
        held += sum(verdict(UP, 0.6, p, MEASURED, PLAN) == "holds" for p in holm(ps, 14).values())
    assert held / 1400 > 0.9
