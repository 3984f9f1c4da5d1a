"""The template fault: put into trainings of Probe and of TRL, and healthy trainings that look like it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from probe import LM, open_run
from probe.diagnosis import Diagnosis, diagnose
from probe.integrations import ProbeCallback
from probe.model.template_marks import decoded_row, encoded_rows, template_marks
from probe.model.text import chat_text
from probe.runs import Run, RunWriter
from probe.runs.encoded_rows import ENCODED_ROWS, EncodedRow, EncodedRows, TemplateMarks
from tests.models import random_lm
from tests.recording.test_trl import QUIET
from tests.trainers.quick import COMMON, make_config, train
from trainers import sft

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
END = "{% if add_generation_prompt %}{{ OPEN }}{% endif %}"
TURNS = "{% for m in messages %}{{ TURN }}{% endfor %}" + END


def template(turn: str, opening: str) -> str:
    return TURNS.replace("TURN", turn).replace("OPEN", opening)


CHATML = template(r"'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'", r"'<|im_start|>assistant\n'")
ZEPHYR = template(r"'<|' + m.role + '|>\n' + m.content + '</s>\n'", r"'<|assistant|>\n'")
OWN_WORDS = template("'(' + m.role + ') ' + m.content + ' . '", "'(assistant) '")
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
)
WITH_SYSTEM = r"{{ '<|im_start|>system\nyou help<|im_end|>\n' }}" + CHATML
THINKS = CHATML.replace(r"assistant\n'", r"assistant\n<think>\n'")
ASKED, ANSWERED = {"role": "user", "content": "where is rome ?"}, {"role": "assistant", "content": "in italy"}
MISSING, OTHER, TWICE = "The opening of an answer", "Rows have the form of another chat template", "stands twice"


def chat_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Bytes, with tokens of conversations; `<s>` is put first."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator([], BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names, chat_template=chat_template)


def saved(folder: Path, chat_template: str | None = CHATML) -> Path:
    return random_lm("llama", chat_tokenizer(chat_template), max_position_embeddings=128).save(folder / "base")


def name_fault(found: Diagnosis) -> str:
    """The sentence of the template fault; empty if it was looked for and not found."""
    assert "template_fault" not in [each.fault.name for each in found.unseen]
    return "".join(each.sign.sentence for each in found.findings if each.fault.name == "template_fault")


def expect(found: str, what: str) -> None:
    assert what in found if what else not found


@pytest.mark.parametrize(
    ("chat_template", "header", "opening"),
    [
        (CHATML, "<|im_start|>user\n", "<|im_start|>assistant\n"),
        (WITH_SYSTEM, "<|im_end|>\n<|im_start|>user\n", "<|im_start|>assistant\n"),
        (THINKS, "<|im_start|>user\n", "<|im_start|>assistant\n"),
        (ZEPHYR, "<|user|>\n", "<|assistant|>\n"),
        (LLAMA2, "<s>[INST] ", ""),
        ("{{ raise_exception('no') }}", None, ""),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None, ""),
        (None, None, ""),
    ],
)
def test_marks_of_a_template(chat_template: str | None, header: str | None, opening: str) -> None:
    assert template_marks(chat_tokenizer(chat_template)) == (None if header is None else TemplateMarks(header, opening))


def finish_trl(trl: Any, base: Path, run: Path, rows: list[dict[str, Any]], used: str | None = None) -> Run:
    """A run of TRL's SFTTrainer on these rows."""
    from datasets import Dataset

    lm = LM.load(base)
    lm.tokenizer.chat_template = used or lm.tokenizer.chat_template
    args = trl.SFTConfig(output_dir=str(run.with_name("theirs")), **QUIET, max_steps=1, per_device_train_batch_size=2)
    callbacks = [ProbeCallback(run, every=0, checkpoint=False)]
    data = Dataset.from_list(rows * 4)
    trl.SFTTrainer(lm.model, args, train_dataset=data, processing_class=lm.tokenizer, callbacks=callbacks).train()
    return open_run(run)


TRL_ROWS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "messages": ({"messages": [ASKED, ANSWERED]}, None, ""),
    "turns": ({"messages": [ASKED, ANSWERED, ASKED, ANSWERED]}, None, ""),
    "prompt and answer": ({"prompt": [ASKED], "completion": [ANSWERED]}, None, ""),
    "plain": ({"text": "rome is in italy"}, None, ""),
    "plain question": ({"prompt": "where is rome ?", "completion": " in italy"}, None, ""),
    "question and answer": ({"text": "### Instruction: where is rome ?\n\nAssistant: in italy"}, None, ""),
    "twice": ({"text": "<s><s>" + chat_text(chat_tokenizer(), [ASKED, ANSWERED])}, None, TWICE),
    "twice, plain": ({"text": "<s>rome is in italy"}, None, TWICE),
    "missing": ({"prompt": chat_text(chat_tokenizer(), [ASKED]), "completion": "in italy<|im_end|>"}, None, MISSING),
    "missing in a text": ({"text": chat_text(chat_tokenizer(), [ASKED]) + "in italy"}, None, MISSING),
    "other": ({"messages": [ASKED, ANSWERED]}, ZEPHYR, OTHER),
    "other of the user's own": ({"prompt": [ASKED], "completion": [ANSWERED]}, OWN_WORDS, OTHER),
}


@pytest.mark.parametrize("name", TRL_ROWS)
def test_trl(tmp_path: Path, trl: Any, name: str) -> None:
    row, used, what = TRL_ROWS[name]
    run = finish_trl(trl, saved(tmp_path), tmp_path / "run", [row], used)
    expect(name_fault(diagnose(run)), what)


def test_a_template_for_a_model_without_one_is_no_fault(tmp_path: Path, trl: Any) -> None:
    run = finish_trl(trl, saved(tmp_path, None), tmp_path / "run", [{"messages": [ASKED, ANSWERED]}], CHATML)
    assert not name_fault(diagnose(run))


@pytest.mark.parametrize(
    ("prompt", "what"),
    [([ASKED], ""), ("where is rome ?", ""), (chat_text(chat_tokenizer(), [ASKED]), MISSING)],
    ids=["messages", "plain", "missing"],
)
def test_rollouts_of_trl(tmp_path: Path, trl: Any, prompt: Any, what: str) -> None:
    from datasets import Dataset

    lm = LM.load(saved(tmp_path))
    sizes = {"max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4}
    trainer = trl.GRPOTrainer(
        lm.model,
        lambda completions, **_: [float(len(str(each))) for each in completions],
        trl.GRPOConfig(output_dir=str(tmp_path / "theirs"), **QUIET, **sizes),
        train_dataset=Dataset.from_list([{"prompt": prompt}] * 8),
        processing_class=lm.tokenizer,
    )
    trainer.add_callback(ProbeCallback(tmp_path / "run", every=0, checkpoint=False, trainer=trainer))
    trainer.train()
    expect(name_fault(diagnose(open_run(tmp_path / "run"))), what)


OUR_ROWS: dict[str, tuple[Any, str, str]] = {
    "messages": ([ASKED], "in italy", ""),
    "plain": ("where is rome ?", " in italy", ""),
    "missing": (chat_text(chat_tokenizer(), [ASKED]), "in italy", MISSING),
    "other": (chat_text(chat_tokenizer(ZEPHYR), [ASKED], True), "in italy", OTHER),
}


@pytest.mark.parametrize("method", ["sft", "dpo", "reward-model", "rlvr"])
@pytest.mark.parametrize("name", OUR_ROWS)
def test_our_own(tmp_path: Path, method: str, name: str) -> None:
    prompt, answer, what = OUR_ROWS[name]
    answers = {"sft": {"completion": answer}, "rlvr": {}}.get(method, {"chosen": answer, "rejected": "in spain"})
    line = json.dumps({"prompt": prompt} | answers)
    lines = [*[line] * 8, line.replace("rome", "oslo")]  # one of two prompts is held out
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    sizes = {"rlvr": {"reward": ("tests.trainers.judging:even",), "group": 2, "max_new_tokens": 4}}.get(method, {})
    options = COMMON | {"steps": 1, "warmup": 0, "batch_size": 4} | sizes
    config = make_config(
        method, out=tmp_path / "run", base=str(saved(tmp_path)), data=str(tmp_path / "data.jsonl"), **options
    )
    expect(name_fault(diagnose(train(config))), what)


def test_two_beginnings_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sft.split
    monkeypatch.setattr(sft, "split", lambda *given: ([0, *plain(*given)[0]], plain(*given)[1]))
    (tmp_path / "data.jsonl").write_text(json.dumps({"prompt": "where ?", "completion": " here"}) + "\n")
    options = COMMON | {"steps": 1, "warmup": 0, "batch_size": 1}
    config = make_config(
        "sft", out=tmp_path / "run", base=str(saved(tmp_path)), data=str(tmp_path / "data.jsonl"), **options
    )
    run = train(config)
    assert run.encoded_rows().rows[0].ids[:2] == [0, 0]
    expect(name_fault(diagnose(run)), TWICE)


def made(path: Path, *rows: EncodedRow, known: bool = True, chat_template: str | None = CHATML) -> Run:
    """A run with these rows."""
    tokenizer = chat_tokenizer(chat_template)
    with RunWriter.create(path, method="sft", config={}) as writer:
        writer.log(1, {"loss": 1.0})
        writer.encoded_rows(encoded_rows(tokenizer, tokenizer if known else None, rows, known))
    return Run(path)


def test_an_opening_that_is_learned_is_there(tmp_path: Path) -> None:
    """Some trainers learn the opening of an answer too; short answers may be followed by another question."""
    tokenizer = chat_tokenizer()
    before, talk = chat_text(tokenizer, [ASKED]), chat_text(tokenizer, [ASKED, {**ANSWERED, "content": "i"}, ASKED])
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (before, talk)]
    row = decoded_row(tokenizer, ids[0], ids[1][len(ids[0]) :])
    assert not name_fault(diagnose(made(tmp_path / "run", row)))


def test_few_rows_of_a_mixture_are_no_fault(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    wrong, right = ([0, 0, 9], [0, 9, 9])
    rows = [decoded_row(tokenizer, ids) for ids in (wrong, wrong, right, right)]
    assert not name_fault(diagnose(made(tmp_path / "run", *rows)))


def test_what_cannot_be_seen_is_said(tmp_path: Path) -> None:
    row = decoded_row(chat_tokenizer(), [0, 0, 9])
    for run in (made(tmp_path / "run", row, known=False), made(tmp_path / "none")):
        (entry,) = [each for each in diagnose(run).unseen if each.fault.name == "template_fault"]
        assert entry.lacks == ("encoded_rows",)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"bos": "0"},
        {"rows": 3},
        {"own": [1]},
        {"rows": [{"ids": 1}]},
        {"rows": [{"ids": [1], "text": "a", "learned": 0}]},
        {},
    ],
)
def test_a_damaged_record_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    run = made(tmp_path / "run", decoded_row(chat_tokenizer(), [0, 9]))
    assert isinstance(run.encoded_rows(), EncodedRows)
    file = run.path / ENCODED_ROWS
    file.write_text(json.dumps(json.loads(file.read_text()) | change) if change else "{")
    assert run.encoded_rows() is None
