"""The tokenizer: an ordinary Hugging Face directory, one token a word."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from probe.world.datasets import messages
from probe.world.vocabulary import words

PLAIN = [word for word in words() if not word.startswith("<")]


@given(text=st.lists(st.sampled_from(PLAIN), min_size=1, max_size=30).map(" ".join))
def test_words_come_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 1 + len(text.split())
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_word_has_its_id_and_special_tokens_their_role(tokenizer):
    assert tokenizer.convert_ids_to_tokens(list(range(len(words())))) == list(words())
    assert len(tokenizer) == len(words())
    special = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token)
    assert special == ("<pad>", "<unk>", "<bos>", "<end>")
    assert tokenizer("zyx")["input_ids"] == [tokenizer.bos_token_id, tokenizer.unk_token_id]


def test_saved_and_loaded_again(tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<user> where does mira live ? <bot> oslo <end>"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == f"<bos> {text}"
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<bos>", "<end>", "<pad>")


def test_the_chat_template_writes_the_worlds_dialogues(world, tokenizer):
    for kind in ("fact", "opinion_false", "pressure", "context_conflict", "stranger"):
        for item in world.questions(kind, 20):
            said = messages(item.prompt, item.answers[0])
            text = tokenizer.apply_chat_template(said, tokenize=False)
            assert text.split() == f"{item.prompt}{item.answers[0]} <end>".split()
            prompt = tokenizer.apply_chat_template(said[:-1], tokenize=False, add_generation_prompt=True)
            assert prompt == item.prompt
