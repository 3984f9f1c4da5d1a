"""Retrieval over a folder: reading, chunks, passages, judging answers; on random models of several architectures."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from probe.errors import ConfigError, DataError
from probe.experiments.registry import find_experiment
from probe.model.lm import LM
from probe.retrieval import files as texts
from probe.retrieval.files import Chunk, FileQuestion, TitledDocument, chunks_of, read_documents, read_folder
from probe.retrieval.search import Retriever
from probe.retrieval.world import CONTEXTS
from tests.models import byte_tokenizer, random_lm

FOLDER = Path("tests/data/retrieval")
ROOM = {"llama": "max_position_embeddings", "gpt2": "n_positions"}


def large(name: str, **options: Any) -> LM:
    """A random model with room for passages."""
    return random_lm(name, **options, **{ROOM[name]: 1024})


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def test_the_folder_is_read() -> None:
    documents, questions = read_folder(FOLDER)
    assert [each.id for each in documents] == ["ferry", "bakery", "bridge", "choir", "orchard", "clock"]
    assert documents[0].title == "The ferry"
    assert questions[0] == FileQuestion(
        "What is the ferry to the island called?", ("Marlin", "the Marlin"), "ferry", "Heron"
    )
    assert questions[2].answers == ("five",)
    assert questions[-1].document is None


def test_text_files_are_documents_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "b.md").write_text("# Oslo\nIt rains.", encoding="utf-8")
    (tmp_path / "a.txt").write_text("\ufeffRome is warm.", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\xff")
    write(tmp_path, questions_jsonl='{"question": "Where?", "answer": "Oslo", "document": "notes/b.md"}')
    documents, questions = read_folder(tmp_path)
    assert list(documents) == [
        TitledDocument("a.txt", "Rome is warm."),
        TitledDocument("notes/b.md", "# Oslo\nIt rains."),
    ]
    assert questions[0].document == "notes/b.md"


def test_documents_without_ids_are_counted(tmp_path: Path) -> None:
    write(tmp_path, documents_jsonl='{"text": "one"}\n\n{"text": "two", "id": 7}\n{"text": "three"}\n')
    assert [each.id for each in read_documents(tmp_path)] == ["1", "7", "3"]


QUESTION = '{"question": "Where?", "answer": "Oslo"}'


@pytest.mark.parametrize(
    ("documents", "questions", "message"),
    [
        (None, QUESTION, "has no documents"),
        ("", QUESTION, "is empty"),
        ('{"title": "x"}', QUESTION, r"Line 1 of .*documents.jsonl.* needs a text in the field `text`"),
        ('{"text": "x", "id": [1]}', QUESTION, r"Line 1 .* has an `id` that is neither"),
        ('{"text": "x", "id": "a"}\n{"text": "y", "id": "a"}', QUESTION, "Two documents .* called 'a'"),
        ('{"text": "x"}', '{"question": "Where?"}', "Line 1 .* needs a text in the field `answer`"),
        ('{"text": "x"}', '{"question": "Where?", "answers": []}', "Line 1 .* list of texts in the field `answers`"),
        ('{"text": "x"}', f'{QUESTION}\n{{"answer": "Oslo"}}', "Line 2 .* needs a text in the field `question`"),
        (
            '{"text": "x"}',
            '{"question": "W?", "answer": "O", "document": "z"}',
            "Line 1 .* document 'z', which does",
        ),
        ('{"text": "x"}', '{"question": "W?", "answer": "O", "document": []}', "Line 1 .* `document` that is neither"),
        ('{"text": "x"}', '{"question": "W?", "answer": "O", "substitute": 3}', "in the field `substitute`"),
        ('{"text": "x"}', "{", "Line 1 of .*questions.jsonl.* is not JSON"),
    ],
)
def test_wrong_files_are_named_with_their_line(
    tmp_path: Path, documents: str | None, questions: str, message: str
) -> None:
    write(tmp_path, questions_jsonl=questions, **({} if documents is None else {"documents_jsonl": documents}))
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path, strict=True)


def test_odd_documents_and_questions_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        documents_jsonl='{"text": "x", "id": "a"}\n{"text": "y", "id": "a"}\n{"title": "z"}\n{"text": "v", "id": "b"}',
        questions_jsonl=f'{QUESTION}\n{{"question": "Where?"}}\n{{"question": "W?", "answer": "O", "document": "z"}}',
    )
    documents, questions = read_folder(tmp_path)
    assert [each.id for each in documents] == ["a", "b"]
    assert len(questions) == 1
    assert [len(rows.left_out) for rows in (documents, questions)] == [2, 2]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "good.txt").write_text("Oslo")
    (tmp_path / "texts" / "empty.md").write_text(" ")
    (tmp_path / "texts" / "odd.txt").write_bytes(b"\xff\xfe")
    found = read_documents(tmp_path / "texts")
    assert list(found) == [TitledDocument("good.txt", "Oslo")]
    assert len(found.left_out) == 2
    assert "odd.txt" in found.notes()[0]


def test_of_answers_and_one_answer_the_list_counts(tmp_path: Path) -> None:
    """A table of both kinds of rows has null where a row has none."""
    rows = ['{"question": "W?", "answers": null, "answer": "O"}', '{"question": "W?", "answers": ["P"], "answer": "O"}']
    write(tmp_path, documents_jsonl='{"text": "x"}', questions_jsonl="\n".join(rows))
    assert [question.answers for question in read_folder(tmp_path)[1]] == [("O",), ("P",)]


@pytest.mark.parametrize(
    ("ids", "named", "found"),
    [
        (["oslo.txt", "rome.md"], "oslo.txt", "oslo.txt"),
        (["oslo.txt", "rome.md"], "oslo", "oslo.txt"),
        (["notes/oslo.txt"], "notes/oslo", "notes/oslo.txt"),
        (["oslo"], "oslo.txt", "oslo"),
        (["oslo.md"], "oslo.txt", "oslo.md"),
        (["oslo", "oslo.txt"], "oslo", "oslo"),
        (["oslo.txt", "oslo.md"], "oslo.md", "oslo.md"),
        (["oslo.txt", "oslo.md"], "oslo", "could be oslo.txt or oslo.md"),
        (["oslo.txt"], "osl", "does not exist"),
    ],
)
def test_a_question_names_a_document_with_or_without_its_suffix(
    tmp_path: Path, ids: list[str], named: str, found: str
) -> None:
    documents = "\n".join(json.dumps({"text": "x", "id": each}) for each in ids)
    question = json.dumps({"question": "W?", "answer": "O", "document": named})
    write(tmp_path, documents_jsonl=documents, questions_jsonl=question)
    if found in ids:
        assert read_folder(tmp_path)[1][0].document == found
    else:
        with pytest.raises(DataError, match=f"names the document '{named}', which {found}"):
            read_folder(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no questions\.jsonl"):
        read_folder(tmp_path)


@pytest.mark.parametrize(("size", "overlap"), [(5, 2), (4, 0), (3, 2), (1, 0), (100, 20)])
def test_chunks_overlap_and_hold_every_word(size: int, overlap: int) -> None:
    words = [f"w{i}" for i in range(23)]
    text = "  ".join(words[:12]) + "\n" + " ".join(words[12:])
    chunks = [chunk.text.split() for chunk in chunks_of([TitledDocument("d", text)], size, overlap)]
    slow, start = [], 0
    while True:
        slow.append(words[start : start + size])
        if start + size >= len(words):
            break
        start += size - overlap
    assert chunks == slow
    if len(chunks) > 1:
        assert all(a[len(a) - overlap :] == b[:overlap] for a, b in itertools.pairwise(chunks))


def test_chunks_keep_titles_and_line_breaks() -> None:
    assert chunks_of([TitledDocument("d", "a\n b  c", "T")], 2, 0) == [Chunk("d", "T\na\n b"), Chunk("d", "T\nc")]
    with pytest.raises(ConfigError, match="smaller overlap"):
        chunks_of([], 5, 5)


def test_answers_are_found_as_squad_compares_them() -> None:
    assert texts.says("It is called the Marlin.", ["marlin"])
    assert not texts.says("It is called Marlinspike.", ["marlin"])
    assert texts.says("the", ["The"])  # nothing is left of it once normalised
    assert texts.exact("The Marlin!", ["a marlin"])
    assert not texts.exact("called Marlin", ["Marlin"])
    assert texts.abstains("I don't know that.")
    assert texts.abstains("Unknown")
    assert not texts.abstains("the unknown soldier")


def test_passages_are_what_they_are_called() -> None:
    documents, questions = read_folder(FOLDER)
    chunks = chunks_of(documents, 12, 4)
    retriever = Retriever([chunk.text for chunk in chunks])
    of = {chunk.text: chunk.document for chunk in chunks}
    for question in questions:
        passages, about = texts.passages_of(question, chunks, retriever, 2)
        assert passages["none"] == []
        assert len(passages["retrieved"]) == 2
        assert about["hit"] == float(any(texts.says(text, question.answers) for text in passages["retrieved"]))
        for context in ("distractor", "unrelated"):
            (text,) = passages[context]
            assert not texts.says(text, question.answers)
            assert of[text] != question.document
        if question.document is None:
            assert {"rank", "recall_1"}.isdisjoint(about)
            assert {"gold", "contradicting"}.isdisjoint(passages)
            continue
        (gold,), (against,) = passages["gold"], passages["contradicting"]
        assert of[gold] == question.document
        assert texts.says(gold, question.answers)
        assert texts.says(against, [question.substitute or ""])
        assert not texts.says(against, question.answers)
        order = [of[chunks[i].text] for i in retriever.find(question.question).index]
        assert about["rank"] == order.index(question.document) + 1
        assert about["recall_1"] == float(about["rank"] == 1)


class Scripted:
    """Stands in for a model: writes by a rule, scores by the length of the answer."""

    readout, ref, run_dir = "tokens", "scripted", None

    def __init__(self, rule: Any) -> None:
        self.rule, self.tokenizer = rule, byte_tokenizer()
        config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(max_position_embeddings=None))
        self.model = SimpleNamespace(config=config)

    def generate(self, prompts: list[str], **_: Any) -> Any:
        return SimpleNamespace(text=[self.rule(prompt) for prompt in prompts])

    def logprobs(self, prompts: list[str], groups: list[list[str]]) -> Any:
        scores = [[-len(a) - 0.01 * len(p)] for p, group in zip(prompts, groups, strict=True) for a in group]
        return SimpleNamespace(values=torch.tensor(scores))


def scripted(rule: Any, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setattr(texts, "context_length", lambda model: None)
    documents, questions = read_folder(FOLDER)
    return texts.file_items(Scripted(rule), questions, chunks_of(documents, 100, 20), 2, 24)  # type: ignore[arg-type]


def test_a_reader_is_right_where_the_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    _, questions = read_folder(FOLDER)

    def rule(prompt: str) -> str:
        question = next(each for each in questions if each.question in prompt)
        passages = prompt.split("Question:")[0].removeprefix(texts.INSTRUCTION)
        wanted = [*question.answers, *([question.substitute] if question.substitute else [])]
        return next((f" {words}\nmore" for words in wanted if texts.says(passages, [words])), " I don't know.")

    items = scripted(rule, monkeypatch)
    shares = items.groupby("context")[["p_true", "p_abstain", "p_invented", "exact_match"]].mean()
    assert shares.loc["gold"].tolist() == [1, 0, 0, 1]
    for context in ("none", "distractor", "unrelated"):
        assert shares.loc[context].tolist() == [0, 1, 0, 0]
    against, searched = (items[items["context"] == context] for context in ("contradicting", "retrieved"))
    assert (against["p_follows"] == 1).all()
    assert against["hall"].isna().all()
    assert (searched["p_true"] == searched["hit"]).all()
    assert (items.loc[items["context"] != "none", "logprob_gain"] < 0).all()  # the longer the prompt, by construction


def test_null_one_who_says_the_same_always(monkeypatch: pytest.MonkeyPatch) -> None:
    items = scripted(lambda prompt: " It is Tuesday.\n", monkeypatch)
    assert (items[["p_true", "exact_match", "p_abstain"]] == 0).all(axis=None)
    assert (items["p_invented"] == 1).all()
    assert (items["hall_cut"].dropna() == 0).all()
    assert (items["p_follows"].dropna() == 0).all()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_experiment_runs_on_any_model(name: str) -> None:
    tokenizer = None if name == "llama" else byte_tokenizer()
    options = {} if tokenizer is None else {"tokenizer": tokenizer}
    lm = large(name, **options)
    result = find_experiment("retrieval").run(lm, data=FOLDER, n=3, k=1, chunk=20, overlap=5, max_new_tokens=4)
    assert list(result.figures) == ["contexts", "search"]
    assert {"accuracy_gold", "invention_none", "hall_without", "hall_retrieved", "mrr", "recall_1"} <= {
        *result.summary["metric"]
    }
    assert result.items["item"].is_unique
    assert set(result.items["context"]) <= set(CONTEXTS)
    bare = result.summary[result.summary["metric"].isin(("hall_without", "invention_none"))]
    assert bare["ci_low"].nunique() == bare["ci_high"].nunique() == 1  # of zeros and ones both are Wilson's
    assert result.finding.startswith("With retrieved passages")
    _, questions = read_folder(FOLDER)
    for row in result.items.itertuples():  # the log-probability that is reported, one answer at a time
        question = next(each for each in questions if each.question in row.prompt)
        with torch.no_grad():
            scores = [float(lm.logprobs([row.prompt], [[f" {a}"]]).values.double().sum()) for a in question.answers]
        assert row.logprob == pytest.approx(max(scores), abs=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="give smaller chunks or a smaller k"):
        find_experiment("retrieval").run(random_lm(), data=FOLDER, n=2)
    with pytest.raises(DataError, match="has no world to ask about: give as data a folder"):
        find_experiment("retrieval").run(random_lm())
    with pytest.raises(ConfigError, match="k = 0"):
        find_experiment("retrieval").run(random_lm(), data=FOLDER, k=0)
