"""Function vectors of files: against plain hooks of torch, a planted model, and models that know nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from probe.errors import ConfigError, DataError
from probe.experiments.metrics import Mean
from probe.in_context import text_vectors as module
from probe.in_context.few_shot import TEMPLATE, LabelledText, Query, few_shot_prompt
from probe.in_context.figures import text_vectors
from probe.in_context.pairs import relabel
from probe.in_context.text_vectors import (
    LabelPrompts,
    TextVectors,
    TextVectorSizes,
    ask,
    function_vectors_text,
    steered_labels,
)
from probe.model.lm import LM
from probe.plotting.curves import Style
from tests.models import byte_tokenizer, random_lm

PLAIN = "{text} is {label}"
WORDS = ("mira", "tom", "ana", "cat", "dog", "one", "two", "where", "works", "lives")
TEXTS = [LabelledText(f"{a} at {b}", ("oslo", "rome")[i % 2]) for i, a in enumerate(WORDS) for b in ("the", "does")]
LABELS = ["oslo", "rome"]


def layers(lm: LM) -> nn.ModuleList:
    """The blocks of the model of transformers, which no bridge has touched."""
    inner: Any = lm.model.base_model
    found: nn.ModuleList = inner.h if hasattr(inner, "h") else inner.layers
    return found


@contextmanager
def added(lm: LM, block: int, vector: torch.Tensor | None, at: int) -> Iterator[None]:
    """A vector added behind a block at one token, by torch's own hooks."""

    def hook(layer: nn.Module, args: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        if vector is not None:
            states[0, at] += vector.to(states)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = layers(lm)[block].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def by_hand(lm: LM, prompt: str, label: str, vector: torch.Tensor | None, block: int) -> float:
    """Summed log-likelihood of a label, token by token."""
    head = lm.tokenizer(prompt)["input_ids"]
    whole = lm.tokenizer(f"{prompt} {label}")["input_ids"]
    assert whole[: len(head)] == head
    with torch.no_grad(), added(lm, block, vector, len(head) - 1):
        logits = lm.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logits[at - 1, whole[at]]) for at in range(len(head), len(whole)))


def residual(lm: LM, text: str, block: int) -> torch.Tensor:
    """What a block gives at the last token."""
    kept: list[torch.Tensor] = []
    handle = layers(lm)[block].register_forward_hook(
        lambda layer, args, output: kept.append((output[0] if isinstance(output, tuple) else output)[0, -1])
    )
    with torch.no_grad():
        lm.model(torch.tensor([lm.tokenizer(text)["input_ids"]]))
    handle.remove()
    return kept[0].double()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_labels_with_a_vector_are_those_of_plain_hooks(name: str) -> None:
    lm = random_lm(name, byte_tokenizer(), max_position_embeddings=80) if name != "gpt2" else random_lm(name)
    prompts, labels = ["the cat", "mira lives in the"], ["oslo", "rome", "the"]
    asked = ask(lm, prompts, labels)
    assert (len(asked.rows) == len(prompts)) is (name == "gpt2")  # labels of one word share their row
    vector = 3 * torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    for given, block in ((None, 0), (vector, 0), (vector, 1)):
        found = steered_labels(lm, asked, given, block)
        each = [None, None] if given is None else list(given)
        slow = [
            [by_hand(lm, text, label, at, block) for label in labels] for text, at in zip(prompts, each, strict=True)
        ]
        np.testing.assert_allclose(found, slow, atol=1e-4)


def test_a_vector_is_what_examples_move_the_mean_by() -> None:
    for name in ("llama", "gpt2"):
        lm = random_lm(name)
        drawn = [Query(0, TEXTS[0], TEXTS[1:4]), Query(5, TEXTS[5], TEXTS[6:9])]
        found = module.example_vectors(lm, drawn, LABELS, 2, [0, 1], PLAIN, np.random.default_rng(7))
        rng = np.random.default_rng(7)
        for mode, key in (("gold", "own"), ("permuted", "shuffled")):
            rows = []
            for question in drawn:
                changed = relabel([each.label for each in question.examples[:2]], LABELS, mode, rng)  # type: ignore[arg-type]
                shown = [
                    LabelledText(each.text, label) for each, label in zip(question.examples, changed, strict=False)
                ]
                text = few_shot_prompt(shown, question.query.text, PLAIN)
                bare = few_shot_prompt([], question.query.text, PLAIN)
                rows.append([residual(lm, text, block) - residual(lm, bare, block) for block in (0, 1)])
            slow = torch.stack([torch.stack(row) for row in rows]).mean(0)
            torch.testing.assert_close(module._group_means(found[key], 2)[0], slow, rtol=1e-4, atol=1e-4)


class Recorder:
    """Remembers what was asked of a model."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.scored: list[tuple[LabelPrompts, torch.Tensor | None, int, np.ndarray]] = []
        self.drawn: list[Sequence[Query]] = []
        self.made: list[dict[str, torch.Tensor]] = []
        real = module.example_vectors

        def scores(lm: LM, asked: LabelPrompts, vectors: torch.Tensor | None = None, block: int = 0) -> np.ndarray:
            found = steered_labels(lm, asked, vectors, block)
            self.scored.append((asked, vectors, block, found))
            return found

        def vectors(lm: LM, drawn: Sequence[Query], *others: Any) -> dict[str, torch.Tensor]:
            self.drawn.append(drawn)
            self.made.append(real(lm, drawn, *others))
            return self.made[-1]

        patch.setattr(module, "steered_labels", scores)
        patch.setattr(module, "example_vectors", vectors)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_items_are_patched_by_hand_with_vectors_of_the_other_half(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_lm(name, **{"n_layer" if name == "gpt2" else "num_hidden_layers": 3})
    seen = Recorder(monkeypatch)
    found = function_vectors_text(
        lm, TEXTS, TextVectorSizes(n=13, prompts=2, share=3, shots=3, blocks=3, directions=2), PLAIN
    )
    items = found.items
    halves = [items.iloc[:7], items.iloc[7:]]
    assert len(items) == items["question"].nunique() == 13
    assert list(items["vector"]) == ["0-0"] * 3 + ["0-1"] * 3 + ["0-2"] + ["1-0"] * 3 + ["1-1"] * 3
    gains, shares, randoms = (
        np.zeros((2, 3)),
        np.zeros((2, 3)),
        [each for each in seen.scored if each[1] is not None][12:],
    )
    for half in (0, 1):
        asked, rows, truth = set(halves[half]["question"]), list(halves[half].itertuples()), []
        used = {TEXTS.index(each) for one in seen.drawn[half] for each in (one.query, *one.examples)}
        assert not asked & used
        assert used <= set(halves[1 - half]["question"])
        vectors = {name: torch.stack([each[0::2], each[1::2]]).mean(0) for name, each in seen.made[half].items()}
        for number, row in enumerate(rows):
            assert row.prompt == few_shot_prompt([], TEXTS[row.question].text, PLAIN)
            assert row.expected == TEXTS[row.question].label
            truth.append(LABELS.index(row.expected))
            for column in ("plain", "own", "shuffled"):
                given = [None] * 3 if column == "plain" else list(vectors[column][number // 3])
                said = [[by_hand(lm, row.prompt, label, given[block], block) for label in LABELS] for block in range(3)]
                assert getattr(row, column) == pytest.approx(np.exp(said[row.block][truth[-1]]), rel=1e-3)
                assert getattr(row, f"right_{column}") == float(np.argmax(said[row.block_accuracy]) == truth[-1])
                if column == "own":
                    gains[half] += [np.exp(each[truth[-1]]) for each in said]
                    shares[half] += [np.exp(each[truth[-1]]) / np.exp(each).sum() for each in said]
        block, own = rows[0].block, vectors["own"][torch.arange(len(rows)) // 3, rows[0].block]
        assert {each[2] for each in randoms[4 * half + 2 : 4 * half + 4]} == {rows[0].block_accuracy}
        for _, directions, where, _ in (mine := randoms[4 * half : 4 * half + 2]):
            assert where == block
            assert directions is not None
            np.testing.assert_allclose(directions.norm(dim=-1), own.norm(dim=-1))
            assert torch.equal(directions[0] / directions[0].norm(), directions[2] / directions[2].norm())
            assert not torch.equal(directions[0], directions[3])
        mean = np.mean([np.exp(each[3][np.arange(len(rows)), truth]) for each in mine], axis=0)
        np.testing.assert_allclose(halves[half]["random"], mean)
        np.testing.assert_allclose(halves[half]["length"], own.norm(dim=-1))
    for half in (0, 1):
        assert halves[half]["block"].nunique() == 1
        assert halves[half]["block"].iloc[0] == gains[1 - half].argmax()
        assert halves[half]["block_accuracy"].iloc[0] == shares[1 - half].argmax()
    np.testing.assert_allclose(items["vector_gain"], items["own"] - items["plain"])
    np.testing.assert_allclose(items["vector_binding"], items["own"] - items["shuffled"])
    np.testing.assert_allclose(items["vector_accuracy_binding"], items["right_own"] - items["right_shuffled"])
    blocks = found.blocks.pivot(index="block", columns="vector", values="p_true")
    np.testing.assert_allclose(blocks["own"], gains.sum(0) / 13, rtol=1e-3)
    np.testing.assert_allclose(blocks["plain"], items["plain"].mean())
    assert (items["own"] - items["shuffled"]).abs().max() > 1e-4


def counter() -> LM:
    """A model that adds up the words it has read, in whatever order, and expects those that it has read most."""
    lm = random_lm("llama", num_hidden_layers=1, num_key_value_heads=4, num_attention_heads=4, rope_theta=1e9)
    lm.model.set_attn_implementation("eager")  # which gives words in another order the same sum to the bit
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "q_proj" in name or "k_proj" in name or "down_proj" in name:
                parameter.zero_()
            if "v_proj" in name or "o_proj" in name:
                parameter.copy_(torch.eye(len(parameter)))
            if "norm" in name:
                parameter.fill_(1)
        words = lm.model.get_input_embeddings().weight
        words.copy_(torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0][: len(words)])
        lm.model.get_output_embeddings().weight.copy_(words / 2)
    return lm


def test_a_model_that_counts_words_has_a_vector_of_labels_and_no_binding() -> None:
    found = function_vectors_text(counter(), TEXTS, TextVectorSizes(n=20, shots=6), PLAIN)
    items = found.items
    assert (items["vector_gain"] > 0.002).all()
    assert items["vector_gain_random"].mean() < items["vector_gain"].mean() / 2
    assert items["vector_binding"].abs().max() < 1e-6
    assert (items["vector_accuracy_binding"] == 0).all()
    assert items["length_difference"].max() < 1e-5
    assert items["length"].min() > 0.1


@pytest.mark.slow
def test_random_models_bind_nothing() -> None:
    """Over models the mean is zero, and the interval of each, which draws vectors, mostly covers it."""
    means, covered = [], 0
    for seed in range(16):
        lm = random_lm("llama", seed=seed)
        items = function_vectors_text(
            lm, TEXTS, TextVectorSizes(shots=4, blocks=2, directions=1), PLAIN, seed=seed
        ).items
        items = items.assign(item=[f"vector-{number}" for number in range(len(items))])
        columns = ("vector_binding", "vector_accuracy_binding")
        means.append([*(float(items[column].mean()) for column in columns), float(items["right_own"].mean()) - 0.5])
        found = Mean("vector_binding", unit="vector").estimate(items, seed)
        covered += found.low <= 0 <= found.high
    half = 2.131 * np.std(means, axis=0, ddof=1) / 4  # Student's t, 15 degrees of freedom
    assert (np.abs(np.mean(means, axis=0)) < half).all()
    assert (half < 0.06).all()
    assert covered >= 12


def test_equal_seeds_ask_every_model_the_same() -> None:
    one, two = (
        function_vectors_text(random_lm(name), TEXTS, TextVectorSizes(n=8, shots=2, blocks=1, directions=1), PLAIN)
        for name in ("llama", "gpt2")
    )
    assert list(one.items["question"]) == list(two.items["question"])
    again = function_vectors_text(random_lm(), TEXTS, TextVectorSizes(n=8, shots=2, blocks=1, directions=1), PLAIN)
    assert again.items.equals(one.items)


def test_other_architectures_and_few_examples() -> None:
    for name in ("qwen3", "gpt_neox", "mistral", "bloom", "gemma2", "phi3"):
        found = function_vectors_text(random_lm(name), TEXTS, TextVectorSizes(n=6, directions=1), PLAIN)
        assert isinstance(found, TextVectors)
        assert found.shots == 2  # the other half has three texts
        numbers = found.items.drop(columns=["prompt", "row", "expected", "vector"])
        assert np.isfinite(numbers.to_numpy(dtype=float)).all()
    short = function_vectors_text(random_lm("gpt2", n_positions=28), TEXTS, TextVectorSizes(directions=1), PLAIN)
    assert short.shots == 1  # 16 tokens are kept for the label


def test_the_figure_shows_each_vector_of_each_model_by_block() -> None:
    lm = random_lm()
    table = function_vectors_text(lm, TEXTS, TextVectorSizes(n=8, shots=2, directions=1), PLAIN).blocks
    both = pd.concat([table.assign(model="<a>"), table.assign(model="b", p_true=1.0)])
    figure = text_vectors(both, {"<a>": Style("#111111"), "b": Style("#222222")})
    assert len(figure.data) == 16  # with a band for each model and panel
    first = figure.data[1]
    assert (first.name, first.line.dash) == ("&lt;a&gt;: vector of the examples", "solid")
    np.testing.assert_allclose(first.y, table[table["vector"] == "own"]["p_true"])
    assert [trace.name for trace in figure.data if trace.showlegend].count("b: no vector") == 1
    assert "accuracy" not in str(first.customdata)
    wilson = table[table["vector"] == "own"]
    assert (wilson["accuracy_low"] <= wilson["accuracy"]).all()
    assert (wilson["accuracy"] <= wilson["accuracy_high"]).all()


def test_what_cannot_be_used_is_refused() -> None:
    lm = random_lm()
    with pytest.raises(ConfigError, match="0 directions were requested"):
        function_vectors_text(lm, TEXTS, TextVectorSizes(directions=0))
    with pytest.raises(DataError, match="5 texts are too few"):
        function_vectors_text(lm, TEXTS[:5], template=PLAIN)
    with pytest.raises(ConfigError, match="expected a text that contains"):
        function_vectors_text(lm, TEXTS, template="{label}")
    with pytest.raises(DataError, match="is longer than the 48 tokens"):
        function_vectors_text(lm, [LabelledText("cat " * 30, label) for label in LABELS * 4], template=TEMPLATE)
