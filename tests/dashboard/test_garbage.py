"""The collector of garbage: seldom by itself, and after a while without a page."""

import gc
from collections.abc import Iterator

import pytest

from dashboard.garbage import SELDOM, collect_later, settle


@pytest.fixture
def restored() -> Iterator[None]:
    """The collector as it was."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("restored")
def test_what_is_loaded_is_not_searched_any_more() -> None:
    young = gc.get_threshold()[:2]
    settle()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold() == (*young, SELDOM)


def test_garbage_is_searched_for_once_after_the_last_page(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: searched.append(1))
    first = collect_later(60)
    second = collect_later(0.01)
    for timer in (first, second):
        timer.join(5)
        assert not timer.is_alive()
    assert searched == [1]
    assert second.daemon
