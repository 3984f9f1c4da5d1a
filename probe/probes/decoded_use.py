"""Use: whether the answer follows what a probe reads, by interventions on the decoded subspace of one state.

Two prompts differ in the label alone as far as the world allows (a true claim becomes a false one, "i know" becomes "i
guess", a known person becomes a stranger). Their log-odds differ by the effect of the true counterfactual. Erasing,
moving or swapping what is decoded at one token after one block changes the log-odds of the first prompt; if the model
uses it there, the answer moves towards that of the second. Directions of equal norm at random are the floor, and the
whole state of the second prompt is the ceiling.

Axes: P pairs, N texts, d width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

import probe.world
from probe import stats
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError, DataError
from probe.interventions.sites import TOKENS_PER_PASS, Site
from probe.logits.answer_tokens import answer_tokens
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.model.text import encode
from probe.numbers import format_interval
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.probes.decoding import (
    TEXTS,
    Asks,
    At,
    Count,
    Decoded,
    Layer,
    Prepared,
    Seed,
    decode_seconds,
    decoded,
    plain,
    prepare,
    texts_of,
)
from probe.probes.erasure import LEACE, Eraser, erase, one_hot
from probe.probes.linear_probes import answers, fit, score, score_name
from probe.probes.text_labels import PLACES, Labelled, Question, claims, token_of
from probe.ticks import Tick, ignore
from probe.traits.states import mean_states
from probe.world.vocabulary import ABSTENTION, PHRASES

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.world import World

Way = Literal["counterfactual", "whole state", "swap", "move", "erase"]
SWAP = (
    r"\text{swap: } x_a + Q\,(x_b - x_a), \quad \text{move: } x_a + \Sigma_{xz}\Sigma_{zz}^{+}(z_b - z_a), \quad"
    r"Q = W^{+}PW"
)
PAIRS, RANDOM = 100, 20
"""Largest number of pairs, and number of random directions for each intervention."""
SMALLEST, SHARE = 0.1, 0.05
"""Smallest effect that counts: nats, and share of the counterfactual's; the larger of both."""
HEIGHT = 330


@dataclass(frozen=True)
class Twin:
    """Prompt and its counterfactual, with the answer whose log-odds are measured."""

    own: Labelled
    other: Labelled
    toward: str
    """Answer that the counterfactual makes more likely."""
    against: str = ""
    """Answer it is compared with; all others if empty."""


@dataclass(frozen=True)
class Used(Drawable):
    """Effects of interventions on what was decoded, beside that of the true counterfactual."""

    decoded: Decoded
    """Scores of the probes."""
    effects: pd.DataFrame
    """One row per way (`Way`): `value`, `ci_low`, `ci_high` (change of the log-odds in nats, 95 % over people),
    `narrow` and `wide` (90 %), `share` of the counterfactual's effect, `random_low` and `random_high` (smallest and
    largest mean effect of random directions of the same norm; missing for the first two), `norm` of the change.
    """
    erased: float
    """Score of a new probe on held-out people after erasure."""
    rank: int
    """Number of decoded directions."""
    pairs: tuple[Twin, ...]
    """Pairs of held-out people."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    notes = (
        "An intervention at one token after one block says nothing about copies of the label elsewhere: what is not"
        " used there may be used at another token.",
    )

    def row(self, way: Way) -> dict[str, Any]:
        """Return the row of a way."""
        return dict(self.effects.set_index("way").loc[way])

    @property
    def least(self) -> float:
        """Smallest effect that counts, in nats."""
        return max(SMALLEST, SHARE * abs(self.row("counterfactual")["value"]))

    def verdict(self, way: Way = "swap") -> str:
        """Return whether the model uses what is decoded: "used", "not used" or "undecided".

        Used: in the direction of the counterfactual, the interval of the effect lies beyond the smallest effect that
        counts, and the effect beyond all random directions. Not used: the 90 % interval lies within the smallest
        effect on both sides (two one-sided tests).
        """
        row, least = self.row(way), self.least
        back = self.row("counterfactual")["value"] < 0
        near, floor = (-row["ci_high"], -row["random_low"]) if back else (row["ci_low"], row["random_high"])
        if near > least and abs(row["value"]) > floor:
            return "used"
        return "not used" if -least < row["narrow"] and row["wide"] < least else "undecided"

    def told(self, way: Way) -> str:
        """Return the effect of a way with its interval, in words."""
        row = self.row(way)
        return format_interval(row["value"], row["ci_low"], row["ci_high"])

    def sentence(self) -> str:
        """State whether what is decoded is used, beside the counterfactual, the whole state and random directions."""
        here = replace(self.decoded, looks=self.looks)
        can = "can be read" if here.is_decodable else "cannot be shown to be read"
        verdict = {
            "used": "The model uses it there",
            "not used": "The model does not use it there",
            "undecided": "Whether the model uses it there is undecided",
        }[self.verdict()]
        if not here.is_decodable:
            verdict = "So there is nothing whose use could be tested"
        random = self.row("swap")
        return (
            f"At {PLACES[here.at]} after block {here.layer}, {here.words} {can} in {self.looks[0].name}: {here.score}"
            f" {here.told('score')}, shuffled labels at most {plain(here.row['floor_high'])}. {verdict}: swapping it"
            f" between two prompts changes the answer's log-odds by {self.told('swap')} nats, the true counterfactual"
            f" by {self.told('counterfactual')}, the whole state by {self.told('whole state')}, and random directions"
            f" of equal norm by {plain(random['random_low'])} to {plain(random['random_high'])}."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the effects, and the scores by place."""
        return {"effects": self.effects, "layers": self.decoded.layers}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the effects with verdicts, and the pairs."""
        rows = [
            {"prompt": each.own.prompt, "counterfactual": each.other.prompt, "log-odds of": each.toward}
            | {"against": each.against or "all others"}
            for each in self.pairs
        ]
        verdicts = [self.verdict(way) if way in WAYS else "" for way in self.effects["way"]]
        return {"Effects in nats": self.effects.assign(verdict=verdicts), "Pairs": pd.DataFrame(rows)}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the effect of each way with random directions of equal norm."""
        from probe.probes.figures import effects_by_way

        title = f"What {self.looks[0].name} does with it: {self.decoded.words}"
        return {"effects": titled(effects_by_way(self.effects, self.least, self.looks[0].colour), title, HEIGHT)}


WAYS: tuple[Way, ...] = ("swap", "move", "erase")
"""Interventions on the decoded subspace."""


def _opposed(world: "World", n: int, seed: int) -> list[Twin]:
    """Return questions after a true claim, whose claim becomes false."""
    twins = []
    for item in claims(world, n, seed):
        if item.kind == "opinion_false" and item.claim is not None:
            truth, person = item.answers[0], str(item.meta["person"])
            true = item.prompt.replace(f"{item.claim} ", f"{truth} ", 1)
            own, other = (
                Labelled(prompt, label, person, subject=person)
                for prompt, label in ((true, "true"), (item.prompt, "false"))
            )
            twins.append(Twin(own, other, item.claim, truth))
    return twins


def _posteriors(world: "World", n: int, seed: int) -> list[Twin]:
    return [
        replace(
            twin,
            own=replace(twin.own, label=world.bayes_claim(twin.own.prompt)),
            other=replace(twin.other, label=world.bayes_claim(twin.other.prompt)),
        )
        for twin in _opposed(world, n, seed)
    ]


def _doubted(world: "World", n: int, seed: int) -> list[Twin]:
    """Return false claims that are known, which become guesses."""
    sure, unsure = (pick(PHRASES, key=PHRASES.__getitem__) for pick in (max, min))
    twins = []
    for item in claims(world, n, seed):
        if item.kind == "opinion_false" and item.claim is not None:
            said, person = str(item.meta["phrase"]), str(item.meta["person"])
            own, other = (
                Labelled(item.prompt.replace(f" {said} ", f" {phrase} ", 1), phrase, person, subject=person)
                for phrase in (sure, unsure)
            )
            twins.append(Twin(own, other, item.answers[0], item.claim))
    return twins


def _renamed(own: Labelled, other: Labelled) -> Labelled:
    """Return the other's label with the first one's question."""
    prompt = own.prompt.replace(f" {own.subject} ", f" {other.subject} ")
    return replace(other, prompt=prompt)


def _people(
    items: Sequence[Labelled],
    differ: Callable[[Labelled, Labelled], bool],
    answer: Callable[[Labelled], str],
    seed: int,
) -> list[Twin]:
    """Return questions about a person, who becomes another one with another label."""
    order = np.random.default_rng([seed, 4]).permutation(len(items)).tolist()
    twins = []
    for at, item in enumerate(items):
        other = next((items[each] for each in order[at:] + order[:at] if differ(item, items[each])), None)
        if other is not None:
            twins.append(Twin(item, _renamed(item, other), answer(other), answer(item)))
    return twins


def twins_of(ready: Prepared, world: "World", question: Question, n: int, seed: int) -> list[Twin]:
    """Return pairs of held-out people."""
    items = [ready.texts.items[at] for at in ready.test]
    people = {item.group for item in items}
    if question in ("claim", "phrase", "posterior"):
        maker = {"claim": _opposed, "phrase": _doubted, "posterior": _posteriors}[question]
        made = {twin.own.prompt: twin for twin in maker(world, n, seed) if twin.own.group in people}
        return list(made.values())
    if question == "value":
        return _people(items, lambda one, two: one.label != two.label, lambda item: item.answer, seed)
    if question == "known":
        return [
            replace(twin, toward=f" {ABSTENTION}", against="")
            for twin in _people(items, lambda one, two: (one.label, two.label) == ("known", "stranger"), str, seed)
        ]
    middle = float(np.median(ready.texts.labels))
    return [
        replace(twin, toward=f" {ABSTENTION}", against="")
        for twin in _people(items, lambda one, two: float(one.label) > middle >= float(two.label), str, seed)
    ]


def use_seconds(lm: LM, question: Question = "claim", n: int = TEXTS, seed: int = 0, **rest: Any) -> float:
    """Estimate the seconds that decoding and all interventions take."""
    return decode_seconds(lm, question, None, n, seed) + seconds_to_read(
        lm, PAIRS * 20 * (4 + len(WAYS) * (RANDOM + 1))
    )


@analysis("probes", title="Use", equations=(LEACE, SWAP), seconds=use_seconds, key="probe")
def use(
    lm: LM,
    *,
    question: Asks = "claim",
    at: At = "last",
    n: Count = TEXTS,
    layer: Layer = None,
    seed: Seed = 0,
    tick: Tick = ignore,
) -> Used:
    """Measure whether the model uses what a probe reads, by the answer when it is erased, moved or swapped.

    Pairs are two prompts about held-out people that differ in the label. LEACE gives the decoded subspace from the
    training people: swapping exchanges it between the two prompts, moving adds the mean change that goes with the
    label, and erasing removes it. Each effect is the change of the log-odds of the answer that the counterfactual
    makes more likely, in nats, beside the change by the true counterfactual, by the whole state of the other prompt,
    and by 20 random directions of equal norm. An effect counts from 0.1 nats and 5 % of the counterfactual's on.

    Args:
        lm: the model of a world.
        question: what is decoded.
        at: token whose state is changed: the last of the prompt, or the last of the subject's name.
        n: number of texts that the probes are fitted on and tested with.
        layer: block after which the state is changed; by default the best on the training people, for the
            subject without the last block, after which nothing at it reaches the answer.
        seed: seed of the texts, the split and the random directions.
        tick: progress.

    Raises:
        ConfigError: the question is unknown, the model lacks the block, or the token is the answer.
        DataError: the model has no world; there are too few texts.
    """
    if at == "answer":
        raise ConfigError("The answer is what is measured: change the state at `last` or at `subject`.")
    world, depth = probe.world.of(lm), lm.bridge.cfg.n_layers
    if world is None:
        raise DataError("Counterfactuals are known on a world only: choose a model that was trained on one.")
    if layer is not None and not -1 <= layer < depth:
        raise ConfigError(f"Block {layer} was requested in a model of {depth} blocks: give -1 to {depth - 1}.")
    if at != "last" and (layer == depth - 1 or depth == 1):
        raise ConfigError(
            "After the last block only the last token reaches the answer: give an earlier block, or `last`."
        )
    ready = prepare(lm, texts_of(lm, question, None, n, seed), at, seed, lambda share: tick(share / 4))
    found = decoded(ready, layer, seed, lambda share: tick(0.25 + share / 2))
    if at != "last" and layer is None:
        found = found.best_before(depth - 1)
    twins = [twin for twin in twins_of(ready, world, question, n, seed) if _fits(lm, twin, ready)]
    if len({twin.own.group for twin in twins}) < 3:
        raise DataError("Fewer than three held-out people have a counterfactual: ask for more texts.")
    picked = np.random.default_rng([seed, 5]).permutation(len(twins))[:PAIRS]
    return _measured(
        lm, ready, found, [twins[at] for at in np.sort(picked)], seed, lambda share: tick(0.75 + share / 4)
    )


def _fits(lm: LM, twin: Twin, ready: Prepared) -> bool:
    return token_of(lm, twin.own, ready.at) == token_of(lm, twin.other, ready.at)


def eraser_of(ready: Prepared, layer: int) -> Eraser:
    """Return the eraser of the training people after a block."""
    texts = ready.texts
    return erase(ready.states[ready.fit, layer + 1], texts.labels[ready.fit], numeric=texts.numeric, shrink=True)


def moves(ready: Prepared, layer: int, own: Sequence[Any], other: Sequence[Any]) -> np.ndarray:
    """Return [P d] mean changes of the state that go with a change of the label, on the training people."""
    numeric, inside = ready.texts.numeric, ready.fit
    given = ready.texts.labels[inside]
    z, x = one_hot(given, numeric), ready.states[inside, layer + 1].astype(float)
    slope = np.linalg.lstsq(z - z.mean(0), x - x.mean(0), rcond=None)[0]
    if numeric:
        return np.asarray((np.array(other, float) - np.array(own, float))[:, None] * slope)
    names = np.unique(given)
    codes = [(np.array(each)[:, None] == names[None]).astype(float) for each in (own, other)]
    return np.asarray((codes[1] - codes[0]) @ slope)


def erased_score(ready: Prepared, eraser: Eraser, layer: int, seed: int) -> float:
    """Return the score of a new probe on held-out people after erasure."""
    labels, groups = ready.texts.labels, ready.texts.groups
    x, name = eraser(ready.states[:, layer + 1].astype(float)), score_name(labels, ready.texts.numeric)
    model = fit(x[ready.fit], labels[ready.fit], groups[ready.fit], name, seed).model
    return score(answers(model, x[ready.test], name), labels[ready.test], name)


def _measured(lm: LM, ready: Prepared, found: Decoded, twins: Sequence[Twin], seed: int, tick: Tick) -> Used:
    """Make all interventions."""
    layer, numeric = found.layer, ready.texts.numeric
    own, other = (
        [encode(lm.tokenizer, side.prompt) for side in sides]
        for sides in ([twin.own for twin in twins], [twin.other for twin in twins])
    )
    at = [token_of(lm, twin.own, ready.at) for twin in twins]
    heads: list[tuple[list[int], list[int]]] = [
        (ids[: end + 1], []) for side in (own, other) for ids, end in zip(side, at, strict=True)
    ]
    states = mean_states(lm, heads)[:, layer + 1].astype(float)
    mine, theirs = states[: len(twins)], states[len(twins) :]
    eraser = eraser_of(ready, layer)
    labels = [[getattr(twin, side).label for twin in twins] for side in ("own", "other")]
    shifts = {
        "whole state": theirs - mine,
        "swap": eraser.decoded(theirs) - eraser.decoded(mine),
        "move": moves(ready, layer, *([each if numeric else str(each) for each in side] for side in labels)),
        "erase": -eraser.decoded(mine),
    }
    tokens = [(_first(lm, twin.toward), _first(lm, twin.against) if twin.against else None) for twin in twins]

    def odds(texts: Sequence[Sequence[int]], shift: np.ndarray) -> np.ndarray:
        return log_odds(lm, texts, at, layer, shift, tokens)

    nothing = np.zeros_like(mine)
    before = odds(own, nothing)
    effects = {"counterfactual": odds(other, nothing) - before}
    rng, floors = np.random.default_rng([seed, 6]), dict[str, list[float]]()
    for number, (way, shift) in enumerate(shifts.items()):
        effects[way] = odds(own, shift) - before
        for _ in range(RANDOM if way in WAYS else 0):
            noise = rng.standard_normal(shift.shape)
            noise *= np.linalg.norm(shift, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
            floors.setdefault(way, []).append(float((odds(own, noise) - before).mean()))
        tick((number + 1) / len(shifts))
    units, total = [twin.own.group for twin in twins], float(effects["counterfactual"].mean())
    rows = []
    for way, change in effects.items():
        narrow = stats.bootstrap_mean(change, 0.9, units=units)
        floor = floors.get(way, [float("nan")])
        rows.append(
            {"way": way, **stats.bootstrap_mean(change, units=units).row(), "narrow": narrow.low, "wide": narrow.high}
            | {"share": float(change.mean()) / total, "random_low": min(floor), "random_high": max(floor)}
            | {"norm": float(np.linalg.norm(shifts.get(way, theirs - mine), axis=1).mean()), "n": len(twins)}
        )
    kept = erased_score(ready, eraser, layer, seed)
    return Used(found, pd.DataFrame(rows), kept, eraser.rank, tuple(twins))


def _first(lm: LM, answer: str) -> int:
    return answer_tokens(lm, [answer]).ids[0][0]


@torch.no_grad()
def log_odds(
    lm: LM,
    texts: Sequence[Sequence[int]],
    at: Sequence[int],
    layer: int,
    shifts: np.ndarray,
    answers: Sequence[tuple[int, int | None]],
) -> np.ndarray:
    """Return the log-odds [P] of answers after texts in nats, with a vector added to one state of each text.

    Args:
        lm: the model.
        texts: token ids of P prompts.
        at: token of each whose state is changed.
        layer: block after which it is changed; -1 is the embedding.
        shifts: [P d] vectors that are added.
        answers: token of an answer, and of the one it is compared with; None is all others.
    """
    size, found = max(1, TOKENS_PER_PASS // max(map(len, texts))), list[float]()
    for start in range(0, len(texts), size):
        part = slice(start, start + size)
        rows, vectors = torch.arange(len(texts[part])), torch.as_tensor(shifts[part])
        places, ends = torch.tensor(at[part]), torch.tensor([len(text) - 1 for text in texts[part]])

        def add(
            states: torch.Tensor, hook: Any, rows: Any = rows, places: Any = places, vectors: Any = vectors
        ) -> torch.Tensor:
            changed = states.clone()
            changed[rows, places] += vectors.to(states)
            return changed

        def only(states: torch.Tensor, hook: Any, rows: Any = rows, ends: Any = ends) -> torch.Tensor:
            return states[rows, ends][:, None]

        with lm.hooks([(Site("resid", layer).hook, add), ("unembed.hook_in", only)]):
            logits = lm.logits([list(text) for text in texts[part]])[:, 0].double().log_softmax(-1).cpu()
        for row, (toward, against) in zip(logits, answers[part], strict=True):
            rest = torch.cat([row[:toward], row[toward + 1 :]]).logsumexp(0) if against is None else row[against]
            found.append(float(row[toward] - rest))
    return np.array(found)
