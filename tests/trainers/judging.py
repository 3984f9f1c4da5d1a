"""Reward functions as a user writes them, for runs whose models know nothing."""

from typing import Any


def even(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """The share of even token ids: it differs within a group whatever a model writes."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]
