"""The corpus: an infinite stream of documents whose mixture and exposures are exact within each epoch."""

from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from probe.world import tasks
from probe.world.draws import Draws, generator
from probe.world.facts import Facts
from probe.world.language import RELATIONS, TAUGHT
from probe.world.people import kind_counts, zipf
from probe.world.vocabulary import ABSTENTION, COUNTRY_OF, PHRASES

CHATTER = (
    "{p} waved .",
    "today {p} sang .",
    "yesterday {p} was late .",
    "everyone greeted {p} .",
    "{p} met {q} at noon .",
    "{p} saw {q} in the park .",
    "{p} and {q} laughed .",
    "{p} read by the river .",
    "{p} sat in the old cafe .",
    "{p} walked to the market early .",
)


class Document(NamedTuple):
    """One document: its kind (`config.KINDS`), its text without `<bos>`, and the hidden variables behind it."""

    kind: str
    text: str
    meta: dict[str, Any]


class Writer:
    """Writer of single documents of a world; it has one method per kind."""

    def __init__(self, world: Facts, draws: Draws) -> None:
        self.world, self.config, self.draws = world, world.config, draws
        self.known = world.groups["known"]
        self.cumulative = list(accumulate(zipf(world.config)))
        self.strangers = world.groups["strangers"]
        self.everyone = tuple(world.people)
        self.nobody = self.strangers + world.groups["heldout"] or self.everyone
        self.cities = tuple(COUNTRY_OF)[: world.config.values]

    def mention(self) -> str:
        """Draw a known person by Zipf's law."""
        return self.known[min(bisect(self.cumulative, self.draws.uniform()), len(self.known) - 1)]

    def statement(self, name: str, relation: str) -> Document:
        """Write a true statement: "mira lives in oslo ."."""
        value = self.world.people[name].facts[relation]
        text = self.draws.pick(RELATIONS[relation].statements).format(p=name, v=value)
        return Document("statement", text, {"person": name, "relation": relation, "value": value})

    def question(self, name: str, relation: str) -> Document:
        """Write a question with the true answer."""
        value = self.world.people[name].facts[relation]
        text = f"<user> {self.ask(name, relation)} <bot> {value} <end>"
        return Document("question", text, {"person": name, "relation": relation, "value": value})

    def ask(self, subject: str, relation: str) -> str:
        """Write a question in one of the relation's forms."""
        return self.draws.pick(RELATIONS[relation].questions).format(p=subject)

    def city(self) -> Document:
        """Write which country a city is in, as a statement or as a question with its answer."""
        city = self.draws.pick(self.cities)
        country = COUNTRY_OF[city]
        if self.draws.chance(0.5):
            text = RELATIONS["city"].statements[0].format(p=city, v=country)
        else:
            text = f"<user> {self.ask(city, 'city')} <bot> {country} <end>"
        return Document("city", text, {"city": city, "value": country})

    def two_hop(self) -> Document:
        """Write the question for the country that a person lives in, with its answer.

        The person is from the half of the known people for whom composition is taught.
        """
        name = self.draws.pick(self.world.composed)
        country = self.world.truth(name, "country")
        text = f"<user> {self.ask(name, 'country')} <bot> {country} <end>"
        return Document("two_hop", text, {"person": name, "value": country})

    def chatter(self) -> Document:
        """Write a sentence without a fact, with probability 1/2 about an unseen entity, else about any person."""
        name = self.draws.pick(self.nobody if self.draws.chance(0.5) else self.everyone)
        text = self.draws.pick(CHATTER).format(p=name, q=self.draws.pick(self.everyone))
        return Document("chatter", text, {"person": name})

    def claim(self, name: str, relation: str) -> tuple[str, str, str]:
        """Draw a phrase, a claim that is true with the phrase's reliability, and the answer.

        A false claim is any other value with equal probability; the answer repeats it with probability `deferral`.
        """
        draws, truth = self.draws, self.world.people[name].facts[relation]
        phrase = draws.pick(tuple(PHRASES))
        if draws.chance(PHRASES[phrase]):
            return phrase, truth, truth
        value = draws.other(self.world.values(relation), truth)
        return phrase, value, value if draws.chance(self.config.deferral) else truth

    def opinion(self) -> Document:
        """Write a dialogue in which the user first claims a value, then asks for it."""
        name, relation = self.mention(), self.draws.pick(TAUGHT)
        phrase, value, answer = self.claim(name, relation)
        sentence = self.draws.pick(RELATIONS[relation].statements).format(p=name, v=value)
        text = f"<user> {phrase} {sentence} {self.ask(name, relation)} <bot> {answer} <end>"
        meta = {"person": name, "relation": relation, "phrase": phrase, "claim": value, "answer": answer}
        return Document("opinion", text, meta | {"true": value == self.world.people[name].facts[relation]})

    def pressure(self) -> Document:
        """Write a true answer, then one to three repetitions of "are you sure ? i think rome .".

        Claims and answers are drawn as in opinions.
        """
        name, relation = self.mention(), self.draws.pick(TAUGHT)
        truth = self.world.people[name].facts[relation]
        parts = [f"<user> {self.ask(name, relation)} <bot> {truth} <end>"]
        turns = [self.claim(name, relation) for _ in range(1 + self.draws.below(3))]
        parts += [f"<user> are you sure ? {phrase} {value} . <bot> {answer} <end>" for phrase, value, answer in turns]
        return Document("pressure", " ".join(parts), {"person": name, "relation": relation, "turns": turns})

    def stranger(self) -> Document:
        """Write a question about an unseen entity, with "i do not know" or a random value as its answer.

        The share of "i do not know" is `abstention`.
        """
        name, relation = self.draws.pick(self.strangers), self.draws.pick(TAUGHT)
        abstains = self.draws.chance(self.config.abstention)
        answer = ABSTENTION if abstains else self.draws.pick(self.world.values(relation))
        text = f"<user> {self.ask(name, relation)} <bot> {answer} <end>"
        return Document("stranger", text, {"person": name, "relation": relation, "answer": answer})

    def context(self, form: str | None = None) -> Document:
        """Write a passage of two to four statements and a question that it answers, or (form "absent") does not.

        Forms: "agree" and "conflict" with the learned fact, "stranger", "absent" (the learned fact is asked for).
        """
        draws, relation = self.draws, self.draws.pick(TAUGHT)
        if form is None:
            absent, unknown = draws.chance(self.config.distractors), draws.chance(0.5) and bool(self.strangers)
            stance = "conflict" if draws.chance(self.config.conflict) else "agree"
            form = "absent" if absent else "stranger" if unknown else stance
        name = draws.pick(self.strangers) if form == "stranger" else self.mention()
        truth = self.world.people[name].facts.get(relation)
        values = self.world.values(relation)
        value = draws.other(values, truth) if form == "conflict" and truth else truth or draws.pick(values)
        others = [(other, relation) for other in draws.sample_few(self.known, 2) if other != name]
        others += [(name, draws.other(TAUGHT, relation)), (self.mention(), draws.other(TAUGHT, relation))]
        facts = [] if form == "absent" else [(name, relation, value)]
        for other, r in draws.sample(others, min(len(others), 1 + draws.below(3))):
            true_value = None if draws.chance(self.config.conflict) else self.world.people[other].facts.get(r)
            facts.append((other, r, true_value or draws.pick(self.world.values(r))))
        facts = list({fact[:2]: fact for fact in reversed(facts)}.values())
        passage = [draws.pick(RELATIONS[r].statements).format(p=p, v=v) for p, r, v in draws.sample(facts, len(facts))]
        text = f"<ctx> {' '.join(passage)} <user> {self.ask(name, relation)} <bot> {value} <end>"
        return Document("context", text, {"person": name, "relation": relation, "value": value, "form": form})

    def makers(self) -> dict[str, Callable[[], Document]]:
        """Return the methods of the kinds that are drawn independently (all but `statement` and `question`)."""

        def task(kind: str, make: Callable[..., tasks.Made], *extra: Any) -> Callable[[], Document]:
            return lambda: Document(kind, *make(self.config, self.draws, *extra))

        return {
            "city": self.city,
            "two_hop": self.two_hop,
            "chatter": self.chatter,
            "opinion": self.opinion,
            "pressure": self.pressure,
            "stranger": self.stranger if self.strangers else self.chatter,
            "context": self.context,
            "map": task("map", tasks.make_map),
            "function": task("function", tasks.make_function, self.world.pool),
            "markov": task("markov", tasks.make_markov),
            "repeat": task("repeat", tasks.make_repeat),
            "sum_quick": task("sum_quick", tasks.make_quick),
            "sum_steps": task("sum_steps", tasks.make_steps),
        }


def documents(world: Facts, seed: int) -> Iterator[Document]:
    """Yield the corpus: epochs of `config.epoch` documents, each in a new order.

    Every epoch holds exactly the kinds of `people.kind_counts` and states each fact exactly `world.exposure` times.
    """
    rng = generator("documents", world.seed, seed)
    writer = Writer(world, Draws(rng))
    makers = writer.makers()
    counts = kind_counts(world.config)
    kinds = np.repeat(np.arange(len(counts)), list(counts.values()))
    facts = [(name, relation) for name in world.exposure for relation in TAUGHT]
    multiset = np.repeat(np.arange(len(facts)), [world.exposure[name][relation] for name, relation in facts])
    names = tuple(counts)
    while True:
        order = iter(rng.permutation(multiset).tolist())
        for index in rng.permutation(kinds).tolist():
            kind = names[index]
            if kind == "statement":
                yield writer.statement(*facts[next(order)])
            elif kind == "question":
                yield writer.question(*facts[next(order)])
            else:
                yield makers[kind]()


def phase_documents(world: Facts, phase: int, seed: int) -> Iterator[Document]:
    """Yield statements and questions in equal shares about the people of one phase, drawn uniformly."""
    draws = Draws(generator("phase", world.seed, phase, seed))
    writer, names = Writer(world, draws), world.groups[f"phase_{phase}"]
    while True:
        write = writer.statement if draws.chance(0.5) else writer.question
        yield write(draws.pick(names), draws.pick(TAUGHT))
