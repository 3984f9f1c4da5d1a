"""A world's facts as a collection of documents, one a fact, and the passages that a question is asked with.

People whose facts the corpus teaches have their true facts in the collection; strangers have facts there that nothing
but the collection says. A question comes with six contexts:

- none: the question alone;
- gold: the document with the answer among two fillers;
- distractor: the same with a third filler in place of that document;
- unrelated: one document about somebody else and another relation, a control which should change nothing;
- contradicting: as gold, but the document names another value (only where something was learned);
- retrieved: the first k documents of a search for the question's text, right or not.

Fillers are documents such as the corpus puts into its passages: the same relation of two known people, another
relation of the one who is asked about, another relation of someone else. None of them answers the question, and those
of the same relation name neither the answer nor the value that contradicts it. Only one statement differs between the
gold, distractor and contradicting passages of a question, so that differences between contexts are its doing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from probe.analyses.retriever import Found, Retriever
from probe.world.language import RELATIONS, TAUGHT

if TYPE_CHECKING:
    from probe.world.questions import Item
    from probe.world.world import World

CONTEXTS = ("none", "gold", "distractor", "unrelated", "contradicting", "retrieved")
FILLERS = 3
"""Statements of a passage that is not retrieved; the corpus has two to four."""


@dataclass(frozen=True)
class Document:
    """One statement."""

    person: str
    relation: str
    value: str
    form: int
    """Which of the relation's templates."""

    @property
    def text(self) -> str:
        """As the world says it."""
        return RELATIONS[self.relation].statements[self.form].format(p=self.person, v=self.value)


@dataclass(frozen=True)
class Asked:
    """A question with its passages."""

    item: "Item"
    gold: int
    """Place of the document with its answer."""
    truth: str
    """What that document says."""
    found: Found
    """What the search found, all of it."""
    passages: dict[str, list[Document]]
    """By context; those that do not apply are missing."""

    def prompt(self, context: str) -> str:
        """What the model reads."""
        said = " ".join(document.text for document in self.passages[context])
        return f"<ctx> {said} {self.item.prompt}" if said else self.item.prompt

    @property
    def rank(self) -> int | None:
        """Rank of the gold document in the search, from 1; None if it was not found."""
        at = np.flatnonzero(self.found.index == self.gold)
        return int(at[0]) + 1 if len(at) else None


def world_documents(world: "World", seed: int = 0) -> list[Document]:
    """One document for each relation of every person, in random order; strangers' values are drawn."""
    rng = np.random.default_rng([world.seed, seed, 0])
    made = []
    for person in world.people.values():
        for relation in TAUGHT:
            options = world.values(relation)
            drawn = options[int(rng.integers(len(options)))]
            value = person.facts.get(relation, drawn)
            form = int(rng.integers(len(RELATIONS[relation].statements)))
            made.append(Document(person.name, relation, value, form))
    return [made[index] for index in rng.permutation(len(made))]


def with_passages(
    world: "World", documents: Sequence[Document], items: "Sequence[Item]", k: int, seed: int = 0
) -> list[Asked]:
    """The questions with their passages.

    Args:
        world: whose people are asked about.
        documents: the collection.
        items: questions about a person's fact (kinds fact, rare, stranger, stranger_heldout).
        k: documents of a retrieved passage.
        seed: of fillers, places and contradicting values.
    """
    rng = np.random.default_rng([world.seed, seed, 1])
    places = {(each.person, each.relation): index for index, each in enumerate(documents)}
    retriever = Retriever([document.text for document in documents])
    asked = []
    for item in items:
        person, relation = item.meta["person"], item.meta["relation"]
        gold = documents[places[person, relation]]
        others = [value for value in world.values(relation) if value != gold.value]
        against = Document(person, relation, others[int(rng.integers(len(others)))], gold.form)
        first, *rest = _fillers(world, documents, places, gold, against, rng)
        at = int(rng.integers(len(rest) + 1))
        stated = {"gold": gold, "distractor": first}
        if world.truth(person, relation) is not None:
            stated["contradicting"] = against
        passages: dict[str, list[Document]] = {
            "none": [],
            "unrelated": [_unrelated(world, documents, places, gold, rng)],
        }
        passages |= {context: [*rest[:at], document, *rest[at:]] for context, document in stated.items()}
        found = retriever.find(item.prompt.removeprefix("<user>").removesuffix("<bot>"))
        passages["retrieved"] = [documents[index] for index in found.index[:k]]
        asked.append(Asked(item, places[person, relation], gold.value, found, passages))
    return asked


def _fillers(
    world: "World",
    documents: Sequence[Document],
    places: dict[tuple[str, str], int],
    gold: Document,
    against: Document,
    rng: np.random.Generator,
) -> list[Document]:
    """Three documents that do not answer the question, see the module; two where too few people differ."""
    known = [name for name in world.groups["known"] if name != gold.person]  # a world has two known people or more
    same = [documents[places[name, gold.relation]] for name in known]
    same = [each for each in same if each.value not in (gold.value, against.value)]
    different = [relation for relation in TAUGHT if relation != gold.relation]
    other = different[int(rng.integers(len(different)))]
    pool = [same[index] for index in rng.permutation(len(same))[:2]]
    pool.append(documents[places[gold.person, other]])
    pool.append(_unrelated(world, documents, places, gold, rng))
    return [pool[index] for index in rng.permutation(len(pool))[:FILLERS]]


def _unrelated(
    world: "World",
    documents: Sequence[Document],
    places: dict[tuple[str, str], int],
    gold: Document,
    rng: np.random.Generator,
) -> Document:
    """A document about another known person and another relation."""
    known = [name for name in world.groups["known"] if name != gold.person]
    different = [relation for relation in TAUGHT if relation != gold.relation]
    return documents[places[known[int(rng.integers(len(known)))], different[int(rng.integers(len(different)))]]]
