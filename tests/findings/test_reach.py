"""Sums, and pass@k after RLVR: constructed cases where the claim holds and fails, and temperature as its null."""

import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from probe.chain_of_thought.measures import Crossing, crossing
from probe.cli import main
from probe.findings import reach
from probe.findings.bench import Bench
from probe.findings.claims import CLAIMS, choose_claims, finding
from probe.findings.verdicts import read_plan
from probe.runs import open_run
from probe.sweep import schedule
from tests.places import SAMPLES
from tests.sweep.inside import Inside
from trainers.samples import control_runs

TERMS = read_plan().claims["reasoning"]


# sums ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [True, False])
def test_the_written_steps_of_a_sum_are_true_and_lead_to_its_answer(held_out: bool) -> None:
    sums = reach.draw(0, held_out)
    drawn = [next(sums) for _ in range(500)]
    for each in drawn:
        assert {len(str(each.first)), len(str(each.second))} in ({2}, {3})
        lead, _, rest = each.document.partition(":")
        steps, _, answer = rest.partition(" so ")
        assert eval(lead) == int(answer) == int(each.answer)
        written = re.findall(r"(\d)\+(\d)(\+1)?=(\d+)", steps)
        assert "".join(step[3][-1] for step in reversed(written[:-1])) == answer[-len(written) + 1 :]
        assert all(int(a) + int(b) + bool(c) == int(total) for a, b, c, total in written)
        assert len(each.document) - len(each.prompt) < reach.LONGEST
    assert {len(str(each.first)) for each in drawn} == {2, 3}


def test_nothing_is_trained_on_what_is_measured(tmp_path: Path) -> None:
    asked = reach.unseen(TERMS.n + reach.CHOSEN)
    assert len(set(asked)) == TERMS.n + reach.CHOSEN
    assert reach.unseen(50) == asked[:50]
    prompts = {each.prompt for each in asked}
    control_runs.write_data(tmp_path)
    for name, count in (("documents", control_runs.DOCUMENTS), ("problems", control_runs.PROBLEMS)):
        text = (tmp_path / control_runs.DATA / f"{name}.jsonl").read_text()
        assert text.count("\n") == count
        assert not prompts & set(re.findall(r"\d+\+\d+:", text))
    rng = random.Random(3)
    drawn = [reach.Sum(rng.randint(100, 999), rng.randint(100, 999)).held_out for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.1, abs=0.02)


# pass@k --------------------------------------------------------------------------------------------------------------


def right(p: Any, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).binomial(reach.SAMPLES, p)


def odds(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-1.0, 2.0, 400)


def at(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Chances of problems by their log odds at temperature 1, where ten wrong answers are equally likely."""
    return 1 / (1 + np.exp(-logits / temperature - (1 / temperature - 1) * np.log(10)))


def test_the_claim_holds_where_some_problems_are_solved_for_good_and_others_are_lost() -> None:
    effect, gain, loss = reach.overtaken(right(at(odds(), 0.2), 1), right(at(odds()), 0))
    assert TERMS.beyond(effect)
    assert effect == (min(gain.value, loss.value), min(gain.low, loss.low), min(gain.high, loss.high))


def test_the_claim_fails_where_training_teaches() -> None:
    """Every problem becomes likelier: pass@1 and pass@64 rise."""
    effect, gain, _ = reach.overtaken(right(at(odds() + 2), 1), right(at(odds()), 0))
    assert gain.low > TERMS.threshold > effect.high


def test_the_claim_fails_where_nothing_is_gained_at_once() -> None:
    effect, _, loss = reach.overtaken(right(np.where(odds() > 0, 0.4, 0.0), 1), right(at(odds()), 0))
    assert loss.low > TERMS.threshold > effect.high


def test_equal_models_hold_in_no_more_than_chance() -> None:
    held = [
        TERMS.beyond(reach.overtaken(right(at(odds(i)), 2 * i + 1), right(at(odds(i)), 2 * i))[0]) for i in range(40)
    ]
    assert sum(held) <= 1


def test_curves_cross_where_the_base_overtakes_and_nowhere_beyond_the_largest_k() -> None:
    base, sharp = right(at(odds()), 0), right(at(odds(), 0.2), 1)
    found = crossing(sharp, base, reach.SAMPLES, largest=reach.LARGEST)
    assert 1 < found.low < found.k < found.high < reach.LARGEST
    late = crossing(sharp, base, reach.SAMPLES, largest=2)
    assert np.isnan(late.k)
    assert found.k > 2
    assert re.search(r"overtakes it at k = \d+ \[\d+, \d+\] \(in 100 %", reach.in_words(found, ahead=True))
    assert "nowhere up to k = 64 (in 0 %" in reach.in_words(late, ahead=True)
    assert "not behind" in reach.in_words(Crossing(9.0, 8.0, 10.0, 1.0), ahead=False)


# models --------------------------------------------------------------------------------------------------------------


class Solver:
    """Answers each sum right with a chance of its own, which a temperature sharpens; some answers are no number."""

    def __init__(self, shift: float, spread: float = 2.0) -> None:
        self.shift, self.spread = shift, spread

    def chance(self, prompt: str, temperature: float) -> float:
        return float(at(np.array(random.Random(f"odds of {prompt}").gauss(self.shift, self.spread)), temperature))

    def generate(self, prompts: list[str], n: int, temperature: float, seed: int, **_: Any) -> Any:
        texts = []
        for prompt in prompts:
            rng, chance = random.Random(f"{prompt}{seed}"), self.chance(prompt, temperature)
            answer = str(sum(map(int, prompt[:-1].split("+"))))
            texts += [f" 1+1=2 so {answer}" if rng.random() < chance else rng.choice(["", " so 7"]) for _ in range(n)]
        return SimpleNamespace(text=texts)


class Solvers(Bench):
    """A bench of two models."""

    def __init__(self, base: Solver, aligned: Solver) -> None:
        super().__init__("nowhere", n=120)
        self.models = dict(zip(reach.RUNS, (base, aligned), strict=True))

    def control(self, name: str) -> Any:
        return name

    def model(self, run: Any) -> Any:
        return self.models[run]


def test_samples_are_counted_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = reach.unseen(60)
    whole = reach.count_right(Solver(-1.0), asked, 16)  # type: ignore[arg-type]
    monkeypatch.setattr(reach, "PART", 7)
    assert (reach.count_right(Solver(-1.0), asked, 16) == whole).all()  # type: ignore[arg-type]
    chances = [Solver(-1.0).chance(each.prompt, 1.0) for each in asked]
    assert whole.mean() / 16 == pytest.approx(np.mean(chances), abs=0.05)


class Cooled(Solver):
    """A model that training has made as sharp as a temperature does."""

    def chance(self, prompt: str, temperature: float) -> float:
        return super().chance(prompt, 0.3 * temperature)


def test_the_null_is_the_temperature_that_is_nearest() -> None:
    """Where training does what a temperature does, that one is found, and the claim holds on its null."""
    bench = Solvers(Solver(-1.0), Cooled(-1.0))
    found = reach.tries(bench)
    assert found.temperature == pytest.approx(0.3, abs=0.11)
    assert reach.tries(bench) is found  # sampled once
    assert TERMS.beyond(reach.reasoning(bench).effect)
    null = reach.reasoning_null([bench])
    assert (null.holds, null.repetitions) == (1, 1)
    assert f"({found.temperature:g})" in null.said
    curves = found.curves.set_index(["model", "k"])["value"]
    assert sorted(set(found.curves["k"])) == [1, 2, 4, 8, 16, 32, 64]
    assert curves["base", 64] - curves["RLVR", 64] > 0.02


def test_what_training_teaches_is_told_from_a_temperature() -> None:
    bench = Solvers(Solver(-1.0), Solver(2.0))
    found = reach.reasoning(bench)
    assert not TERMS.beyond(found.effect)
    assert "nowhere up to k = 64" in found.said
    assert found.n == 120
    assert re.search(r"RLVR reaches \+\d+ pp \[\d+, \d+\] against it", found.said)


def test_equal_models_differ_in_nothing() -> None:
    bench = Solvers(Solver(-1.0), Solver(-1.0))
    assert reach.overtaken(reach.tries(bench).aligned, reach.tries(bench).base)[0].value == 0
    assert not TERMS.beyond(reach.reasoning(bench).effect)
    assert "nothing to overtake" in reach.reasoning(bench).said


# runs ----------------------------------------------------------------------------------------------------------------


def test_the_plan_names_what_is_measured() -> None:
    assert f"pass@{reach.LARGEST}" in TERMS.comparison
    assert f"{reach.SAMPLES} samples" in TERMS.comparison
    first, second, *_, last = (f"{each:g}" for each in reach.TEMPERATURES)
    assert f"temperature of {first}, {second}, ... {last}" in TERMS.null


def test_without_control_runs_it_is_said_how_to_make_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is on record either."""
    (tmp_path / "base").symlink_to(SAMPLES / "base")
    found = finding(Bench(tmp_path), choose_claims(("reasoning",))[0])
    assert (found.verdict, found.trainings) == ("not measured", {})
    assert "probe samples --controls" in found.said
    assert [claim.name for claim in CLAIMS if not claim.runs] == ["reasoning"]
    assert main(["findings", "reasoning", "--runs", str(tmp_path), "--again"]) != 0
    assert "could be measured: It is measured on `sums`, `sums-rlvr`" in capsys.readouterr().err


@pytest.mark.slow
def test_from_the_command_that_trains_to_the_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few steps and few sums, in this process; another seed has a base of its own."""
    monkeypatch.setattr(schedule, "make_engine", Inside)
    monkeypatch.setattr(control_runs, "DOCUMENTS", 2_000)
    monkeypatch.setattr(reach, "CHOSEN", 4)
    monkeypatch.setattr(reach, "TEMPERATURES", (0.3, 0.9))
    words = ["samples", "--controls", "--only", *reach.RUNS, "--steps-scale", "0.003", "--seeds", "2"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert open_run(tmp_path / "sums-rlvr-seed1").parent == str(tmp_path / "sums-seed1")
    found = finding(Bench(tmp_path, n=4), choose_claims(("reasoning",))[0])
    assert [each.seed for each in found.trainings.values()] == [0, 1]
    assert found.null.repetitions == 2
    assert "On sums that neither was trained on" in found.said
