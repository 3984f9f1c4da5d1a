"""Chat templates and tokenizers of strangers: the same text as from transformers, and an end to what has none."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel

from probe.cli import main
from probe.errors import DataError
from probe.model import confined
from probe.model.confined import LETTERS, LIMITS
from probe.model.lm import LM
from probe.model.loading import read_tokenizer
from probe.model.rehearsed import rehearsed
from probe.model.text import chat_text, encode, pieces
from probe.tokenizer_parts import odd_part
from tests.models import byte_tokenizer, random_lm, word_tokenizer

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}"
)
LLAMA = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == 'ipython' or 'tool_calls' in message %}
        {{- raise_exception("This model only supports single tool-calls at once!") }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
QWEN = """{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if loop.index0 > 40 %}{% break %}{% endif %}
    {%- if message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
        {%- if message.reasoning_content is defined %}{{- message.reasoning_content }}{%- endif %}
        {% generation %}{{- '<|im_start|>' + message.role + '\n' + content }}{% endgeneration %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content }}
    {%- endif %}
    {{- '<|im_end|>\n' + message | tojson(indent=1) }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
TALK = [{"role": "user", "content": "where is tom ?"}]
ENDLESS = {
    "{{ 9**(9**9) }}": "time",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "time",
    "{{ 'a'*3000000000 }}": "memory",
    "{{ '%9999999999d' % 1 }}": "memory",
    "{{ 'a'|center(10**10) }}": "memory",
    "{{ 'a'*20000000 }}": "letters",
}


def talks() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Conversations of a user and an assistant, now and then after a system's message, with odd letters in them."""
    text = st.text(st.characters(codec="utf-8"), max_size=20)
    system = st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": text}), max_size=1)
    turn = st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": text},
        optional={"name": st.none() | text, "thinking": text, "score": st.integers() | st.floats(allow_nan=False)},
    )
    return st.tuples(system, st.lists(turn, min_size=1, max_size=4)).map(lambda parts: parts[0] + parts[1])


@pytest.mark.parametrize("template", [SMOLLM, LLAMA, QWEN], ids=["smollm", "llama", "qwen"])
def test_the_child_writes_what_transformers_writes(template: str):
    tokenizer = word_tokenizer()
    tokenizer.chat_template = template

    @settings(max_examples=25)
    @given(talks(), st.booleans())
    def check(talk: list[dict[str, Any]], answer: bool):
        whole = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=answer)
        assert chat_text(tokenizer, talk, answer) == whole

    check()


def test_named_templates_and_messages_that_are_none():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = {"default": SMOLLM, "tool_use": QWEN}
    assert chat_text(tokenizer, TALK) == tokenizer.apply_chat_template(TALK, tokenize=False)
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(DataError, match="refuses the messages"):
        chat_text(tokenizer, [])
    with pytest.raises(DataError, match="refuses the messages"):
        chat_text(tokenizer, ["where is tom ?"])  # type: ignore[list-item]


@pytest.mark.parametrize(("template", "limit"), ENDLESS.items())
def test_a_template_without_an_end_is_ended(tmp_path: Path, template: str, limit: str):
    tokenizer = word_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(DataError) as error:
        chat_text(read_tokenizer(tmp_path / "model"), TALK)
    assert f"The chat template of `{tmp_path / 'model'}` {LIMITS[limit]}" in str(error.value)
    assert "send the prompt as plain text" in str(error.value)
    tokenizer.chat_template = SMOLLM  # the next one is not the worse for it
    assert chat_text(tokenizer, TALK) == tokenizer.apply_chat_template(TALK, tokenize=False)


def test_the_limits_are_kept_without_those_of_the_system(monkeypatch: pytest.MonkeyPatch):
    """The clock alone ends a child, as where Python has no `resource`."""
    monkeypatch.setattr(confined, "CLOCK_S", 0.2)
    confined.render("", TALK, {}, True)
    with pytest.raises(confined.Exceeded, match="seconds of computing"):
        confined.render("{{ 9**(9**9) }}", TALK, {}, True)


def test_a_child_that_was_killed_is_replaced():
    confined.render("", TALK, {}, True)
    os.kill(confined._CHILDREN[0].process.pid, signal.SIGKILL)
    with pytest.raises(confined.Exceeded, match="ended the process"):
        confined.render("", TALK, {}, True)
    assert confined.render("{{ messages[0].role }}", TALK, {}, True) == "user"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
def test_a_fork_has_a_child_of_its_own():
    confined.render("", TALK, {}, True)
    program = (
        "import os, warnings; from probe.model import confined; warnings.simplefilter('ignore')\n"
        "confined.render('', [], {}, True)\n"
        "if os.fork() == 0: os._exit(confined.render('a' * 7, [], {}, True) != 'a' * 7)\n"
        "assert os.wait()[1] == 0 and confined.render('b', [], {}, True) == 'b'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_sigterm_ends_a_process_that_waits_for_its_child():
    program = (
        "import signal, sys, threading; from probe.model import confined; confined.render('', [], {}, True)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('now', flush=True)\n"
        "threading.Thread(target=lambda: [confined.render('{{ 9**(9**9) }}', [], {}, True)], daemon=True).start()\n"
        "signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.terminate()
    assert process.wait(60) == 3
    process.stdout.close()


def odd(**parts: Any) -> Any:
    """A tokenizer of words and letters with other parts."""
    tokenizer = word_tokenizer()
    for name, part in parts.items():
        setattr(tokenizer._tokenizer, name, part)
    return tokenizer


NESTED = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
GROWING = normalizers.Sequence([normalizers.Replace("e", "e" * 16)] * 12)
ODD = {
    "a regular expression": {"pre_tokenizer": NESTED},
    "a normaliser that grows": {"normalizer": GROWING},
    "a decoder that grows": {"decoder": decoders.Sequence([decoders.Replace("e", "e" * 16)] * 12)},
    "a long replacement": {"normalizer": normalizers.Replace("a", "a" * 10**6)},
    "text twice": {"post_processor": processors.TemplateProcessing(single="$A $A")},
    "bytes as bytes": {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()] * 40)},
    "alternatives": {"pre_tokenizer": pre_tokenizers.Split(Regex("(?:a|aa)*$"), "isolated")},
    "a back reference": {"pre_tokenizer": pre_tokenizers.Split(Regex(r"(a)\1*"), "isolated")},
    "two repeats": {"normalizer": normalizers.Replace(Regex("a*a*b"), "c")},
    "a part that is not known": {"normalizer": normalizers.Nmt()},
}


@pytest.mark.parametrize("parts", ODD.values(), ids=ODD)
def test_parts_without_a_bound_are_found(parts: dict[str, Any]):
    assert odd_part(odd(**parts)._tokenizer)


def test_parts_of_published_models_are_known():
    llama = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    for parts in (
        {"pre_tokenizer": pre_tokenizers.ByteLevel(), "decoder": decoders.ByteLevel()},
        {
            "pre_tokenizer": pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(llama), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]
            )
        },
        {
            "normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
            "decoder": decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            ),
        },
        {"normalizer": normalizers.Replace(Regex(" {2,}"), " "), "pre_tokenizer": pre_tokenizers.Digits(True)},
    ):
        assert odd_part(odd(**parts)._tokenizer) is None
    for tokenizer in (word_tokenizer(), byte_tokenizer()):
        assert odd_part(tokenizer._tokenizer) is None
        assert type(rehearsed(tokenizer)).__mro__[0] is type(byte_tokenizer())


def saved(path: Path, tokenizer: Any) -> Path:
    """A model's folder with a tokenizer."""
    lm = random_lm()
    LM(lm.model, tokenizer).save(path)
    return path


@pytest.mark.parametrize("text", ["a" * 40 + "b", ("a" * 21 + "b") * 200], ids=["panic", "time"])
def test_a_regular_expression_without_an_end_is_ended(tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]):
    lm = LM.load(saved(tmp_path / "model", odd(pre_tokenizer=NESTED)))
    assert encode(lm.tokenizer, "mira lives")  # what it can do it does
    with pytest.raises(DataError, match=r"The tokenizer of `.*model` has the regular expression '\(a\+\)\+\$' and"):
        encode(lm.tokenizer, text)
    assert not capfd.readouterr().err  # no report of Rust's either


def test_text_that_grows_is_ended(tmp_path: Path):
    tokenizer = read_tokenizer(saved(tmp_path / "model", odd(normalizer=GROWING)))
    assert encode(tokenizer, "dog")
    with pytest.raises(DataError, match="12 parts that each lengthen the text"):
        encode(tokenizer, "the")


def test_a_decoder_that_grows_is_ended(tmp_path: Path):
    growing = ODD["a decoder that grows"]
    tokenizer = read_tokenizer(saved(tmp_path / "model", odd(**growing)))
    with pytest.raises(DataError, match="12 parts that each lengthen the text"):
        pieces(tokenizer, encode(tokenizer, "the"))


def test_an_odd_tokenizer_gives_the_same_ids_and_is_saved_as_it_was(tmp_path: Path):
    plain = odd(normalizer=normalizers.Nmt())
    tokenizer = read_tokenizer(saved(tmp_path / "model", plain))
    assert type(tokenizer) is not type(plain)
    texts = ["mira lives in oslo", "the cat", ""]
    assert tokenizer(texts)["input_ids"] == plain(texts)["input_ids"]
    assert tokenizer.decode([4, 5]) == plain.decode([4, 5])
    tokenizer.save_pretrained(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first, second = ((tmp_path / folder / name).read_text() for folder in ("model", "again"))
        assert json.loads(second) | {"is_local": 0, "local_files_only": 0} == json.loads(first) | {
            "is_local": 0,
            "local_files_only": 0,
        }


def test_a_panic_of_rust_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    class PanicException(BaseException):
        """As of pyo3."""

    def panic(argv: object) -> int:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("probe.cli.dispatch", panic)
    assert main(["runs"]) == 2
    assert capsys.readouterr().err.startswith("probe: error: A library gave up on what it read (index out of bounds)")


def test_an_answer_is_no_longer_than_its_limit():
    text = "a" * LETTERS
    assert confined.render("{{ messages[0].content }}", [{"role": "user", "content": text}], {}, False) == text
    tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    assert odd_part(tokenizer) is None
