"""Trainings of a sweep beside each other: which options and metrics a run has, and what is left out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probe.errors import ConfigError
from probe.runs import RunWriter
from probe.sweep import ComparedRuns, compare_runs, read_sweep
from probe.sweep.journal import JOURNAL, LOGS

Recipe = dict[str, Any]


def sweep_of(
    out: Path, trained: dict[str, tuple[Recipe, dict[str, Any] | None]], asked: dict[str, Any]
) -> ComparedRuns:
    """A sweep of runs with their recipe and headline (None: it failed), and of experiments with recipe and summary."""
    logs = out / ".sweep" / LOGS
    logs.mkdir(parents=True)
    tasks, events = [], []
    for name, (recipe, headline) in trained.items():
        tasks.append({"name": name, "entry": name.partition("-")[0], "kind": "train", "recipe": recipe})
        events.append({"event": "end", "task": name, "state": "failed" if headline is None else "finished"})
        rows = [
            {"metric": key, "value": each, "ci_low": None, "ci_high": None, "n": 1}
            for key, each in (headline or {}).items()
        ]
        RunWriter.create(out / name, method="sft", config={}).finish("finished", headline=rows)
    for name, (recipe, summary) in asked.items():
        tasks.append({"name": name, "entry": name.partition("-")[0], "kind": "experiment", "recipe": recipe})
        events.append({"event": "end", "task": name, "state": "finished"})
        (logs / f"{name}.json").write_text(json.dumps({"summary": summary}))
    (out / ".sweep" / JOURNAL).write_text("\n".join(map(json.dumps, [{"event": "begin", "tasks": tasks}, *events])))
    return compare_runs(read_sweep(out))


def runs_of(beta: float, seed: int, **more: Any) -> Recipe:
    return {"method": "dpo", "base": f"base-seed{seed}", "steps": 3, "beta": beta, "seed": seed} | more


def test_each_finished_training_is_a_row(tmp_path: Path):
    trained = {
        f"dpo-{beta}-seed{seed}": (runs_of(beta, seed), {"accuracy": beta, "loss": 1.0 + seed})
        for beta in (0.1, 0.3)
        for seed in (0, 1)
    }
    trained["dpo-0.3-seed1"] = (runs_of(0.3, 1), None)
    ask = {"experiment": "sycophancy", "model": "dpo-0.1-seed1", "n": 4}
    asked = {"ask-a": (ask, [{"metric": "deferral", "value": 0.25}, {"metric": "accuracy", "value": 0.5}])}
    runs = sweep_of(tmp_path / "x", trained, asked)
    assert list(runs.metrics.index) == ["dpo-0.1-seed0", "dpo-0.1-seed1", "dpo-0.3-seed0"]
    assert runs.varying == ["beta", "seed"], "the base differs as the seed does, and steps do not differ"
    assert runs.metrics["ask: deferral"].isna().tolist() == [True, False, True]
    assert list(runs.table) == ["run", "beta", "seed", "accuracy", "loss", "ask: deferral", "ask: accuracy"]
    right = "known facts: right (sampled)"
    assert [runs.about[name].title for name in ("accuracy", "ask: accuracy")] == [
        f"{right}, end of training",
        f"{right}, ask",
    ]
    assert runs.suggested == ["accuracy", "loss"], "one run alone has the metrics of the experiment"
    assert runs.sentence("loss") == (
        "loss over 3 runs: lowest in dpo-0.1-seed0 and 1 other (1), highest in dpo-0.1-seed1 (2)."
    )
    assert runs.of(["ask: deferral"]).sentence("ask: deferral").startswith("Fewer than two runs have")
    same = replace(runs, metrics=runs.metrics.assign(loss=0.5))
    assert same.sentence("loss") == "loss is 0.5 in all 3 runs."
    figure = runs.figure(colour="accuracy")
    assert len(figure.data[0].dimensions) == 4
    assert list(figure.data[0].line.color) == [0.1, 0.1, 0.3]
    assert len(runs.figure(["loss"], options=["beta"]).data[0].dimensions) == 2
    with pytest.raises(ConfigError, match=r"no metric `los`: did you mean `loss`\?"):
        runs.figure(["los"])
    with pytest.raises(ConfigError, match="Finished runs with all of the metrics ask: deferral: 1; at least two"):
        runs.figure(["ask: deferral"])


def test_runs_of_several_entries_differ_by_entry_and_lack_options_of_others(tmp_path: Path):
    trained = {
        "base": ({"method": "pretrain", "steps": 3}, {"accuracy": 0.1}),
        "dpo-a": ({"method": "dpo", "steps": 3, "beta": 0.1, "world": {"people": 3}}, {"accuracy": 0.2}),
        "dpo-b": ({"method": "dpo", "steps": 3, "beta": 0.3, "world": {"people": 3}}, {"accuracy": 0.2}),
    }
    runs = sweep_of(tmp_path / "x", trained, {})
    assert runs.varying == ["entry", "beta"]
    assert runs.options["beta"].tolist() == [None, 0.1, 0.3]
    assert [axis.label for axis in runs.figure().data[0].dimensions[:2]] == ["entry", "beta"]


def test_two_experiments_of_an_entry_have_metrics_of_their_own(tmp_path: Path):
    trained = {f"sft-{seed}": ({"seed": seed}, {}) for seed in (0, 1)}
    asked = {
        f"ask-{n}-{seed}{at}": (
            {"experiment": "x", "model": f"sft-{seed}{at}", "n": n},
            [{"metric": "m", "value": n + seed}],
        )
        for n, at in ((4, ""), (8, ""), (8, "@2"))
        for seed in (0, 1)
    }
    runs = sweep_of(tmp_path / "x", trained, asked)
    assert list(runs.metrics) == ["ask n 4: m", "ask n 8: m", "ask n 8@2: m"]
    assert runs.metrics["ask n 8: m"].tolist() == [8, 9]
    assert [each.title for each in runs.about.values()] == ["m, ask n 4", "m, ask n 8", "m, ask n 8@2"]


def test_equal_names_are_told_apart(tmp_path: Path):
    trained = {f"sft-{seed}": ({"run": seed, "loss": -seed}, {"run": 1.0, "loss": seed / 2}) for seed in (0, 1, 2)}
    trained["sft-2"][0]["loss"] = 0
    runs = sweep_of(tmp_path / "x", trained, {})
    assert list(runs.table) == ["run", "run (option)", "loss (option)", "run (metric)", "loss"]
    assert runs.table["loss"].tolist() == [0, 0.5, 1]


def test_numbers_of_a_stranger_that_are_none_are_left_out(tmp_path: Path):
    odd = [{"metric": "m", "value": value} for value in ("1", None, True, 10**400, [1], {})]
    asked = {"ask-a": ({"experiment": "x", "model": "sft-0"}, [*odd, {"metric": ["m"], "value": 1.0}, {"value": 2.0}])}
    runs = sweep_of(tmp_path / "x", {"sft-0": ({"seed": 0}, {})}, asked)
    assert list(runs.metrics) == []
    assert runs.suggested == []
    with pytest.raises(ConfigError, match=r"metrics \(none\)"):
        runs.figure()
