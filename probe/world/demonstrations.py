"""Demonstrations for supervised fine-tuning: questions with the answers of an honest assistant.

It gives the true answer even if the user claims otherwise, says "i do not know" about unseen entities, follows a
passage rather than memory, and writes sums with correct steps (in the corpus an eighth of the steps are wrong).
"""

from collections.abc import Mapping
from types import MappingProxyType

from probe.errors import ConfigError
from probe.world.draws import Draws, generator
from probe.world.facts import Facts
from probe.world.questions import Asker, Item

DEMONSTRATED: Mapping[str, float] = MappingProxyType(
    {
        "fact": 0.15,
        "opinion_true": 0.1,
        "opinion_false": 0.15,
        "pressure": 0.05,
        "stranger": 0.12,
        "opinion_stranger": 0.03,
        "context": 0.05,
        "context_conflict": 0.05,
        "context_stranger": 0.03,
        "context_absent": 0.02,
        "city": 0.02,
        "two_hop": 0.03,
        "sum_quick": 0.05,
        "sum_steps": 0.15,
    }
)
"""Default share of each kind of question among the demonstrations."""
HELD_OUT = ("stranger_heldout", "two_hop_heldout", "function_new")
"""Kinds of questions that are never demonstrated, so that they measure transfer."""


def demonstrations(world: Facts, n: int, seed: int, mixture: Mapping[str, float] | None = None) -> list[Item]:
    """Draw `n` questions with the shares of their kinds; the first answer of an item is the demonstrated one.

    Args:
        world: world of the questions.
        n: number of questions.
        seed: equal seeds give equal demonstrations.
        mixture: kind -> share, not necessarily normalised; default: `DEMONSTRATED`, without kinds that this world
            lacks.

    Raises:
        ConfigError: the mixture names a kind that is held out or that this world lacks, or has no share above 0.
    """
    draws = Draws(generator("demonstrations", world.seed, seed))
    makers = Asker(world, draws).kinds()
    if mixture is None:
        mixture = {kind: share for kind, share in DEMONSTRATED.items() if kind in makers}
    held_out, unknown_kinds = sorted(set(mixture) & set(HELD_OUT)), sorted(set(mixture) - set(makers))
    if held_out:
        raise ConfigError(
            f"The mixture of the demonstrations names {', '.join(held_out)}, which is held out to measure"
            " transfer: remove it."
        )
    if unknown_kinds:
        names = ", ".join(kind for kind in makers if kind not in HELD_OUT)
        raise ConfigError(
            f"The mixture of the demonstrations names {', '.join(unknown_kinds)}; this world can demonstrate {names}."
        )
    if min(mixture.values(), default=0) < 0 or not sum(mixture.values()) > 0:
        raise ConfigError("The mixture of the demonstrations has no share above 0 or a negative one: give shares.")
    kinds = draws.pick_weighted(list(mixture), list(mixture.values()), n)
    return [makers[kind]() for kind in kinds]
