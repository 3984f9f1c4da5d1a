"""What a run was trained on: questions are found again in any form of data, and a damaged record hides only itself."""

import json
import shutil
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probe.runs import Run, RunWriter, thin, trained_on
from probe.runs.ancestry import descent
from probe.runs.store.remote import download, upload
from probe.runs.trained_on import TRAINED_ON, TrainedOn, collect, read_trained_on, sentence_hash, write_trained_on
from tests.runs.conftest import Make

QUESTION = "Tom has 3 cats. How many paws are there?"
FORMS = {
    "alone": QUESTION,
    "a template": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
    "hh-rlhf": f"\n\nHuman: {QUESTION}\n\nAssistant:",
    "a user's opinion": f"{QUESTION} I think the answer is 11 but I'm really not sure.",
    "behind examples": f"Q: What is 2 + 3?\nA: 5\n\nQ: {QUESTION}\nA:",
    "quoted": f'Someone asks: "Hello."\n"{QUESTION}"',
    "other letters": QUESTION.upper().replace(" ", "  "),
    "full width": QUESTION.replace("3", "\uff13").replace("?", "\uff1f"),
}
OTHERS = (
    "Tom has 4 cats. How many paws are there?",
    "Tom has 3 cats.",
    "How many paws are there?",
    "Tom has 3 cats. How many ears are there?",
    "",
)


@pytest.mark.parametrize("form", FORMS)
def test_a_question_is_found_in_any_form(form: str) -> None:
    assert collect([FORMS[form]]).holds(QUESTION)


@pytest.mark.parametrize("text", OTHERS)
def test_another_question_is_not(text: str) -> None:
    assert not collect([text]).holds(QUESTION)
    assert not TrainedOn(frozenset()).holds("")


def test_numbers_and_signs_tell_sums_apart() -> None:
    record = collect([f"What is {a} {sign} {b}?" for a, b, sign in ((7, 5, "+"), (9, 2, "-"))])
    assert record.holds("what is 7 + 5")
    assert not any(map(record.holds, ("What is 7 - 5?", "What is 5 + 7?", "What is 9 + 2?", "What is -7 + 5?")))


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=12)


@given(texts=TEXTS)
@example(texts=["<0>", "q: ", "User: a"])
def test_what_is_written_is_read_and_nothing_of_the_texts(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, record = tmp_path_factory.mktemp("run"), collect(texts)
    write_trained_on(folder, record)
    assert read_trained_on(folder) == record == collect(reversed(texts))
    for text in texts:  # a sign of a chat template alone is no sentence, and neither is who speaks
        bare = not any(map(str.isalnum, text)) or {*"<:"} & {*unicodedata.normalize("NFKC", text)}
        assert record.holds(text) or bare
    stored = json.loads((folder / TRAINED_ON).read_text())
    assert all(first < second for first, second in pairwise(stored["sentences"]))
    assert set("".join(stored["sentences"])) <= set("0123456789abcdef")


def test_of_many_sentences_some_are_kept_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_on, "MOST", 50)
    texts = [f"What is {a} + 1? And then?" for a in range(400)]
    record = collect(texts)
    assert (len(record.sentences), record.whole) == (50, False)
    every = sorted({sentence_hash(f"what is {a} + 1") for a in range(400)} | {sentence_hash("and then")})
    assert record.sentences == set(every[:50])
    assert collect(["\n".join(texts)]) == record
    assert 0 < sum(record.holds(f"What is {a} + 1?") for a in range(400)) <= 50
    write_trained_on(tmp_path, record)
    assert read_trained_on(tmp_path) == record
    assert collect(texts[:40]).whole
    assert collect(texts[:49] * 9).whole  # with the other sentence these are 50
    monkeypatch.setattr(trained_on, "MOST", 49)
    assert read_trained_on(tmp_path) is None  # more than any version writes


SOUND = {"schema": 1, "whole": True, "sentences": ["00" * 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        *(
            json.dumps(SOUND | change).encode()
            for change in (
                {"schema": 2},
                {"whole": 1},
                {"sentences": {}},
                {"sentences": ["00" * 7]},
                {"sentences": [8]},
                {"sentences": ["0G" * 8]},
                {"sentences": ["00" * 8 + "\n"]},
            )
        ),
    ],
)
def test_a_damaged_record_hides_only_itself(make: Make, content: bytes) -> None:
    writer = make()
    writer.log(0, {"loss": 1.0})
    (writer.path / TRAINED_ON).write_bytes(content)
    writer.finish()
    run = Run(writer.path)
    assert run.trained_on() is None
    assert len(run.metrics()) == 1
    (writer.path / TRAINED_ON).write_text(json.dumps(SOUND))
    assert run.trained_on() == TrainedOn(frozenset(["00" * 8]))
    (writer.path / TRAINED_ON).write_bytes(json.dumps(SOUND).encode() + b" " * trained_on.MOST_BYTES)
    assert run.trained_on() is None


def test_thinning_resuming_and_copies_keep_it(make: Make, tmp_path: Path) -> None:
    writer = make()
    writer.trained_on([])
    assert not (writer.path / TRAINED_ON).exists()
    writer.trained_on([QUESTION])
    writer.finish()
    record = collect([QUESTION])
    assert Run(writer.path).trained_on() == record
    for step in (0, None):
        with RunWriter.resume(writer.path, step):
            assert Run(writer.path).trained_on() == record
    assert thin(writer.path).trained_on() == record
    upload(writer.path, f"file://{tmp_path}/store/run")
    assert Run(download(f"file://{tmp_path}/store/run", tmp_path / "copy")).trained_on() == record
    assert Run(shutil.copytree(writer.path, tmp_path / "other")).trained_on() == record


def test_a_line_of_runs_is_followed_by_names_and_never_out_of_the_folders_of_runs(make: Make, tmp_path: Path) -> None:
    make("base")
    make("sft", parent="base@500")
    make("dpo", parent=str(tmp_path / "gone" / "sft" / "checkpoints" / "00000100"))
    make("first", parent="second")
    make("second", parent="first")
    make("self", parent="self")
    stranger = make("elsewhere/stranger")
    make("lured", parent=str(stranger.path))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")

    def line(name: str, *folders: Path) -> list[str]:
        return [run.name for run in descent(Run(tmp_path / name), folders)]

    assert line("dpo") == ["dpo", "sft", "base"]
    assert line("first") == ["first", "second"]
    assert line("self") == ["self"]
    assert line("lured") == ["lured"]
    assert line("lured", tmp_path / "elsewhere") == ["lured", "stranger"]
