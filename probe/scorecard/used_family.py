"""Used or only there: what happens to the answer when a method edits the part of the state that it says is a variable.

A method is fitted on pairs of texts about training people, and returns an edit: from the state of a text and that of
its counterfactual to an edited state. The edit is made at one token after one block, in texts about held-out people.
The exact effect w of a pair is the change of the answers' log-odds when the whole state becomes that of the
counterfactual; e is the change by the edit. As in RAVEL (Huang et al. 2024, arXiv 2402.17700) there are two kinds of
pairs (`probe.scorecard.counterfactual_pairs`), those that differ in the variable and those that agree in it:

    effect = 1 - sum |e - w| / sum |w|      changed pairs
    spill  = sum |e| / sum |w|              kept pairs; pairs of sums, and of questions on passages

The first truth of a variable is the effect; the second (`alone`) is effect x max(0, 1 - spill). The whole state scores
1 and 0, no edit scores 0 and 0, and an edit that goes too far loses as much as one that stops short. Sums and passages
say nothing of the variable, so an edit should leave them; what stays, 1 - spill, is in the evidence of a row.

Bases carry a variable at different places, so the site is chosen on each by exact effects on training people: the first
of the variable's tokens, and the last block but the final, at which the whole state has half the effect of the true
counterfactual. No method has a part in this choice. A share of a smaller effect would be noise, so that a base without
such a site is an error.

Axes: N states, M or P pairs, d width, k rank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

import probe.world
from probe.errors import DataError
from probe.interventions.sites import Site
from probe.logits.answer_tokens import answer_tokens
from probe.model.lm import LM
from probe.model.text import encode, pad, pad_id
from probe.probes.decoded_use import Twin, log_odds
from probe.probes.erasure import erase
from probe.probes.linear_probes import answers, fit, score_name, train_simple
from probe.probes.text_labels import Labelled, token_of
from probe.scorecard.counterfactual_pairs import Draw, casts, pairs_of
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.method_record import method
from probe.ticks import Tick
from probe.traits.states import mean_states

HELD_OUT = 0.4
"""Share of the people who are held out."""
HALF = 0.5
"""Share of the counterfactual's effect that the whole state must have at the site."""
DRAWS = 40
"""Number of random edits whose mean is the expected score of a random one."""
NEUTRAL = {"sums": "sum_quick", "passages": "context"}
"""Kinds of questions that say nothing of any variable."""
NEUTRAL_PAIRS = 48
"""Number of pairs of each of these kinds."""
ALONE = "_alone"
WORDS = {
    "value": "the home of a person, at the last token",
    "known": "whether a person is known, at the last token",
    "claim": "the home that a user claims, at its token or the last",
}
WITH_KEPT = ("value", "known")
"""Variables whose kept pairs have an effect to spill into; that of the claim's is near 0 on most bases."""
Edit = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function from the states of texts [M d] and of their counterfactuals [M d] to edited states [M d]."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts with their states at the site."""

    texts: tuple[list[list[int]], list[list[int]]]
    """Token ids of each text and of its counterfactual."""
    at: list[int]
    """Token of each pair, the same in both texts."""
    answers: list[tuple[int, int]]
    """Token of the answer of the counterfactual, and of the text's own answer."""
    labels: tuple[np.ndarray, np.ndarray]
    """[P] labels of texts and of counterfactuals."""
    groups: np.ndarray
    """[P] people."""
    states: tuple[np.ndarray, np.ndarray]
    """[P d] states at the token after the block; [P places d] before a block is chosen."""

    def after(self, block: int) -> "Pairs":
        """Return the pairs with their states after a block."""
        own, other = (each[:, block + 1] for each in self.states)
        return replace(self, states=(own, other))


@dataclass(frozen=True)
class Place:
    """Where a method edits, and the training pairs; for methods that run the model."""

    lm: LM
    block: int
    changed: Pairs
    kept: Pairs

    @property
    def hook(self) -> str:
        """Name of the hook point."""
        return Site("resid", self.block).hook


class Effects(NamedTuple):
    """Changes [P] of the log-odds in nats, towards the answer of the counterfactual."""

    changed: np.ndarray
    kept: np.ndarray
    neutral: Mapping[str, np.ndarray] = MappingProxyType({})
    """Effects on pairs of sums and of passages."""


@dataclass(frozen=True)
class Use:
    """Pairs of held-out people with their exact effects."""

    place: Place
    pairs: tuple[Pairs, Pairs]
    """Changed and kept pairs."""
    before: Effects
    """Log-odds without an edit."""
    whole: Effects
    """Effects of the whole state of the counterfactual."""
    counterfactual: float
    """Mean effect of the true counterfactual on changed pairs."""
    neutral: Mapping[str, Pairs] = field(default_factory=dict)
    """Pairs of sums and of questions on passages."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """Mean score of random edits by truth."""


def read_pairs(lm: LM, twins: Sequence[Twin]) -> Pairs:
    """Read the states of pairs after every block."""
    own, other = ([encode(lm.tokenizer, getattr(twin, side).prompt) for twin in twins] for side in ("own", "other"))
    at = [token_of(lm, twin.own, "last") for twin in twins]
    heads: list[tuple[list[int], list[int]]] = [
        (text[: end + 1], []) for side in (own, other) for text, end in zip(side, at, strict=True)
    ]
    states = mean_states(lm, heads).astype(float)
    tokens = [answer_tokens(lm, [twin.toward, twin.against]).ids for twin in twins]
    first = [(toward[0], against[0]) for toward, against in tokens]
    one, two = (np.array([getattr(twin, side).label for twin in twins]) for side in ("own", "other"))
    groups = np.array([twin.own.group for twin in twins])
    return Pairs((own, other), at, first, (one, two), groups, (states[: len(own)], states[len(own) :]))


def odds(lm: LM, pairs: Pairs, block: int = 0, shifts: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the log-odds [P] of the answers after the texts, with vectors [P d] added at the token after the block."""
    added = np.zeros((len(pairs.at), lm.bridge.cfg.d_model)) + shifts
    return log_odds(lm, pairs.texts[0], pairs.at, block, added, pairs.answers)


def block_of(lm: LM, pairs: Pairs) -> int | None:
    """Return the last block but the final from which the whole state has half the effect of the counterfactual."""
    before, found = odds(lm, pairs), list[float]()
    for block in range(lm.bridge.cfg.n_layers - 1):
        own, other = pairs.after(block).states
        found.append(float((odds(lm, pairs, block, other - own) - before).mean()))
    enough = np.flatnonzero(np.array(found) >= HALF * counterfactual_effect(lm, pairs, before))
    return int(enough[-1]) if len(enough) else None


def moved_to_last(twins: Sequence[Twin]) -> list[Twin]:
    """Return the pairs with the last token as their site."""
    return [replace(twin, own=replace(twin.own, position=-1), other=replace(twin.other, position=-1)) for twin in twins]


def counterfactual_effect(lm: LM, pairs: Pairs, before: np.ndarray) -> float:
    """Return the mean change of the log-odds [P] when the text is the counterfactual."""
    turned = replace(pairs, texts=(pairs.texts[1], pairs.texts[0]))
    return float((odds(lm, turned) - before).mean())


def site_of(lm: LM, task: str, drawn: Sequence[tuple[list[Twin], list[Twin]]]) -> tuple[Place, tuple[Pairs, Pairs]]:
    """Return the place with its training pairs, and the pairs of held-out people; see the module.

    Raises:
        DataError: no site has half the effect of the counterfactual.
    """
    (changed, kept), test = drawn
    for move_to in (list, moved_to_last):
        pairs = read_pairs(lm, move_to(changed))
        block = block_of(lm, pairs)
        if block is not None:
            place = Place(lm, block, pairs.after(block), read_pairs(lm, move_to(kept)).after(block))
            one, two = (read_pairs(lm, move_to(twins)).after(block) for twins in test)
            return place, (one, two)
    raise DataError(f"No state before the last block has half the effect of `{task}`: the share of it is undefined.")


def use_of(lm: LM, task: str, n: int, seed: int, tick: Tick) -> Use:
    """Draw the pairs of a variable, choose the site, and measure the exact effects.

    Raises:
        DataError: the model has no world, too few pairs are found, or no site has half the effect.
    """
    world = probe.world.of(lm)
    if world is None:
        raise DataError("Counterfactuals are known on a world only: give a model of a world.")
    drawn = list[tuple[list[Twin], list[Twin]]]()
    for number, (cast, share) in enumerate(zip(casts(world, HELD_OUT, seed), (1 - HELD_OUT, HELD_OUT), strict=True)):
        draw = Draw(lm, world, cast, np.random.default_rng([seed, 9, number]))
        changed, kept = pairs_of(draw, task, max(2, round(share * n)))
        if min(len(changed), len(kept)) < 2:
            raise DataError(f"Fewer than two pairs of people were found for `{task}`: ask for more texts.")
        drawn.append((changed, kept))
        tick((number + 1) / 8)
    place, test = site_of(lm, task, drawn)
    neutral = {name: neutral_pairs(lm, kind, place.block, seed) for name, kind in NEUTRAL.items()}
    before = Effects(odds(lm, test[0]), odds(lm, test[1]), {name: odds(lm, each) for name, each in neutral.items()})
    total = counterfactual_effect(lm, test[0], before.changed)
    bare = Use(place, test, before, before, total, neutral)
    problem = replace(bare, whole=edited(bare, lambda own, other: other))
    guesses, rng = list[Effects](), np.random.default_rng([seed, 10])
    for number in range(DRAWS):
        guesses.append(random(problem, task, rng))
        tick(0.5 + (number + 1) / (2 * DRAWS))
    truths = (each.name for each in FAMILY.truths if each.task == task)
    return replace(
        problem,
        expected={name: float(np.mean([grade(problem, name, each).score for each in guesses])) for name in truths},
    )


def neutral_pairs(lm: LM, kind: str, block: int, seed: int) -> Pairs:
    """Return pairs of questions of a kind with different answers; the site is their last token."""
    world, twins = probe.world.of(lm), list[Twin]()
    assert world is not None
    drawn = world.questions(kind, 4 * NEUTRAL_PAIRS, seed + 1)
    for one, two in zip(drawn[::2], drawn[1::2], strict=True):
        own, other = (Labelled(each.prompt, "", "", subject="", position=-1) for each in (one, two))
        if one.answers[0] != two.answers[0] and len(twins) < NEUTRAL_PAIRS:
            twins.append(Twin(own, other, two.answers[0], one.answers[0]))
    return read_pairs(lm, twins).after(block)


def effects(
    problem: Use, changed: np.ndarray, kept: np.ndarray, neutral: Mapping[str, np.ndarray] = MappingProxyType({})
) -> Effects:
    """Return the effects of vectors [P d] that are added to the states of changed, kept and neutral pairs."""
    lm, block, before = problem.place.lm, problem.place.block, problem.before
    beside = {
        name: odds(lm, problem.neutral[name], block, shifts) - before.neutral[name] for name, shifts in neutral.items()
    }
    parts = zip(problem.pairs, (changed, kept), before[:2], strict=True)
    first, second = (odds(lm, pairs, block, shifts) - start for pairs, shifts, start in parts)
    return Effects(first, second, beside)


def edited(problem: Use, edit: Edit) -> Effects:
    """Return the effects of an edit on all pairs."""
    changed, kept, *neutral = (
        checked(edit(own.copy(), other.copy()), own.shape, "an edited state for each pair") - own
        for own, other in (each.states for each in (*problem.pairs, *problem.neutral.values()))
    )
    return effects(problem, changed, kept, dict(zip(problem.neutral, neutral, strict=True)))


def ask(problem: Use, function: Callable[..., Any]) -> Effects:
    """Fit a method on the training people, and edit the states of held-out ones, of sums and of passages."""
    pairs = problem.place.changed
    states, labels = np.concatenate(pairs.states), np.unique(np.concatenate(pairs.labels), return_inverse=True)[1]
    edit = function(states, labels, np.concatenate([pairs.groups] * 2), problem.place)
    if not callable(edit):
        raise DataError(f"It returned {type(edit).__name__}; expected a function from two arrays [M d] to one.")
    return edited(problem, edit)


def grade(problem: Use, truth: str, answer: Effects) -> Grade:
    """Score the effects of an edit."""
    exact, pairs = problem.whole, problem.pairs[0]
    share = 1 - np.abs(answer.changed - exact.changed).sum() / np.abs(exact.changed).sum()
    spill = np.abs(answer.kept).sum() / np.abs(exact.kept).sum()
    also = {
        "block": float(problem.place.block),
        "last token": float(np.mean([at == len(text) - 1 for at, text in zip(pairs.at, pairs.texts[0], strict=True)])),
        "mean effect": float(answer.changed.mean()),
        "of the whole state": float(exact.changed.mean()),
        "of the counterfactual": problem.counterfactual,
    }
    if any(each.name == truth.removesuffix(ALONE) + ALONE for each in FAMILY.truths):
        also["spill"] = float(spill)
    for name, found in answer.neutral.items():
        also[f"{name} that stay"] = float(1 - np.abs(found).sum() / np.abs(exact.neutral[name]).sum())
    return Grade(float(share * max(0.0, 1 - spill) if truth.endswith(ALONE) else share), also)


def chance(problem: Use, truth: str) -> float:
    """Return the mean score of random edits, which is not 0: noise makes an answer less certain."""
    return problem.expected[truth]


def random(problem: Use, truth: str, rng: np.random.Generator) -> Effects:
    """Move every state in a random direction, as far as its counterfactual is away."""
    shifts = []
    for own, other in (each.states for each in problem.pairs):
        noise = rng.standard_normal(own.shape)
        far = np.linalg.norm(other - own, axis=1, keepdims=True)
        shifts.append(noise * far / np.linalg.norm(noise, axis=1, keepdims=True))
    return effects(problem, *shifts)


def oracle(problem: Use, truth: str, rng: np.random.Generator) -> Effects:
    """Give the whole state of the counterfactual where the variable differs, and change nothing where it does not."""
    own, other = problem.pairs[0].states
    return effects(problem, other - own, np.zeros_like(problem.pairs[1].states[0]))


def interchange(basis: Any) -> Edit:
    """Return the edit that exchanges the coordinates in an orthonormal basis [d k] (Geiger et al. 2021)."""
    kept = np.asarray(basis.detach().cpu() if hasattr(basis, "detach") else basis, dtype=float)
    return lambda own, other: own + (other - own) @ kept @ kept.T


def rank_of(labels: np.ndarray) -> int:
    """Return the number of directions that the means of the classes span."""
    return len(np.unique(labels)) - 1


@method("used", title="Principal components")
def components(states: np.ndarray, labels: np.ndarray, groups: np.ndarray, place: Place) -> Edit:
    """Exchange as many principal components as classes span directions, whatever the labels are."""
    _, _, rows = np.linalg.svd(states - states.mean(0), full_matrices=False)
    return interchange(rows[: rank_of(labels)].T)


@method("used", title="Means of classes")
def class_means(states: np.ndarray, labels: np.ndarray, groups: np.ndarray, place: Place) -> Edit:
    """Exchange the span of the class means; for two classes, their difference (transformer-lens)."""
    from transformer_lens.tools.analysis import mean_difference_basis

    return interchange(mean_difference_basis(torch.from_numpy(states), labels.tolist()))


@method("used", title="Probe's normals")
def probe_normals(states: np.ndarray, labels: np.ndarray, groups: np.ndarray, place: Place) -> Edit:
    """Exchange the span of the weights of a logistic probe (transformer-lens)."""
    from transformer_lens.tools.analysis import probe_basis

    scaler, regression = fit(states, labels, groups, score_name(labels, False), seed=0).model
    return interchange(probe_basis(torch.from_numpy(regression.coef_ / scaler.scale_)))


@method("used", title="LEACE subspace")
def leace(states: np.ndarray, labels: np.ndarray, groups: np.ndarray, place: Place) -> Edit:
    """Erase what is linearly known of the labels, and put that of the counterfactual in its place."""
    eraser = erase(states, labels, shrink=True)
    return lambda own, other: eraser(own) + eraser.decoded(other)


@method("used", title="Move by means")
def move(states: np.ndarray, labels: np.ndarray, groups: np.ndarray, place: Place) -> Edit:
    """Read both classes by the nearest mean, and add the difference of their means."""
    model = train_simple(states, labels, False)
    name = score_name(labels, False)

    def means(others: np.ndarray) -> np.ndarray:
        if name == "AUROC":  # the projection, cut in the middle of the two means
            said = answers(model, others - model.means.mean(0), name) > 0
            return np.asarray(model.means[said.astype(int)])
        return np.asarray(model.means[answers(model, others, name).astype(int)])

    return lambda own, other: own + means(other) - means(own)


def last_logits(lm: LM, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits [B V] at the last token of texts [B T] that are padded on the right; gradients pass."""
    ends = (ids != pad_id(lm.tokenizer)).sum(1) - 1
    return torch.as_tensor(lm.bridge(ids)[torch.arange(len(ids)), ends])


@method("used", title="DAS")
def das(states: np.ndarray, labels: np.ndarray, groups: np.ndarray, place: Place) -> Edit:
    """Learn the subspace whose exchange gives the right answers to changed and kept pairs (Geiger et al. 2024)."""
    from transformer_lens.tools.analysis import fit_das

    lm, blank = place.lm, pad_id(place.lm.tokenizer)
    both = (place.changed, place.kept)
    rows = [[text for pairs in both for text in pairs.texts[side]] for side in (0, 1)]
    own, other = (pad(texts, blank)[0] for texts in rows)
    at = torch.tensor([end for pairs in both for end in pairs.at])
    targets = [pair[0] for pair in place.changed.answers] + [pair[1] for pair in place.kept.answers]
    found = fit_das(
        lm.bridge, place.hook, own, other, torch.tensor(targets), partial(last_logits, lm),
        rank=rank_of(labels), base_positions=at, source_positions=at,
    )  # fmt: skip
    return interchange(found.subspace.basis)


def truths() -> tuple[Truth, ...]:
    """Return two truths for every variable."""
    found = []
    for name, words in WORDS.items():
        found.append(Truth(name, words, "share of effect", name))
        if name in WITH_KEPT:
            found.append(Truth(name + ALONE, f"{words}, and nothing else", "effect x (1 - spill)", name))
    return tuple(found)


FAMILY = Family(
    name="used",
    title="Used or only there",
    about="An edit of a part of the state changes the answer as the variable does, and leaves other answers.",
    receives="states [N d], labels [N] (numbers of classes), groups [N] (names of people), and the place: the LM, the"
    " block and the training pairs",
    returns="a function from the states of texts [M d] and of their counterfactuals [M d] to edited states [M d]",
    truths=truths(),
    n=200,
    baseline="components",
    prepare=use_of,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle},
)
