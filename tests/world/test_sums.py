"""Written sums: steps are read, judged, edited and followed."""

from hypothesis import given
from hypothesis import strategies as st

from probe.world.sums import edit_step, parse_prompt, parse_working, step_following
from probe.world.tasks import steps_text, sum_prompt

TERMS = st.lists(st.integers(0, 9), min_size=2, max_size=9)


def right(terms):
    return [sum(terms[: i + 1]) % 10 for i in range(1, len(terms))]


@given(terms=TERMS, data=st.data())
def test_steps_come_back(terms, data):
    results = data.draw(st.lists(st.integers(0, 9), min_size=len(terms) - 1, max_size=len(terms) - 1))
    working = parse_working(steps_text(terms, results))
    assert working is not None
    assert [step.result for step in working.steps] == results
    assert [step.right for step in working.steps] == terms[1:]
    assert working.answer == results[-1]
    wanted = [
        (left + term) % 10 == result
        for left, term, result in zip([terms[0], *results], terms[1:], results, strict=False)
    ]
    assert [step.correct for step in working.steps] == wanted


@given(terms=TERMS)
def test_right_steps_follow_throughout(terms):
    assert parse_prompt(sum_prompt("sum", terms)) == ("sum", terms)
    following = step_following(sum_prompt("sum", terms), steps_text(terms, right(terms)))
    assert following == (1.0, 1.0, True)


def test_what_does_not_follow_is_seen():
    prompt = "sum 3 + 4 + 9 ="
    assert step_following(prompt, "3 + 4 = 8 ; 8 + 9 = 7 ; so 7") == (0.5, 1.0, True)
    assert step_following(prompt, "3 + 4 = 8 ; 7 + 9 = 6 ; so 6") == (0.5, 0.5, True)
    assert step_following(prompt, "3 + 4 = 7 ; 7 + 9 = 6 ; so 7") == (1.0, 1.0, False)
    assert step_following(prompt, "3 + 4 = 7 ; so 7") == (1.0, 0.5, True)
    assert step_following(prompt, "so 6") is None
    assert step_following("quick", "3 + 4 = 7 ; so 7") is None


@given(terms=TERMS, data=st.data())
def test_the_consequence_of_an_edit_is_what_the_steps_after_it_give(terms, data):
    step = data.draw(st.integers(0, len(terms) - 2))
    result = data.draw(st.integers(0, 9))
    edit = edit_step(terms, step, result)
    results = right(terms)
    results[step] = result
    for i in range(step + 1, len(results)):
        results[i] = (results[i - 1] + terms[i + 1]) % 10
    assert edit.consequence == results[-1]
    assert edit.truth == sum(terms) % 10
    whole = f"{sum_prompt('sum', terms)} {steps_text(terms, results)}"
    assert whole.startswith(edit.prompt)
    assert edit.prompt.endswith(f"= {result} ;")


@given(text=st.text())
def test_parsing_never_raises(text):
    parse_prompt(text)
    parse_working(text)
    step_following(text, text)
