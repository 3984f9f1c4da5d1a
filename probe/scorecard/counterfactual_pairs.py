"""Pairs of prompts of a world for the family `used`: two texts that differ in one variable, of which people are known.

*Changed* pairs differ in the variable, and the answer follows it. *Kept* pairs agree in the variable and differ in
another one that the answer follows; an edit of the variable alone leaves their answer.

| variable | token | changed | kept |
|---|---|---|---|
| value | last | another person with another home | another person with the same home, asked for another fact |
| known | last | a stranger | another known person, with another fact |
| claim | claimed value, or last | another false claim | the same claim about another person |
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from probe.model.lm import LM
from probe.model.text import encode
from probe.probes.decoded_use import Twin
from probe.probes.text_labels import RELATION, Labelled
from probe.world import World
from probe.world.language import RELATIONS, TAUGHT
from probe.world.vocabulary import ABSTENTION, PHRASES

TRIES = 40
"""Draws for each pair that is wanted; pairs that were drawn before do not count."""


class Cast(NamedTuple):
    """People of one part of a split."""

    known: Sequence[str]
    strangers: Sequence[str]


class Draw:
    """Generator of pairs about some people of a world."""

    def __init__(self, lm: LM, world: World, cast: Cast, rng: np.random.Generator) -> None:
        self.lm, self.world, self.cast, self.rng = lm, world, cast, rng

    def pick(self, among: Sequence[str]) -> str:
        """Draw one of several."""
        return str(among[int(self.rng.integers(len(among)))])

    def truth(self, person: str, relation: str) -> str:
        """Return the true value of a known person."""
        return str(self.world.truth(person, relation))

    def asked(self, people: tuple[str, str], relation: str, labels: tuple[str, str], answers: tuple[str, str]) -> Twin:
        """Return a question about each of two people, of which the answers are given."""
        form = self.pick(RELATIONS[relation].questions)
        own, other = (
            Labelled(f"<user> {form.format(p=person)} <bot>", label, people[0], subject=person, position=-1)
            for person, label in zip(people, labels, strict=True)
        )
        return Twin(own, other, f" {answers[1]}", f" {answers[0]}")

    def two_people(self, relation: str) -> tuple[tuple[str, str], tuple[str, str]] | None:
        """Draw two known people with different values of a relation."""
        people = self.pick(self.cast.known), self.pick(self.cast.known)
        values = self.truth(people[0], relation), self.truth(people[1], relation)
        return None if values[0] == values[1] else (people, values)

    def value_changed(self) -> Twin | None:
        """Draw a question for the home of a person, and of another one with another home."""
        drawn = self.two_people(RELATION)
        return drawn and self.asked(drawn[0], RELATION, drawn[1], drawn[1])

    def value_kept(self) -> Twin | None:
        """Draw a question for another fact of two people with the same home."""
        relation = self.pick([each for each in TAUGHT if each != RELATION])
        drawn = self.two_people(relation)
        if drawn is None:
            return None
        homes = self.truth(drawn[0][0], RELATION), self.truth(drawn[0][1], RELATION)
        return self.asked(drawn[0], relation, homes, drawn[1]) if homes[0] == homes[1] else None

    def known_changed(self) -> Twin:
        """Draw a question about a known person, and about a stranger."""
        relation, people = self.pick(TAUGHT), (self.pick(self.cast.known), self.pick(self.cast.strangers))
        answers = self.truth(people[0], relation), ABSTENTION.split()[0]
        return self.asked(people, relation, ("known", "stranger"), answers)

    def known_kept(self) -> Twin | None:
        """Draw a question about two known people."""
        relation = self.pick(TAUGHT)
        drawn = self.two_people(relation)
        return drawn and self.asked(drawn[0], relation, ("known", "known"), drawn[1])

    def said(self, about: tuple[str, str], claimed: tuple[str, str], answers: tuple[str, str]) -> Twin:
        """Return two claims on homes, and a question about the first person after both; the site is what is claimed."""
        phrase, statement = self.pick(tuple(PHRASES)), self.pick(RELATIONS[RELATION].statements)
        question = self.pick(RELATIONS[RELATION].questions).format(p=about[0])
        sides = []
        for person, value in zip(about, claimed, strict=True):
            start = f"<user> {phrase} {statement.format(p=person, v=value)}"
            before = start[: start.rindex(value) + len(value)]
            place = len(encode(self.lm.tokenizer, before)) - 1
            sides.append(Labelled(f"{start} {question} <bot>", value, about[0], subject=person, position=place))
        return Twin(sides[0], sides[1], f" {answers[1]}", f" {answers[0]}")

    def false_values(self, person: str) -> tuple[str, str]:
        """Draw two different false homes of a person."""
        values = [each for each in self.world.values(RELATION) if each != self.truth(person, RELATION)]
        one, two = self.rng.choice(values, 2, replace=False).tolist()
        return str(one), str(two)

    def claim_changed(self) -> Twin:
        """Draw a false claim, which becomes another false one."""
        person = self.pick(self.cast.known)
        values = self.false_values(person)
        return self.said((person, person), values, values)

    def claim_kept(self) -> Twin | None:
        """Draw a false claim, and the same one about another person."""
        people = self.pick(self.cast.known), self.pick(self.cast.known)
        value = self.false_values(people[0])[0]
        answers = value, self.truth(people[0], RELATION)
        return None if people[0] == people[1] else self.said(people, (value, value), answers)

    def several(self, make: Callable[[], Twin | None], n: int) -> list[Twin]:
        """Return n different pairs, or as many as are found."""
        found: dict[tuple[str, str], Twin] = {}
        for _ in range(TRIES * n):
            twin = make()
            if twin is not None:
                found.setdefault((twin.own.prompt, twin.other.prompt), twin)
            if len(found) == n:
                break
        return list(found.values())


def pairs_of(draw: Draw, variable: str, n: int) -> tuple[list[Twin], list[Twin]]:
    """Return n changed and n kept pairs of a variable, or as many as are found."""
    changed, kept = getattr(draw, f"{variable}_changed"), getattr(draw, f"{variable}_kept")
    return draw.several(changed, n), draw.several(kept, n)


def casts(world: World, share: float, seed: int) -> tuple[Cast, Cast]:
    """Return the people of training and those held out, a share of the known ones and of the strangers."""
    parts = []
    for number, name in enumerate(("known", "strangers")):
        order = np.random.default_rng([seed, 8, number]).permutation(sorted(world.groups[name])).tolist()
        cut = round(share * len(order))
        parts.append((order[cut:], order[:cut]))
    (known, known_held), (strangers, strangers_held) = parts
    return Cast(known, strangers), Cast(known_held, strangers_held)
