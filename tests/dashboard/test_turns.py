"""One computation at a time: who waits sees what is computed, left work is cancelled, what others wait for goes on."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread

import pytest
import torch
from streamlit.runtime.scriptrunner import StopException

from dashboard import models
from dashboard.models import Computation, Results, Turns
from tests.models import random_lm

PATIENCE_S = 60
"""How long anything may take: far more than it does."""


class Reader(Thread):
    """A session that asks for one computation."""

    def __init__(self, store: Results, key: str, make: Callable[[Computation], object], again: bool = False) -> None:
        super().__init__(daemon=True)
        self.work, self.left, self.result, self.error = Computation(key, f"{key} (base)"), False, None, None
        self.asked = Event()
        self._given = store, self.work, key, make, again

    def run(self) -> None:
        try:
            self.result = models._take_turn(*self._given)
        except BaseException as error:
            self.error = error

    def end(self) -> "Reader":
        self.join(PATIENCE_S)
        assert not self.is_alive()
        return self


class Sessions:
    """What Streamlit does where its state is asked for: it ends the run of a reader who has left."""

    def __contains__(self, key: str) -> bool:
        reader = current_thread()
        reader.asked.set()
        if reader.left:
            raise StopException
        return False


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Thread, str]]]:
    """What each session was told, with nobody else in the line."""
    lines: list[tuple[Thread, str]] = []

    @contextmanager
    def spin(say: str) -> Iterator[None]:
        lines.append((current_thread(), say))
        yield

    monkeypatch.setattr(models, "spin", spin)
    monkeypatch.setattr(models.st, "session_state", Sessions())
    monkeypatch.setattr(models, "_TURNS", Turns())
    monkeypatch.setattr(models, "CHECK_S", 0.005)
    yield lines
    assert models._TURNS.first() is None


def without_time(say: str) -> str:
    """What a session was told, without the seconds."""
    return re.sub(r"\d+ s ago", "ago", say)


def held(begun: Event, go: Event, value: object = 1, look: bool = True) -> Callable[[Computation], object]:
    """A computation of many steps, which lasts until `go`."""

    def make(work: Computation) -> object:
        begun.set()
        while not go.wait(0.002):
            if look:
                models._look_whether_left(work)
        return value

    return make


def test_who_waits_is_told_what_is_computed_and_for_whom(said: list[tuple[Thread, str]]):
    begun, go, store = Event(), Event(), Results()
    first = Reader(store, "Comparing", held(begun, go))
    first.start()
    assert begun.wait(PATIENCE_S)
    second = Reader(store, "Reading", lambda work: 2)
    second.start()
    assert second.asked.wait(PATIENCE_S)
    assert [without_time(say) for thread, say in said if thread is second] == [
        "Waiting for another computation, begun ago: Comparing (base)"
    ]
    go.set()
    assert (first.end().result, second.end().result) == (1, 2)
    assert [say for thread, say in said if thread is second][1:] == ["Reading"]


def test_left_work_is_cancelled_and_the_next_one_has_its_turn(said: list[tuple[Thread, str]]):
    begun, never, store = Event(), Event(), Results()
    first = Reader(store, "Comparing", held(begun, never))
    first.start()
    assert begun.wait(PATIENCE_S)
    second = Reader(store, "Reading", lambda work: 2)
    second.start()
    assert second.asked.wait(PATIENCE_S)
    first.left = True
    assert isinstance(first.end().error, StopException)
    assert second.end().result == 2
    assert store.get("Comparing") is None


def test_what_another_session_waits_for_goes_on_and_is_computed_once(said: list[tuple[Thread, str]]):
    begun, go, store, made = Event(), Event(), Results(), []
    first = Reader(store, "Comparing", held(begun, go, "whole"))
    first.start()
    assert begun.wait(PATIENCE_S)
    second = Reader(store, "Comparing", made.append)
    second.start()
    assert second.asked.wait(PATIENCE_S)
    first.asked.clear()
    first.left = True
    assert first.asked.wait(PATIENCE_S)
    go.set()
    assert isinstance(first.end().error, StopException)
    assert (second.end().result, made) == ("whole", [])
    assert [without_time(say) for _, say in said] == ["Comparing", "Comparing (base), begun ago"]


def test_when_the_other_session_leaves_too_the_work_ends(said: list[tuple[Thread, str]]):
    begun, never, store = Event(), Event(), Results()
    readers = [Reader(store, "Comparing", held(begun, never)) for _ in range(2)]
    readers[0].start()
    assert begun.wait(PATIENCE_S)
    readers[1].start()
    assert readers[1].asked.wait(PATIENCE_S)
    for reader in readers:
        reader.left = True
    assert all(isinstance(reader.end().error, StopException) for reader in readers)


def test_who_leaves_the_line_takes_no_turn(said: list[tuple[Thread, str]]):
    begun, go, store, made = Event(), Event(), Results(), []
    first = Reader(store, "Comparing", held(begun, go))
    first.start()
    assert begun.wait(PATIENCE_S)
    second = Reader(store, "Reading", made.append)
    second.left = True
    second.start()
    assert isinstance(second.end().error, StopException)
    go.set()
    assert (first.end().result, made) == (1, [])


def test_what_was_finished_is_kept_for_a_reader_who_has_left(said: list[tuple[Thread, str]]):
    begun, go, store = Event(), Event(), Results()
    first = Reader(store, "Comparing", held(begun, go, look=False))
    first.start()
    assert begun.wait(PATIENCE_S)
    first.left = True
    go.set()
    first.end()
    assert store.get("Comparing") == 1


def test_a_failure_frees_the_line(said: list[tuple[Thread, str]]):
    def fail(work: Computation) -> None:
        raise ValueError("no")

    first, second = Reader(Results(), "Comparing", fail), Reader(Results(), "Reading", lambda work: 2)
    first.start()
    assert isinstance(first.end().error, ValueError)
    second.start()
    assert second.end().result == 2


def test_a_computation_without_steps_ends_inside_of_the_model(said: list[tuple[Thread, str]]):
    lm, begun, go = random_lm(), Event(), Event()

    def make(work: Computation) -> object:
        with models._stopped_when_left(work):
            begun.set()
            while not go.is_set():
                lm.logits([1, 2, 3])
        return 1

    first = Reader(Results(), "Comparing", make)
    first.start()
    assert begun.wait(PATIENCE_S)
    lm.logits([1, 2, 3])  # of a thread that nobody has left
    first.left = True
    try:
        assert isinstance(first.end().error, StopException)
    finally:
        go.set()
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_measured_again_waits_and_is_computed_anew(said: list[tuple[Thread, str]]):
    store = Results()
    store.put("Comparing", 1)
    again = Reader(store, "Comparing", lambda work: 2, again=True)
    again.start()
    assert again.end().result == 2
    assert store.get("Comparing") == 2
