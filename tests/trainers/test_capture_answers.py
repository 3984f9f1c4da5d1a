"""Answers of the prompts that a run on one's own data captures: where they come from, and that parts sum to them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe import LM, Run, open_run
from probe.errors import DataError
from probe.logits.trained import attribution_over_training, over_training
from tests.models import digit_tokenizer, random_lm
from tests.trainers.quick import COMMON, make_config, train
from trainers.record import CAPTURE_TOKENS, AnsweredPrompt, answered_prompts, read_probe_prompts
from trainers.reference import MOST_SAMPLE_TOKENS

SUMS = [(3, 8), (4, 8), (5, 8), (6, 9), (7, 9)]
QUICK: dict[str, Any] = COMMON | {"steps": 2, "batch_size": 2, "warmup": 1, "capture_every": 1, "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lm = random_lm(tokenizer=digit_tokenizer(), max_position_embeddings=200)
    return lm.save(tmp_path_factory.mktemp("digits") / "base")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(path: Path, more: str = "") -> str:
    rows = [
        {"prompt": f"{a} + {b} =", "chosen": f" {a + b}{more}", "rejected": f" {a + b - 1 if a != 3 else 10}"}
        for a, b in SUMS
    ]
    return write(path / "pairs.jsonl", rows)


def run_of(method: str, base: Path, path: Path, data: str, **options: Any) -> Run:
    return train(make_config(method, base=str(base), out=path / "run", data=data, **(QUICK | options)))


@pytest.mark.parametrize("method", ["dpo", "reward-model"])
def test_pairs_bring_chosen_against_rejected(method: str, base: Path, tmp_path: Path) -> None:
    run = run_of(method, base, tmp_path, pairs(tmp_path))
    captures, lm = run.captures(), LM.load(base)
    assert len(captures.prompts) == 4
    for index, (prompt, (a, b)) in enumerate(zip(captures.prompts, SUMS, strict=False)):
        assert prompt.text == f"{a} + {b} ="
        assert prompt.shared == 2
        assert "the chosen and the rejected completion of this prompt" in prompt.note
        assert "begin alike: \u201c\u00b71\u201d" in prompt.note
        digits = [lm.tokenizer.decode([token]) for token in prompt.answer_ids]
        assert digits == [str(a + b)[1], "0" if a == 3 else str(a + b - 1)[1]]
        logits = lm.logits(f"{a} + {b} = 1")[0, -1].detach()
        gap = float(logits[prompt.answer_ids[0]] - logits[prompt.answer_ids[1]])
        parts = attribution_over_training(run, index)
        assert parts.loc[parts["step"] == 0, "value"].sum() == pytest.approx(gap, abs=1e-4)
        lines = over_training(run, index)
        last = lines[(lines["measure"] == "logprob") & (lines["layer"] == 2) & (lines["step"] == 0)]
        assert list(last["answer"]) == [f"\u2026{digits[0]} (chosen)", f"\u2026{digits[1]} (rejected)"]
        assert last["value"].diff().iloc[-1] == pytest.approx(-gap, abs=0.02)  # stored in half precision


@pytest.mark.parametrize(("more", "longest"), [("", 4), (" and so on, as everybody can count at home" * 2, 64)])
def test_samples_are_as_long_as_answers(more: str, longest: int, base: Path, tmp_path: Path) -> None:
    captures = run_of("dpo", base, tmp_path, pairs(tmp_path, more)).captures()
    assert captures.load(0)["shift_ids"].shape[2] == longest <= MOST_SAMPLE_TOKENS


def test_demonstrations_bring_their_completion(base: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [{"prompt": f"{a} + {b} =", "completion": f" {a + b}"} for a, b in SUMS])
    prompt = run_of("sft", base, tmp_path, data).captures().prompts[0]
    assert prompt.answers == ["11 (demonstration)"]
    assert prompt.shared == 0
    assert "its first token, \u201c\u00b7\u201d, is followed" in prompt.note


def longest_first(prompts: list[str], completions: list[str], completion_ids: list[list[int]]) -> list[float]:
    """The sum of the ids: it tells completions of a random model apart."""
    return [float(sum(ids)) for ids in completion_ids]


def equal(prompts: list[str], completions: list[str]) -> list[float]:
    return [0.5 for _ in completions]


@pytest.mark.parametrize("method", ["rlvr", "rsft", "rlhf"])
def test_the_best_and_the_worst_completion_of_own_prompts(method: str, base: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [{"prompt": f"{a} + {b} ="} for a, b in SUMS])
    options = {"reward": (f"{__name__}:longest_first",), "group": 4, "max_new_tokens": 12}
    run = run_of(method, base, tmp_path, data, **options)
    prompt = run.captures().prompts[0]
    assert [answer.rpartition(" ")[2] for answer in prompt.answers] == ["(best)", "(worst)"]
    assert "the best and the worst of 4 completions that the policy sampled before training (rewards" in prompt.note
    assert run.captures().load(0)["shift_ids"].shape[2] <= 12
    assert np.isfinite(run.captures().load(0)["attribution"]).all()


def test_equal_rewards_bring_no_answers_and_no_zeros(base: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [{"prompt": f"{a} + {b} ="} for a, b in SUMS])
    run = run_of("rlvr", base, tmp_path, data, reward=(f"{__name__}:equal",), group=4, max_new_tokens=3)
    captures = run.captures()
    assert not captures.prompts[0].answers
    assert "all 4 completions that the policy sampled before training have the reward 0.5" in captures.prompts[0].note
    assert np.isnan(captures.load(0)["attribution"]).all()


def test_captured_samples_leave_the_training_as_it_was(base: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [{"prompt": f"{a} + {b} ="} for a, b in SUMS])
    weights = []
    for every in (0, 1):
        folder = tmp_path / str(every)
        folder.mkdir()
        options = {"reward": (f"{__name__}:longest_first",), "group": 4, "capture_every": every}
        run_of("rlvr", base, folder, data, **options)
        weights.append(LM.load(folder / "run").fingerprint)
    assert weights[0] == weights[1]


@pytest.mark.parametrize("method", ["dpo", "rlvr"])
def test_a_resumed_run_keeps_its_prompts(method: str, base: Path, tmp_path: Path) -> None:
    """Also one that an older version began, without answers."""
    prompts = write(tmp_path / "data.jsonl", [{"prompt": f"{a} + {b} ="} for a, b in SUMS])
    data = prompts if method == "rlvr" else pairs(tmp_path)
    options = {"reward": (f"{__name__}:longest_first",), "group": 4} if method == "rlvr" else {}
    run_of(method, base, tmp_path, data, **options)
    file = tmp_path / "run" / "captures" / "prompts.json"
    content = json.loads(file.read_text())
    for prompt in content["prompts"]:
        ids = prompt["token_ids"][: len(prompt["token_ids"]) - prompt.pop("shared")]
        prompt |= {"token_ids": ids, "tokens": prompt["tokens"][: len(ids)], "answers": [], "answer_ids": []}
        del prompt["note"]
    file.write_text(json.dumps(content))
    for capture in (tmp_path / "run" / "captures").glob("*.safetensors"):
        capture.unlink()
    (tmp_path / "run" / "captures" / "index.jsonl").unlink()
    run = run_of(method, base, tmp_path, data, steps=3, resume=True, **options)
    assert run.captures().steps[-1] == 3
    assert [prompt.answers for prompt in run.captures().prompts] == [[]] * 4


def test_long_prompts_are_cut_in_front(base: Path) -> None:
    lm = LM.load(base)
    head = lm.tokenizer.encode("x" * 100 + " 7 + 8 =")
    sides = {role: lm.tokenizer.encode(text) for role, text in (("chosen", " 15"), ("rejected", " 14"))}
    (prompt,) = answered_prompts(lm, [AnsweredPrompt(head, sides, "")])
    assert prompt.length == CAPTURE_TOKENS
    assert lm.tokenizer.decode(prompt.token_ids).endswith("7 + 8 = 1")
    assert prompt.text.endswith("7 + 8 =")
    assert prompt.note.endswith("The prompt is cut to its last 64 tokens.")


def test_answers_that_cannot_be_told_apart_are_left_out(base: Path) -> None:
    lm = LM.load(base)
    sides = {role: lm.tokenizer.encode(text) for role, text in (("chosen", " 15"), ("rejected", " 1"))}
    (prompt,) = answered_prompts(lm, [AnsweredPrompt(lm.tokenizer.encode("7 + 8 ="), sides, "Of the data.")])
    assert not prompt.answers
    assert "begins with the whole of" in prompt.note


def test_a_file_of_prompts_with_answers(base: Path, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "prompts.jsonl", [{"text": "7 + 8 =", "answers": [" 15", " 14"]}, {"text": "a"}]))
    run = run_of("dpo", base, tmp_path, pairs(tmp_path), probe_prompts=path)
    assert [prompt.answers for prompt in open_run(run.path).captures().prompts] == [[" 15", " 14"], []]
    attribution = run.captures().load(0)["attribution"]
    assert np.isfinite(attribution[0]).all()
    assert np.isnan(attribution[1]).all()
    with pytest.raises(DataError, match="`answers` that are not a list of texts"):
        read_probe_prompts(Path(write(tmp_path / "odd.jsonl", [{"text": "a", "answers": [3]}])))
