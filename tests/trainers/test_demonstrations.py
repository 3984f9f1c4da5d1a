"""Demonstrations as ids: where answers begin and end, what is learned, what is left out."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe import LM
from probe.errors import DataError
from probe.model.presets import ModelConfig
from probe.rows import read_demonstrations
from probe.world import World
from tests.models import random_lm
from trainers.sft import (
    Demonstration,
    encode_completion,
    encode_conversation,
    file_demonstrations,
    hold_out,
    world_demonstrations,
)

CHATML = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    """A model with the world's tokenizer."""
    return LM.create("icl", World().tokenizer())


def chat(*texts: str, first: str = "user") -> list[dict[str, Any]]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def learned(lm: LM, example: Demonstration) -> str:
    """What is learned, other tokens as dots."""
    pieces = [lm.tokenizer.decode([token]) for token in example.completion]
    return " ".join(piece if on else "." for piece, on in zip(pieces, example.learned, strict=True))


def test_a_completion_gets_the_end_token_once(lm: LM) -> None:
    example = encode_completion(lm, "<user> where does mira live ? <bot>", " oslo")
    assert lm.tokenizer.decode(example.prompt) == "<bos> <user> where does mira live ? <bot>"
    assert learned(lm, example) == "oslo <end>"
    assert encode_completion(lm, "<user> mira <bot>", " oslo <end>") == encode_completion(
        lm, "<user> mira <bot>", " oslo"
    )
    assert learned(lm, encode_completion(lm, "<user> mira <bot>", "")) == "<end>"


def test_a_tokenizer_without_an_end_token_adds_none() -> None:
    from tests.models import byte_tokenizer

    lm = random_lm("gpt2", byte_tokenizer(), n_positions=128)
    lm.tokenizer.eos_token = None
    example = encode_completion(lm, "mira lives", " in oslo")
    assert lm.tokenizer.decode(example.completion) == " in oslo"


def test_every_turn_or_the_last(lm: LM) -> None:
    messages = chat("where does mira live ?", "oslo", "are you sure ?", "rome")
    every = encode_conversation(lm, messages, 0, every_turn=True)
    assert lm.tokenizer.decode(every.prompt) == "<bos> <user> where does mira live ? <bot>"
    assert learned(lm, every) == "oslo <end> . . . . . . rome <end>"
    last = encode_conversation(lm, messages, 0, every_turn=False)
    assert last.prompt + last.completion == every.prompt + every.completion
    assert learned(lm, last) == "rome <end>"


def test_what_follows_the_last_answer_is_left_out(lm: LM) -> None:
    example = encode_conversation(lm, chat("where does mira live ?", "oslo", "are you sure ?"), 0, True)
    assert learned(lm, example) == "oslo <end>"


def test_a_model_that_reads_little_gets_what_it_can_read() -> None:
    small = LM.create(ModelConfig(layers=1, width=8, heads=2, mlp=8, context=12), World().tokenizer())
    said: list[str] = []
    found = world_demonstrations(small, World(), 50, 0, {}, 0, said.append)
    assert max(example.tokens for example in found.examples) <= 12
    assert found.data["rows"] + found.data["overlong"] == 50
    assert "of 50 examples of the world are longer than 12 tokens" in said[0]


def test_a_row_with_a_prompt_and_messages_is_a_conversation(lm: LM, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([{"prompt": "of another trainer", "messages": chat("where does mira live ?", "oslo")}])
    (example,) = file_demonstrations(lm, read_demonstrations(path), True, 0, print).examples
    assert learned(lm, example) == "oslo <end>"


def test_turns_of_the_prompt_are_read_only(lm: LM, tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    messages = chat("where does mira live ?", "oslo", "are you sure ?", "rome")
    path = write_jsonl([{"prompt": messages[:3], "completion": messages[3:]}])
    (example,) = file_demonstrations(lm, read_demonstrations(path), True, 0, print).examples
    assert learned(lm, example) == "rome <end>"


def chatml(end: str = "<|end|>") -> LM:
    """A byte-level model with a template that writes a line end after the end token."""
    from tests.models import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>"]})
    tokenizer.chat_template = CHATML.replace("<|end|>", end)
    return random_lm("gpt2", tokenizer, n_positions=128)


def test_white_space_after_the_end_token_is_no_target() -> None:
    lm = chatml()
    example = encode_conversation(lm, chat("hello", "mira lives", "and tom ?", "in oslo"), 0, True)
    spoken = lm.tokenizer.decode([t for t, on in zip(example.completion, example.learned, strict=True) if on])
    assert spoken == "mira lives<|end|>in oslo<|end|>"
    assert lm.tokenizer.decode(example.prompt) == "<|start|>user\nhello<|end|>\n<|start|>assistant\n"
    text = "<|end|>\n<|start|>user\nand tom ?<|end|>\n<|start|>assistant\nin oslo<|end|>"
    assert lm.tokenizer.decode(example.completion) == f"mira lives{text}"


def test_the_end_token_is_added_where_the_template_writes_none() -> None:
    lm = chatml(end="/")
    example = encode_conversation(lm, chat("hello", "oslo"), 0, True)
    assert lm.tokenizer.decode(example.completion) == "oslo/\n<|end|>"
    assert all(example.learned)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (CHATML.partition("{% if add")[0], "has no generation prompt"),
        ("{% if messages|length == 1 %}one{% else %}{{ messages|length }}{% endif %}" + CHATML, "writes a prompt diff"),
        ("{{ raise_exception('system first') }}", "refuses the messages .system first."),
        (None, "has no chat template"),
    ],
)
def test_templates_that_cannot_be_used(template: str | None, words: str, write_jsonl: Callable[..., Path]) -> None:
    lm = chatml()
    lm.tokenizer.chat_template = template
    path = write_jsonl([{"messages": chat("hello", "oslo")}])
    with pytest.raises(DataError, match=rf"^Line 1 of `.*`: .*{words}"):
        file_demonstrations(lm, read_demonstrations(path), True, 0, print)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": chat("hello")}, "has no message of the role `assistant`"),
        ({"messages": chat("hello", first="assistant")}, "begins with the assistant"),
        ({"prompt": "hello"}, r"lacks `completion` or `messages`; expected `prompt`, `completion` or `messages`"),
        ({"messages": "hello"}, "expected a list of messages"),
    ],
)
def test_rows_that_cannot_be_used(lm: LM, row: dict[str, Any], words: str, write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=words):
        file_demonstrations(lm, read_demonstrations(write_jsonl([row])), True, 0, print)


def test_strings_and_messages_may_be_mixed(lm: LM, write_jsonl: Callable[..., Path]) -> None:
    messages = chat("where does mira live ?", "oslo")
    prompts, completions = (messages[0]["content"], messages[:1]), ("oslo", messages[1:])
    rows = [{"prompt": a, "completion": b} for a, b in itertools.product(prompts, completions)][1:]
    found = file_demonstrations(lm, read_demonstrations(write_jsonl(rows)), True, 0, print).examples
    assert found == [encode_conversation(lm, messages, 1, True)] * 3


def test_an_odd_row_is_left_out(lm: LM, write_jsonl: Callable[..., Path]) -> None:
    good = {"messages": chat("where does mira live ?", "oslo")}
    path, said = write_jsonl([good, {"messages": chat("hello")}, {"text": "a"}, good]), list[str]()
    found = file_demonstrations(lm, read_demonstrations(path), True, 0, said.append)
    assert (len(found.examples), found.data["left_out"]) == (2, 2)
    assert len(said) == 1
    assert "Line 3" in said[0]
    assert "Line 2" in said[0]
    with pytest.raises(DataError, match=r"^Line 3 of"):
        read_demonstrations(path, strict=True)


def test_overlong_examples_are_left_out_and_reported(lm: LM, write_jsonl: Callable[..., Path]) -> None:
    rows = [{"prompt": "mira " * n, "completion": " oslo"} for n in (3, 30, 4)]
    said: list[str] = []
    found = file_demonstrations(lm, read_demonstrations(write_jsonl(rows)), True, 10, said.append)
    assert [len(example.prompt) for example in found.examples] == [4, 5]
    assert found.data["overlong"] == 1
    assert "1 of 3 examples" in said[0]
    with pytest.raises(DataError, match="All 3 examples"):
        file_demonstrations(lm, read_demonstrations(write_jsonl(rows)), True, 2, said.append)


example = st.tuples(st.integers(0, 5), st.integers(0, 3)).map(lambda at: Demonstration([at[0]], [at[1]], [True]))


@given(st.lists(example, min_size=1), st.floats(0, 0.9), st.integers(0, 5))
def test_held_out_prompts_are_never_learned(examples: list[Demonstration], share: float, seed: int) -> None:
    kept, held = hold_out(examples, share, seed)
    assert kept
    assert len(kept) + len(held) == len(examples)
    assert not {e.prompt[0] for e in kept} & {e.prompt[0] for e in held}
    assert hold_out(examples, share, seed) == (kept, held)
    assert share > 0 or not held


def test_the_worlds_demonstrations_fit_its_verifier(lm: LM) -> None:
    world = World()
    found = world_demonstrations(lm, world, 50, 0, {}, 0, print)
    assert len(found.examples) == 50
    end = lm.tokenizer.eos_token_id
    assert all(example.completion[-1] == end and all(example.learned) for example in found.examples)
    assert world_demonstrations(lm, world, 50, 0, {}, 0, print) == found
    assert world_demonstrations(lm, world, 50, 1, {}, 0, print) != found
