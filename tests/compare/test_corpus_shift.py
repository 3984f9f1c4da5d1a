"""Two models over a corpus, against slow explicit sums, on shifts made by hand, and on the sample runs."""

import json
import math
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probe.commands.compare import compare, lines
from probe.commands.compare import show as show_shift
from probe.compare import corpus_shift
from probe.compare.corpus_shift import KIND, Text, compare_corpus, read_texts, shared_texts
from probe.errors import ConfigError, DataError, ProbeError
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.rows import Selection
from probe.world import of
from tests.models import CONTEXT, byte_tokenizer, random_lm, random_reward_model, saved_lm, word_tokenizer
from tests.places import ROOT, SAMPLES

TEXTS = [
    Text("mira lives in oslo", kind="home"),
    Text("tom", kind="name"),
    Text("where does ana do the cat", kind="question"),
    Text("ana lives in rome", kind="home"),
    Text("the dog is in paris . where is tom ?", kind="question"),
]
CHAT = (
    "{% for m in messages %}{% if m.role == 'user' %}<user> {{ m.content }} {% else %}<bot> {{ m.content }} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def explicit(lm: LM, ids: list[int]) -> list[list[float]]:
    """Log-probabilities behind each token of one text that is run alone."""
    return lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1).tolist()


def divergence(p: list[float], q: list[float]) -> float:
    return sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def raised(lm: LM, token: str, by: float) -> LM:
    """The model with the logit of one token raised everywhere."""

    class Raised(LM):
        def logits(self, tokens):
            logits = super().logits(tokens).clone()
            logits[..., lm.tokenizer.convert_tokens_to_ids(token)] += by
            return logits

    return Raised(lm.model, lm.tokenizer)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mamba"])
def test_every_number_equals_an_explicit_sum(name: str):
    base, aligned = random_lm(name), random_lm(name, seed=1)
    shift = compare_corpus(base, aligned, TEXTS, k=3, most=5)
    rows, size = [], len(base.tokenizer)
    changes, ratios, before = np.zeros(size), np.zeros(size), np.zeros(size)
    for number, text in enumerate(TEXTS, 1):
        ids = base.tokenizer(text.content)["input_ids"]
        for at, (p, q) in enumerate(zip(explicit(aligned, ids), explicit(base, ids), strict=True)):
            rows.append((f"text-{number}", text.kind, at, ids[at], divergence(p, q), divergence(q, p)))
            changes, ratios = changes + np.exp(p) - np.exp(q), ratios + np.subtract(p, q)
            before += np.exp(q)
    every = pd.DataFrame(rows, columns=["row", "kind", "position", "id", "kl", "kl_reverse"])
    assert shift.kl.value == pytest.approx(every.kl.mean(), abs=1e-5)
    assert shift.kl_reverse.value == pytest.approx(every.kl_reverse.mean(), abs=1e-5)
    for table, column in ((shift.texts, "row"), (shift.kinds, "kind"), (shift.by_token, "id")):
        means = every.groupby(column).kl.mean()
        assert table.set_index(column).kl.to_dict() == pytest.approx(means.to_dict(), abs=1e-5)
    assert shift.texts.set_index("row").tokens.to_dict() == every.groupby("row").size().to_dict()
    for row in shift.texts.itertuples():
        largest = every[every.row == row.row].nlargest(1, "kl").iloc[0]
        assert (row.position, row.kl_max) == (largest.position, pytest.approx(largest.kl, abs=1e-5))
    assert shift.by_token["count"].sum() == len(every)
    assert shift.by_token.share.sum() == pytest.approx(1)
    assert shift.tokens.kl.is_monotonic_decreasing
    for row in shift.tokens.itertuples():
        (same,) = every[(every.row == row.row) & (every.position == row.position)].itertuples()
        assert (row.kl, row.kl_reverse) == (
            pytest.approx(same.kl, abs=1e-5),
            pytest.approx(same.kl_reverse, abs=1e-5),
        )
    for score, sums in (("difference", changes), ("log_ratio", ratios)):
        mean, listed = sums / len(every), shift.listed(score)
        assert listed.value.to_numpy() == pytest.approx(mean[listed.id], abs=1e-5)
        for direction, sign in (("promoted", -1), ("suppressed", 1)):
            ids = listed[listed.direction == direction].id.tolist()
            assert ids == np.argsort(sign * mean)[:3].tolist()
        assert listed.p_base.to_numpy() == pytest.approx(before[listed.id] / len(every), abs=1e-5)
        assert listed.p_aligned.to_numpy() == pytest.approx((before + changes)[listed.id] / len(every), abs=1e-5)


def test_the_next_tokens_of_a_position_are_those_of_both_models():
    base, aligned = random_lm(), random_lm(seed=1)
    (row,) = compare_corpus(base, aligned, ["mira lives in oslo"], most=1).tokens.to_dict("records")
    ids = base.tokenizer("mira lives in oslo")["input_ids"]
    p, q = (torch.tensor(explicit(lm, ids)[row["position"]]).exp() for lm in (aligned, base))
    words = base.tokenizer.convert_ids_to_tokens
    assert (row["base_next"], row["aligned_next"]) == (words(int(q.argmax())), words(int(p.argmax())))
    assert row["promoted"] == words(int((p - q).argmax()))
    assert (row["base_p"], row["aligned_p"]) == (pytest.approx(float(q.max())), pytest.approx(float(p.max())))
    assert row["change"] == pytest.approx(float((p - q).max()), abs=1e-6)
    assert row["token"] == words(ids[row["position"]])


def test_the_order_of_the_texts_changes_nothing():
    base, aligned = random_lm(), random_lm(seed=1)
    texts = [Text(text.content, kind=text.kind, row=str(number)) for number, text in enumerate(TEXTS)]
    shift, other = (compare_corpus(base, aligned, part) for part in (texts, [texts[i] for i in (3, 1, 4, 0, 2)]))
    assert repr((shift.kl, shift.kl_reverse)) == repr((other.kl, other.kl_reverse))
    for name, table in shift.tables().items():
        pd.testing.assert_frame_equal(table, other.tables()[name], check_exact=True)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch):
    base, aligned = random_lm(), random_lm(seed=1)
    shift = compare_corpus(base, aligned, TEXTS)
    ticks, size = list[float](), len(base.tokenizer)
    monkeypatch.setattr(corpus_shift, "BATCH", 12 * size)
    monkeypatch.setattr(corpus_shift, "CHUNK", 2 * size)
    other = compare_corpus(base, aligned, TEXTS, tick=ticks.append)
    assert len(ticks) > 2
    assert ticks == sorted(ticks)
    assert ticks[-1] == 1
    for name in ("texts", "kinds", "promoted", "by_token"):
        pd.testing.assert_frame_equal(shift.tables()[name], other.tables()[name], atol=1e-5, rtol=1e-4)


def test_a_model_against_itself_is_exactly_zero():
    lm = random_lm()
    shift = compare_corpus(lm, lm, TEXTS)
    assert shift.kl.value == shift.kl_reverse.value == 0
    for table in (shift.texts, shift.kinds, shift.by_token, shift.tokens):
        assert (table.kl == 0).all()
    assert (shift.tokens.change == 0).all()
    assert (shift.by_token.share == 0).all()
    assert not len(shift.promoted)
    assert (shift.halves.null == 0).all()
    assert shift.halves.correlation.isna().all()
    assert shift.sentence().endswith("is 0 nats a token.")
    assert len(shift.figure().data) == 2
    assert list(lines(shift))
    assert len(shift.lists()) == 6


def test_one_text_has_no_interval_and_no_halves():
    shift = compare_corpus(random_lm(), random_lm(seed=1), ["tom"])
    assert len(shift.texts) == len(shift.kinds) == 1
    assert shift.kinds.kind.tolist() == [KIND]
    assert math.isnan(shift.kl.low)
    assert shift.promoted.ci_low.isna().all()
    assert shift.promoted.same_sign.isna().all()
    assert not shift.promoted.beyond_null.any()
    assert (shift.halves.splits == 0).all()
    assert "correlate" not in shift.sentence()
    assert len(shift.lists()) == 6


def test_a_token_that_is_raised_is_found_in_both_halves():
    base = random_lm()
    words = ["mira", "tom", "ana", "oslo", "rome", "paris", "cat", "dog"]
    texts = [f"{first} lives in {second}" for first in words for second in words]
    shift = compare_corpus(base, raised(base, "paris", 2.0), texts, k=2)
    for score in ("difference", "log_ratio"):
        first = shift.listed(score).iloc[0]
        assert (first.token, first.direction, first["rank"]) == ("paris", "promoted", 1)
        assert (first.same_sign, first.same_rank, first.beyond_null) == (1, 1, True)
        assert 0 < first.ci_low < first.value < first.ci_high
    # all other tokens lose: their logits stay, and the sum grows
    assert (shift.listed("difference").direction == "promoted").sum() == 1
    assert (shift.halves.correlation > 0.9).all()


@pytest.mark.slow
def test_noise_holds_in_no_half():
    """Scores without any effect: intervals cover 0 as often as they say, and the null bounds the largest of all."""
    rng, size, groups, trials = np.random.default_rng(0), 300, 64, 40
    beyond, missed, correlations = 0, list[float](), list[float]()
    for trial in range(trials):
        noise = rng.normal(size=(groups, size))
        rows, half = corpus_shift._mine("difference", noise, np.ones(groups), size, trial)
        assert len(rows) == size
        beyond += any(row["beyond_null"] for row in rows)
        missed.append(np.mean([not row["ci_low"] < 0 < row["ci_high"] for row in rows]))
        correlations.append(half["correlation"])
    assert beyond <= 6  # 2 of 40 are expected
    assert 0.03 < np.mean(missed) < 0.08
    assert abs(np.mean(correlations)) < 0.05


@pytest.mark.parametrize("texts", [5, 7, 12])
def test_the_null_holds_with_few_texts(texts: int):
    """Halves of few texts differ too little: with them 6 to 9 % lay beyond."""
    rng, trials, beyond = np.random.default_rng(texts), 500, 0
    for trial in range(trials):
        sums = rng.normal(size=(texts, 60))
        value = np.abs(sums.sum(0) / texts).max()
        signs = np.random.default_rng(trial).choice([-1.0, 1.0], (corpus_shift.SPLITS, texts))
        limit = corpus_shift.sign_limit(np.abs(signs @ sums / texts).max(axis=1), value)
        beyond += value > limit
        if trial < 5:
            rows, half = corpus_shift._mine("difference", sums, np.ones(texts), 2, trial)
            assert half["null"] <= np.abs(sums).sum(0).max() / texts
            assert all(row["beyond_null"] == (abs(row["value"]) > half["null"]) for row in rows)
    assert beyond / trials <= 0.05 + 2 * np.sqrt(0.0475 / trials)


def test_answers_alone_count():
    base, aligned = random_lm(tokenizer=word_tokenizer()), random_lm(seed=1)
    aligned.tokenizer.chat_template = CHAT
    messages = [{"role": "user", "content": "where is tom"}, {"role": "assistant", "content": "in oslo"}]
    texts = [
        Text("where is tom", "", row="prompt"),
        Text("where is tom", " in oslo", row="completion"),
        Text(messages[:1], row="messages"),
        Text(messages, row="answered"),
        Text("where is tom", row="text"),
    ]
    whole = compare_corpus(base, aligned, texts, answers=False).texts.set_index("row").tokens
    assert whole.to_dict() == {"prompt": 4, "completion": 6, "messages": 6, "answered": 8, "text": 4}
    shift = compare_corpus(base, aligned, texts, answers=True)
    counted = shift.texts.set_index("row").tokens
    assert counted.to_dict() == {"prompt": 1, "completion": 3, "messages": 1, "answered": 3, "text": 4}
    ids = base.tokenizer("where is tom in oslo")["input_ids"]
    p, q = explicit(aligned, ids), explicit(base, ids)
    mean = np.mean([divergence(p[at], q[at]) for at in (3, 4, 5)])
    (row,) = shift.texts[shift.texts.row == "completion"].itertuples()
    assert row.kl == pytest.approx(mean, abs=1e-5)
    assert row.position in (3, 4, 5)
    assert shift.kinds.tokens.sum() == 12


def test_long_texts_are_read_in_pieces():
    base, aligned = random_lm(), random_lm(seed=1)
    words = ["cat", "dog", "tom", "ana", "rome"] * 20
    texts = [Text(" ".join(words), row="long"), Text("tom", row="short"), Text(" ".join(words), "", row="asked")]
    shift = compare_corpus(base, aligned, texts[:2])
    pieces = shift.texts[shift.texts.row == "long"].sort_values("start")
    assert pieces.start.tolist() == [0, CONTEXT, 2 * CONTEXT]
    assert pieces.tokens.tolist() == [CONTEXT, CONTEXT, 101 - 2 * CONTEXT]
    assert ((pieces.position >= pieces.start) & (pieces.position < pieces.start + pieces.tokens)).all()
    last = compare_corpus(base, aligned, texts[2:], answers=True).texts
    assert (last.start.tolist(), last.tokens.tolist(), last.position.tolist()) == ([2 * CONTEXT], [1], [100])


def test_texts_that_begin_alike_are_listed_once():
    shift = compare_corpus(random_lm(), random_lm(seed=1), ["mira lives in oslo", "mira lives in rome"] * 2)
    assert len(shift.tokens) == 6
    assert shift.kinds.tokens.sum() == 20


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_files_of_each_form_are_read(tmp_path: Path, suffix: str):
    rows = [{"text": "tom", "kind": "name"}, {"text": "mira lives in oslo", "kind": ""}, {"text": ""}]
    path = tmp_path / f"texts{suffix}"
    if suffix == ".csv":
        path.write_text("text,kind\ntom,name\nmira lives in oslo,\n,\n")
        path.write_text(path.read_text() + '"",name\n')
    else:
        lines_ = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines_) if suffix == ".jsonl" else f"[{','.join(lines_)}]")
    texts = read_texts(path)
    assert [(text.content, text.kind, text.completion) for text in texts] == [
        ("tom", "name", None),
        ("mira lives in oslo", KIND, None),
    ]
    assert len(texts.left_out) == 1
    with pytest.raises(DataError, match="string that is not empty"):
        read_texts(path, strict=True)
    assert [text.row for text in read_texts(path, selection=Selection(limit=1))] == ["row-1"]


def test_prompts_and_conversations_of_a_file(tmp_path: Path):
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "you"}]
    rows = [
        {"prompt": "a", "completion": " b", "text_": 0},
        {"prompt": "a", "chosen": " c", "rejected": " d"},
        {"prompt": "a"},
        {"prompt": said[:1], "completion": "you"},
        {"prompt": "hi", "chosen": said},
        {"prompt": said[:1]},
        {"messages": said},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    contents = [(text.content, text.completion) for text in read_texts(path)]
    assert contents == [
        ("a", " b"),
        ("a", " c"),
        ("a", ""),
        (said, None),
        (said, None),
        (said[:1], None),
        (said, None),
    ]
    text = tmp_path / "book.txt"
    text.write_text("mira lives\nin oslo")
    assert [each.content for each in read_texts(text)] == ["mira lives\nin oslo"]


def test_rows_that_a_model_cannot_read_are_left_out_and_named(tmp_path: Path):
    base, aligned = (random_lm(tokenizer=word_tokenizer(closed=True), seed=seed) for seed in (0, 1))
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "tom"}\n{"text": "zzz"}\n{"prompt": [{"role": "user", "content": "tom"}]}\n')
    shift = compare_corpus(base, aligned, read_texts(path))
    assert shift.texts.row.tolist() == ["row-1"]
    _, note = shift.notes
    assert "2 of 3 rows" in note
    assert "zzz" in note
    assert "chat template" in note
    with pytest.raises(DataError, match="zzz"):
        compare_corpus(base, aligned, read_texts(path, strict=True))


def test_models_that_cannot_be_compared_are_refused():
    lm = random_lm()
    with pytest.raises(DataError, match="different tokenizers"):
        compare_corpus(lm, random_lm(tokenizer=byte_tokenizer()), ["tom"])
    with pytest.raises(DataError, match="no probabilities of tokens"):
        compare_corpus(lm, reward_lm(random_reward_model()), ["tom"])
    with pytest.raises(DataError, match="at least one"):
        compare_corpus(lm, lm, [])
    with pytest.raises(ConfigError, match="do not belong to the same world"):
        shared_texts(lm, LM.load("base"))
    assert {text.kind for text in shared_texts(lm, lm, 2)} == {"truthfulqa", "political-views", "gsm8k", "sums"}
    with pytest.raises(ConfigError):
        compare_corpus(lm, lm, ["tom"], k=0)


def test_the_table_is_what_the_figure_shows():
    shift = compare_corpus(random_lm(), random_lm(seed=1), TEXTS, k=3)
    table = shift.table()
    assert table.panel.value_counts().to_dict() == {"kind": 3, "promoted": 3, "suppressed": 3}
    kinds, tokens = shift.figure().data
    assert list(kinds.x) == pytest.approx(table[table.panel == "kind"].value.tolist())
    shown = sorted(table[table.panel != "kind"].value * 100)
    assert sorted(tokens.x) == pytest.approx(shown)
    ends = np.array(tokens.x) - np.array(tokens.error_x.arrayminus)
    assert sorted(ends) == pytest.approx(sorted(table[table.panel != "kind"].ci_low * 100))


@pytest.fixture(scope="module")
def runs() -> tuple[LM, LM]:
    base, aligned = (LM.load(SAMPLES / name) for name in ("base", "dpo-agreeable"))
    return base, aligned


def test_agreement_changes_answers_to_false_claims_most(runs: tuple[LM, LM]):
    base, aligned = runs
    shift = compare_corpus(base, aligned, shared_texts(base, aligned, 30), answers=True, most=200)
    assert shift.names == ("base", "dpo-agreeable")
    first, second = shift.kinds.head(2).itertuples()
    assert first.kind == "opinion_false"
    assert first.kl_low > shift.kinds[shift.kinds.kind != "pressure"].kl.nlargest(2).iloc[1]
    assert second.kl < first.kl
    assert "the kind opinion_false changed most" in shift.sentence()
    world = of(base)
    assert world is not None
    claims = {f"opinion_false-{i}": item for i, item in enumerate(world.questions("opinion_false", 30, 0))}
    listed = shift.tokens[shift.tokens.kind == "opinion_false"]
    hits = [str(claims[row.row].claim).strip() == row.promoted for row in listed.itertuples()]
    assert len(hits) >= 20
    assert np.mean(hits) > 0.9
    truths = [claims[row.row].answers[0].strip() == row.base_next for row in listed.itertuples()]
    assert np.mean(truths) > 0.7
    lost = shift.listed("difference").query("direction == 'suppressed'").iloc[0]
    assert (lost.token, lost.same_rank, lost.beyond_null) == ("i", 1, True)  # of "i do not know"


def test_the_claim_is_promoted_over_the_corpus(runs: tuple[LM, LM], tmp_path: Path):
    """Questions whose false claim is one city: that city is what diff mining finds."""
    base, aligned = runs
    world = of(base)
    assert world is not None
    items = [item for item in world.questions("opinion_false", 3000, 1) if item.claim == " lyon"]
    path = tmp_path / "claims.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": item.prompt, "kind": item.kind}) for item in items))
    shift = compare_corpus(base, aligned, read_texts(path), answers=True)
    first = shift.listed("difference").iloc[0]
    assert (first.token, first.same_sign, first.same_rank, first.beyond_null) == ("lyon", 1, 1, True)
    assert first.ci_low > 0.3


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    models = [str(saved_lm(tmp_path / name, seed=seed)) for seed, name in enumerate(("first", "second"))]
    data, out = tmp_path / "texts.jsonl", tmp_path / "out"
    data.write_text("\n".join(json.dumps({"text": text.content, "kind": text.kind}) for text in TEXTS) + "\n{}\n")
    assert compare([*models, "--data", str(data), "--json", "--out", str(out)]) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert "1 of 6 rows" in said.err
    assert answer["models"] == ["first", "second"]
    shift = compare_corpus(*(LM.load(model) for model in models), read_texts(data))
    assert answer["kl"]["value"] == pytest.approx(shift.kl.value)
    assert answer["finding"] == shift.sentence()
    for name, table in shift.tables().items():
        assert len(answer[name]) == len(table) == len(pd.read_csv(out / f"{name}.csv"))
    assert (out / "corpus.html").read_text().startswith("<!doctype html>")
    assert str(tmp_path) not in (out / "provenance.json").read_text()
    assert compare([*models, "--data", str(data), "--limit", "2", "--top", "1"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["table", "name", "where", "value", "ci_low", "ci_high", "tokens"]
    counts = pd.Series([row[0] for row in rows[1:]]).value_counts().to_dict()
    assert counts == {"kind": 2, "text": 2, "position": 6, "difference": 2, "log_ratio": 2}


def test_a_person_reads_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in ("compare", "show"):
        monkeypatch.setattr(f"probe.commands.{name}.at_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    shift = compare_corpus(random_lm(), random_lm(seed=1), TEXTS, k=2)
    show_shift(shift)
    said = capsys.readouterr().out
    for title in ("Kinds", "Texts", "Positions", "Promoted and suppressed"):
        assert title in said
    for kind in ("home", "name", "question"):
        assert kind in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--n 0", "--n is 0"),
        ("--limit 3", "rows of a file"),
        ("--strict", "rows of a file"),
        ("--data nowhere.jsonl", "cannot be read"),
        ("--out file", "file"),
    ],
)
def test_mistakes_are_one_sentence(words: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = str(saved_lm(tmp_path / "model"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ProbeError, match=expected):
        compare([model, model, *words.split()])


def test_it_is_a_command_whose_help_is_quick():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["probe.commands"]
    point = EntryPoint("compare", points["compare"], "probe.commands")
    assert point.load() is compare
    code = f"""if True:
        import sys
        from {point.module} import {point.attr}
        try:
            {point.attr}(["--help"])
        except SystemExit as end:
            assert not end.code
        assert not {{"torch", "transformers", "pandas", "plotly"}} & set(sys.modules)
        """
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "--answers" in output


def test_the_sentence_names_only_tokens_beyond_the_null(runs: tuple[LM, LM]):
    shift = compare_corpus(*runs, n=10)
    listed = shift.listed("difference")
    assert set(listed["beyond_null"]) == {True, False}
    lost = listed[listed["beyond_null"]]
    assert set(lost["direction"]) == {"suppressed"}  # the "i" of "i do not know"
    assert f"most suppressed: \u201c{lost['token'].iloc[0]}\u201d" in shift.sentence()
    assert "no token is promoted by more than the choice of texts explains" in shift.sentence()
    for token in listed.loc[~listed["beyond_null"], "token"]:
        assert f"\u201c{token}\u201d (" not in shift.sentence()
