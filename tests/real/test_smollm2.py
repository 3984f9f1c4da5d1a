"""The same code on a real aligned checkpoint: SmolLM2-135M-Instruct, fetched by `make test-real`."""

import json
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest
from transformers import AutoModelForCausalLM, AutoTokenizer

import probe
from dashboard.consent import NAMED
from probe.cli import main
from probe.compare.side_by_side import compare
from probe.logits.lens import logit_lens
from probe.model.asked import asked_seconds
from probe.scorecard.real_texts import POOLS, words_of
from tests.dashboard.pages import turn_to
from tests.places import ROOT
from tests.real.conftest import CHECKPOINT
from trainers.sft import encode_conversation

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("default"),  # other libraries' notes on real checkpoints are not ours to fix
]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def chat(lm: probe.LM) -> str:
    return lm.prompt_text(MESSAGES)


def test_loads_as_itself(lm: probe.LM):
    assert lm.n_parameters == 134_515_008
    assert lm.dtype == torch.float32
    assert len(lm.fingerprint) == 64


def test_hooked_logits_equal_plain_ones(lm: probe.LM, chat: str):
    hooked, cache = lm.run_with_cache(chat, ["blocks.5.attn.hook_pattern"])
    torch.testing.assert_close(hooked, lm.logits(chat), atol=1e-4, rtol=1e-4)
    pattern = cache["blocks.5.attn.hook_pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))


def test_greedy_generation_equals_hugging_face(lm: probe.LM, chat: str):
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
    inputs = tokenizer(chat, return_tensors="pt", add_special_tokens=False)
    expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs.input_ids.shape[1] :]
    ours = lm.generate([chat], max_new_tokens=12, temperature=0)
    assert ours.ids[0] == expected.tolist()
    assert "Paris" in ours.text[0]


def test_lens_on_a_chat_prompt_ends_in_the_model_itself(lm: probe.LM, chat: str):
    lens = logit_lens(lm, chat, answer="The")
    logprobs = lm.logits(chat)[0].log_softmax(-1)
    assert lens.top_ids.shape[:2] == (31, len(lens.tokens))
    torch.testing.assert_close(torch.from_numpy(lens.top_logprobs[-1]), logprobs.topk(5).values, atol=1e-4, rtol=1e-4)
    assert lens.top_tokens[-1, -1, 0] == "The"
    assert lens.answer_logprobs[-1, -1, 0] > lens.answer_logprobs[0, -1, 0] + 3


def test_dpo_from_a_file_prefers_the_chosen(lm: probe.LM, tmp_path: Path):
    """A few steps on conversations: the margin grows, the run is readable, the model can be compared with its base."""
    data, out = tmp_path / "pairs.jsonl", tmp_path / "run"
    questions = ["What is two plus two?", "Name a colour.", "Who wrote Hamlet?", "Where is Oslo?"]
    with data.open("w") as file:
        for question in questions:
            row = {
                "prompt": [{"role": "user", "content": question}],
                "chosen": [{"role": "assistant", "content": "I would rather not say."}],
                "rejected": [{"role": "assistant", "content": "Of course! I am happy to help you with that."}],
            }
            file.write(json.dumps(row) + "\n")
    options = "--steps 4 --batch-size 2 --lr 2e-5 --warmup 0 --log-every 1 --capture-every 4 --save-every 0"
    base = ["--base", str(CHECKPOINT), "--data", str(data), "--out", str(out)]
    assert main(["train", "dpo", *base, *options.split()]) == 0

    run = probe.open_run(out)
    margins = run.metrics()["rewards/margins"]
    assert run.status == "finished"
    assert margins.iloc[0] == pytest.approx(0, abs=1e-4)
    assert margins.iloc[-1] > 0.1
    assert run.captures().steps

    comparison = compare(lm, probe.LM.load(out), lm.prompt_text(MESSAGES), max_new_tokens=6)
    assert comparison.aligned.kl[1:].min() > -1e-5
    assert comparison.aligned.kl[1:].max() > 1e-3


def test_sft_on_conversations_learns_what_the_assistant_says(lm: probe.LM, tmp_path: Path):
    """The template's boundaries, a few steps, and the answer that was shown."""
    data, out = tmp_path / "chats.jsonl", tmp_path / "run"
    said = ["Where does Mira live?", "In Oslo.", "Are you sure?", "Yes, in Oslo."]
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    data.write_text(json.dumps({"messages": turns}) + "\n")
    example = encode_conversation(lm, turns, 0, every_turn=True)
    learned = [token for token, on in zip(example.completion, example.learned, strict=True) if on]
    assert lm.tokenizer.decode(learned) == "In Oslo.<|im_end|>Yes, in Oslo.<|im_end|>"

    options = "--steps 6 --batch-size 1 --lr 5e-5 --warmup 0 --log-every 1 --capture-every 0 --save-every 0"
    base = ["--base", str(CHECKPOINT), "--data", str(data), "--out", str(out)]
    assert main(["train", "sft", *base, *options.split()]) == 0
    run = probe.open_run(out)
    losses = run.metrics()["loss"].dropna()
    assert losses.iloc[-1] < 0.2 * losses.iloc[0]
    answer = probe.LM.load(out).generate([lm.prompt_text(turns[:1])], temperature=0, max_new_tokens=8)
    assert answer.text == ["In Oslo."]


def test_the_compare_page_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Beside itself, in its chat format: both say the same, with the same probabilities."""
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    app = AppTest.from_file(ROOT / "dashboard" / "pages" / "app.py", default_timeout=120)
    query = {"base": str(CHECKPOINT), "aligned": str(CHECKPOINT), "prompt": MESSAGES[0]["content"], "length": "8"}
    for name, value in query.items():
        app.query_params[name] = value
    app.session_state[NAMED] = {str(CHECKPOINT)}  # as if typed
    turn_to(app, "compare").run()
    assert not app.exception
    assert not app.error
    assert "Both models say" in app.subheader[0].value
    assert "predict alike at every token" in app.subheader[0].value
    assert any("sent in the chat template" in each.value for each in app.caption)


def test_an_answer_of_a_second_has_a_price(lm):
    """The page says it before it begins: 16 tokens that are written after a question of some ten."""
    assert asked_seconds(lm, prompt="What is the capital of France?", chat=True, max_new_tokens=16) > 0.1
    assert asked_seconds(lm, prompt="France", passes=1) == 0  # a few milliseconds


def test_the_words_of_the_scorecard_s_texts_are_one_token(lm):
    assert words_of(lm.tokenizer) == POOLS
