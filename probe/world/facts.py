"""The facts of a world: its people, their facts, and how often the corpus states each."""

from probe.world import tasks
from probe.world.config import WorldConfig
from probe.world.language import RELATIONS
from probe.world.people import exposures, group_names, populate
from probe.world.vocabulary import COUNTRY_OF, NUMBERS


class Facts:
    """Facts from which questions, documents and verdicts are made; `probe.world.World` adds these.

    Attributes:
        people: name -> Person.
        groups: group -> names; known, rare, strangers, heldout, phase_0, phase_1, ...
        exposure: name -> relation -> number of documents per epoch that state or ask for that fact.
        composed, uncomposed: known people for whom two-hop questions are taught, and the others.
        pool: functions (a, b) of the corpus.
    """

    def __init__(self, config: WorldConfig | None = None, seed: int = 0) -> None:
        self.config = config or WorldConfig()
        self.seed = int(seed)
        self.groups = group_names(self.config, self.seed)
        self.people = populate(self.config, self.seed, self.groups)
        self.exposure = exposures(self.config, self.groups)
        self.composed, self.uncomposed = self.groups["known"][::2], self.groups["known"][1::2]
        self.pool = tasks.task_pool(self.config, self.seed)
        self.numbers = NUMBERS[: self.config.modulus]

    def values(self, relation: str) -> tuple[str, ...]:
        """Return the values of a relation."""
        values = RELATIONS[relation].values
        return values if relation in ("city", "country") else values[: self.config.values]

    def truth(self, subject: str, relation: str) -> str | None:
        """Return the true value, None if there is none (unseen entities, unknown names)."""
        if relation == "city":
            return COUNTRY_OF.get(subject)
        facts = self.people[subject].facts if subject in self.people else {}
        if relation == "country":
            return COUNTRY_OF.get(facts.get("home", ""))
        return facts.get(relation)
