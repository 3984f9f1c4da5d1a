"""The experiment `in_context`: what it says of sample models, of one that knows nothing, and of any other model."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import probe
from probe.errors import ConfigError, DataError
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import join
from probe.in_context.experiment import draw, run, say
from probe.in_context.pairs import answer_logprobs
from probe.in_context.vectors import function_vectors, head_means, vector_tasks
from probe.model.lm import LM
from probe.model.text import encode
from probe.rewards.evaluation import evaluate
from probe.world.vocabulary import LABELS
from tests.models import byte_tokenizer, random_lm
from tests.places import SAMPLES

REVIEWS = "tests/data/in_context_reviews.jsonl"


def untrained(name: str, seed: int = 0) -> LM:
    """A model with random weights that belongs to the world of a sample run."""
    lm = LM.create("tiny", LM.load(f"sample_runs/{name}").tokenizer, seed=seed)
    lm.run_dir = Path("sample_runs") / name
    return lm


@pytest.fixture(scope="module")
def base() -> Result:
    return run("sample_runs/base", n=60)


@pytest.fixture(scope="module")
def icl() -> Result:
    return run("sample_runs/icl", n=20)


@pytest.fixture(scope="module")
def none() -> Result:
    return run(untrained("base"), n=60)


def covers(result: Result, metric: str, value: float) -> bool:
    return result.value(metric, "ci_low") <= value <= result.value(metric, "ci_high")


def test_icl_predicts_chains_like_bayes_and_its_phase_change_is_found(icl: Result) -> None:
    assert icl.value("chain_kl_bayes") < 0.005
    assert icl.value("chain_kl_unigram") > 20 * icl.value("chain_kl_bayes")
    assert 1000 <= icl.value("phase_induction_step") <= 1300
    assert 0 <= icl.value("phase_loss_step") - icl.value("phase_induction_step") <= 150
    assert icl.value("phase_correlation", "ci_low") > 0
    assert icl.value("chain_induction", "ci_low") > icl.value("chain_induction_chance") + 0.3
    assert icl.value("ablation_gap_markov", "ci_low") > 0
    assert icl.value("olsson_corpus", "ci_high") < 0
    assert "map_accuracy" not in set(icl.summary["metric"])
    over = icl.tables["over_training"]
    last = over[over["series"] == "kl_bayes"].sort_values("step")["value"].iloc[-1]
    assert last < 0.005
    assert "from Bayes' rule" in icl.finding


@pytest.mark.slow
def test_base_copies_repeats_by_its_induction_head(base: Result) -> None:
    assert base.value("olsson_repeat", "ci_high") < -4
    assert base.value("repeat_induction", "ci_low") > 0.7
    assert base.value("ablation_gap_repeat", "ci_low") > 1
    heads = base.tables["heads"]
    assert heads.loc[heads["induction"].idxmax(), "name"] == base.tables["ablation"]["heads"].iloc[0].split(", ")[0]


def test_base_reads_the_labels_of_maps_and_not_their_keys(base: Result) -> None:
    assert base.value("map_accuracy_bayes") == 1
    assert abs(base.value("map_accuracy") - base.value("map_accuracy_counting")) < 0.1
    assert base.value("label_effect", "ci_low") > 0.1
    assert covers(base, "binding_effect", 0)
    assert base.value("function_accuracy", "ci_high") < 0.12


def test_accuracies_are_those_that_the_world_samples(base: Result) -> None:
    lm = LM.load(SAMPLES / "base")
    world = probe.world.of(lm)
    assert world is not None
    sampled = evaluate(lm, world, n=60).set_index("metric")
    for metric in ("map_accuracy", "function_accuracy", "function_accuracy_new"):
        assert sampled.loc[metric, "ci_low"] <= base.value(metric) <= sampled.loc[metric, "ci_high"]


def test_a_model_that_knows_nothing_shows_nothing(none: Result) -> None:
    for metric in ("label_effect", "binding_effect"):
        assert covers(none, metric, 0), metric
    assert abs(none.value("function_vector")) < 0.02
    for metric in ("olsson_repeat", "ablation_gap_repeat", "ablation_gap_map"):
        assert abs(none.value(metric)) < 0.2, metric  # weights have tastes of their own: zero on average over models
    assert none.value("map_accuracy") < 0.02
    assert abs(none.value("repeat_induction") - none.value("repeat_induction_chance")) < 0.03
    assert abs(none.value("prefix_matching") - none.value("prefix_matching_chance")) < 0.03


def test_one_model_twice_differs_in_nothing() -> None:
    lm = LM.load("sample_runs/icl")
    found = run(lm, baseline=lm, n=8)
    assert (found.summary["difference"].abs() < 1e-12).all()


def test_figures_and_finding_of_several_models(base: Result, none: Result, tmp_path: Path) -> None:
    joined = join(find_experiment("in_context"), [base, none])
    assert next(iter(joined.figures)) == "curve"
    assert {"phase_change", "labels", "repeats", "ablation", "heads", "distances"} <= set(joined.figures)
    assert "pool_sizes" not in joined.figures
    names = {trace.name for trace in joined.figures["curve"].data}
    assert {"base", "model", "Bayes", "Bayes over all functions", "counting labels"} <= names
    assert joined.finding.count("gives the label of a map") == 2
    loaded = Result.load(joined.save(tmp_path / "r"))
    assert set(draw(loaded)) == set(joined.figures)
    assert say(loaded) == joined.finding


def test_main_curve_shows_the_exact_bayes_predictor(base: Result) -> None:
    rows = base.tables["curve"]
    maps = rows[rows["kind"] == "map"].sort_values("examples")
    items = base.items[base.items["kind"] == "map"]
    np.testing.assert_allclose(maps["bayes_accuracy"], items.groupby("examples")["bayes_p_true"].mean())
    assert maps["bayes_accuracy"].iloc[0] == pytest.approx(0.1)
    assert maps["accuracy"].between(maps["ci_low"], maps["ci_high"]).all()
    new = rows[(rows["kind"] == "function_new") & (rows["examples"] > 4)]
    assert (new["all_accuracy"] > 0.95).all()
    assert (new["bayes_accuracy"] < 0.2).all()


def test_function_vectors_are_added_where_they_say() -> None:
    lm = LM.load(SAMPLES / "base")
    world = probe.world.of(lm)
    assert world is not None
    found = function_vectors(lm, world, "map", count=2, n=4, heads=3)
    shown = vector_tasks(world, "map", 2, 4)
    first = found.items[found.items["task"] == shown[0].name]
    block = int(first["block"].iloc[0])
    for column, task in (("own", shown[0]), ("other", shown[1])):
        mean, vector = head_means(lm, task.shown), torch.zeros(128)
        for name in found.heads:
            layer, head = int(name[1]), int(name[3])
            vector += mean[layer, head] @ lm.bridge.blocks[layer].attn.W_O[head].detach()
        for at, document in enumerate(shown[0].bare):
            last = len(encode(lm.tokenizer, document.prompt(0))) - 1

            def add(
                states: torch.Tensor, hook: object, last: int = last, vector: torch.Tensor = vector
            ) -> torch.Tensor:
                states = states.clone()
                states[0, last] += vector
                return states

            with torch.no_grad(), lm.hooks([(f"blocks.{block}.hook_resid_post", add)]):
                said = answer_logprobs(lm, [document], LABELS)[0, 0]
            truth = LABELS.index(document.pairs[0][1])
            assert first[column].iloc[at] == pytest.approx(float(np.exp(said[truth])), abs=1e-5)
    assert (first["own"] - first["other"]).abs().max() > 1e-4


def test_any_model_is_measured_on_random_tokens() -> None:
    found = run(random_lm("gpt2"), n=8)
    assert {"olsson_repeat", "prefix_matching", "copying", "ablation_gap_repeat"} <= set(found.summary["metric"])
    assert "lower on repeated random tokens" in found.finding
    assert "repeats" in found.figures
    recurrent = run(random_lm("mamba"), n=8)
    assert set(recurrent.summary["metric"]) == {"olsson_repeat"}


def test_a_file_of_classified_texts(tmp_path: Path) -> None:
    lm = random_lm("llama", byte_tokenizer(), max_position_embeddings=500)
    found = run(lm, data=REVIEWS, n=12, shots=(0, 1, 4))
    assert {"few_shot_accuracy", "few_shot_accuracy_zero", "accuracy_random_labels"} <= set(found.summary["metric"])
    assert {"few_shot_majority", "few_shot_bias", "accuracy_flipped_labels", "flip_followed"} <= set(
        found.summary["metric"]
    )
    assert "the most frequent label is right in" in found.finding
    assert covers(found, "label_effect", 0)
    assert covers(found, "few_shot_accuracy", 0.5)
    assert set(found.tables["few_shot"]["examples"]) == {0, 1, 4}
    assert next(iter(found.figures)) == "few_shot"
    assert "examples" in found.finding
    assert pd.Series(found.items["item"]).is_unique
    assert "their function vector adds" in found.finding
    assert "text_vectors" in found.figures
    vectors = found.items[found.items["kind"] == "vector"]
    assert found.value("vector_gain") == pytest.approx(vectors["vector_gain"].mean())
    assert abs(found.value("vector_binding")) < 0.05  # random weights bind no label to a text
    short = run(random_lm("llama"), data=REVIEWS, n=4)
    assert "vector_gain" not in set(short.summary["metric"])
    assert "no_function_vector" in short.meta["models"][0]["facts"]
    assert max(short.tables["few_shot"]["examples"]) < 4


def test_what_cannot_be_used_is_refused() -> None:
    lm = random_lm("llama")
    with pytest.raises(ConfigError, match="heads is 0"):
        run(lm, heads=0)
    with pytest.raises(DataError, match="cannot be read"):
        run(lm, data="nowhere.jsonl")
    with pytest.raises(DataError, match="Line 1 of"):
        run(lm, data=REVIEWS, label_field="gold")
