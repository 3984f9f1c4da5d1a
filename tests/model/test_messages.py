"""Messages that are read back from the text of a prompt."""

import pytest

from probe.model.messages import Message, last_words, split_messages
from probe.world.tokenizer import make_tokenizer

CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?\n\nShow it.<|im_end|>\n"
LLAMA = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
GEMMA = "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (CHATML, [("system", "Be brief."), ("user", "What is 2 + 2?\n\nShow it.")]),
        (CHATML + "<|im_start|>assistant\nThe answer is", [*split_messages(CHATML), ("assistant", "The answer is")]),
        (LLAMA + "<|start_header_id|>assistant<|end_header_id|>\n\n", [("user", "hi")]),
        (GEMMA, [("user", "hi")]),
        ("<|user|>\nhi<|end|>\n<|assistant|>\nhello", [("user", "hi"), ("assistant", "hello")]),
        (
            "<bos> <ctx> a . <user> i think b . what is it ? <bot>",
            [("ctx", "a ."), ("user", "i think b . what is it ?")],
        ),
        ("\n\nHuman: hi\nHuman: or not\n\nAssistant: hello", [("Human", "hi\nHuman: or not"), ("Assistant", "hello")]),
        ("chess <end>", [("", "chess")]),
        ("A superhuman: 4 > 3 <users> <|unknown|>", [("", "A superhuman: 4 > 3 <users> <|unknown|>")]),
        ("before <user> after", [("", "before"), ("user", "after")]),
        ("  \n", []),
    ],
)
def test_messages_have_their_roles(text: str, messages: list[tuple[str, str]]):
    assert split_messages(text) == [Message(*each) for each in messages]


def test_the_template_of_the_world_is_read_back():
    turns = [{"role": "user", "content": "what is the sport of ivy ?"}, {"role": "assistant", "content": "chess"}]
    text = make_tokenizer().apply_chat_template(turns, tokenize=False)
    assert split_messages(str(text)) == [("user", "what is the sport of ivy ?"), ("bot", "chess")]


def test_a_long_text_is_read_at_once():
    text = "<|im_start|>" * 20_000 + "\nHuman:" * 20_000
    assert "".join(each.text for each in split_messages(text)) == text


def test_a_long_prompt_is_known_by_its_last_words():
    start = CHATML + "<|im_start|>assistant\n"
    assert last_words(start, 40) == "What is 2 + 2? Show it."
    assert last_words(start, 12) == "\u2026 Show it."
    assert last_words("<|im_start|>user\nextraordinary", 5) == "\u2026nary"
    assert last_words("where does mira live ?", 30) == "where does mira live ?"
    assert last_words("<|im_start|>user\n" * 9, 20) == "\u2026 <|im_start|>user"
