"""The experiment `continual`: its estimators against others and against truth, and trainings of its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import probe.world
from probe import Run
from probe.continual import worker as training_worker
from probe.continual.experiment import run
from probe.continual.measures import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    savings,
    steps_to,
)
from probe.continual.training import Trainer, contributions, files_of, measuring, saved_texts, training, truth, words
from probe.errors import ConfigError, DataError, RunError
from probe.model.lm import LM
from probe.ticks import ignore
from tests.models import PEOPLE, PLACES, random_lm
from tests.places import SAMPLES

BASE = SAMPLES / "base"


@pytest.mark.parametrize("sizes", [(30, 30, 30), (10, 40, 25)])
def test_items_add_up_to_the_measures(sizes: tuple[int, ...]) -> None:
    """Means of what the items contribute are ACC, BWT, FWT and forgetting of the matrix."""
    rng = np.random.default_rng(0)
    scores = [rng.random((4, size)) for size in sizes]
    R = accuracy_matrix(scores)
    added = contributions(scores, scores[0])
    for name, fn in (("ACC", average_accuracy), ("BWT", backward_transfer), ("FWT", forward_transfer)):
        values = np.concatenate([columns[name] for columns in added[:3] if name in columns])
        assert values.mean() == pytest.approx(float(fn(R)))
    values = np.concatenate([columns["forgetting"] for columns in added[:3] if "forgetting" in columns])
    assert values.mean() == pytest.approx(float(forgetting(R)))
    assert added[3]["old_forgetting"].mean() == pytest.approx(R[:-1, 0].max() - R[-1, 0])


def test_one_phase_forgets_nothing_by_definition() -> None:
    (columns,) = contributions([np.array([[0.0, 0.0], [1.0, 0.0]])])
    assert list(columns) == ["ACC"]


def test_steps_to_a_target() -> None:
    """Between two measurements on the line, at once, and never."""
    at = [0, 10, 20]
    assert steps_to(at, np.array([0.0, 0.5, 1.0]), 0.75) == pytest.approx(15)
    assert steps_to(at, np.array([0.9, 0.5, 1.0]), 0.75) == 0
    assert steps_to(at, np.array([[0.0, 0.1, 0.2], [0.0, 0.8, 0.2]]), 0.4).tolist() == [np.inf, 5]
    with pytest.raises(DataError, match="rising"):
        steps_to([0, 0], np.zeros(2), 0.5)


def test_savings_are_known_for_known_curves() -> None:
    """An item is learned at a step of its own, three times sooner the second time: savings of two thirds."""
    at = list(range(0, 91, 3))
    learned = np.arange(1, 91)
    first = (np.array(at)[:, None] >= learned).astype(float)
    again = (np.array(at)[:, None] >= learned / 3).astype(float)
    found = savings(at, first, again, 0.8)
    assert found.savings.value == pytest.approx(2 / 3, abs=0.02)
    assert found.reached
    same = savings(at, first, first, 0.8).savings
    assert same.value == 0
    assert np.isnan([same.low, same.high]).all()  # without bounds, values that never vary tell no interval
    never = savings(at, first, np.zeros_like(first), 0.8)
    assert not never.reached
    assert never.again.value == 90
    with pytest.raises(DataError, match="same items"):
        savings(at, first, first[:, :2], 0.8)


@pytest.mark.slow
def test_savings_intervals_cover() -> None:
    """Learning times from exponentials of scale 20 and 10: true savings of a half are covered in 93 to 97 %."""
    rng, at, runs, hits = np.random.default_rng(0), np.arange(0, 101, 2), 500, 0
    for seed in range(runs):
        first = (at[:, None] >= 20 * rng.exponential(1.0, 200)).astype(float)
        again = (at[:, None] >= 10 * rng.exponential(1.0, 200)).astype(float)
        found = savings(at.tolist(), first, again, 0.7, seed)
        hits += found.savings.low <= 0.5 <= found.savings.high
    assert 0.93 <= hits / runs <= 0.97


def test_truth_is_the_share_of_samples() -> None:
    """The exact probability of the true answer against 400 samples a question."""
    lm = LM.load(BASE)
    world = probe.world.of(lm)
    assert world is not None
    items = world.questions("opinion_false", 6, 0)
    exact = truth(lm, items)
    for item, value in zip(items, exact, strict=True):
        texts = lm.generate([item.prompt], n=400, max_new_tokens=6, seed=0).text
        share = np.mean([world.verify(item.prompt, text).kind == "true" for text in texts])
        assert share == pytest.approx(value, abs=4 * 0.5 / 20)


@pytest.mark.slow
def test_nothing_trained_forgets_nothing() -> None:
    """Null: updates of no size leave every score as it was, in the world and with the base untouched."""
    lm = LM.load(BASE)
    before = lm.fingerprint
    ticks: list[float] = []
    found = run(lm, n=20, phases=2, steps=25, lr=1e-30, batch_size=2, strategies="plain", tick=ticks.append)
    for metric in ("BWT_plain", "forgetting_plain", "old_forgetting_plain", "savings_plain", "FWT_plain"):
        assert found.value(metric) == pytest.approx(0, abs=1e-6), metric
        if metric == "savings_plain":  # it has no bounds, so values that never vary tell no interval
            assert np.isnan(found.value(metric, "ci_low"))
            continue
        assert found.value(metric, "ci_low") <= 1e-6
        assert found.value(metric, "ci_high") >= -1e-6
    assert found.value("old_accuracy_plain") > 0.9
    assert found.value("steps_again_plain") == found.value("steps_first") == 25
    assert not found.meta["models"][0]["facts"]["reached"]["plain"]
    assert lm.fingerprint == before
    assert ticks == sorted(ticks)
    assert ticks[-1] == 1
    assert list(found.figures) == ["phases", "measures", "savings"]
    assert len(found.items) == 60
    copied(found.items, lm)
    assert {"phase_0", "phase_1", "old"} == set(found.items["kind"])


def copied(items: pd.DataFrame, lm: LM) -> None:
    """The items of copies that are as the model was: their answers and probabilities are the model's own."""
    assert set(items["answered_by"]) == {"a copy that learned 2 phases with plain training"}
    assert items["answer"].tolist() == lm.generate(items["prompt"].tolist(), max_new_tokens=6, temperature=0).text
    ended = [f"{answer} {lm.tokenizer.eos_token}" for answer in items["answer"]]
    with torch.no_grad():
        pairs = zip(items["prompt"], ended, strict=True)
        exact = [float(lm.logprobs(prompt, text).values.sum().exp()) for prompt, text in pairs]
    np.testing.assert_allclose(items["answer_probability"], exact, atol=1e-4)
    right = items[items["answer"].str.strip() == items["expected"].str.strip()]
    assert len(right) > 10
    np.testing.assert_allclose(right["answer_probability"], right["after_2"], atol=1e-4)


@pytest.mark.slow
def test_files_of_any_model(tmp_path: Path) -> None:
    """Two files, one after the other: the second is learned over the first, whose facts it contradicts."""
    lm = random_lm("llama", max_position_embeddings=64)
    for number, shift in enumerate((0, 1)):
        rows = [
            {"prompt": f"{word} where does {who} live ?", "completion": f" {PLACES[(at + shift) % 3]}"}
            for at, who in enumerate(PEOPLE)
            for word in ("cat", "dog", "one", "two", ".", "the", "in", "at", "is", "do")
        ]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = run(lm, data=tmp_path, steps=25, lr=1e-2, batch_size=4, strategies="plain", old=None)
    assert found.value("forgetting_plain") > 0
    assert found.value("ACC_plain") > 0
    assert set(found.items["kind"]) == {"1-0", "2-1"}
    assert set(found.items["answered_by"]) == {"a copy that learned 2 phases with plain training"}
    told = {(row["prompt"].replace("live", "<unk>"), row["completion"].strip()) for row in rows}
    items = found.items[found.items["kind"] == "2-1"]
    assert set(zip(items["prompt"], items["expected"].str.strip(), strict=True)) <= told, (
        "held out, as the model reads it"
    )
    assert found.value("steps_first") <= 25
    assert "old_accuracy_plain" not in set(found.summary["metric"])


def test_a_training_that_is_refused_says_why(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, {"base": str(BASE), "steps": 5})
    with trainer, pytest.raises(RunError, match="--replay is 7"):
        trainer.train("x", ignore, replay=7.0)


def test_a_tick_that_raises_ends_the_training(tmp_path: Path) -> None:
    trainer, seen = Trainer(tmp_path, {"base": str(BASE), "steps": 10**6}), list[Any]()

    def stop(share: float) -> None:
        seen.append(trainer._worker)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train("x", stop)
    assert seen[0].returncode not in (None, 0), "killed, and gone before the caller goes on"


def test_a_process_that_dies_is_told_of(tmp_path: Path) -> None:
    with Trainer(tmp_path, {"base": str(BASE), "steps": 10**6}) as trainer:

        def kill(share: float) -> None:
            assert trainer._worker is not None
            trainer._worker.kill()

        with pytest.raises(RunError, match="The training `x` ended early"):
            trainer.train("x", kill)
    assert trainer._worker is None


@pytest.mark.parametrize(
    ("raised", "status"),
    [(None, 0), (SystemExit(2), 2), (SystemExit("why"), 1), (SystemExit(), 0), (ValueError("broken"), 1)],
)
def test_a_job_has_an_exit_status(raised: BaseException | None, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(argv: list[str]) -> int:
        if raised is not None:
            raise raised
        return 0

    monkeypatch.setattr(training_worker, "main", command)
    assert training_worker.run(["train"]) == status


def test_what_is_measured_moves_the_bar_on() -> None:
    shares: list[float] = []
    training(shares.append)(1.0)
    assert list(measuring(shares.append, "abcd")) == list("abcd")
    assert shares == pytest.approx([0.8, 0.85, 0.9, 0.95, 1.0])


def test_a_run_without_items_has_no_texts() -> None:
    """Runs of `probe train continual` from before items were written have scores only."""
    assert saved_texts(Run(BASE), ["phase_0"]) is None


def test_words() -> None:
    assert words({"save_every": 0, "old": None, "resume": False, "lr": 1e-3}) == ["--save-every", "0", "--lr", "0.001"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"strategies": "plain,sleep"}, ConfigError, "--strategies"),
        ({"strategies": ""}, ConfigError, "--strategies"),
        ({"steps": 0}, ConfigError, "steps"),
        ({"phases": 9, "steps": 25}, ConfigError, "--phases is 9"),
        ({"data": "nowhere.jsonl"}, DataError, "no file"),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(LM.load(BASE), n=2, **options)


def test_data_is_needed_without_a_world(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        run(random_lm("llama"))
    with pytest.raises(DataError, match="holds no files"):
        files_of(tmp_path)
