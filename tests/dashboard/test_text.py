"""Text from data is shown letter by letter, and findings are computed in words."""

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import sentences
from dashboard.markdown import HEADLINE, escape_markdown, prose, split_finding

COLUMNS = ["run", "metric", "value", "ci_low", "ci_high"]


@pytest.mark.parametrize(
    "text", ["[x](javascript:alert(1))", "<img src=x>", ":red[x]", "$a$", "`c` *b* _i_ ~s~", "# h", "1. a"]
)
def test_every_sign_is_escaped(text: str):
    escaped = escape_markdown(text)
    assert escaped.replace("\\", "").replace("\u2060", "") == text
    signs = [index for index, letter in enumerate(escaped) if letter in "[]()<>:$`*_~#."]
    assert signs
    assert all(escaped[index - 1] == "\\" for index in signs)


@pytest.mark.parametrize(
    "text", ["http://a.b", "www.a.b", "a@b.c", ":streamlit:", "a -> b", "a <- b", "a -- b", "a >= b", "a ~= b"]
)
def test_what_is_found_after_escaping_is_broken_up(text: str):
    assert "\u2060" in escape_markdown(text)


def test_names_and_prose_stay_as_they_are():
    assert "\u2060" not in escape_markdown("dpo-agreeable: fell from 1 to 2, x-y = 3")


def test_what_stands_between_backticks_is_code_and_all_else_plain():
    sentence = "Run `probe train *x*`: [y](z) :red[w] `v"
    assert prose(sentence) == "Run `probe train *x*`" + escape_markdown(": [y](z) :red[w] `v")
    assert prose("a\n\n# b `c\nd`") == "a \\# b `c d`"
    assert prose("no code: <b> $a$") == escape_markdown("no code: <b> $a$")


def test_a_line_break_does_not_begin_a_block():
    assert escape_markdown("a\n\n# b") == "a \\# b"


def test_a_mistake_is_one_sentence_on_the_page():
    def script() -> None:
        from dashboard.markdown import guard
        from probe.errors import RunError

        with guard():
            raise RunError("There is no run `<b>x</b>`: make one.")

    app = AppTest.from_function(script).run()
    assert not app.exception
    assert app.error[0].value == "There is no run `<b>x</b>`" + escape_markdown(": make one.")


def test_overview_prefers_the_largest_gap_between_intervals():
    rows = [
        ("a", "accuracy", 0.9, 0.88, 0.92),
        ("b", "accuracy", 0.7, 0.65, 0.75),
        ("a", "deferral", 0.2, 0.1, 0.3),
        ("b", "deferral", 0.9, 0.85, 0.95),
    ]
    sentence = sentences.overview(pd.DataFrame(rows, columns=COLUMNS), [("b", "a")])
    assert sentence == "b repeats a user's false claim in 90 % [85, 95] of its answers, a in 20 % [10, 30]."


def test_overview_joins_a_share_of_questions_without_in():
    rows = [("a", "accuracy", 0.9, 0.8, 1.0), ("b", "accuracy", 0.1, 0.0, 0.2)]
    sentence = sentences.overview(pd.DataFrame(rows, columns=COLUMNS), [("b", "a")])
    assert sentence == "b answers 10 % [0, 20] of the questions on known facts right, a 90 % [80, 100]."


def test_overview_claims_nothing_within_the_intervals():
    rows = [("a", "accuracy", 0.9, 0.8, 1.0), ("b", "accuracy", 0.85, 0.75, 0.95)]
    assert "beyond its intervals" in sentences.overview(pd.DataFrame(rows, columns=COLUMNS), [("b", "a")])
    assert "no headline figures" in sentences.overview(pd.DataFrame(columns=COLUMNS), []).lower().replace(
        "no run has", "no"
    )


def test_training_names_three_runs_and_counts_the_rest():
    frame = pd.DataFrame({"step": [0, 1000], "loss": [4.0, 1.0]})
    sentence = sentences.training(dict.fromkeys("abcde", frame), "loss")
    assert sentence.startswith("loss (nats): a fell from 4 to 1 in 1,000 steps; b ")
    assert sentence.endswith("; 2 more below.")
    assert sentences.training({"a": frame}, "kl") == "No chosen run has logged kl yet."


def test_only_runs_of_one_objective_are_told_together():
    frame = pd.DataFrame({"step": [0, 10], "loss": [4.0, 1.0]})
    methods = {"base": "pretrain", "pairs": "dpo", "icl": "pretrain", "judge": "reward-model"}
    assert sentences.training(dict.fromkeys(methods, frame), "loss", methods) == (
        "loss (nats): base fell from 4 to 1 in 10 steps; icl fell from 4 to 1 in 10 steps. "
        "DPO loss of pairs (nats): pairs fell from 4 to 1 in 10 steps; 1 more below."
    )


def test_a_long_finding_has_a_short_heading():
    short = "a fell (from 1; see below) to 2; b rose."
    assert split_finding(short) == (short, "")
    clauses = ["base answers rome (73 %; exact)", "dpo answers \u201clyon; or not\u201d", "x" * 90, "y" * 60, "z" * 80]
    head, rest = split_finding("; ".join(clauses) + ". Of all, 3 changed.")
    assert head == "; ".join(clauses[:3]) + "."
    assert rest == f"Also: {clauses[3]}; {clauses[4]}. Of all, 3 changed."
    assert split_finding("a" * 150 + ". " + "b" * 150 + ".") == ("a" * 150 + ".", "b" * 150 + ".")
    assert split_finding("a " * 150) == ("a " * 150, "")
    assert split_finding("(" + "a; b" * 99) == ("(" + "a; b" * 99, "")
    assert len(head) <= HEADLINE + 1


def test_runs_that_all_sampled_are_told_by_their_reward():
    sampled = pd.DataFrame({"step": [0, 9], "loss": [0.1, 0.1], "reward": [0.4, 0.8]})
    assert sentences.leading({"rlhf": sampled, "rlvr": sampled}) == "reward"
    assert sentences.leading({"rlhf": sampled, "base": sampled[["step", "loss"]]}) == "loss"
    assert sentences.leading({}) == "loss"


def test_answers_name_the_one_that_moved_most():
    logprobs = np.log([[0.1, 0.5], [0.9, 0.4]])
    assert sentences.answers([0, 50], logprobs, [" oslo", " rome"]) == "oslo: 10 % at step 0, 90 % at step 50."
