"""What is suggested for a name that does not exist."""

from hypothesis import given
from hypothesis import strategies as st

from probe.errors import near_names, suggest

COMMANDS = ("audit", "compare", "runs", "train")


def test_the_nearest_name_is_suggested_and_else_the_remedy():
    assert suggest("trian", COMMANDS, "see the list.") == "did you mean `train`?"
    assert suggest("zzz", COMMANDS, "see the list.") == "see the list."
    assert suggest("trial", ["trail", "train", "other"], "", most=3) == "did you mean `trail` or `train`?"


def test_capitals_dashes_and_what_joins_words_make_no_difference():
    assert near_names("IN-CONTEXT", ["in_context", "retrieval"]) == ["in_context"]
    assert near_names("--stesp", ["--steps", "--seed"]) == ["--steps"]
    assert near_names("--only", ["--n", "--json"]) == []  # the dashes are alike in all options


@given(st.text(max_size=300), st.lists(st.text(max_size=20), max_size=8))
def test_only_names_that_exist_are_suggested(name: str, known: list[str]):
    assert set(near_names(name, known, 3)) <= set(known)
    assert all(near_names(each, [each]) == [each] for each in known if each.strip("-_"))
