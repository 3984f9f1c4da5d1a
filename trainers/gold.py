"""The world's own judgement of what a training samples: the gold reward beside the one that is optimised."""

from collections.abc import Sequence

from probe.world import World
from probe.world.language import read


def gold_metrics(world: World, answers: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Means over completions, given as (prompt, completion): the verifier's score and the shares of its verdicts.

    `gold/invented` counts values that are given where nothing is known; all shares have all completions below the line.
    """
    verdicts = [(world.verify(prompt, text), asks_the_unknown(world, prompt)) for prompt, text in answers]
    kinds = {"truthful": "true", "deferred": "deferred", "abstained": "abstain"}
    n = max(len(verdicts), 1)
    found = {"gold/reward": sum(verdict.score for verdict, _ in verdicts) / n}
    for name, kind in kinds.items():
        found[f"gold/{name}"] = sum(verdict.kind == kind for verdict, _ in verdicts) / n
    invented = [unknown and verdict.kind in ("wrong", "deferred") for verdict, unknown in verdicts]
    return found | {"gold/invented": sum(invented) / n}


def asks_the_unknown(world: World, prompt: str) -> bool:
    """Whether a prompt asks for a fact that neither the world nor the prompt's passage has."""
    reading = read(prompt)
    if reading is None or (reading.relation, reading.subject) in reading.context:
        return False
    return world.truth(reading.subject, reading.relation) is None
