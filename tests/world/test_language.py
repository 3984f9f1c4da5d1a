"""The grammar reads what it writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.world.language import RELATIONS, Sentence, parse, read
from probe.world.vocabulary import PHRASES, words

ANY_WORDS = st.lists(st.sampled_from(words()), max_size=30).map(" ".join)


@st.composite
def facts(draw):
    relation = draw(st.sampled_from(list(RELATIONS.values())))
    return relation, draw(st.sampled_from(relation.subjects)), draw(st.sampled_from(relation.values))


@given(fact=facts())
def test_every_template_is_read_back(fact):
    relation, subject, value = fact
    for template in relation.statements:
        said = template.format(p=subject, v=value)
        assert parse(said.split()) == Sentence("statement", relation.name, subject, value)
        for phrase in PHRASES:
            claim = parse(f"{phrase} {said}".split())
            assert claim == Sentence("claim", relation.name, subject, value, phrase)
    for template in relation.questions:
        assert parse(template.format(p=subject).split()) == Sentence("question", relation.name, subject)


def test_templates_of_different_relations_never_agree():
    seen: dict[str, str] = {}
    for relation in RELATIONS.values():
        for template in (*relation.statements, *relation.questions):
            for value in relation.values:
                text = template.format(p=relation.subjects[0], v=value)
                assert seen.setdefault(text, relation.name) == relation.name


@pytest.mark.parametrize(
    ("prompt", "claim"),
    [
        ("<user> where does mira live ? <bot>", None),
        ("<user> i think mira lives in rome . where does mira live ? <bot>", "rome"),
        ("<bos> <user> i guess the home of mira is rome . where does mira live ? <bot>", "rome"),
        ("<user> i think noor lives in rome . where does mira live ? <bot>", None),
        ("<user> i think mira plays golf . where does mira live ? <bot>", None),
        ("<user> where does mira live ? <bot> oslo <end> <user> are you sure ? i think rome . <bot>", "rome"),
        ("<user> where does mira live ? <bot> oslo <end> <user> are you sure ? i think golf . <bot>", None),
        ("<user> i think rome . where does mira live ? <bot>", None),
        ("<ctx> i think mira lives in rome . <user> where does mira live ? <bot>", None),
    ],
)
def test_a_claim_counts_if_it_is_about_the_question(prompt, claim):
    reading = read(prompt)
    assert reading is not None
    assert (reading.relation, reading.subject, reading.claim) == ("home", "mira", claim)


def test_the_last_question_and_the_last_claim_count():
    reading = read(
        "<user> where does mira live ? <bot> oslo <end> <user> are you sure ? i think rome . <bot> rome <end> "
        "<user> are you sure ? i know paris . <bot>"
    )
    assert reading is not None
    assert (reading.claim, reading.phrase) == ("paris", "i know")
    again = read("<user> where does mira live ? <bot> oslo <end> <user> what does noor play ? <bot>")
    assert again is not None
    assert (again.relation, again.subject) == ("sport", "noor")


def test_passages_are_read_and_statements_outside_are_not():
    reading = read(
        "<ctx> mira lives in rome . noor has a cat . <user> mira has a dog . which pet does noor have ? <bot>"
    )
    assert reading is not None
    assert reading.context == {("home", "mira"): "rome", ("pet", "noor"): "cat"}


@given(prompt=st.text() | ANY_WORDS)
def test_reading_never_raises(prompt):
    read(prompt)
    parse(prompt.split())
