"""Attribution of a reward: finite differences, completeness, transformers' own scores, and a head that is linear."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from probe import LM, RewardModel, open_run
from probe.errors import ConfigError, DataError, ModelError
from probe.model.rewards import analysable, reward_lm
from probe.model.text import forward
from probe.rewards import token_effects as reward_attribution
from probe.rewards.completions import compare_completions
from probe.rewards.token_effects import STEPS, TOLERANCE, attribute, contrast, truth_and_claim, weights
from probe.world import World, of
from tests.models import ARCHITECTURES, random_lm
from tests.places import SAMPLES

PROMPT, CHOSEN, REJECTED = "mira lives in the", " oslo", " rome . the cat"


def classifier(name: str) -> RewardModel:
    """A random reward model of an architecture, wide enough that scores differ by whole nats."""
    policy = random_lm(name)
    config: Any = policy.model.config
    config.num_labels, config.pad_token_id = 1, policy.tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    return RewardModel(model.eval(), policy.tokenizer)


@torch.no_grad()
def slow_score(model: RewardModel, ids: list[int], changed: dict[int, torch.Tensor] | None = None) -> float:
    """The score of one text by plain transformers, read at its last token; some embeddings may be replaced."""
    inner: Any = model.model
    words = inner.get_input_embeddings()(torch.tensor([ids])).clone()
    for at, vector in (changed or {}).items():
        words[0, at] = vector
    body = inner.base_model(inputs_embeds=words, attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    return float(inner.score(body.last_hidden_state[:, -1])[0, 0])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attributions_against_finite_differences_and_plain_transformers(name: str) -> None:
    model = classifier(name)
    model.model.double()
    found = attribute(model, PROMPT, REJECTED, steps=300)
    assert found.tokens[-1] == "<end>"
    assert found.prompt_length == 5
    # every value is what the text would score if it ended there
    for at in range(len(found.ids)):
        assert found.values[at] == pytest.approx(slow_score(model, found.ids[: at + 1]), abs=1e-9)
    # without a token
    for at in (0, 3, len(found.ids) - 1):
        left = slow_score(model, found.ids[:at] + found.ids[at + 1 :])
        assert found.occlusion[at] == pytest.approx(found.score - left, abs=1e-9)
    # completeness, against a score of the baseline that is computed elsewhere
    table = model.model.get_input_embeddings().weight.detach()
    blank = slow_score(model, found.ids, {at: table.mean(0) for at in range(len(found.ids))})
    assert found.baseline == pytest.approx(blank, abs=1e-9)
    assert found.gradient.sum() == pytest.approx(found.score - blank, abs=2e-3)
    assert abs(found.score - blank) > 0.1
    # the gradient at the text, by central differences along (input - baseline) of one token
    step = 1e-3  # the norms of Llama and Qwen compute in single precision
    for at in (1, 5):
        word = table[found.ids[at]]
        ahead, behind = (slow_score(model, found.ids, {at: word + h * (word - table.mean(0))}) for h in (step, -step))
        assert found.local[at] == pytest.approx((ahead - behind) / (2 * step), abs=1e-3)


def test_the_mean_embedding_of_gemma_is_scaled_as_those_of_the_text_are() -> None:
    model = classifier("gemma2")
    model.model.double()
    found = attribute(model, PROMPT, REJECTED, steps=300)
    every = model.model.get_input_embeddings()(torch.arange(len(model.tokenizer))).detach()
    blank = slow_score(model, found.ids, dict.fromkeys(range(len(found.ids)), every.mean(0)))
    assert found.baseline == pytest.approx(blank, abs=1e-6)
    assert found.score == pytest.approx(slow_score(model, found.ids), abs=1e-6)
    assert abs(found.score - blank) > 0.1
    assert found.gradient.sum() == pytest.approx(found.score - blank, abs=2e-3)


def test_each_token_gets_its_share_of_the_path() -> None:
    """Token by token, not only in sum: a Riemann sum of finite differences along the path."""
    model = classifier("llama")
    model.model.double()
    found = attribute(model, PROMPT, CHOSEN, steps=300)
    table = model.model.get_input_embeddings().weight.detach()
    start, nodes, step = table.mean(0), 400, 1e-3
    words = table[torch.tensor(found.ids)]
    at, total = 4, 0.0
    for node in range(nodes):
        alpha = (node + 0.5) / nodes
        path = {j: start + alpha * (words[j] - start) for j in range(len(words))}
        sides = [slow_score(model, found.ids, path | {at: path[at] + h * (words[at] - start)}) for h in (step, -step)]
        total += (sides[0] - sides[1]) / (2 * step) / nodes
    assert found.gradient[at] == pytest.approx(total, abs=2e-3)
    assert abs(total) > 0.02


def test_more_steps_close_the_gap_and_a_token_can_be_the_baseline() -> None:
    model = classifier("llama")
    few, many = (abs(attribute(model, PROMPT, CHOSEN, steps=n, tolerance=np.inf).gap) for n in (2, 200))
    assert many < 1e-3 < few
    pad = model.tokenizer.pad_token_id
    found = attribute(model, PROMPT, CHOSEN, baseline=pad)
    padded = float(model.score([[pad] * 5], [[pad] * (len(found.ids) - 5)])[0])
    assert found.baseline == pytest.approx(padded, abs=1e-5)


def test_the_weights_of_the_integral() -> None:
    for steps in (1, 2, 3, 7, 9, 104, 208):
        found = weights(steps)
        assert len(found) == steps + 1
        assert found.sum() == pytest.approx(1, abs=1e-14)
        np.testing.assert_allclose(found, found[::-1])
        assert found.min() > 0
        assert found[steps // 2] == pytest.approx(1 / steps) or steps < 11
        x = np.linspace(0, 1, steps + 1)
        order = min((steps - 1) // 2, 4)
        for degree in range(1, order + 2 - order % 2):
            assert (found * x**degree).sum() == pytest.approx(1 / (degree + 1), abs=1e-12)
    np.testing.assert_allclose(weights(1), [0.5, 0.5])
    x = np.linspace(0, 1, 105)
    assert abs(float((weights(104) * np.exp(x)).sum()) - (np.e - 1)) < 1e-12
    # a bend in the middle that Gauss's and Legendre's points are too far apart for, whose integral is known
    sharp, exact = 0.01, 2 * np.arctan(0.5 / 0.01) / 0.01
    nodes, known = np.polynomial.legendre.leggauss(105)
    plain, ours = ((at - 0.5) ** 2 + sharp**2 for at in ((nodes + 1) / 2, x))
    assert abs((weights(104) / ours).sum() - exact) < 0.5 * abs((known / 2 / plain).sum() - exact)


def test_more_steps_use_the_points_of_before_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, points = classifier("llama"), []
    read = reward_attribution._read

    def counted(lm: LM, ids: Any, embeddings: torch.Tensor) -> torch.Tensor:
        points.append(len(embeddings))
        return read(lm, ids, embeddings)

    monkeypatch.setattr(reward_attribution, "_read", counted)
    found = attribute(model, PROMPT, CHOSEN, steps=4, tolerance=0)
    assert found.steps == 512
    assert sum(points) == 513
    at_once = attribute(model, PROMPT, CHOSEN, steps=512, tolerance=np.inf)
    np.testing.assert_allclose(found.gradient, at_once.gradient, atol=1e-6, rtol=1e-4)
    np.testing.assert_allclose(found.values, at_once.values, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["reward-agreeable", "reward-honest"])
def test_steps_are_added_until_the_integral_is_exact_on_the_sample_models(run: str) -> None:
    """Token by token, against 800 steps in double precision; one of the prompts needs more than the default."""
    lm, world = analysable(str(SAMPLES / run)), of(open_run(SAMPLES / "base"))
    assert world
    lm.model.double()
    taken, few = [], []
    for kind, seed in (("opinion_false", 9), ("opinion_false", 10), ("stranger", 9)):
        prompt = world.questions(kind, 1, seed=seed)[0].prompt
        found = truth_and_claim(world, prompt)
        assert found
        fine = attribute(lm, prompt, found[1], steps=800, tolerance=np.inf).gradient
        ours = attribute(lm, prompt, found[1])
        assert np.abs(ours.gradient - fine).max() < 2 * TOLERANCE
        taken.append(ours.steps)
        plain = attribute(lm, prompt, found[1], tolerance=np.inf)
        few.append(np.abs(plain.gradient - fine).max() / max(np.abs(plain.gap), 1e-6))
    assert min(taken) == STEPS
    assert (max(taken) > STEPS) == (run == "reward-honest")
    assert max(few) < 5  # the gap, which needs no finer integral, tells how far off a token can be


def test_the_contrast_of_two_completions() -> None:
    model = classifier("qwen3")
    found = contrast(model, PROMPT, CHOSEN, REJECTED)
    scores = model.score([PROMPT, PROMPT], [CHOSEN, REJECTED]).tolist()
    assert found.chosen.score == pytest.approx(scores[0], abs=1e-5)
    assert found.margin == pytest.approx(scores[0] - scores[1], abs=1e-5)
    assert found.probability == pytest.approx(1 / (1 + np.exp(scores[1] - scores[0])), abs=1e-6)
    np.testing.assert_allclose(found.prompt_effects("increment")[1:], 0, atol=1e-5, rtol=1e-4)
    head = model.tokenizer(PROMPT)["input_ids"]
    for at in (1, 4):  # without a word of the prompt the margin is another
        cut = [head[:at] + head[at + 1 :]] * 2
        tails = [found.chosen.ids[5:], found.rejected.ids[5:]]
        first, second = model.score(cut, tails).tolist()
        assert found.prompt_effects("occlusion")[at] == pytest.approx(found.margin - (first - second), abs=1e-5)
    assert -1 <= found.agreement <= 1
    table = found.table()
    assert table.groupby("text")["increment"].sum()["chosen"] == pytest.approx(
        found.chosen.score - found.chosen.values[0], abs=1e-5
    )
    assert set(table["part"]) == {"prompt", "completion"}
    assert (table.groupby("text").size() == [len(found.chosen.ids), len(found.rejected.ids)]).all()


def test_a_model_that_counts_words_gets_its_words_back() -> None:
    """Where the score is linear in the embeddings every view has one right answer."""

    class Sum(torch.nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            total = states.cumsum(1)  # the head sees the sum of all states so far
            return total @ torch.linspace(-1, 1, states.shape[-1]).to(states.dtype)[:, None]

    lm = reward_lm(classifier("llama"))
    body: Any = lm.model.model  # type: ignore[attr-defined]
    for layer in body.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    body.norm = torch.nn.Identity()
    lm.model.set_output_embeddings(Sum())
    found = attribute(lm, PROMPT, CHOSEN, steps=1)
    table = lm.model.get_input_embeddings().weight.detach()
    worth = (table @ torch.linspace(-1, 1, table.shape[-1])).numpy()
    words = worth[found.ids]
    np.testing.assert_allclose(found.occlusion, words, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.increments[1:], words[1:], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.gradient, words - worth.mean(), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.local, found.gradient, atol=1e-5, rtol=1e-4)
    assert found.agreement == pytest.approx(1.0)
    assert found.gap == pytest.approx(0, abs=1e-5)


def test_what_to_set_against_each_other_in_the_world() -> None:
    world = World(seed=0)
    for kind in ("opinion_false", "fact", "stranger", "opinion_true", "map"):
        item = world.questions(kind, 1, seed=4)[0]
        found = truth_and_claim(world, item.prompt)
        assert found
        assert found[0] == item.answers[0]
        assert world.verify(item.prompt, found[1]).score == -1
        assert kind != "opinion_false" or found[1] == item.claim
    chain = next(prompt["text"] for prompt in world.probe_prompts() if prompt["kind"] == "markov")
    assert truth_and_claim(world, chain) is None
    assert truth_and_claim(world, "the cat sat") is None


def test_whoever_runs_the_model_meanwhile_gets_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard's other sessions use the same module tree, at whatever moment."""
    lm = reward_lm(classifier("llama"))
    expected = lm.logits(PROMPT).detach()
    seen = []

    def between(*inputs: Any, **options: Any) -> Any:
        seen.append(lm.logits(PROMPT).detach())
        return forward(*inputs, **options)

    monkeypatch.setattr(reward_attribution, "forward", between)
    monkeypatch.setattr(reward_attribution, "PART", 1)  # a point at a time
    attribute(lm, PROMPT, CHOSEN, steps=2)
    assert len(seen) >= 4
    for logits in seen:
        torch.testing.assert_close(logits, expected)


def test_what_cannot_be_attributed() -> None:
    model = classifier("llama")
    with pytest.raises(ModelError, match="writes tokens and outputs no scalar: give a reward model"):
        attribute(random_lm(), PROMPT, CHOSEN)
    with pytest.raises(ConfigError, match="have -1 steps; expected 0"):
        attribute(model, PROMPT, CHOSEN, steps=-1)
    fast = attribute(model, PROMPT, CHOSEN, steps=0)
    assert np.isnan(fast.gradient).all()
    np.testing.assert_array_equal(fast.occlusion, attribute(model, PROMPT, CHOSEN, steps=1).occlusion)
    with pytest.raises(ConfigError, match="The baseline 999 has no embedding: give mean, or a token id from 0 to"):
        attribute(model, PROMPT, CHOSEN, baseline=999)
    with pytest.raises(DataError, match="reads at most 48"):
        attribute(model, "mira " * 60, CHOSEN)
    with pytest.raises(ConfigError, match="do not exist: ask for increment, gradient, occlusion"):
        attribute(model, PROMPT, CHOSEN, steps=1).effects("shap")  # type: ignore[arg-type]
    lm = reward_lm(model)
    with (
        lm.hooks([("blocks.0.hook_mlp_out", lambda *_: None)]),
        pytest.raises(ConfigError, match="leave `hooks` first"),
    ):
        attribute(lm, PROMPT, CHOSEN, steps=1)
    alone = attribute(model, [4], [], steps=1)
    assert np.isnan(alone.occlusion).all()
    assert np.isnan(alone.agreement)
    assert isinstance(reward_lm(model), LM)


def test_two_completions_say_and_mark_what_they_are_asked_for() -> None:
    """Texts as they were given, the marked token in its panel and row, gradients only where they were asked for."""
    model = reward_lm(classifier("llama"))
    with pytest.raises(DataError, match="This prompt asks nothing that a world answers: give two completions"):
        compare_completions(model, PROMPT)
    found = compare_completions(model, PROMPT, chosen=CHOSEN, rejected=REJECTED, steps=0)
    score = f"{found.chosen.score:.2f}".replace("-", "\u2212")
    assert f"\u201c{CHOSEN.strip()}\u201d {score}" in found.sentence()
    assert "left out" in found.notes[0]
    marked = found.chips(token="chosen 1")
    assert marked.chosen == (1, 1)
    assert marked.rows[1].tokens[1].inputs == {"token": "chosen 1"}
    assert found.chips(token="chosen 99").chosen == (0, -1)
    strong = {bar.marker.opacity for bar in found.figures(token="chosen 1")["token-effects"].data if bar.type == "bar"}
    assert {max(each) for each in strong} == {0.45, 1.0}
    exact = compare_completions(model, PROMPT, chosen=CHOSEN, rejected=REJECTED)
    assert "Rank correlation of the two attributions" in exact.notes[0]
