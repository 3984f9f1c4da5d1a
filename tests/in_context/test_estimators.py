"""The estimators of in-context learning against enumeration, slow loops, and predictors whose distance is known."""

import json
import re
from collections import Counter
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import probe
from probe.attention.scores import random_repeats, repeat_scores
from probe.errors import ConfigError, DataError
from probe.experiments.metrics import Mean
from probe.in_context.chains import (
    captured_distances,
    chain_distances,
    chains,
    corpus_losses,
    in_context_score,
    predictors,
    repeat_losses,
    text_rows,
    token_losses,
    token_repeats,
    world_repeats,
    world_rows,
)
from probe.in_context.few_shot import UNRELATED, few_shot_curve, few_shot_prompt, read_classification
from probe.in_context.induction import (
    ablate_induction,
    context_loss,
    induction_by_head,
    induction_score,
    phase_change,
    repeat_texts,
)
from probe.in_context.pairs import (
    PairDocument,
    answer_logprobs,
    bayes_function,
    bayes_map,
    counting_map,
    divergence,
    map_label_ablation,
    pair_curves,
    pair_documents,
    relabel,
)
from probe.in_context.vectors import function_vectors, head_means, vector_tasks
from probe.interventions.patching import means
from probe.model.lm import LM
from probe.model.text import encode
from probe.world import World, WorldConfig, bayes, tasks
from probe.world.vocabulary import LABELS, STATES
from tests.experiments.says import TOKENIZER, WORLD, Says, pairs_of
from tests.models import byte_tokenizer, random_lm

CHAINS = World(WorldConfig(mixture={"markov": 1.0}, orders=(1,), chain=60), seed=0)


@pytest.fixture(scope="module")
def tiny() -> LM:
    return LM.create("icl", TOKENIZER, seed=3)


def test_bayes_of_maps_is_what_enumerating_all_maps_gives() -> None:
    pairs = [("x1", "y3"), ("x2", "y3"), ("x1", "y3"), ("x2", "y3")]
    found = bayes_map(pairs)
    for k in range(len(pairs)):
        counts = np.zeros(len(LABELS))
        for one, two in product(range(len(LABELS)), repeat=2):
            rule = {"x1": LABELS[one], "x2": LABELS[two]}
            if all(rule[key] == label for key, label in pairs[:k]):
                counts[LABELS.index(rule[pairs[k][0]])] += 1
        np.testing.assert_allclose(found[k], counts / counts.sum())


def test_bayes_of_functions_is_the_worlds_and_uniform_where_no_task_fits() -> None:
    p = WORLD.config.modulus
    for kind in ("function", "function_new"):
        for document in pair_documents(WORLD, kind, 20, 1):
            xs, ys = ([int(pair[side]) for pair in document.pairs] for side in (0, 1))
            for pool in (WORLD.pool, tasks.all_tasks(p)):
                found = bayes_function(document.pairs, p, pool)
                slow = [bayes.function_predictive(xs[:k], ys[:k], xs[k], p, pool) for k in range(len(xs))]
                np.testing.assert_allclose(found, slow)


def test_counting_is_a_slow_count() -> None:
    pairs = [("x1", "y3"), ("x2", "y4"), ("x1", "y3")]
    assert counting_map(pairs)[2][3] == pytest.approx((1 + 0.1) / 3)
    np.testing.assert_allclose(counting_map(pairs).sum(1), 1)


@pytest.mark.parametrize("kind", ["map", "function", "function_new"])
def test_a_model_that_is_bayes_has_no_distance_and_bayes_accuracy(kind: str) -> None:
    p, pool = WORLD.config.modulus, tasks.all_tasks(WORLD.config.modulus)

    def rule(words: list[str]) -> dict[str, float] | None:
        found = pairs_of(words)
        if found is None:
            return None
        pairs, query = found
        if kind == "map":
            return dict(zip(LABELS, bayes_map([*pairs, (query, LABELS[0])])[-1], strict=True))
        return dict(zip(WORLD.numbers, bayes_function([*pairs, (query, "0")], p, pool)[-1], strict=True))

    found = pair_curves(Says(rule), WORLD, kind, 12, 0)  # type: ignore[arg-type]
    name = "bayes" if kind == "map" else "all"
    assert found[f"kl_{name}"].abs().max() < 1e-5
    np.testing.assert_allclose(found["p_true"], found[f"{name}_p_true"], atol=1e-6, rtol=1e-4)
    assert (found.groupby("document").size() == WORLD.config.pairs).all()
    assert found["kl_counting" if kind == "map" else "kl_pool"].max() > 0.1


def test_curves_end_in_the_questions_of_the_world(base: LM) -> None:
    items = WORLD.questions("map", 10, 4)
    found = pair_curves(base, WORLD, "map", 10, 4)
    last = found[found["examples"] == WORLD.config.pairs - 1]
    assert list(last["prompt"]) == [item.prompt for item in items]
    with torch.no_grad():
        slow = [float(base.logprobs(item.prompt, item.answers[0]).values.exp()) for item in items]
    np.testing.assert_allclose(last["p_true"], slow, atol=1e-5, rtol=1e-4)


def test_answers_at_every_arrow_are_those_of_each_prompt_alone(base: LM) -> None:
    documents = pair_documents(WORLD, "map", 3, 0)
    whole = answer_logprobs(base, documents, LABELS)
    with torch.no_grad():
        for index, document in enumerate(documents):
            for k in (0, 4, 9):
                alone = base.logprobs([document.prompt(k)], [[f" {label}" for label in LABELS]]).values[:, 0]
                np.testing.assert_allclose(whole[index, k], alone.numpy(), atol=1e-4)
    np.testing.assert_allclose(
        answer_logprobs(base, documents, LABELS, last=True)[:, 0], whole[:, -1], atol=1e-5, rtol=1e-4
    )


def test_divergence_takes_zeros() -> None:
    truth = np.array([[1.0, 0.0], [0.5, 0.5]])
    logprobs = np.log(np.array([[0.25, 0.75], [0.25, 0.25]]))
    np.testing.assert_allclose(divergence(truth, logprobs), [np.log(4), np.log(2)])


@pytest.mark.parametrize("name", ["unigram", "bigram", "bayes"])
def test_a_model_that_is_a_predictor_of_chains_has_no_distance_to_it(name: str) -> None:
    K = CHAINS.config.states

    def rule(words: list[str]) -> dict[str, float] | None:
        if len(words) < 3:
            return None
        states = [STATES.index(word) for word in words[3:]]
        said = predictors(states, K, 1)[name][len(states)]
        return dict(zip(STATES, (said + 1e-12) / (said + 1e-12).sum(), strict=False))

    found = chain_distances(Says(rule), CHAINS, 4, 0)  # type: ignore[arg-type]
    assert found[f"kl_{name}"].abs().max() < 1e-5
    if name == "bayes":
        np.testing.assert_allclose(found["kl_unigram"], found["ideal_unigram"], atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(found["kl_bigram"], found["ideal_bigram"], atol=1e-5, rtol=1e-4)
    if name == "unigram":
        np.testing.assert_allclose(found["kl_bayes"], found["counting"], atol=1e-5, rtol=1e-4)
        assert found["kl_bayes"].mean() > 0.05


def test_predictors_of_chains_are_slow_counts() -> None:
    states, K = chains(CHAINS, 1, 5)[0].states[:30], 4
    found = predictors(states, K, 1)
    for t in (0, 7, 30):
        seen = np.bincount(states[:t], minlength=K)
        np.testing.assert_allclose(found["unigram"][t], (seen + 1) / (t + K))
        follow = np.zeros(K)
        for a, b in pairwise(states[:t]):
            follow[b] += a == states[t - 1]
        if t:
            np.testing.assert_allclose(found["bayes"][t], (follow + 1) / (follow.sum() + K))
        if follow.sum():
            np.testing.assert_allclose(found["bigram"][t], follow / follow.sum())


def test_captures_tell_what_the_model_says() -> None:
    run, lm = probe.open_run("sample_runs/icl"), LM.load("sample_runs/icl")
    world = probe.world.of(run)
    assert world is not None
    found = captured_distances(run, world)
    last = found[found["step"] == max(run.captures().steps)]
    for index, prompt in enumerate(run.captures().prompts):
        states = [prompt.answer_ids.index(token) for token in prompt.token_ids[4:]]
        logprobs = lm.logits([prompt.token_ids])[0].detach().log_softmax(-1)[3:-1, prompt.answer_ids].double().numpy()
        truth = bayes.markov_predictive(states, 4, 1)[:-1]
        rows = last[last["prompt"] == index]
        np.testing.assert_allclose(rows["kl_bayes"], (truth * (np.log(truth) - logprobs)).sum(1), atol=2e-3)


def test_the_score_of_a_captured_chain_is_late_minus_early_and_short_chains_are_refused() -> None:
    table = pd.DataFrame({"step": 0, "prompt": 0, "position": range(30), "loss_bayes": np.linspace(3, 0, 30)})
    score = in_context_score(table)
    assert score.loc[0] == pytest.approx(table["loss_bayes"][20:].mean() - table["loss_bayes"][1:6].mean())
    with pytest.raises(DataError, match="at least 16"):
        in_context_score(table.head(12))


def test_induction_score_is_prefix_matching_on_repeats_and_a_slow_loop_elsewhere(tiny: LM) -> None:
    rows, begin, _ = random_repeats(tiny, 20, 6, 2, 0)
    found, chance = induction_by_head(tiny, rows, begin)
    other = repeat_scores(tiny, length=20, batch=6, seed=0)
    np.testing.assert_allclose(found.mean(0), other.values["prefix_matching"], atol=1e-5, rtol=1e-4)
    assert chance == pytest.approx(other.chance["prefix_matching"], rel=1e-6)
    rng = np.random.default_rng(0)
    ids, pattern = rng.integers(0, 4, 25), rng.random((3, 25, 25)) * np.tri(25)
    slow, even = [], []
    for t in range(5, 25):
        keys = [s + 1 for s in range(5, t) if ids[s] == ids[t]]
        if keys:
            slow.append(pattern[:, t, keys].sum(-1))
            even.append(len(keys) / (t + 1))
    score, level, count = induction_score(pattern, ids, 5)
    np.testing.assert_allclose(score, np.mean(slow, axis=0))
    assert (level, count) == (pytest.approx(np.mean(even)), len(slow))
    assert induction_score(pattern, np.arange(25))[2] == 0


def test_a_planted_phase_change_is_found() -> None:
    steps = np.arange(0, 2500, 50)
    rise = 1 / (1 + np.exp(-(steps - 1000) / 60))
    fall = 1 - 1 / (1 + np.exp(-(steps - 1100) / 60))
    found = phase_change(steps, rise, fall)
    assert abs(found.induction_step - 1000) <= 50
    assert abs(found.loss_step - 1100) <= 50
    assert found.correlation > 0.7
    assert found.low > 0.4
    assert found.rise == pytest.approx(1, abs=1e-6)
    with pytest.raises(DataError, match="5 or more"):
        phase_change(steps[:4], rise[:4], fall[:4])


def test_the_interval_of_the_phase_correlation_covers_zero_in_95_percent_of_independent_walks() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        a, b = rng.normal(size=(2, 49)).cumsum(axis=1)
        found = phase_change(np.arange(49), a, b)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / 2000 <= 0.97


@pytest.mark.slow
def test_the_interval_of_a_distance_covers_its_mean_in_95_percent_of_samples() -> None:
    """Of who counts labels, over 4,000 maps that stand for all of them; documents are drawn, their positions belong."""
    documents = pair_documents(WORLD, "map", 4000, 0)
    said = [
        divergence(bayes_map(document.pairs), np.log(counting_map(document.pairs))).tolist() for document in documents
    ]
    values, metric = np.array(said), Mean("kl", unit="sequence")
    rng, hits = np.random.default_rng(0), 0
    names = np.repeat([str(i) for i in range(100)], values.shape[1])
    for seed in range(1500):
        rows = pd.DataFrame({"kl": values[rng.integers(0, len(values), 100)].ravel(), "sequence": names})
        found = metric.estimate(rows, seed)
        hits += found.low <= values.mean() <= found.high
    assert 0.93 <= hits / 1500 <= 0.97


def test_token_losses_are_those_of_logprobs(tiny: LM) -> None:
    rows = token_repeats(tiny, 3, 8).rows
    found = token_losses(tiny, rows)
    with torch.no_grad():
        for row, losses in zip(rows, found, strict=True):
            slow = tiny.logprobs([row[:1]], [[row[1:]]]).values[0]
            np.testing.assert_allclose(losses, -slow.numpy(), atol=1e-4)


def test_olsson_of_who_copies_and_of_who_knows_nothing() -> None:
    def copies(words: list[str]) -> dict[str, float] | None:
        before = [i for i, word in enumerate(words[:-1]) if word == words[-1]] if words else []
        return {words[before[-1] + 1]: 1.0} if before else None

    repeats = world_repeats(Says(copies), WORLD, 10)  # type: ignore[arg-type]
    found = repeat_losses(Says(copies), repeats)  # type: ignore[arg-type]
    np.testing.assert_allclose(found["late"], 0, atol=1e-6, rtol=1e-4)
    np.testing.assert_allclose(found["early"], np.log(len(TOKENIZER)), atol=1e-5, rtol=1e-4)
    assert set(found["token"]) == set(range(1, WORLD.config.segment))
    none = Says(lambda words: None)
    found = repeat_losses(none, repeats)  # type: ignore[arg-type]
    np.testing.assert_allclose(found["late"] - found["early"], 0, atol=1e-6, rtol=1e-4)
    rows = world_rows(none, WORLD, 20)  # type: ignore[arg-type]
    losses = corpus_losses(none, rows)  # type: ignore[arg-type]
    np.testing.assert_allclose(losses["late"] - losses["early"], 0, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_random_models_show_nothing_on_average() -> None:
    """Of one model the intervals speak of texts alone; over models drawn at random every effect has mean zero."""
    olsson, gaps = [], []
    for seed in range(20):
        lm = LM.create("icl", TOKENIZER, seed=seed)
        repeats = world_repeats(lm, WORLD, 40, seed)
        losses = repeat_losses(lm, repeats)
        olsson.append(float((losses["late"] - losses["early"]).mean()))
        texts = repeat_texts(repeats)
        scores = induction_by_head(lm, texts.reference, texts.start)[0].mean(0)
        gaps.append(float(ablate_induction(lm, texts, scores, 2, 4, seed).items()["ablation_gap"].mean()))
    for found in (olsson, gaps):
        half = 2.093 * np.std(found, ddof=1) / np.sqrt(len(found))  # Student's t, 19 degrees of freedom
        assert abs(np.mean(found)) <= half
        assert half < 0.1


def test_rows_of_the_corpus_are_windows_or_documents(tiny: LM) -> None:
    rows = world_rows(tiny, WORLD, 30, 96)
    assert {len(row) for row in rows} == {96}
    assert {row[0] for row in rows} == {TOKENIZER.bos_token_id}
    alone = world_rows(tiny, CHAINS, 10, 64)
    opening = encode(TOKENIZER, "chain 1 :")
    assert all(row[: len(opening)] == opening for row in alone)
    with pytest.raises(DataError, match="fewer than 20"):
        corpus_losses(tiny, [[1, 2, 3]])
    assert text_rows(tiny, ["mira lives"]) == []


def test_early_and_late_are_the_tokens_that_they_say(tiny: LM) -> None:
    rows = world_rows(tiny, WORLD, 3, 100)
    losses, found = token_losses(tiny, rows), corpus_losses(tiny, rows)
    for index, loss in enumerate(losses):  # loss[t - 1] is that of token t
        assert found["early"][index] == pytest.approx(np.mean([loss[t - 1] for t in range(6, 16)]))
        assert found["late"][index] == pytest.approx(np.mean([loss[t - 1] for t in range(90, 100)]))


def test_relabel() -> None:
    rng = np.random.default_rng(0)
    labels = list("aabbccdd") * 50
    assert relabel(labels, "abcd", "gold", rng) == labels
    dealt = relabel(labels, "abcd", "permuted", rng)
    assert sorted(dealt) == sorted(labels)
    assert dealt != labels
    drawn = relabel(labels, "wxyz", "random", rng)
    assert abs(np.mean([label == "w" for label in drawn]) - 0.25) < 0.07
    with pytest.raises(ConfigError, match="gold"):
        relabel(labels, "abcd", "wrong", rng)  # type: ignore[arg-type]


def test_label_ablation_of_who_sees_keys_who_counts_and_who_knows_nothing() -> None:
    def sees(words: list[str]) -> dict[str, float] | None:
        found = pairs_of(words)
        known = dict(found[0]) if found else {}
        return {known[found[1]]: 1.0} if found and found[1] in known else None

    def counts(words: list[str]) -> dict[str, float] | None:
        found = pairs_of(words)
        if found is None:
            return None
        return dict(zip(LABELS, counting_map([*found[0], (found[1], "y0")])[-1], strict=True))

    for rule, binds in ((sees, True), (counts, False)):
        found = map_label_ablation(Says(rule), WORLD, 150)  # type: ignore[arg-type]
        right = found.groupby("labels")["right"].mean()
        assert right["random"] < 0.25
        assert right["gold"] - right["random"] > 0.15
        assert found["label_effect"].mean() == pytest.approx(right["gold"] - right["random"])
        assert found["binding_effect"].mean() == pytest.approx(right["gold"] - right["permuted"])
        assert (abs(right["gold"] - right["permuted"]) > 0.2) == binds
    none = map_label_ablation(Says(lambda words: None), WORLD, 30)  # type: ignore[arg-type]
    assert (none["label_effect"].dropna() == 0).all()


def test_putting_heads_out_of_work_is_the_model_without_their_output(tiny: LM) -> None:
    repeats = token_repeats(tiny, 30, 10)
    texts = repeat_texts(repeats)
    whole = context_loss(tiny, texts)
    found = context_loss(tiny, texts, [(0, 1), (1, 3)])
    other = LM.create("icl", TOKENIZER, seed=3)
    size = 16
    with torch.no_grad():
        for block, head in ((0, 1), (1, 3)):
            other.model.model.layers[block].self_attn.o_proj.weight[:, head * size : (head + 1) * size] = 0
    np.testing.assert_allclose(found, context_loss(other, texts), atol=1e-4)
    assert np.abs(found - whole).max() > 1e-3


def test_mean_ablation_puts_the_means_in(tiny: LM) -> None:
    texts = repeat_texts(token_repeats(tiny, 27, 10))
    name = "blocks.0.attn.hook_z"
    filling = means(tiny, texts.reference, [name])
    found = context_loss(tiny, texts, [(0, 2)], filling)

    def fn(z: torch.Tensor, hook: Any) -> torch.Tensor:
        rows = filling.rest[name][2].expand(z.shape[0], z.shape[1], -1).clone()
        rows[:, 0] = filling.first[name][2]
        return torch.cat([z[:, :, :2], rows[:, :, None], z[:, :, 3:]], dim=2)

    with tiny.hooks([(name, fn)]):
        slow = token_losses(tiny, texts.rows)
    counted = [loss[np.array(places) - 1].mean() for loss, places in zip(slow, texts.places, strict=True)]
    np.testing.assert_allclose(found, counted, atol=1e-5, rtol=1e-4)


def test_ablation_compares_with_as_many_others(tiny: LM) -> None:
    texts = repeat_texts(token_repeats(tiny, 30, 10))
    scores = np.arange(8.0).reshape(2, 4)
    found = ablate_induction(tiny, texts, scores, 2, draws=5)
    assert set(found.heads) == {"L1H3", "L1H2"}
    assert all(not set(names.split(", ")) & set(found.heads) and names.count("L") == 2 for names in found.sets)
    items = found.items()
    np.testing.assert_allclose(items["ablation_gap"], items["ablation_induction"] - items["ablation_random"])
    assert found.table()["effect"][0] == pytest.approx(items["ablation_induction"].mean())
    with pytest.raises(ConfigError, match="1 to 4"):
        ablate_induction(tiny, texts, scores, 5)


def test_function_vectors_are_means_at_the_last_token_and_a_random_model_has_none(tiny: LM) -> None:
    found = vector_tasks(WORLD, "function", 2, 4)
    slow = []
    for document in found[0].shown:
        _, cache = tiny.run_with_cache(document.prompt(len(document.pairs) - 1), ["blocks.1.attn.hook_z"])
        slow.append(cache["blocks.1.attn.hook_z"][0, -1])
    np.testing.assert_allclose(head_means(tiny, found[0].shown)[1], torch.stack(slow).mean(0), atol=1e-5, rtol=1e-4)
    assert len(found[0].bare) == WORLD.config.modulus
    a, b = WORLD.pool[1]
    assert all(int(pair[1]) == (a * int(pair[0]) + b) % 11 for (pair,) in (each.pairs for each in found[1].bare))
    made = function_vectors(tiny, WORLD, "map", count=4, n=6)
    assert abs(made.items["function_vector"].mean()) < 0.02
    assert set(made.blocks["block"]) == {0, 1}
    with pytest.raises(ConfigError, match="two or more"):
        function_vectors(tiny, WORLD, "map", count=1)
    with pytest.raises(ConfigError, match="map or function"):
        vector_tasks(WORLD, "repeat")


def test_reading_a_file_names_its_line(tmp_path: Any) -> None:
    assert len(read_classification("tests/data/in_context_reviews.jsonl")) == 12
    file = tmp_path / "data.jsonl"
    for line, words in (('{"text": "a"}', "has the fields text"), ("[1]", "write a JSON object"), ("{", "not JSON")):
        file.write_text('{"text": "a b", "label": "x"}\n\n' + line + "\n")
        with pytest.raises(DataError, match=f"Line 3 .*{words}"):
            read_classification(file, strict=True)
    file.write_text('{"sentence": "a b", "gold": 1}\n' * 2 + '{"sentence": "c", "gold": 0}\n')
    assert [example.label for example in read_classification(file, "sentence", "gold")] == ["1", "1", "0"]
    file.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n{"text": "c"}\n{"text": "d", "label": 1}')
    found = read_classification(file)
    assert [example.text for example in found] == ["a", "b", "d"]
    assert found.left_out[0].startswith("Line 3 of")
    file.write_text('{"text": "a b", "label": "x"}\n' * 5)
    with pytest.raises(DataError, match="two or more labels"):
        read_classification(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_classification(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'label,text\ngood,"warm, and\nlong"\nbad,cold\ngood,fine\n'),
        ("a.csv", 'id,sentence,label\n1,"warm, and\nlong",good\n2,cold,bad\n3,fine,good\n'),
        ("a.tsv", "sentence\tlabel\nwarm, and long\tgood\ncold\tbad\nfine\tgood\n"),
        ("a.csv", 'review,sentiment\n"warm, and\nlong",good\ncold,bad\nfine,good\n'),
        (
            "a.jsonl",
            '{"content": "warm, and long", "category": "good"}\n{"content": "cold", "category": "bad"}\n'
            '{"content": "fine", "class": "good"}',
        ),
        (
            "a.json",
            '[{"sentence": "warm, and long", "label": "good"}, {"sentence": "cold", "label": "bad"},'
            ' {"sentence": "fine", "label": "good"}]',
        ),
    ],
)
def test_formats_and_names_of_classified_texts(tmp_path: Any, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = read_classification(tmp_path / name)
    assert [(" ".join(example.text.split()), example.label) for example in found] == [
        ("warm, and long", "good"),
        ("cold", "bad"),
        ("fine", "good"),
    ]


def test_several_columns_make_one_text(tmp_path: Any) -> None:
    rows = [{"premise": "it rains", "hypothesis": "it is wet", "label": n % 2} for n in range(4)]
    file = tmp_path / "nli.jsonl"
    file.write_text("\n".join(map(json.dumps, [*rows, {"premise": "alone", "label": 1}])))
    found = read_classification(file, "premise+hypothesis")
    assert [example.text for example in found] == ["premise: it rains\nhypothesis: it is wet"] * 4
    assert "expected a text in `premise` and `hypothesis`" in found.left_out[0]
    file.write_text("\n".join(json.dumps({"a+b": "x", "label": n % 2}) for n in range(3)))
    assert [example.text for example in read_classification(file, "a+b")] == ["x"] * 3


def test_a_column_that_is_named_has_no_other_name(tmp_path: Any) -> None:
    (tmp_path / "a.csv").write_text("sentence,body,label\nx,a,1\ny,b,2\nz,c,1\n")
    assert [example.text for example in read_classification(tmp_path / "a.csv", "body")] == ["a", "b", "c"]
    with pytest.raises(DataError, match="expected a text in `other`"):
        read_classification(tmp_path / "a.csv", "other")
    (tmp_path / "b.csv").write_text('text,label\nx,1\n"y,2\nz,1\n')
    with pytest.raises(DataError, match=r"begins in line 3 of .* is not valid CSV"):
        read_classification(tmp_path / "b.csv")


def test_few_shot_answers_are_the_likeliest_labels() -> None:
    lm = random_lm("gpt2", byte_tokenizer(), n_positions=400)
    data = read_classification("tests/data/in_context_reviews.jsonl")
    curve, labels = few_shot_curve(lm, data, 6, (0, 2, 3))
    assert sorted(curve["examples"].unique()) == [0, 2, 3]
    with torch.no_grad():
        for row in curve.to_dict("records"):
            said = {label: float(lm.logprobs(row["prompt"], f" {label}").values.sum()) for label in ("good", "bad")}
            assert abs(said["good"] - said["bad"]) > 1e-3
            assert row["answer"] == max(said, key=lambda label: said[label])
            assert row["right"] == float(row["answer"] == row["expected"])
            total = np.logaddexp(said["good"], said["bad"])
            assert row["loss"] == pytest.approx(total - said[row["expected"]], abs=1e-4)
    by_query = curve.set_index(["question", "examples"])["prompt"]
    for question in curve["question"].unique():
        assert by_query[question, 3].count("Label:") == 4
        assert by_query[question, 2].rsplit("\n\n", 1)[0] in by_query[question, 3]
    assert set(labels["labels"]) == {"gold", "random", "permuted", "flipped", "unrelated", "unrelated_permuted"}
    assert list(labels[labels["labels"] == "gold"]["prompt"]) == list(curve[curve["examples"] == 3]["prompt"])


def test_baselines_read_no_text_and_flipped_labels_stand_for_the_other_one() -> None:
    lm = random_lm("gpt2", byte_tokenizer(), n_positions=400)
    data = read_classification("tests/data/in_context_reviews.jsonl")
    data = [*data, data[0]._replace(label="good")]
    curve, labels = few_shot_curve(lm, data, 6, (0, 3))
    assert curve.loc[curve["examples"] == 0, ["majority_right", "bias_right"]].isna().all(axis=None)
    most = curve[curve["examples"] == 3]
    counts = Counter(example.label for example in data)
    assert counts["good"] != counts["bad"]
    majority = max(counts, key=counts.__getitem__)
    assert list(most["majority_right"]) == [float(label == majority) for label in most["expected"]]
    for row in most.to_dict("records"):
        blind = row["prompt"].rsplit("\n\n", 1)[0] + "\n\nText: N/A\nLabel:"
        said = {label: lm.logprobs(blind, f" {label}").values.sum().item() for label in ("good", "bad")}
        assert row["bias_right"] == float(max(said, key=lambda label: said[label]) == row["expected"])
    other = {"good": "bad", "bad": "good"}
    for gold, flipped in zip(
        labels[labels["labels"] == "gold"].to_dict("records"),
        labels[labels["labels"] == "flipped"].to_dict("records"),
        strict=True,
    ):
        own, new = (re.findall("Label: (good|bad)", each["prompt"]) for each in (gold, flipped))
        assert new == [other[label] for label in own]
        assert flipped["flip_followed"] == float(flipped["answer"] == other[flipped["expected"]])
        assert flipped["right"] == 1 - flipped["flip_followed"]
        assert flipped["flip_effect"] == flipped["flip_followed"] - float(gold["answer"] == other[gold["expected"]])


def test_unrelated_words_stand_for_the_labels() -> None:
    lm = random_lm("gpt2", byte_tokenizer(), n_positions=400)
    data = read_classification("tests/data/in_context_reviews.jsonl")
    labels = few_shot_curve(lm, data, 6, (0, 3))[1].groupby("labels")
    gold, own, permuted = (
        labels.get_group(name).to_dict("records") for name in ("gold", "unrelated", "unrelated_permuted")
    )
    names = {old["expected"]: new["expected"] for old, new in zip(gold, own, strict=True)}
    assert set(names) == {"good", "bad"}
    assert len(set(names.values())) == 2
    assert set(names.values()) <= set(UNRELATED)
    for old, new, other in zip(gold, own, permuted, strict=True):
        words = [names[label] for label in re.findall("Label: (good|bad)", old["prompt"])]
        text = re.sub("Label: (good|bad)", lambda found: f"Label: {names[found[1]]}", old["prompt"])
        assert new["prompt"] == text
        assert sorted(re.findall(r"Label: (\w+)", other["prompt"])) == sorted(words)
        for row in (new, other):
            said = {word: lm.logprobs(row["prompt"], f" {word}").values.sum().item() for word in names.values()}
            assert row["answer"] == max(said, key=lambda word: said[word])
            assert row["right"] == float(row["answer"] == names[old["expected"]])
        assert new["unrelated_binding"] == new["right"] - other["right"]
    many = [example._replace(label=f"label {at}") for at, example in enumerate([*data, *data, *data])]
    assert len(many) > len(UNRELATED)
    assert "unrelated" not in set(few_shot_curve(lm, many, 2, (0, 1))[1]["labels"])


AG_NEWS = (
    '"3","Wall St. falls","Shares fell, ""badly"", on Monday."\n"4","New chip","It is fast."\n"1","Talks","They met."\n'
)


def test_ag_news_is_read_as_it_is_distributed(tmp_path: Any) -> None:
    file = tmp_path / "train.csv"
    file.write_text(AG_NEWS)
    found = read_classification(file, columns="label,title,text", label_names="World,Business,Sci/Tech")
    assert [example.label for example in found] == ["Business", "Sci/Tech", "World"]
    assert found[0].text == 'title: Wall St. falls\ntext: Shares fell, "badly", on Monday.'
    assert found[0].row == "row-1"
    alone = read_classification(file, columns="class,_,text")
    assert [(example.text, example.label) for example in alone][1:] == [("It is fast.", "4"), ("They met.", "1")]
    chosen = read_classification(file, "title", columns="label,title,text", label_names="1=World,3=Business,4=Sci/Tech")
    assert [example.text for example in chosen] == ["Wall St. falls", "New chip", "Talks"]
    assert [example.label for example in chosen] == ["Business", "Sci/Tech", "World"]
    file.write_text(AG_NEWS + '"1","Vote","It is on Sunday."\n')
    some = read_classification(file, columns="label,title,text", label_names="3=Business,1=World")
    assert some.left_out == (f"Row 2 of `{file}` has the label '4', and label_names names 3, 1: name it.",)


@pytest.mark.parametrize(
    ("names", "error", "part"),
    [
        ("World,Sports", DataError, "has 3 labels (1, 3, 4), and label_names is 'World,Sports': give one name for"),
        ("World,World,Sports", ConfigError, "expected a different name for each label"),
        ("World,,Sports", ConfigError, "expected a different name for each label"),
        ("1=World,Sports,Tech", ConfigError, "expected a different name for each label"),
        ("7=World,8=Sports", DataError, "has the label '3', and label_names names 7, 8: name it"),
    ],
)
def test_names_of_labels_that_do_not_fit_are_refused(
    tmp_path: Any, names: str, error: type[Exception], part: str
) -> None:
    (tmp_path / "train.csv").write_text(AG_NEWS)
    with pytest.raises(error) as told:
        read_classification(tmp_path / "train.csv", columns="label,title,text", label_names=names)
    assert part in str(told.value)


def test_few_shot_prompts_are_written_as_the_template_says() -> None:
    data = read_classification("tests/data/in_context_reviews.jsonl")[:1]
    said = few_shot_prompt(data, "cold {label}", "Q {text} A {label}")
    assert said == "Q the soup was warm and we stayed all evening A good\n\nQ cold {label} A"
    with pytest.raises(ConfigError, match="expected a text that contains"):
        few_shot_prompt(data, "x", "{label} {text}")
    assert PairDocument("map", [("x1", "y2"), ("x3", "y4")]).prompt(1) == "map x1 -> y2 ; x3 ->"
