"""Texts for a model without a world: English by templates, in which what is asked is known from the text alone.

    fact     Anna lives in Paris. Mark lives in London. Anna lives in             Paris, not London
    copy     Then Anna and Mark went to the park. Mark gave a ring to             Anna, not Mark
    label    dog: red, hammer: blue, cat: red, knife: blue, horse:                red, not blue
    claim    a fact, then: I guess Anna lives in London. In truth, Anna lives in  the claim is false

Words of a kind are one token each where they stand, so that a word is replaced without a change of length; words that
the tokenizer splits are left out. Texts with labels come in pairs with the same words: the two facts are swapped, or
the claim is that of the other person.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from probe.errors import DataError
from probe.model.text import encode
from probe.probes.text_labels import WORDS, Labelled, LabelledTexts, Question

POOLS: Mapping[str, tuple[str, ...]] = {
    kind: tuple(words.split())
    for kind, words in {
        "names": "Anna Mark Emma Peter Maria David Laura James Sarah Paul Julia Thomas Alice Simon Clara Robert Helen"
        " Daniel Susan George",
        "cities": "Paris London Berlin Rome Madrid Vienna Dublin Moscow",
        "animals": "dog cat horse lion mouse sheep tiger bird rabbit wolf",
        "tools": "hammer knife saw drill axe brush shovel needle ladder fork",
        "labels": "red blue green white black pink gold brown",
        "places": "park market school garden station library museum beach",
        "objects": "book letter ring map pen ball key box",
        "phrases": "know think guess",
        "verbs": "lives works stays studies waits",
        "past": "gave sent handed passed brought sold",
    }.items()
}
"""Words by kind."""
NEEDED = {"names": 8, "animals": 5, "tools": 5, "phrases": 3}
"""Smallest number of words of a kind that the tokenizer has as one token; 2 of the others."""
HOMES = 4
"""Number of homes that are classes of texts with labels."""
MOST = 6
"""Largest number of alternatives of a word."""
Words = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class RealText:
    """Text with the answer that it calls for."""

    kind: str
    prompt: str
    answers: tuple[str, str]
    """The answer, and its rival, which stands in the text as well."""


def words_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[str, ...]]:
    """Return the words by kind that are one token after another word.

    Raises:
        DataError: there are too few.
    """
    before = encode(tokenizer, "in")

    def is_one(word: str) -> bool:
        ids = encode(tokenizer, f"in {word}")
        return len(ids) == len(before) + 1 and ids[:-1] == before

    found = {kind: tuple(filter(is_one, words)) for kind, words in POOLS.items()}
    for kind, words in found.items():
        if len(words) < NEEDED.get(kind, 2):
            raise DataError(
                f"The tokenizer has {len(words)} of the {len(POOLS[kind])} {kind} as one token; the texts need"
                f" {NEEDED.get(kind, 2)}: give a model that reads English."
            )
    return found


def replacements(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, ...]]:
    """Return groups of words that replace each other: those of a kind; animals and tools are one."""
    found = words_of(tokenizer)
    things = found.pop("animals") + found.pop("tools")
    return [*found.values(), things]


def _some(words: tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
    return [words[at] for at in rng.permutation(len(words))[:count].tolist()]


def _facts(people: list[str], homes: list[str]) -> str:
    return " ".join(f"{person} lives in {home}." for person, home in zip(people, homes, strict=True))


def _fact(words: Words, rng: np.random.Generator) -> RealText:
    people, homes, asked = _some(words["names"], 2, rng), _some(words["cities"], 2, rng), int(rng.integers(2))
    prompt = f"{_facts(people, homes)} {people[asked]} lives in"
    return RealText("fact", prompt, (f" {homes[asked]}", f" {homes[1 - asked]}"))


def _copy(words: Words, rng: np.random.Generator) -> RealText:
    people, giver = _some(words["names"], 2, rng), int(rng.integers(2))
    (place,), (thing,) = _some(words["places"], 1, rng), _some(words["objects"], 1, rng)
    prompt = f"Then {people[0]} and {people[1]} went to the {place}. {people[giver]} gave a {thing} to"
    return RealText("copy", prompt, (f" {people[1 - giver]}", f" {people[giver]}"))


def _label(words: Words, rng: np.random.Generator) -> RealText:
    groups, labels = [_some(words[kind], 3, rng) for kind in ("animals", "tools")], _some(words["labels"], 2, rng)
    asked, order = int(rng.integers(2)), rng.permutation([0, 0, 1, 1]).tolist()
    shown = ", ".join(f"{groups[each].pop()}: {labels[each]}" for each in order)
    return RealText("label", f"{shown}, {groups[asked].pop()}:", (f" {labels[asked]}", f" {labels[1 - asked]}"))


TEMPLATES: Mapping[str, Callable[[Words, np.random.Generator], RealText]] = {
    "fact": _fact,
    "copy": _copy,
    "label": _label,
}
"""Function of each kind of text."""


def draw_texts(tokenizer: PreTrainedTokenizerBase, n: int, seed: int) -> list[RealText]:
    """Return about n different texts of all kinds in equal parts.

    Raises:
        DataError: see `words_of`.
    """
    words, found = words_of(tokenizer), list[RealText]()
    for number, template in enumerate(TEMPLATES.values()):
        rng, own, many = np.random.default_rng([seed, number, 6]), dict[str, RealText](), -(-n // len(TEMPLATES))
        for _ in range(4 * many):
            text = template(words, rng)
            if len(own) < many:
                own.setdefault(text.prompt, text)
        found += own.values()
    return found


def labelled(tokenizer: PreTrainedTokenizerBase, question: Question, n: int, seed: int) -> LabelledTexts:
    """Return about n texts with the label of a question that the text answers: home, truth of a claim, or its phrase.

    Groups are the people that are asked about, in equal parts; their texts come in pairs with the same words.

    Raises:
        DataError: the text does not answer the question; see `words_of`.
    """
    if question not in ("claim", "value", "phrase"):
        raise DataError(f"The labels of `{question}` are known on a world only: give a model of a world.")
    words, rng = words_of(tokenizer), np.random.default_rng([seed, 7])
    names, items = words["names"], list[Labelled]()
    for number in range(-(-n // 2)):
        at = number % len(names)
        person = names[at]
        (other,), homes = _some(names[:at] + names[at + 1 :], 1, rng), _some(words["cities"][:HOMES], 2, rng)
        (phrase,), people = _some(words["phrases"], 1, rng), [person, other]
        order = slice(None, None, 1 if rng.integers(2) else -1)
        for own in (homes, homes[::-1]):
            facts = _facts(people[order], own[order] if question == "value" else homes[order])
            if question == "value":
                items.append(Labelled(f"{facts} {person} lives in", own[0], person))
                continue
            prompt = f"{facts} I {phrase} {person} lives in {own[0]}. In truth, {person} lives in"
            label = phrase if question == "phrase" else str(own == homes).lower()
            items.append(Labelled(prompt, label, person))
    return LabelledTexts(question, WORDS[question], tuple(items), False)
