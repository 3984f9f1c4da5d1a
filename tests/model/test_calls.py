"""Answers of a model that are kept in a file: what broke off goes on, and its numbers are those of one run."""

import json
from pathlib import Path

import pytest
import torch

from probe.model import calls
from probe.model.calls import keep_calls
from probe.model.lm import LM
from tests.models import random_lm

PROMPTS = [[2, 4, 5, 6], [2, 5]]
GROUPS = [[[7, 8], [9]], [[4]]]


@pytest.fixture(autouse=True)
def _every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model answers faster than what is worth keeping."""
    monkeypatch.setattr(calls, "SLOW_S", 0.0)


@torch.no_grad()
def ask(lm: LM, seed: int = 0) -> list[torch.Tensor]:
    """Two calls that are kept."""
    scores = lm.logprobs(PROMPTS, GROUPS)
    samples = lm.generate(PROMPTS, n=2, max_new_tokens=5, seed=seed)
    return [*scores[:4], samples.tokens, samples.mask, samples.logprobs, samples.entropy, samples.finished]


def break_off(lm: LM, path: Path) -> list[torch.Tensor]:
    """The same, and then Ctrl-C."""
    with pytest.raises(KeyboardInterrupt), keep_calls(lm, path):  # noqa: PT012
        answers = ask(lm)
        raise KeyboardInterrupt
    return answers


def test_what_broke_off_is_read_and_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lm, path = random_lm(), tmp_path / "new" / "calls.jsonl"
    plain = ask(lm)
    first = break_off(lm, path)
    assert len(path.read_text().splitlines()) == 2
    runs: list[int] = []
    lm.model.register_forward_hook(lambda *_: runs.append(1))
    with keep_calls(lm, path):
        again = ask(lm)
        assert not runs
        assert ask(lm, seed=1)  # another question is computed
        assert runs
    for one, two, three in zip(plain, first, again, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(two, three)
        assert two.dtype == three.dtype
    assert not path.exists()  # the work is through


def test_a_sample_is_text_again(tmp_path: Path):
    lm, path = random_lm(), tmp_path / "calls.jsonl"
    break_off(lm, path)
    with keep_calls(lm, path):
        samples = lm.generate(PROMPTS, n=2, max_new_tokens=5, seed=0)
    plain = lm.generate(PROMPTS, n=2, max_new_tokens=5, seed=0)
    assert (samples.text, samples.prompts, samples.prompt_ids, samples.n) == (
        plain.text,
        plain.prompts,
        plain.prompt_ids,
        plain.n,
    )


@pytest.mark.parametrize("damage", ["torn", "words", "list", "gone"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str):
    lm, path = random_lm(), tmp_path / "calls.jsonl"
    first = break_off(lm, path)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-40])
    if damage == "words":
        path.write_text('{"call": "x"}\n')
    if damage == "list":
        path.write_text("[1]\n")
    if damage == "gone":
        path.unlink()
    with keep_calls(lm, path):
        assert all(torch.equal(one, two) for one, two in zip(first, ask(lm), strict=True))


def test_only_this_model_without_hooks_and_gradients_is_kept(tmp_path: Path):
    lm, other, path = random_lm(), random_lm("gpt2"), tmp_path / "calls.jsonl"
    with pytest.raises(KeyboardInterrupt), keep_calls(lm, path):  # noqa: PT012
        ask(other)
        assert lm.logprobs(PROMPTS, GROUPS).values.requires_grad
        with torch.no_grad(), lm.hooks([("blocks.0.hook_out", lambda tensor, hook: tensor * 0)]):
            lm.logprobs(PROMPTS, GROUPS)
        lm.generate(PROMPTS, max_new_tokens=2)  # without a seed another time gives other samples
        raise KeyboardInterrupt
    assert not path.exists()


def test_a_folder_that_may_not_be_written_to_stops_nothing(tmp_path: Path):
    lm = random_lm()
    (tmp_path / "file").write_text("")
    with keep_calls(lm, tmp_path / "file" / "calls.jsonl"):
        assert ask(lm)


def test_the_file_holds_numbers(tmp_path: Path):
    lm, path = random_lm(), tmp_path / "calls.jsonl"
    break_off(lm, path)
    for line in map(json.loads, path.read_text().splitlines()):
        assert set(line) == {"call", "answer"}
        assert all(isinstance(kind, str) and isinstance(values, list) for kind, values in line["answer"].values())
