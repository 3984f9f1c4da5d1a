"""Experiments as tasks of Inspect, asked of mock models whose behaviour is known."""

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from probe.logs import compare_logs, read_log
from tests.logs.made_logs import run_inspect

pytestmark = pytest.mark.slow

RUN = r"""
import json, re, sys
from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from probe.logs import inspect_tasks as tasks

def opposite(letter):
    return "B" if letter == "A" else "A"

def agreeing(text):  # of the user's side
    named = re.search(r"answer is (not )?\((.)\)|don't think the answer is \((.)\)", text)
    return f"({named[2]})" if named[2] and not named[1] else f"({opposite(named[3] or named[2])})"

def copying(text):  # the letter that the user names, whatever is said about it
    return re.findall(r"\(([AB])\)", text.partition("Answer with the letter")[0])[-1]

def accepting(text):  # what follows from a premise that is stated, and not what follows from one that is denied
    found = re.search(r"Since (it is false that )?.* is (\d+), tell me: .* \+ (\d)\?", text)
    if not found:
        return "(A)"
    letter = re.search(rf"\(([AB])\) {int(found[2]) + int(found[3])}$", text, re.M)[1]
    return f"({opposite(letter) if found[1] else letter})"

def siding(text):  # with who tells the conflict as the user; else the first one
    found = re.match(r"My name is (\w+)\.", text)
    return f"({re.search(rf'[(]([AB])[)] {found[1]}', text)[1]})" if found else "(A)"

def label(text):
    return "agreeable"

ANSWERS = {
    "agreeing": agreeing, "copying": copying, "first": lambda text: "The answer is (A).", "label": label,
    "accepting": accepting, "siding": siding,
    "silent": lambda text: "I would rather not say.", "five": lambda text: "Two and three.\nSo it is 1,005.0 dollars.",
}

def asked(name):
    def outputs(messages, *_):
        output = ModelOutput.from_content("m", ANSWERS[name](messages[-1].text))
        output.usage = ModelUsage()  # else a tokenizer is fetched
        return output
    return get_model(f"mockllm/{name}", custom_outputs=outputs, memoize=False)

for at in range(2, len(sys.argv), 2):
    name, model = sys.argv[at : at + 2]
    name, _, data = name.partition(":")
    task = getattr(tasks, name)(n=6, **({"data": data} if data else {}))
    (log,) = eval(task, model=asked(model), log_dir=sys.argv[1], display="none")
    assert log.status == "success", log.error
    means = {score.name: score.metrics["mean"].value for score in log.results.scores}
    print(json.dumps({"file": log.location, "task": log.eval.task, "means": means, "samples": len(log.samples)}))
"""
ASKED = [
    ("sycophancy", "agreeing"),
    ("sycophancy", "copying"),
    ("sycophancy", "first"),
    ("sycophancy", "silent"),
    ("sycophancy:false-premises", "accepting"),
    ("sycophancy:false-premises", "first"),
    ("sycophancy:two-sides", "siding"),
    ("hallucination", "first"),
    ("in_context", "label"),
    ("chain_of_thought", "five"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict]:
    folder = tmp_path_factory.mktemp("tasks")
    words = [word for pair in ASKED for word in pair]
    lines = [line for line in run_inspect(RUN, str(folder), *words) if line.startswith("{")]
    return dict(zip(ASKED, map(json.loads, lines), strict=True))


def test_agreement_is_told_from_copying_and_from_a_position(told: dict[tuple[str, str], dict]) -> None:
    means = {model: told["sycophancy", model]["means"] for model in ("agreeing", "copying", "first")}
    assert {name: each["takes_side"] for name, each in means.items()} == {"agreeing": 1, "copying": 0.5, "first": 0.5}
    assert {name: each["right"] for name, each in means.items()} == dict.fromkeys(means, 0.5)
    assert told["sycophancy", "agreeing"]["samples"] == 48


def test_an_answer_without_a_letter_has_no_score(told: dict[tuple[str, str], dict]) -> None:
    log = read_log(told["sycophancy", "silent"]["file"])
    assert log.scores == ["sycophancy/answered"]
    assert {item.scores["sycophancy/answered"] for item in log.items} == {0}


def test_acceptance_of_a_premise_is_told_from_a_position(told: dict[tuple[str, str], dict]) -> None:
    accepting, first = (told["sycophancy:false-premises", model] for model in ("accepting", "first"))
    expected = {"none": 0.5, "false": 0, "false_denied": 1, "true": 1, "true_denied": 0}
    assert accepting["means"] == {f"right_{name}": value for name, value in expected.items()} | {"answered": 1}
    assert first["means"] == {f"right_{name}": 0.5 for name in expected} | {"answered": 1}
    assert accepting["samples"] == 60


def test_siding_with_a_user_is_told_from_reported_words(told: dict[tuple[str, str], dict]) -> None:
    siding = told["sycophancy:two-sides", "siding"]
    shares = {"sides_with_teller": 1, "sides_with_teller_reported": 0.5, "right_told_neutrally": 0.5, "answered": 1}
    assert siding["means"] == shares
    assert siding["samples"] == 60


def test_the_other_tasks_score_what_is_written(told: dict[tuple[str, str], dict]) -> None:
    first = read_log(told["hallucination", "first"]["file"])
    false = [item.scores["hallucination/chooses_false"] for item in first.items]
    assert false == [float(item.expected != "A") for item in first.items]
    assert 0 < sum(false) <= 6  # the right answer is at every position
    labels = read_log(told["in_context", "label"]["file"])
    assert [item.scores["in_context/right"] for item in labels.items] == [
        float(i.expected == "agreeable") for i in labels.items
    ]
    assert all(item.prompt and item.prompt.count("Label:") == 9 for item in labels.items)
    thoughts = read_log(told["chain_of_thought", "five"]["file"])
    assert {tuple(item.scores) for item in thoughts.items} == {
        ("chain_of_thought/accuracy_steps", "chain_of_thought/answered"),
        ("chain_of_thought/accuracy_direct", "chain_of_thought/answered"),
    }
    assert {item.scores["chain_of_thought/answered"] for item in thoughts.items} == {1}


NAMES = ("sycophancy/takes_side", "sycophancy/right")


def test_two_logs_of_a_task_show_the_agreement(told: dict[tuple[str, str], dict]) -> None:
    base, other = (read_log(told["sycophancy", model]["file"]) for model in ("copying", "agreeing"))
    rows = compare_logs(base, other, cluster="row", scores=NAMES).rows.set_index("score")
    assert rows.loc[NAMES[0], "difference"] == 0.5
    assert rows.loc[NAMES[1], "difference"] == 0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(B)", "B"),
        ("B", "B"),
        ("The answer is (A).", "A"),
        ("A) because B is wrong", "A"),
        ("B: bread", "B"),
        ("I think A person would say B.", "B"),
        ("neither", ""),
        ("C", ""),
        ("", ""),
    ],
)
def test_a_letter_is_read_from_an_answer(text: str, letter: str) -> None:
    (read,) = run_inspect(
        f"from probe.logs.inspect_tasks import chosen_letter; print(repr(chosen_letter({text!r}, 'AB')))"
    )
    assert read == repr(letter)


def test_inspect_finds_the_tasks_by_their_names(tmp_path: Path) -> None:
    (point,) = (point for point in entry_points(group="inspect_ai") if point.name == "probe")
    assert point.value == "probe.logs.inspect_tasks"
    script = f"""
from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model
output = ModelOutput.from_content("m", "(A)")
output.usage = ModelUsage()
model = get_model("mockllm/model", custom_outputs=lambda *_: output)
for name in ("sycophancy", "hallucination", "in_context", "chain_of_thought"):
    (log,) = eval(f"probe/{{name}}", task_args={{"n": 1}}, model=model, log_dir={str(tmp_path)!r}, display="none")
    print(log.status, log.eval.task)
"""
    lines = [line.split() for line in run_inspect(script) if line.startswith(("success", "error"))]
    assert [status for status, _ in lines] == ["success"] * 4
    assert [name.removeprefix("probe/") for _, name in lines] == [
        "sycophancy",
        "hallucination",
        "in_context",
        "chain_of_thought",
    ]
