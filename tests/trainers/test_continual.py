"""Continual learning: phases, strategies, the matrix in the run, and resuming in the middle of it all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from probe import LM, Run
from probe.continual.measures import accuracy_matrix, matrix
from probe.continual.training import saved_texts
from probe.errors import ConfigError, DataError
from probe.world import World
from tests.trainers.conftest import figures
from trainers import continual
from trainers.config import ContinualConfig
from trainers.continual import EWC, Continual, load_curriculum, read_files
from trainers.curriculum import Curriculum
from trainers.pretrain import PADDING
from trainers.session import Session
from trainers.starting import make_trainee
from trainers.trainee import Trainee

Make = Callable[..., ContinualConfig]
STRATEGIES = ("plain", "replay", "ewc", "shuffled")


@pytest.fixture
def make(configs: Callable[[str], Make]) -> Make:
    return configs("continual")


def method_of(config: ContinualConfig) -> Continual:
    """The method before its first step."""
    session = Session(config)
    trainee = make_trainee(LM.load(config.base), config)
    return Continual(session, config, trainee, load_curriculum(session, config, trainee.lm, read_files(config))[1])


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].path / "model.safetensors")


def test_phases_share_the_steps(make: Make) -> None:
    method = method_of(make(steps=7, phases=3))
    assert method.ends == [2, 5, 7]
    assert [method.phase(step) for step in range(1, 8)] == [0, 0, 1, 1, 1, 2, 2]
    assert [step for step in range(8) if method.milestone(step)] == [0, 2, 5, 7]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_matrix_lands_in_the_run(strategy: str, make: Make) -> None:
    run = continual.train(make(steps=6, phases=3, strategy=strategy, capture_every=100, evaluate=3))
    assert run.captures().steps == [0, 2, 4, 6]
    rows = run.metrics().set_index("step")
    names = ["phase_0", "phase_1", "phase_2"]
    folder = run.path / "results" / "continual"
    stored = json.loads((folder / "result.json").read_text())
    assert (stored["strategy"], stored["tasks"], stored["old"], stored["ends"]) == (strategy, names, ["old"], [2, 4, 6])
    R = matrix(stored["matrix"], names)
    table = pd.read_csv(folder / "matrix.csv")
    np.testing.assert_allclose(matrix(table.to_dict("records"), names), R)
    assert R.shape == (4, 3)
    for row, step in enumerate([0, 2, 4, 6]):
        for column, name in enumerate([*names, "old"]):
            logged = rows.loc[step, f"accuracy/{name}"]
            assert logged == matrix(stored["matrix"], [*names, "old"])[row, column]
    assert rows["phase"].dropna().tolist() == [0, 0, 1, 1, 2, 2]
    assert (table["ci_low"] <= table["value"]).all()
    headline = run.headline.set_index("metric")
    assert headline.loc["ACC", "value"] == pytest.approx(R[-1].mean())
    assert {"BWT", "FWT", "forgetting", "old_accuracy", "old_forgetting", "accuracy"} <= set(headline.index)
    assert pd.read_csv(folder / "summary.csv")["metric"].tolist() == [r["metric"] for r in stored["summary"]]


def test_items_are_behind_the_numbers(make: Make) -> None:
    """Means over the items of the run are its accuracies and its measures."""
    run = continual.train(make(steps=6, phases=3))
    folder = run.path / "results" / "continual"
    items = pd.read_json(folder / "items.jsonl.gz", lines=True)
    assert items["item"].is_unique
    assert items["prompt"].str.startswith("<user>").all()
    for row in json.loads((folder / "result.json").read_text())["matrix"]:
        own = items[items["kind"] == row["task"]]
        assert own[f"after_{row['after']}"].mean() == pytest.approx(row["value"])
        assert len(own) == row["n"]
    for row in run.headline.to_dict("records"):
        if row["metric"] in items:
            assert items[row["metric"]].mean() == pytest.approx(row["value"], abs=1e-9)
    texts = saved_texts(run, ["phase_0", "old"])
    assert texts is not None
    assert texts[1] == list(zip(*(items[items["kind"] == "old"][c] for c in ("prompt", "expected")), strict=True))


def test_forgetting_and_what_helps_against_it(make: Make, model_dir: Path, tmp_path: Path) -> None:
    """Two phases that contradict each other: the second undoes the first, less so with replay or a strong penalty."""
    one, other = World().groups["known"][:2]
    for name, place in (("a", "oslo"), ("b", "rome")):
        (tmp_path / f"{name}.txt").write_text(f"{one} lives in {place} . {other} works in {place} .\n" * 60)
    data = f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}"
    found = {}
    for strategy, changes in (("plain", {}), ("replay", {"replay": 0.5}), ("ewc", {"ewc": 1e6})):
        options: dict[str, Any] = {"base": str(model_dir), "data": data, "strategy": strategy, "length": 24, "lr": 1e-2}
        run = continual.train(make(strategy, steps=60, log_every=20, **options | changes))
        stored = json.loads((run.path / "results" / "continual" / "result.json").read_text())
        found[strategy] = matrix(stored["matrix"], ["1-a", "2-b"])
    plain = found["plain"]
    assert plain[0].max() < 0.3
    assert plain[1, 0] > 0.7
    assert plain[2, 0] < plain[1, 0] - 0.05
    assert found["replay"][2, 0] > plain[2, 0] + 0.05
    assert found["ewc"][2, 0] > plain[2, 0] + 0.05
    assert plain[2, 1] > found["ewc"][2, 1] + 0.05


def counted(examples: list[np.ndarray], curriculum: Curriculum) -> list[int]:
    """How many examples come from what the base knew and from each phase."""
    tasks = [curriculum.old, *curriculum.phases]
    return [sum(any(e is other for other in task.examples) for e in examples) for task in tasks if task]


def test_replay_takes_its_share_of_each_task_before(make: Make) -> None:
    method = method_of(make(strategy="replay", replay=0.5, steps=6, phases=3))
    batches = [method.batch(step) for step in range(1, 7)]
    assert [counted(batch, method.curriculum) for batch in batches[::2]] == [[4, 4, 0, 0], [2, 2, 4, 0], [1, 1, 2, 4]]
    plain = method_of(make(strategy="plain", steps=6, phases=3))
    assert [counted(plain.batch(s), plain.curriculum) for s in (1, 3, 5)] == [[0, 8, 0, 0], [0, 0, 8, 0], [0, 0, 0, 8]]


def test_shuffled_replay_keeps_the_questions_and_not_what_they_taught(make: Make) -> None:
    """As many examples of each task as replay takes, with completions of others; documents in another order."""
    options: dict[str, Any] = {"replay": 0.5, "steps": 6, "phases": 3, "objective": "sft"}
    replay, shuffled = (method_of(make(strategy=each, **options)) for each in ("replay", "shuffled"))
    pairs = list(zip(replay.batch(3)[4:], shuffled.batch(3)[4:], strict=True))
    assert [mine.prompt for mine, _ in pairs] == [other.prompt for _, other in pairs]
    assert sum(mine.completion != other.completion for mine, other in pairs) >= 2
    assert [each.completion for each in shuffled.batch(3)] == [each.completion for each in shuffled.batch(3)]
    method = method_of(make(strategy="shuffled", steps=6, phases=3))
    plain = method_of(make(strategy="replay", steps=6, phases=3))
    for mine, other in zip(plain.batch(3), method.batch(3), strict=True):
        assert sorted(mine) == sorted(other)
    assert any((mine != other).any() for mine, other in zip(plain.batch(3), method.batch(3), strict=True))


def test_a_small_replay_goes_round_the_tasks(make: Make) -> None:
    """One replayed example a batch and three tasks before: none of them is left out for good."""
    method = method_of(make(strategy="replay", replay=0.125, steps=60, phases=3))
    found = np.sum([counted(method.batch(step), method.curriculum) for step in range(41, 61)], axis=0)
    assert found[3] == 140
    assert found[:3].sum() == 20
    assert found[:3].min() >= 6


def test_phases_teach_their_own_people(make: Make, world_run: Path) -> None:
    method = method_of(make())
    lm, world = method.trainee.lm, World()
    for number, task in enumerate(method.curriculum.phases):
        words = set(lm.tokenizer.decode([t for row in task.examples[:50] for t in row if t != PADDING]).split())
        assert words & set(world.people) <= set(world.groups[f"phase_{number}"])
    sft = method_of(make(objective="sft"))
    example = sft.curriculum.phases[1].examples[0]
    question, answer = lm.tokenizer.decode(example.prompt), lm.tokenizer.decode(example.completion[:-1])
    assert world.verify(question.removeprefix("<bos> "), answer).kind == "true"
    assert example.completion[-1] == lm.tokenizer.eos_token_id


def test_ewc_accumulates_and_anchors(make: Make) -> None:
    """One Fisher information for the base and one for each phase that is over; the anchor is where that ended."""
    method = method_of(make(strategy="ewc", steps=6, phases=3, fisher_samples=4))
    strategy = method.strategy
    assert isinstance(strategy, EWC)
    model = method.trainee.module
    method.batch(1)
    first = {name: value.clone() for name, value in strategy.fisher.items()}
    assert strategy.penalty(model).item() == 0  # type: ignore[union-attr]
    method.batch(2)
    assert all(torch.equal(value, strategy.fisher[name]) for name, value in first.items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    expected = sum(float(value.sum()) for value in first.values()) * 0.01**2 * method.config.ewc / 2
    assert strategy.penalty(model).item() == pytest.approx(expected, rel=1e-3)  # type: ignore[union-attr]
    method.batch(3)
    assert strategy.penalty(model).item() == 0  # type: ignore[union-attr]
    assert all((strategy.fisher[name] >= value).all() for name, value in first.items())
    assert any((strategy.fisher[name] > value).any() for name, value in first.items())


def test_penalty_counts_once_for_the_whole_batch(make: Make) -> None:
    method = method_of(make(strategy="ewc", fisher_samples=4))
    model, examples = method.trainee.module, method.batch(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
        plain = method.curriculum.kind.loss(model, examples, False)
        parts = [method.loss(model, part, True) for part in (examples[:3], examples[3:])]
        penalty = float(method.strategy.penalty(model))  # type: ignore[arg-type]
    mean = sum(float(part.total) for part in parts) / sum(part.count for part in parts)
    assert mean == pytest.approx(float(plain.total) / plain.count + penalty, rel=1e-5)
    logged = sum(float(part.metrics["ewc_penalty"][0]) for part in parts) / plain.count
    assert logged == pytest.approx(penalty, rel=1e-5)


@pytest.mark.parametrize("stop", [2, 3])
def test_resumed_at_and_within_a_phase_to_the_same_bits(stop: int, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"strategy": "ewc", "steps": 4, "save_every": 1, "lr": 1e-2}
    whole = continual.train(make("whole", **options))
    with monkeypatch.context() as patch:
        patch.setattr(Trainee, "save", failing_after(stop))
        with pytest.raises(KeyError):
            continual.train(make("parts", **options))
    resumed = continual.train(make("parts", resume=True, **options))
    pd.testing.assert_frame_equal(figures(whole), figures(resumed), check_exact=True)
    theirs = weights(resumed)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(whole).items())
    for name in ("result.json", "items.jsonl.gz"):
        results = [(run.path / "results" / "continual" / name).read_bytes() for run in (whole, resumed)]
        assert results[0] == results[1]


def failing_after(checkpoints: int) -> Callable[[Trainee, Path], None]:
    """`Trainee.save` that breaks down once that many checkpoints were written."""
    left = iter(range(checkpoints))

    def save(trainee: Trainee, directory: Path) -> None:
        if next(left, None) is None:
            raise KeyError("the power is gone")
        trainee.lm.save(directory)

    return save


def test_steps_stay_as_they_are(make: Make) -> None:
    continual.train(make(steps=3))
    with pytest.raises(ConfigError, match=r"has --steps 3 and --resume came with 6: leave --steps out"):
        continual.train(make(steps=6, resume=True))


def test_adapters_are_protected_too(make: Make, world_run: Path) -> None:
    run = continual.train(make(strategy="ewc", lora=2, steps=3, fisher_samples=4))
    state = load_file(run.checkpoints()[-1].path / "method.safetensors")
    names = {name.removeprefix("fisher/") for name in state if name.startswith("fisher/")}
    assert names == {name.removeprefix("anchor/") for name in state if name.startswith("anchor/")}
    assert names
    assert all("lora_" in name for name in names)


@pytest.mark.parametrize("objective", ["pretrain", "sft"])
def test_files_are_phases(
    objective: str, model_dir: Path, make: Make, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    values = ["oslo", "rome", "paris", "lima"]
    for name, person in (("a", "mira"), ("b", "kai"), ("c", "ana")):
        rows: list[dict[str, str]] = [
            {"text": f"{person} lives in {values[i % 4]} ."}
            if objective == "pretrain"
            else {"prompt": f"<user> where does {person} live ? {i} <bot>", "completion": f" {values[i % 4]}"}
            for i in range(80)
        ]
        write_jsonl(rows, f"{name}.jsonl")
    data = f"{tmp_path / 'a.jsonl'}, {tmp_path / 'b.jsonl'}"
    files: dict[str, Any] = {"base": str(model_dir), "data": data, "objective": objective, "lr": 1e-2}
    run = continual.train(make("plain", **files))
    stored = json.loads((run.path / "results" / "continual" / "result.json").read_text())
    assert (stored["tasks"], stored["old"]) == (["1-a", "2-b"], [])
    asked = pd.read_json(run.path / "results" / "continual" / "items.jsonl.gz", lines=True)
    first = asked[asked["kind"] == "1-a"].iloc[0]
    if objective == "sft":
        assert first["prompt"].startswith("<user> where does mira live ?")
        assert first["expected"].strip() in values
    else:
        assert "mira lives in" in first["prompt"]
        assert not first["expected"]
    old = continual.train(make("old", old=tmp_path / "c.jsonl", strategy="replay", capture_every=3, **files))
    captured = old.captures().prompts
    assert [any(person in prompt.text for prompt in captured) for person in ("mira", "kai", "ana")] == [True] * 3
    assert len({prompt.id for prompt in captured}) == len({prompt.text for prompt in captured}) == len(captured)
    stored = json.loads((old.path / "results" / "continual" / "result.json").read_text())
    assert stored["old"] == ["old"]
    assert [row["metric"] for row in stored["summary"]][-2:] == ["old_accuracy", "old_forgetting"]
    assert all(0 <= row["value"] <= 1 for row in stored["matrix"])


def test_measured_on_files_is_the_share_of_likeliest_targets(
    model_dir: Path, make: Make, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    write_jsonl([{"text": f"mira lives in {v} ."} for v in ["oslo", "rome"] * 20], "a.jsonl")
    method = method_of(make(base=str(model_dir), data=str(tmp_path / "a.jsonl")))
    lm, task = method.trainee.lm, method.curriculum.phases[0]
    scores = task.measure(lm)
    assert scores.shape == (1,)
    ids = [2, *lm.tokenizer("mira lives in oslo .", add_special_tokens=False)["input_ids"]]
    assert set(task.examples[0][:6].tolist()) == set(ids[:6])
    assert 0 <= scores[0] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": 0}, "--phases is 0; expected at least 1"),
        ({"replay": 1.0}, "--replay is 1.0; expected a share between 0 and 1"),
        ({"ewc": 0.0}, "--ewc is 0.0; expected a number above 0"),
        ({"data": "worlds"}, "--data is worlds; expected `world`, or files such as"),
        ({"old": Path("x.txt")}, "--old is x.txt; expected none for the world"),
        ({"steps": 1}, "--steps is 1; expected at least one for each of 2 phases"),
    ],
)
def test_options_that_make_no_sense(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_data_that_cannot_be_used(
    make: Make, model_dir: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--phases is 4 and the world of the base has 3"):
        continual.train(make(phases=4))
    with pytest.raises(ConfigError, match="belongs to no world, so there are no phases to teach it"):
        continual.train(make(base=str(model_dir)))
    few = write_jsonl([{"prompt": "mira", "completion": " oslo"}] * 3)
    with pytest.raises(DataError, match="has 3 examples, too few to hold some out"):
        continual.train(make(data=str(few), objective="sft"))
    with pytest.raises(DataError, match="lacks `text`"):
        continual.train(make(data=str(few)))
    assert not (tmp_path / "run").exists()


def test_matrix_is_of_the_scores() -> None:
    scores = [np.array([[0, 1], [1, 1]])]
    np.testing.assert_array_equal(accuracy_matrix(scores), [[0.5], [1.0]])
