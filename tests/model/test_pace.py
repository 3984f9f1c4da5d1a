"""The reading speed of a model, and the price of passes over pairs of answers that follows from it."""

import time

import pytest

from probe import LM
from probe.compare import behaviour
from probe.compare.behaviour import AnswerPair, preference, seconds_once
from probe.model import pace
from probe.model.text import encode
from tests.models import random_lm

PAIRS = [AnswerPair(f"mira lives in oslo . {name} lives in", " oslo", " rome .") for name in ("tom", "ana", "mira")]


class Clock:
    """A clock that moves only when a model reads: one second for each token."""

    def __init__(self, lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.sizes, logits = 0.0, list[int](), lm.logits

        def read(texts: list[list[int]]):
            self.sizes.append(sum(map(len, texts)))
            self.now += self.sizes[-1] * self.each
            return logits(texts)

        self.each = 1.0
        monkeypatch.setattr(lm, "logits", read)


@pytest.mark.parametrize(("each", "largest"), [(1.0, 32), (1e-4, 256)])
def test_a_slow_model_reads_one_text_twice_and_a_fast_one_many(
    monkeypatch: pytest.MonkeyPatch, each: float, largest: int
):
    lm = random_lm()
    clock = Clock(lm, monkeypatch)
    clock.each = each
    assert pace.measure_pace(lm, lambda: clock.now) == pytest.approx(each)
    assert clock.sizes[0] == 32
    assert max(clock.sizes) == largest
    assert len(clock.sizes) == 2 or clock.now >= pace.ENOUGH or len(clock.sizes) == pace.MOST


def test_a_pace_that_is_kept_does_not_count_other_processes(monkeypatch: pytest.MonkeyPatch):
    lm, clocks = random_lm(), list[object]()
    monkeypatch.setattr(pace, "QUICK", 0)
    monkeypatch.setattr(pace, "measure_pace", lambda lm, clock: clocks.append(clock) or 1.0)
    assert pace.seconds_to_read(lm, 3) == 3
    assert clocks == [time.thread_time]


def test_a_pass_over_pairs_costs_its_tokens_and_the_common_beginning_once(monkeypatch: pytest.MonkeyPatch):
    lm = random_lm()
    monkeypatch.setattr(behaviour, "pairs_of", lambda *given: PAIRS)
    monkeypatch.setattr(behaviour, "seconds_a_token", lambda lm: 1.0)
    counts = [len(encode(lm.tokenizer, text)) for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    prompts = [encode(lm.tokenizer, pair.prompt) for pair in PAIRS]
    shared = len(encode(lm.tokenizer, "mira lives in oslo ."))
    assert seconds_once(lm, None, 3) == sum(counts) + sum(map(len, prompts)) - 2 * shared


def test_what_takes_a_moment_is_timed(monkeypatch: pytest.MonkeyPatch):
    lm, timed = random_lm(), list[int]()
    monkeypatch.setattr(behaviour, "pairs_of", lambda *given: PAIRS)
    monkeypatch.setattr(behaviour, "_seconds", lambda lm, each: timed.append(len(each.measure(lm))) or 0.25)
    assert seconds_once(lm, None, 3) == 0.25
    assert seconds_once(lm, preference(PAIRS[:2]), 3) == 0.25
    assert timed == [3, 2]
