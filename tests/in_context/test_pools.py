"""Models of worlds with pools of different sizes as one curve: against models that are the Bayes predictors."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe.cli import main
from probe.commands.experiment import table
from probe.experiments.metrics import PAIRS, summarise
from probe.experiments.registry import find_experiment
from probe.experiments.result import Evidence, Result, label_items
from probe.experiments.run import join
from probe.in_context.experiment import METRICS, joined_curve, leanings, pools_in_words, run
from probe.in_context.figures import example_curves
from probe.in_context.pairs import pair_documents
from probe.in_context.world import curve_table, pair_items, pool_table
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.plotting.theme import DARK, apply
from probe.runs import RunWriter
from probe.world import World, WorldConfig, bayes, tasks
from tests.experiments.says import Says, pairs_of

P, N = 5, 60
ALL = tasks.all_tasks(P)


def world_of(pool: int, pairs: int = 8, p: int = P) -> World:
    return World(WorldConfig(mixture={"function": 1.0}, modulus=p, pool=pool, pairs=pairs), seed=0)


def bayes_over(pool: list[tasks.Task], blur: float = 0.0) -> Says:
    """A model that is the Bayes predictor over some functions, a share of it uniform."""

    def rule(words: list[str]) -> dict[str, float] | None:
        found = pairs_of(words)
        if found is None:
            return None
        pairs, query = found
        xs, ys = ([int(pair[side]) for pair in pairs] for side in (0, 1))
        said = bayes.function_predictive(xs, ys, int(query), P, pool)
        return {str(y): (1 - blur) * float(q) + blur / P for y, q in enumerate(said)}

    return Says(rule)


def measured(label: str, world: World, lm: Says) -> Result:
    """What the experiment keeps of functions."""
    kinds = [kind for kind in ("function", "function_new") if kind in world.question_kinds]
    found = pd.concat([pair_items(lm, world, kind, N, 0) for kind in kinds], ignore_index=True)
    tables = {"curve": curve_table(found), "pool": pool_table(found, world)}
    made = label_items(Evidence(found, tables), label)
    model = {"label": label, "method": "pretrain", "world": world.hash}
    meta = {"models": [model], "n": N, "seed": 0, "world": world.hash, "version": 1}
    return Result("in_context", summarise(METRICS, made.items), made.items, dict(made.tables), {}, meta)


@pytest.fixture(scope="module")
def planted() -> Result:
    """Pools of 2 and 8 that are Bayes over their pools, 16 that is Bayes over all 20, and all 20."""
    parts = [measured(f"pool-{size}", world_of(size), bayes_over(world_of(size).pool)) for size in (2, 8)]
    parts += [measured(f"pool-{size}", world_of(size), bayes_over(ALL)) for size in (16, 20)]
    return join(find_experiment("in_context"), parts)


def test_a_planted_transition_is_drawn_and_said(planted: Result):
    assert next(iter(planted.figures)) == "pool_sizes"
    said = planted.finding
    assert "on functions of the pool models with pools of 2 and 8 are nearer to Bayes over the pool (by " in said
    assert "with a pool of 16 are nearer to Bayes over all 20 (by " in said
    assert "with a pool of 20 are nearer to neither" in said
    assert "on other functions models with pools of 2 and 8 are nearer to Bayes over the pool" in said
    assert said.endswith("with 2 to 0.00 nats with 16.")
    assert "pool-2" not in said, "one sentence for the curve, not one for each model"


def test_distances_of_the_curve_are_those_of_the_predictors_themselves(planted: Result):
    curve = joined_curve(planted)
    assert curve is not None
    value = curve.set_index(["pool_size", "kind", "predictor"])["value"]
    for size in (2, 8):
        assert value[size, "function", "pool"] == pytest.approx(0, abs=1e-6)
    for kind in ("function", "function_new"):
        assert value[16, kind, "all"] == pytest.approx(0, abs=1e-6)
    assert value[20, "function", "pool"] == value[20, "function", "all"] == pytest.approx(0, abs=1e-6)
    assert (20, "function_new", "all") not in value.index
    for size, said, truth, name in ((8, "pool", "all", "all"), (16, "all", "pool", "pool")):
        world = world_of(size)
        pools = {"pool": list(world.pool), "all": ALL}
        slow = []
        for document in pair_documents(world, "function", N, 0):
            xs, ys = ([int(pair[side]) for pair in document.pairs] for side in (0, 1))
            rows = []
            for k, x in enumerate(xs):
                p, q = (bayes.function_predictive(xs[:k], ys[:k], x, P, pools[each]) for each in (truth, said))
                with np.errstate(divide="ignore", invalid="ignore"):
                    rows.append(np.nansum(np.where(p > 0, p * (np.log(p) - np.where(q > 0, np.log(q), -60.0)), 0)))
            slow.append(np.mean(rows))
        assert value[size, "function", name] == pytest.approx(np.mean(slow), rel=1e-4)


def test_leanings_are_differences_document_by_document(planted: Result):
    curve = joined_curve(planted)
    assert curve is not None
    found = leanings(planted.items, curve).set_index(["pool_size", "kind"])
    value = curve.set_index(["pool_size", "kind", "predictor"])["value"]
    for size, kind in found.index:
        gap = value[size, kind, "all"] - value[size, kind, "pool"]
        assert found.loc[(size, kind), "value"] == pytest.approx(gap, abs=1e-9)
        assert found.loc[(size, kind), "n"] == N
    assert found.loc[(20, "function"), ["value", "ci_low", "ci_high"]].abs().max() == 0


def test_a_model_between_the_predictors_is_nearer_to_neither():
    """Null: answers that are uniform are as far from a function of the pool as from one of all."""
    worlds = [world_of(size) for size in (19, 12)]
    parts = [measured(f"m{size}", world, bayes_over(ALL, 1.0)) for size, world in zip((19, 12), worlds, strict=True)]
    result = join(find_experiment("in_context"), parts)
    curve = joined_curve(result)
    assert curve is not None
    new = leanings(result.items, curve)
    new = new[new["kind"] == "function_new"]
    assert (new["value"] > 0).all(), (
        "the pool's predictor is uniform where nothing fits: a uniform model is nearer to it"
    )
    even = new.assign(kind="function", value=0.1, ci_low=-0.1, ci_high=0.3)
    assert "models with pools of 12 and 19 are nearer to neither;" in pools_in_words(curve, even)


def test_only_models_that_can_be_compared_make_a_curve(planted: Result):
    made = find_experiment("in_context")
    two, again = (measured(name, world_of(2), bayes_over(world_of(2).pool, 0.1)) for name in "ab")
    long = measured("long", world_of(8, pairs=10), bayes_over(ALL))
    assert joined_curve(two) is None
    assert joined_curve(join(made, [two, again])) is None
    mixed = join(made, [two, long])
    assert joined_curve(mixed) is None, "distances are means over examples, of which these have different numbers"
    assert "pool_sizes" not in mixed.figures
    assert mixed.finding.count("the value of a function of its pool") == 2
    eight = measured("eight", world_of(8), bayes_over(ALL))
    curve = joined_curve(join(made, [two, again, eight, long]))
    assert curve is not None
    assert set(curve["model"]) == {"a", "b", "eight"}
    several = join(made, [two, again, eight, long]).figures["pool_sizes"]
    assert any("b, to Bayes over all" in text for trace in several.data for text in trace.customdata)


def test_exact_curves_are_those_of_each_world(planted: Result):
    """What Bayes over the pool says depends on the pool: one line a world, in the colour of its model."""
    chart = planted.figures["curve"]
    lines = [trace for trace in chart.data if trace.name == "Bayes" and trace.xaxis == "x"]
    table = planted.tables["curve"]
    for trace, label in zip(lines, ("pool-2", "pool-8", "pool-16", "pool-20"), strict=True):
        rows = table[(table["model"] == label) & (table["kind"] == "function")].sort_values("examples")
        np.testing.assert_allclose(trace.y, rows["bayes_accuracy"])
        own = next(each for each in chart.data if each.name == label)
        assert trace.line.color == own.line.color
    assert len({trace.line.color for trace in lines}) == 4
    assert sum(bool(trace.showlegend) for trace in lines) == 1
    first = table[table["model"] == "pool-2"]
    same = example_curves(
        pd.concat([first, first.assign(model="other")]), planted.styles | {"other": planted.styles["pool-2"]}
    )
    assert sum(trace.name == "Bayes" for trace in same.data) == 2, "one a panel where all were asked the same"
    assert apply(planted.figures["pool_sizes"], DARK).data


def create(folder: Path, pool: int, layers: int = 1) -> Path:
    """A run of random weights in a world of functions alone."""
    world = world_of(pool, p=3)
    lm = LM.create(ModelConfig(layers=layers, width=16, heads=2, context=64), world.tokenizer(), seed=pool)
    about = {"method": "pretrain", "config": {"length": 35}, "world": world.to_dict()}
    with RunWriter.create(folder, **about) as made, made.checkpoint(1) as place:
        lm.save(place)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("pools")
    return [str(create(root / f"pool-{size}", size)) for size in (1, 2, 4)]


def test_random_models_of_two_worlds_side_by_side(three: list[str]):
    result = run(three[2], baseline=three[0], n=8)
    assert next(iter(result.figures)) == "pool_sizes"
    assert result.value("function_kl_all", PAIRS) == 0
    assert result.value("function_kl_all", "difference_low") < result.value("function_kl_all", "difference_high")
    assert result.value("function_kl_pool", "ci_low") > 1, "random weights are far from any Bayes predictor"
    for label, rows in result.items[result.items["kind"] == "function"].groupby("model"):
        single = run(three[0] if label == "pool-1" else three[2], n=8).items
        single = single[single["kind"] == "function"]
        pd.testing.assert_series_equal(rows["prompt"], single["prompt"], check_index=False)
    alone = run(three[0], n=8)
    assert "pool_sizes" not in alone.figures
    assert PAIRS not in alone.summary


def test_the_command_takes_any_number_of_models(three: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    words = ["in_context", "--model", three[0], "--also", three[1], "--baseline", three[2], "--n", "8"]
    assert main(["experiment", *words, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    result = Result.load(out)
    assert result.models == ["pool-1", "pool-2", "pool-4"]
    assert next(iter(result.figures)) == "pool_sizes"
    assert sorted(result.tables["pool"]["pool_size"].unique()) == [1, 2, 4]
    assert result.finding in captured.err
    told = pd.read_csv(io.StringIO(captured.out), sep="\t")
    assert list(told["model"].unique()) == result.models
    assert (told[told["model"] == "pool-1"]["pairs"] == 0).any(), "the models were asked different questions"
    assert told[told["model"] == "pool-4"]["difference"].isna().all()
    drawn = table(result, dict.fromkeys(result.models, result.summary))
    assert "not paired: the models were asked different questions" in str(drawn.caption)
    assert [str(column.header) for column in drawn.columns][1:4] == result.models
    assert main(["experiment", *words, "--json", "--out", str(out)]) == 0
    assert '"summaries"' in capsys.readouterr().out
    assert main(["experiment", *words]) == 0
    assert len(list(Path(three[0]).glob("results/in_context-*"))) == 2, "of one model, and of the three"
    capsys.readouterr()
    assert main(["experiment", *words[:5], "--n", "8"]) == 0
    assert "difference" in capsys.readouterr().out
    assert len(list(Path(three[0]).glob("results/in_context-*"))) == 3
