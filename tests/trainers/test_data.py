"""Files of preference pairs, their forms, and prompts to capture on; files as such are in tests/probe/test_rows.py."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import datasets
import pytest

from probe import LM
from probe.errors import DataError
from probe.recording.recorder import as_prompt
from probe.rows import Row, Rows, read_demonstrations
from tests.models import char_tokenizer
from trainers.config import PreferenceConfig
from trainers.preferences import Preferences, file_preferences, read_preferences
from trainers.prompts import file_prompts, read_prompts
from trainers.record import LOOKED, capture_prompts
from trainers.sft import file_demonstrations

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAIR = {"prompt": "mira", "chosen": " oslo", "rejected": " rome"}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


USER, SYSTEM, ASSISTANT = [{"role": "user", "content": "mira"}], [{"role": "system", "content": "be"}], [answer("rome")]


def rows_of(path: Path, strict: bool = False) -> Rows[Row]:
    found = read_preferences(PreferenceConfig(out=Path("x"), base="x", data=str(path), strict=strict))
    assert found is not None
    return found


def preferences_of(lm: LM, path: Path, said: Callable[[str], None] = print, strict: bool = False) -> Preferences:
    return file_preferences(lm, rows_of(path, strict), said)


@pytest.fixture(scope="module")
def lm(model_dir: Path) -> LM:
    return LM.load(model_dir)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (PAIR | {"rejected": " oslo"}, "has equal chosen and rejected"),
        ({"prompt": "mira", "completion": " oslo"}, "lacks `chosen`, `rejected`"),
        (PAIR | {"margin": "much"}, "has the margin 'much'"),
        (
            {"chosen": "mira oslo", "rejected": "mira rome"},
            "has no `prompt`, and chosen and rejected do not begin alike",
        ),
        ({"chosen": USER, "rejected": ASSISTANT}, "has no `prompt`"),
    ],
)
def test_wrong_pairs_are_left_out_or_refused(row: Any, part: str, lm: LM, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([PAIR, row])
    with pytest.raises(DataError, match=f"^Line 2 of .*{part}"):
        rows_of(path, strict=True)
    reports: list[str] = []
    found = preferences_of(lm, path, reports.append)
    assert (len(found.pairs), found.data["rows"], found.data["left_out"]) == (1, 1, 1)
    assert len(reports) == 1
    assert part in reports[0]


HUMAN = "\n\nHuman: where does mira live?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        ({"chosen": f"{HUMAN} oslo", "rejected": f"{HUMAN} or"}, HUMAN, " oslo", " or"),
        (
            {"chosen": f"{HUMAN} hm{HUMAN} oslo", "rejected": f"{HUMAN} hm{HUMAN} rome"},
            f"{HUMAN} hm{HUMAN}",
            " oslo",
            " rome",
        ),
        ({"chosen": f"{HUMAN} hm{HUMAN} oslo", "rejected": f"{HUMAN} no"}, HUMAN, f" hm{HUMAN} oslo", " no"),
        (PAIR | {"rejected": ASSISTANT}, USER, [{"role": "assistant", "content": " oslo"}], ASSISTANT),
        ({"prompt": USER, "chosen": " oslo", "rejected": " rome"}, USER, [answer(" oslo")], [answer(" rome")]),
        (
            {"prompt": "mira", "chosen": [answer("oslo")], "rejected": [answer("rome")]},
            USER,
            [answer("oslo")],
            ASSISTANT,
        ),
        (
            {"prompt": "mira", "chosen": [*USER, answer("oslo")], "rejected": [*USER, answer("rome")]},
            USER,
            [answer("oslo")],
            ASSISTANT,
        ),
        ({"chosen": [*USER, answer("oslo")], "rejected": [*USER, answer("rome")]}, USER, [answer("oslo")], ASSISTANT),
        (
            {
                "prompt": "mira",
                "chosen": [*SYSTEM, *USER, answer("oslo")],
                "rejected": [*SYSTEM, *USER, answer("rome")],
            },
            [*SYSTEM, *USER],
            [answer("oslo")],
            ASSISTANT,
        ),
        (
            {"prompt": [*SYSTEM, *USER], "chosen": [answer("oslo")], "rejected": ASSISTANT},
            [*SYSTEM, *USER],
            [answer("oslo")],
            ASSISTANT,
        ),
        (
            {"chosen": [*USER, answer("hm"), *USER, answer("oslo")], "rejected": [*USER, answer("rome")]},
            USER,
            [answer("hm"), *USER, answer("oslo")],
            ASSISTANT,
        ),
    ],
)
def test_every_form_of_a_pair(
    row: Any, prompt: Any, chosen: Any, rejected: Any, write_jsonl: Callable[..., Path]
) -> None:
    """hh-rlhf, whose prompt is what both begin with, and TRL's conversational formats."""
    (found,) = rows_of(write_jsonl([row]), strict=True)
    assert [found.values[name] for name in ("prompt", "chosen", "rejected")] == [prompt, chosen, rejected]


def test_forms_of_a_pair_give_the_same_tokens(write_jsonl: Callable[..., Path]) -> None:
    from tests.models import random_lm

    lm = random_lm()
    lm.tokenizer.chat_template = (
        "{% for m in messages %}<{{ 'user' if m.role == 'user' else 'bot' }}> {{ m.content }} <end> {% endfor %}"
        "{% if add_generation_prompt %}<bot> {% endif %}"
    )
    forms = [
        {"prompt": USER, "chosen": [answer("oslo")], "rejected": ASSISTANT},
        {"prompt": "mira", "chosen": [answer("oslo")], "rejected": "rome"},
        {"chosen": [*USER, answer("oslo")], "rejected": [*USER, *ASSISTANT]},
    ]
    first, *others = preferences_of(lm, write_jsonl(forms), strict=True).pairs
    assert others == [first, first]
    assert lm.tokenizer.decode(first.chosen) == "oslo <end>"


def test_messages_that_the_template_refuses_are_left_out(write_jsonl: Callable[..., Path]) -> None:
    from tests.models import random_lm

    lm = random_lm()
    lm.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{{ m.content }} {% endfor %}"
    )
    good = {"prompt": USER, "chosen": [answer("oslo")], "rejected": ASSISTANT}
    path = write_jsonl([good, good | {"prompt": [*SYSTEM, *USER]}])
    found = preferences_of(lm, path)
    assert (len(found.pairs), found.data["left_out"]) == (1, 1)
    with pytest.raises(DataError, match=r"^Line 2 of .*refuses the messages \(no system\)"):
        preferences_of(lm, path, strict=True)


def test_messages_need_a_chat_template(write_jsonl: Callable[..., Path]) -> None:
    from tests.models import random_lm

    row = {
        "prompt": [{"role": "user", "content": "mira"}],
        "chosen": [{"role": "assistant", "content": "oslo"}],
        "rejected": [{"role": "assistant", "content": "rome"}],
    }
    with pytest.raises(DataError, match=r"^Line 1 of .*has no chat template"):
        preferences_of(random_lm(), write_jsonl([row]))


def test_overlong_pairs_are_counted_and_not_cut(lm: LM, write_jsonl: Callable[..., Path]) -> None:
    fits = PAIR | {"prompt": "mira " * 61}  # <bos>, 61 words, the answer and <end> fill the context of 64
    reports: list[str] = []
    preferences = preferences_of(lm, write_jsonl([PAIR, fits, PAIR | {"prompt": "mira " * 62}]), reports.append)
    assert [pair.longest for pair in preferences.pairs] == [4, 64]
    assert len(reports) == 1
    assert reports[0].startswith("1 of 3 pairs")
    with pytest.raises(DataError, match=r"All 1 pairs .* are longer than the model's 64 tokens"):
        preferences_of(lm, write_jsonl([PAIR | {"prompt": "mira " * 62}]), reports.append)


def test_short_prompts_are_captured_and_long_ones_cut(lm: LM) -> None:
    short, long = "where does mira live ?", "oslo " * 100
    assert capture_prompts(lm.tokenizer, [long, short]) == [short]
    (cut,) = capture_prompts(lm.tokenizer, [long, long])
    assert cut.split() == ["oslo"] * 63
    assert capture_prompts(lm.tokenizer, [f"{i}" for i in range(9)]) == ["0", "1", "2", "3"]


def test_thousands_of_lines_are_read(tmp_path: Path, lm: LM) -> None:
    path = tmp_path / "data.jsonl"
    line = json.dumps(PAIR | {"prompt": "<user> where does mira live ? <bot>"}) + "\n"
    path.write_text(line * 5000)
    assert len(preferences_of(lm, path, print).pairs) == 5000


@pytest.mark.parametrize(
    ("read", "row"),
    [
        (
            lambda lm, path, strict, report: preferences_of(lm, path, report, strict),
            {"prompt": "mira", "chosen": " oslo", "rejected": " Rome"},
        ),
        (
            lambda lm, path, strict, report: file_demonstrations(
                lm, read_demonstrations(path, strict), True, 0, report
            ),
            {"prompt": "Mira", "completion": " oslo"},
        ),
        (
            lambda lm, path, strict, report: file_prompts(lm, read_prompts(path, strict), 4, report),
            {"prompt": "where does Mira live ?"},
        ),
    ],
)
def test_a_word_that_the_model_does_not_know_is_named_with_its_line(
    lm: LM, write_jsonl: Callable[..., Path], read: Callable[..., Any], row: dict
) -> None:
    path = write_jsonl([{key: value.lower() for key, value in row.items()}, row])
    told: list[str] = []
    read(lm, path, False, told.append)
    reason = f"Line 2 of `{path}`: The tokenizer does not know \u201c(Rome|Mira)\u201d.*is near \u201c"
    assert re.search(reason, " ".join(told))
    with pytest.raises(DataError, match=reason):
        read(lm, path, True, told.append)


def test_prompts_to_capture_on_hold_only_what_the_tokenizer_knows(lm: LM) -> None:
    texts = capture_prompts(lm.tokenizer, ["mira Sings in oslo", "Unknown Words", "where does mira live ?"])
    assert texts == ["where does mira live ?"]
    (part,) = capture_prompts(lm.tokenizer, ["mira s in oslo", "Unknown Words"])
    note = "This text of the data is shown without \u201cs\u201d, which the tokenizer does not know."
    assert part == {"text": "mira in oslo", "note": note}
    assert as_prompt(lm, part, 0).note == note


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_lines_to_capture_on_that_no_letter_is_missing_from_come_first(unknown: str | None) -> None:
    tokenizer = char_tokenizer("abcdefghijklmnopqrstuvwxyz ", unknown)
    lines = ["Mira lives", "tom lives", "1 2 3", "ana \u00e9 lives"]
    assert capture_prompts(tokenizer, lines) == ["tom lives"]
    parts: list[Any] = capture_prompts(tokenizer, [line for line in lines if line != "tom lives"])
    assert [part["text"] for part in parts] == ["ira lives", "ana lives"]
    assert "shown without \u201cM\u201d" in parts[0]["note"]
    unread = capture_prompts(tokenizer, chain(repeat("Mira lives", LOOKED), ["tom"]), 2)
    assert unread == [parts[0]] * 2


def test_labelled_completions_are_refused_with_the_way_to_convert(
    lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"prompt": "mira", "completion": f" {place}", "label": place == "oslo"} for place in ("oslo", "rome", "lyon")
    ]
    path = tmp_path / "kto.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"has a completion with a label \(KTO's form\), which is no pair") as told:
        rows_of(path)
    page = DOCS / "methods" / "dpo.md"
    assert f"({page.relative_to(DOCS.parent).as_posix()} has the lines)" in str(told.value)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(code, {})
    pairs = [row.values for row in rows_of(tmp_path / "pairs.jsonl")]
    assert pairs == [{"prompt": "mira", "chosen": " oslo", "rejected": f" {place}"} for place in ("rome", "lyon")]
    learned = read_demonstrations(path)
    assert [row.values["completion"] for row in learned] == [" oslo"]
    assert all("is labelled false (KTO's form)" in each for each in learned.left_out)


def test_pairs_are_read_from_parquet_and_from_a_folder_of_datasets(lm: LM, tmp_path: Path) -> None:
    other = PAIR | {"prompt": "helen"}
    (tmp_path / "pairs.jsonl").write_text(f"{json.dumps(PAIR)}\n{json.dumps(other)}\n")
    datasets.Dataset.from_list([PAIR, other]).to_parquet(tmp_path / "pairs.parquet")
    datasets.Dataset.from_list([PAIR, other]).save_to_disk(tmp_path / "pairs")
    expected, *found = (preferences_of(lm, tmp_path / f"pairs{end}") for end in (".jsonl", ".parquet", ""))
    for each in found:
        assert each.pairs == expected.pairs
        assert each.data["rows"] == 2
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected,margin\nmira, oslo, rome,0.5\nhelen, oslo, rome,\n")
    rows = preferences_of(lm, tmp_path / "pairs.csv").pairs
    assert rows == [replace(pair, margin=margin) for pair, margin in zip(expected.pairs, (0.5, None), strict=True)]
    hashes = [each.data["hash"] for each in (expected, *found)]
    assert len(set(hashes)) == 3
    datasets.Dataset.from_list([PAIR, PAIR]).save_to_disk(tmp_path / "others")
    assert preferences_of(lm, tmp_path / "others").data["hash"] not in hashes
