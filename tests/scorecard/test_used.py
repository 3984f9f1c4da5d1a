"""The family `used`: pairs against the world, edits against hooks on transformers, and what the score counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import probe.world
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.text import encode, pad, pad_id
from probe.probes.text_labels import token_of
from probe.scorecard import used_family as used
from probe.scorecard.counterfactual_pairs import Draw, casts, pairs_of
from probe.ticks import ignore
from probe.world.language import read


@torch.no_grad()
def plain(lm: LM, text: list[int], block: int, at: int, state: np.ndarray | None, answers: tuple[int, int]) -> float:
    """Log-odds of two answers on the model of transformers, with the output of a block at one token replaced."""

    def put(module: torch.nn.Module, inputs: object, output: object) -> object:
        states = (output[0] if isinstance(output, tuple) else output).clone()  # type: ignore[attr-defined]
        states[0, at] = torch.as_tensor(state).to(states)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = lm.model.model.layers[block].register_forward_hook(put) if state is not None else None
    logits = lm.model(torch.tensor([text])).logits[0, -1].double()
    if handle is not None:
        handle.remove()
    return float(logits[answers[0]] - logits[answers[1]])


def plain_effects(lm: LM, pairs: used.Pairs, block: int, edited: np.ndarray) -> np.ndarray:
    """Changes [P] of the log-odds on the model of transformers."""
    rows = zip(pairs.texts[0], pairs.at, pairs.answers, edited, strict=True)
    return np.array([plain(lm, t, block, at, x, a) - plain(lm, t, block, at, None, a) for t, at, a, x in rows])


def slice_of(pairs: used.Pairs, n: int) -> used.Pairs:
    """Return the first pairs."""
    one, two = pairs.texts
    states = pairs.states[0][:n], pairs.states[1][:n]
    return replace(pairs, texts=(one[:n], two[:n]), at=pairs.at[:n], answers=pairs.answers[:n], states=states)


@pytest.fixture(scope="module")
def problems(base: LM) -> dict[str, used.Use]:
    return {task: used.use_of(base, task, 20, 0, ignore) for task in used.WORDS}


@pytest.mark.parametrize("task", used.WORDS)
def test_edits_are_those_of_a_hook_on_transformers(base: LM, problems: dict[str, used.Use], task: str):
    problem = problems[task]
    block, rng = problem.place.block, np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(base.bridge.cfg.d_model, 5)))[0]
    found = used.ask(problem, lambda states, labels, groups, place: used.interchange(basis))
    assert all(len(pairs.at) == used.NEUTRAL_PAIRS for pairs in problem.neutral.values())
    few = {name: slice_of(pairs, 6) for name, pairs in problem.neutral.items()}
    rows = [
        *zip(problem.pairs, problem.whole[:2], found[:2], strict=True),
        *((few[name], problem.whole.neutral[name][:6], found.neutral[name][:6]) for name in used.NEUTRAL),
    ]
    for pairs, exact, effect in rows:
        own, other = pairs.states
        np.testing.assert_allclose(exact, plain_effects(base, pairs, block, other), rtol=1e-3, atol=1e-3)
        by_hand = np.stack([x + basis @ (basis.T @ (y - x)) for x, y in zip(own, other, strict=True)])
        np.testing.assert_allclose(effect, plain_effects(base, pairs, block, by_hand), rtol=1e-3, atol=1e-3)
        assert np.abs(exact).mean() > 0.5


def test_the_whole_last_state_is_the_counterfactual(base: LM, problems: dict[str, used.Use]):
    """After the last block the oracle's effect is the difference of two plain runs."""
    world = probe.world.of(base)
    assert world is not None
    final = base.bridge.cfg.n_layers - 1
    draw = Draw(base, world, casts(world, used.HELD_OUT, 0)[1], np.random.default_rng(0))
    for task in ("value", "known"):
        changed, kept = (used.read_pairs(base, twins).after(final) for twins in pairs_of(draw, task, 6))
        place = replace(problems[task].place, block=final)
        before = used.Effects(used.odds(base, changed), used.odds(base, kept))
        problem = used.Use(place, (changed, kept), before, before, 0.0)
        found = used.oracle(problem, task, np.random.default_rng(0))
        rows = zip(*changed.texts, changed.answers, strict=True)
        runs = [plain(base, other, 0, 0, None, a) - plain(base, own, 0, 0, None, a) for own, other, a in rows]
        np.testing.assert_allclose(found.changed, runs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.kept, 0, atol=1e-9)


def test_noise_on_transformers_has_the_expected_score(base: LM, problems: dict[str, used.Use]):
    """The floor is that of directions drawn by another generator and added by a hook; it is far from the ceiling."""
    problem, generator, scores = problems["value"], torch.Generator().manual_seed(1), []
    for _ in range(12):
        effects = []
        for pairs in problem.pairs:
            own, other = (torch.from_numpy(each) for each in pairs.states)
            noise = torch.nn.functional.normalize(torch.randn(own.shape, generator=generator, dtype=own.dtype), dim=1)
            edited = own + noise * (other - own).norm(dim=1, keepdim=True)
            effects.append(plain_effects(base, pairs, problem.place.block, edited.numpy()))
        (e, kept), (w, exact) = effects, problem.whole[:2]
        share = 1 - np.abs(e - w).sum() / np.abs(w).sum()
        scores.append((share, share * max(0.0, 1 - np.abs(kept).sum() / np.abs(exact).sum())))
    for name, found in zip(("value", "value_alone"), np.array(scores).T, strict=True):
        error = 4 * found.std(ddof=1) * np.sqrt(1 / len(found) + 1 / used.DRAWS)
        assert found.mean() == pytest.approx(used.chance(problem, name), abs=error)
        assert used.chance(problem, name) < 0.3


def test_what_stays_of_sums_and_passages_is_told(base: LM, problems: dict[str, used.Use]):
    """Questions that say nothing of people; the whole state leaves nothing of them, and no edit leaves all."""
    world = probe.world.of(base)
    assert world is not None
    problem = problems["value"]
    for name, kind in used.NEUTRAL.items():
        asked = {tuple(encode(base.tokenizer, each.prompt)) for each in world.questions(kind, 192, 1)}
        assert {tuple(text) for side in problem.neutral[name].texts for text in side} <= asked
    whole = used.grade(problem, "value", used.edited(problem, lambda own, other: other)).also
    none = used.grade(problem, "value", used.edited(problem, lambda own, other: own)).also
    half = used.grade(problem, "value", used.Effects(*problem.whole[:2], {"sums": problem.whole.neutral["sums"] / 2}))
    assert [whole[f"{name} that stay"] for name in used.NEUTRAL] == pytest.approx([0, 0])
    assert [none[f"{name} that stay"] for name in used.NEUTRAL] == pytest.approx([1, 1])
    assert half.also["sums that stay"] == pytest.approx(0.5)


def test_the_score_counts_distance_and_spill(problems: dict[str, used.Use]):
    problem = problems["value"]
    w, exact = problem.whole[:2]

    def scores(changed: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
        answer = used.Effects(changed, kept)
        return used.grade(problem, "value", answer).score, used.grade(problem, "value_alone", answer).score

    assert scores(w, 0 * exact) == pytest.approx((1, 1))
    assert scores(w, exact) == pytest.approx((1, 0))  # the whole state
    assert scores(w, 3 * exact) == pytest.approx((1, 0))
    assert scores(0 * w, 0 * exact) == pytest.approx((0, 0))  # no edit
    assert scores(0.75 * w, 0.5 * exact) == pytest.approx((0.75, 0.375))
    assert scores(1.25 * w, 0 * exact) == pytest.approx((0.75, 0.75))  # too far is as wrong as too short
    assert scores(-w, 0 * exact) == pytest.approx((-1, -1))


@pytest.mark.parametrize("task", used.WORDS)
def test_pairs_differ_in_the_variable_or_agree_in_it(base: LM, task: str):
    world = probe.world.of(base)
    assert world is not None
    people = casts(world, used.HELD_OUT, 0)
    assert not {*people[0].known, *people[0].strangers} & {*people[1].known, *people[1].strangers}
    for cast in people:
        inside = {*cast.known, *cast.strangers}
        changed, kept = pairs_of(Draw(base, world, cast, np.random.default_rng(1)), task, 30)
        assert min(len(changed), len(kept)) > 10
        for twin in (*changed, *kept):
            own, other = (encode(base.tokenizer, side.prompt) for side in (twin.own, twin.other))
            assert len(own) == len(other)
            assert token_of(base, twin.own, "last") == token_of(base, twin.other, "last")
            asked = [read(side.prompt) for side in (twin.own, twin.other)]
            assert all(each is not None and each.subject in inside for each in asked)
            assert twin.toward != twin.against
            if task == "claim":
                at = token_of(base, twin.own, "last")
                assert [base.tokenizer.decode([ids[at]]).strip() for ids in (own, other)] == [
                    twin.own.label,
                    twin.other.label,
                ]
            elif twin.toward != " i":
                facts = [world.truth(each.subject, each.relation) for each in asked if each is not None]
                assert [f" {each}" for each in facts] == [twin.against, twin.toward]
        assert all(twin.own.label != twin.other.label for twin in changed)
        assert all(twin.own.label == twin.other.label for twin in kept)


def test_methods_do_what_they_say_to_states():
    rng = np.random.default_rng(0)
    labels, groups = np.repeat(np.arange(4), 30), np.tile(np.array(list("abcdef")), 20)
    centres = rng.normal(size=(4, 10)) * 6
    states = centres[labels] + rng.normal(size=(120, 10))
    means = np.stack([states[labels == each].mean(0) for each in range(4)])
    own, other = states[:30], states[60:90]
    place: used.Place = None  # type: ignore[assignment]
    moved = used.move(states, labels, groups, place)(own, other)
    np.testing.assert_allclose(moved, own + means[2] - means[0], atol=1e-9)
    two = labels < 2
    moved = used.move(states[two], labels[two], groups[two], place)(own, states[30:60])
    np.testing.assert_allclose(moved, own + means[1] - means[0], atol=1e-9)
    span = np.linalg.qr((means - means.mean(0)).T)[0][:, :3]
    edited = used.class_means(states, labels, groups, place)(own, other)
    np.testing.assert_allclose(edited @ span, other @ span, atol=1e-4)
    np.testing.assert_allclose(edited - edited @ span @ span.T, own - own @ span @ span.T, atol=1e-4)
    from sklearn.decomposition import PCA

    rows = PCA(3).fit(states).components_
    edited = used.components(states, labels, groups, place)(own, other)
    np.testing.assert_allclose(edited @ rows.T, other @ rows.T, atol=1e-8)
    everything = np.concatenate([states] * 2)
    swap = used.leace(states, labels, groups, place)
    np.testing.assert_allclose(swap(everything, everything), everything, atol=1e-9)
    assert np.linalg.norm(swap(own, other) - own, axis=1).mean() > 3


def test_a_variable_without_a_site_is_an_error(base: LM, monkeypatch: pytest.MonkeyPatch):
    """The claimed token carries the claim of this base; a token after it, which does not, gives way to the last one."""
    world = probe.world.of(base)
    assert world is not None
    draw = Draw(base, world, casts(world, used.HELD_OUT, 0)[0], np.random.default_rng(0))
    changed, kept = pairs_of(draw, "claim", 6)
    assert used.block_of(base, used.read_pairs(base, changed)) is not None
    full_stop = [
        replace(twin, **{side: replace(each, position=each.position + 1)})  # type: ignore[operator,arg-type]
        for twin in changed
        for side, each in (("own", twin.own),)
    ]
    full_stop = [replace(twin, other=replace(twin.other, position=twin.own.position)) for twin in full_stop]
    assert used.block_of(base, used.read_pairs(base, full_stop)) is None
    with pytest.raises(DataError, match="No state before the last block has half the effect"):
        used.site_of(base, "claim", [(full_stop, kept), (full_stop, kept)])
    final = base.bridge.cfg.n_layers - 1
    monkeypatch.setattr(
        used, "block_of", lambda lm, pairs: final if pairs.at[0] == len(pairs.texts[0][0]) - 1 else None
    )
    place, (test, _) = used.site_of(base, "claim", [(changed, kept), (changed, kept)])
    assert place.block == final
    assert test.at == [len(text) - 1 for text in test.texts[0]]


def test_padding_does_not_change_what_das_reads(base: LM, problems: dict[str, used.Use]):
    texts = problems["value"].place.changed.texts[0]
    assert len({len(each) for each in texts}) > 1
    assert not any(pad_id(base.tokenizer) in each for each in texts)
    with torch.no_grad():
        found = used.last_logits(base, pad(texts, pad_id(base.tokenizer))[0])
        alone = torch.stack([base.model(torch.tensor([each])).logits[0, -1] for each in texts])
    torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-3)


def test_das_beats_noise_on_people_it_was_not_fitted_on(problems: dict[str, used.Use]):
    problem = problems["claim"]
    flags = [each.requires_grad for each in problem.place.lm.model.parameters()]
    found = used.ask(problem, used.das)
    assert used.grade(problem, "claim", found).score > used.chance(problem, "claim") + 0.2
    assert [each.requires_grad for each in problem.place.lm.model.parameters()] == flags
