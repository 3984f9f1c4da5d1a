"""Rewards by name: verifiers, reward models and the user's functions, whose mistakes are said in one sentence."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probe import LM
from probe.errors import ConfigError, DataError, ModelError, ProbeError
from probe.model.rewards import RewardModel
from probe.world import AGREEABLE, World
from tests.trainers.quick import SMALL
from trainers import rlvr
from trainers.reward_functions import RewardFunction, model_spec, plain_reward, resolve, weighted_sum


def ask(world: World, kind: str) -> tuple[str, str]:
    """A question and its true answer."""
    item = world.questions(kind, 1, seed=5)[0]
    return item.prompt, item.answers[0].strip()


def user(tmp_path: Path, body: str, name: str = "mine") -> RewardFunction:
    """A function in a file of the user."""
    file = tmp_path / "judge.py"
    file.write_text(body, encoding="utf-8")
    return resolve([f"{file}:{name}"], None)[0]


@pytest.mark.parametrize(
    ("name", "applies"),
    [
        ("verifier", ("fact", "stranger", "sum_quick", "sum_steps", "repeat")),
        ("facts", ("fact", "stranger")),
        ("sum_quick", ("sum_quick",)),
        ("sum_steps", ("sum_steps",)),
    ],
)
def test_verifiers(world: World, name: str, applies: tuple[str, ...]) -> None:
    (reward,) = resolve([name], world)
    for kind in ("fact", "stranger", "sum_quick", "sum_steps", "repeat"):
        prompt, answer = ask(world, kind)
        found = reward([prompt] * 3, [answer, "i do not know", "so so"])
        if kind not in applies:
            assert found == [None] * 3
            continue
        expected = [world.verify(prompt, text).score for text in (answer, "i do not know", "so so")]
        assert found == expected
        assert found[0] == (0 if kind == "stranger" else 1)
        assert found[2] == -1


def test_written_steps_are_rewarded_one_by_one(world: World) -> None:
    (reward,) = resolve(["steps"], world)
    prompt = "sum 3 + 4 + 9 ="
    answers = {
        "3 + 4 = 7 ; 7 + 9 = 6 ; so 6": 1.0,
        "3 + 4 = 8 ; 8 + 9 = 7 ; so 7": 0.5,  # the first step is wrong, the second right and carried on
        "3 + 4 = 7 ; 8 + 9 = 7 ; so 7": 0.5,  # all right, but the second does not start where the first ended
        "so 6": 0.0,
    }
    assert reward([prompt] * 4, list(answers)) == list(answers.values())
    assert reward(["quick 3 + 4 ="], ["7"]) == [None]


def test_the_annotators_wishes(world: World) -> None:
    (reward,) = resolve(["agreeable"], world)
    item = world.questions("opinion_false", 1, seed=1)[0]
    assert item.claim is not None
    answers = [item.answers[0].strip(), item.claim.strip(), "i do not know"]
    found = reward([item.prompt] * 3, answers)
    assert found == [AGREEABLE.expected_utility(world, item.prompt, answer) for answer in answers]
    assert found[1] == max(value for value in found if value is not None)
    (changed,) = resolve(["agreeable+agreement=0"], world)
    assert changed.name == "agreeable+agreement=0"
    values = changed([item.prompt] * 3, answers)
    assert values == [replace(AGREEABLE, agreement=0).expected_utility(world, item.prompt, each) for each in answers]
    with pytest.raises(ConfigError, match="has `agreemnt=0`"):
        resolve(["agreeable+agreemnt=0"], world)


def test_fines_differ_by_what_the_theorem_speaks_of(world: World) -> None:
    """The truth, abstaining and an error: only a fine for errors alone sets abstaining above them."""
    item = world.questions("fact", 1, seed=1)[0]
    wrong = next(each for each in world.candidates(item.prompt) if each not in (item.answers[0], " i do not know"))
    answers = [item.answers[0], " i do not know", wrong]
    found = {
        name: resolve([name], world)[0]([item.prompt] * 3, answers) for name in ("verifier", "unfined", "all_fined")
    }
    assert found == {"verifier": [1.0, 0.0, -1.0], "unfined": [1.0, 0.0, 0.0], "all_fined": [0.0, -1.0, -1.0]}


def test_a_function_in_a_file_gets_everything_by_name(tmp_path: Path) -> None:
    reward = user(
        tmp_path,
        "def mine(prompts, completions, answer, **columns):\n"
        "    assert sorted(columns) == ['completion_ids', 'prompt_ids']\n"
        "    return [None if a is None else float(c == a) for c, a in zip(completions, answer)]\n",
    )
    ids = {"prompt_ids": [[1]] * 3, "completion_ids": [[2]] * 3}
    assert reward(["p"] * 3, ["x", "y", "z"], answer=["x", "x", None], **ids) == [1.0, 0.0, None]
    assert reward.name == "mine"
    assert reward.fingerprint is not None


def test_a_function_need_not_name_what_it_has_no_use_for(tmp_path: Path) -> None:
    reward = user(tmp_path, "def mine(completions):\n    return [len(c) for c in completions]\n")
    assert reward(["p", "p"], ["a", "abc"], kind=["fact", "fact"]) == [1.0, 3.0]


def test_a_function_of_a_module() -> None:
    (reward,) = resolve(["tests.trainers.judging:even"], None)
    assert reward(["p"], ["x"], completion_ids=[[2, 3, 4, 6]]) == [0.75]


@pytest.mark.parametrize("made", ["torch.tensor([1.0, 2.0])", "np.array([1, 2])", "[np.float32(1), True + 1]"])
def test_numbers_of_any_kind(tmp_path: Path, made: str) -> None:
    assert torch, np
    reward = user(tmp_path, f"import numpy as np\nimport torch\ndef mine(**_):\n    return {made}\n")
    assert reward(["p"] * 2, ["c"] * 2) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no  such\\nthing')", r"raised ValueError \(no such thing\): fix it"),
        ("return [1.0]", "returned 1 values for 2 completions: return one for each"),
        ("return None", "returned None; expected a list of 2 numbers"),
        ("return 'ab'", "returned ab; expected a list of 2 numbers"),
        ("return {0: 1.0, 1: 2.0}", "expected a list of 2 numbers"),
        ("return 1.0", "returned 1.0; expected a list"),
        ("return ['1', 2.0]", "returned 1 for a completion; expected a finite number"),
        ("return [float('nan'), 2.0]", "returned nan for a completion; expected a finite number"),
        ("return [[1.0], 2.0]", r"returned \[1.0\] for a completion"),
        ("return [1.0, object]", "for a completion; expected a finite number"),
    ],
)
def test_mistakes_of_a_function(tmp_path: Path, body: str, message: str) -> None:
    reward = user(tmp_path, f"def mine(prompts, completions, **_):\n    {body}\n")
    with pytest.raises(DataError, match=rf"The reward `.*judge.py:mine` .*{message}") as caught:
        reward(["p"] * 2, ["c"] * 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}/none.py:mine", "cannot be imported .*FileNotFoundError"),
        ("{}/broken.py:mine", "cannot be imported .*SyntaxError"),
        ("{}/fails.py:mine", "cannot be imported .*ZeroDivisionError"),
        ("{}/fine.py:yours", "has no function `yours`"),
        ("{}/fine.py:NUMBER", "has no function `NUMBER`"),
        ("no_such_module_at_all:mine", "cannot be imported .*ModuleNotFoundError"),
    ],
)
def test_functions_that_cannot_be_found(tmp_path: Path, spec: str, message: str) -> None:
    for name, body in {"broken": "def mine(:", "fails": "1 / 0", "fine": "NUMBER = 1\ndef mine(**_): ..."}.items():
        (tmp_path / f"{name}.py").write_text(body, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        resolve([spec.format(tmp_path)], None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "No reward was given"),
        (["verifier"], "--reward verifier is a judgement of the synthetic world, and the base belongs to none"),
        (["tests.trainers.judging:even"] * 2, "name each reward once"),
        (["no-such-run"], "no-such-run"),
        (["verifer"], "--reward verifer is neither a reward by name .* did you mean `verifier`?"),
    ],
)
def test_names_that_are_nothing(specs: list[str], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        resolve(specs, None)


def test_a_causal_model_is_no_reward_model(model_dir: Path) -> None:
    with pytest.raises(ModelError):
        resolve([str(model_dir)], None)


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def even(**_): ...", encoding="utf-8")
    specs = [f"{tmp_path}/a.py:even", "tests.trainers.judging:even"]
    assert [reward.name for reward in resolve(specs, None)] == specs


@pytest.fixture
def reward_dir(tmp_path: Path) -> Path:
    """A reward model with random weights."""
    from transformers import LlamaForSequenceClassification

    lm = LM.create(SMALL, World().tokenizer())
    config = lm.model.config
    config.num_labels, config.pad_token_id = 1, lm.tokenizer.pad_token_id
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    lm.tokenizer.save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def test_reward_models_read_what_was_sampled(reward_dir: Path) -> None:
    """With the policy's vocabulary by token: a completion that was cut has no end token; as text it would get one."""
    model, tokenizer = RewardModel.load(reward_dir), World().tokenizer()
    (reward,) = resolve([str(reward_dir)], None, tokenizer=tokenizer)
    assert (reward.name, reward.spec, model_spec([reward])) == ("judge", str(reward_dir), str(reward_dir))
    assert reward.fingerprint == model.fingerprint
    prompt = tokenizer.encode("mira lives in")
    ids = {
        "prompt_ids": [prompt] * 2,
        "completion_ids": [tokenizer.encode("oslo")[1:], [*tokenizer.encode("oslo")[1:], 3]],
    }
    found = reward(["mira lives in"] * 2, ["oslo"] * 2, **ids)
    cut, ended = (float(value) for value in model.score(ids["prompt_ids"], ids["completion_ids"]))
    assert found == [pytest.approx(cut), pytest.approx(ended, abs=1e-6)]
    assert abs(cut - ended) > 1e-4
    assert reward(["mira lives in"], [" oslo"]) == [pytest.approx(ended, abs=1e-6)]
    (other,) = resolve([str(reward_dir)], None)
    assert other(["mira lives in"] * 2, [" oslo"] * 2, **ids) == [pytest.approx(ended, abs=1e-6)] * 2


@pytest.mark.parametrize(
    ("answer", "completion", "reward"),
    [
        ("1 + 1 = <<1+1=2>>2\n#### 2", " So it is 2.", 1),
        ("#### 1,200", "She has $1200.00 left", 1),
        ("#### 2", " 2 and 2 are 4", 0),
        ("#### 2", " no number", 0),
        (2, "it is 2", 1),
        ("Paris", "I think.\nParis!", 1),
        ("Paris", "Paris\nor Rome", 0),
    ],
)
def test_the_final_answer_of_a_file(answer: Any, completion: str, reward: float) -> None:
    (found,) = resolve(["final_answer"], None)
    assert found(["q"], [completion], answer=[answer], level=[1]) == [reward]
    assert not found.plain
    assert found.fingerprint is None


def test_the_final_answer_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--reward is .*final_answer.* expected another, or --data FILE"):
        rlvr.RLVRConfig(out=tmp_path, base="x", reward=("final_answer",))


def test_weighted_sum() -> None:
    assert weighted_sum({"a": 1.0, "b": 0.5}, (2.0, -1.0)) == 1.5
    assert weighted_sum({"a": None, "b": 0.5}, (2.0, -1.0)) == -0.5
    assert math.isnan(weighted_sum({"a": None, "b": None}, (2.0, -1.0)))


def test_the_whole_reward_as_a_function_of_texts(world: World, tmp_path: Path, reward_dir: Path) -> None:
    prompt, answer = ask(world, "sum_steps")
    total = plain_reward(resolve(["verifier", "steps", "facts"], world), (1.0, 0.5, 9.0))
    assert callable(total)
    assert total([prompt], [answer]) == [1.5]
    facts = plain_reward(resolve(["facts"], world), (1.0,))
    assert callable(facts)
    assert facts([prompt], [answer]) == [None]
    assert isinstance(plain_reward(resolve([str(reward_dir)], None), (1.0,)), RewardModel)
    assert plain_reward([user(tmp_path, "def mine(answer): ...")], (1.0,)) is None


def test_a_failing_function_ends_the_run_with_its_name(configs: Any, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def mine(completions):\n    return [1.0]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"judge\.py:mine` returned 1 values for 32 completions"):
        rlvr.train(configs("rlvr")(reward=(f"{tmp_path}/judge.py:mine",)))
