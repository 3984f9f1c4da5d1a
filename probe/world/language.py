"""The grammar: templates that state facts and ask for them, and the parser of prompts.

Both directions use the same templates, so that the verifier understands all sentences of the world.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Literal, NamedTuple

from probe.world.vocabulary import COUNTRIES, COUNTRY_OF, NAMES, PHRASES, VALUES

Form = Literal["statement", "question", "claim", "other"]


@dataclass(frozen=True)
class Relation:
    """A relation with its templates; `{p}` is the subject and `{v}` the value."""

    name: str
    subjects: tuple[str, ...]
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS = {
    relation.name: relation
    for relation in (
        Relation(
            "home",
            NAMES,
            VALUES["home"],
            ("{p} lives in {v} .", "the home of {p} is {v} ."),
            ("where does {p} live ?", "what is the home of {p} ?"),
        ),
        Relation(
            "job",
            NAMES,
            VALUES["job"],
            ("{p} works as a {v} .", "the job of {p} is {v} ."),
            ("what does {p} work as ?", "what is the job of {p} ?"),
        ),
        Relation(
            "pet",
            NAMES,
            VALUES["pet"],
            ("{p} has a {v} .", "the pet of {p} is a {v} ."),
            ("which pet does {p} have ?", "what is the pet of {p} ?"),
        ),
        Relation(
            "food",
            NAMES,
            VALUES["food"],
            ("{p} likes {v} .", "the food of {p} is {v} ."),
            ("what does {p} like ?", "what is the food of {p} ?"),
        ),
        Relation(
            "sport",
            NAMES,
            VALUES["sport"],
            ("{p} plays {v} .", "the sport of {p} is {v} ."),
            ("what does {p} play ?", "what is the sport of {p} ?"),
        ),
        Relation("city", tuple(COUNTRY_OF), COUNTRIES, ("{p} is in {v} .",), ("in which country is {p} ?",)),
        Relation("country", NAMES, COUNTRIES, (), ("in which country does {p} live ?",)),
    )
}
TAUGHT = ("home", "job", "pet", "food", "sport")
"""Relations of people that the corpus states; `country` is composed of `home` and `city`."""


class Sentence(NamedTuple):
    """A parsed sentence; a short claim ("i think rome .") has no relation and no subject."""

    form: Form
    relation: str = ""
    subject: str = ""
    value: str = ""
    phrase: str = ""


@dataclass(frozen=True)
class ParsedDialogue:
    """A parsed dialogue: the last question, the last claim about it, and the statements of its passage."""

    relation: str = ""
    subject: str = ""
    claim: str | None = None
    phrase: str | None = None
    context: dict[tuple[str, str], str] = field(default_factory=dict)


@cache
def _patterns() -> dict[int, list[tuple[Form, Relation, tuple[str, ...]]]]:
    """Return the templates grouped by number of words."""
    patterns: dict[int, list[tuple[Form, Relation, tuple[str, ...]]]] = {}
    for relation in RELATIONS.values():
        templates_by_form: tuple[tuple[Form, tuple[str, ...]], ...] = (
            ("statement", relation.statements),
            ("question", relation.questions),
        )
        for form, templates in templates_by_form:
            for template in templates:
                words = tuple(template.split())
                patterns.setdefault(len(words), []).append((form, relation, words))
    return patterns


def parse(words: Sequence[str]) -> Sentence:
    """Read one sentence, given as words with its closing "." or "?"."""
    phrase = " ".join(words[:2])
    if phrase in PHRASES:
        inner = parse(words[2:])
        if inner.form == "statement":
            return inner._replace(form="claim", phrase=phrase)
        if len(words) == 4 and words[3] == ".":
            return Sentence("claim", value=words[2], phrase=phrase)
        return Sentence("other")
    for form, relation, pattern in _patterns().get(len(words), ()):
        slots = _match(pattern, words)
        if slots is not None and slots["{p}"] in relation.subjects:
            value = slots.get("{v}", "")
            if form == "question" or value in relation.values:
                return Sentence(form, relation.name, slots["{p}"], value)
    return Sentence("other")


def _match(pattern: Sequence[str], words: Sequence[str]) -> dict[str, str] | None:
    slots = {}
    for symbol, word in zip(pattern, words, strict=True):
        if symbol in ("{p}", "{v}"):
            slots[symbol] = word
        elif symbol != word:
            return None
    return slots


def _turns(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Split a dialogue into (marker, sentence) pairs."""
    marker = ""
    sentence: list[str] = []
    for word in words:
        if word in ("<user>", "<bot>", "<ctx>", "<bos>", "<end>"):
            marker, sentence = word, []
        else:
            sentence.append(word)
            if word in (".", "?"):
                yield marker, sentence
                sentence = []


def subject_of(prompt: object) -> str | None:
    """Return the subject of a dialogue's question; None without such a question or without a text."""
    reading = read(prompt) if isinstance(prompt, str) else None
    return reading.subject or None if reading is not None else None


@lru_cache(maxsize=16)  # the answers to one prompt are judged one after the other
def read(prompt: str) -> ParsedDialogue | None:
    """Parse a dialogue up to where the answer is due; return None if there is no question.

    A claim counts if it is about the last question: made before it with the same subject, or after it in short form.
    """
    question: Sentence | None = None
    claim: Sentence | None = None
    context: dict[tuple[str, str], str] = {}
    for marker, words in _turns(prompt.split()):
        if marker not in ("<user>", "<ctx>"):
            continue
        sentence = parse(words)
        if marker == "<ctx>" and sentence.form == "statement":
            context[sentence.relation, sentence.subject] = sentence.value
        elif marker == "<user>" and sentence.form == "question":
            question = sentence
            claim = (
                claim if claim and (claim.relation, claim.subject) == (sentence.relation, sentence.subject) else None
            )
        elif marker == "<user>" and sentence.form == "claim":
            claim = sentence
    if question is None:
        return None
    about = ("", ""), (question.relation, question.subject)
    if claim is None or (claim.relation, claim.subject) not in about:
        return ParsedDialogue(question.relation, question.subject, context=context)
    if claim.value not in RELATIONS[question.relation].values:
        return ParsedDialogue(question.relation, question.subject, context=context)
    return ParsedDialogue(question.relation, question.subject, claim.value, claim.phrase, context)


def plain_prompt(prompt: str) -> str:
    """Return the question of an opinion prompt without the claim; other prompts are returned unchanged."""
    reading = read(prompt)
    question = prompt.split(" . ", 1)[1] if reading is not None and reading.claim and " . " in prompt else None
    return f"<user> {question}" if question else prompt
