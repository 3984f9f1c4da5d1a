"""What the Interventions page computes, patches and steering: pure functions of a model and hashable choices."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from dashboard.models import compute_part
from probe.errors import DataError
from probe.interventions.figures import head_labels
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.interventions.controls import Null, Outcome
    from probe.interventions.patching import Ablation, Means, Pair, Patching
    from probe.interventions.sites import Activations, Counterpart, Kind, Site
    from probe.logits.targets import Target
    from probe.model.lm import LM

# Answers that the bars show, at most.
MOST_ANSWERS = 4
# Reference texts of mean and resampled ablation, for models of no world.
REFERENCE = (
    "The weather was cold and the streets were empty in the morning.",
    "She opened the book and read the first page aloud to the children.",
    "Water boils at one hundred degrees when the pressure is normal.",
    "He thought about the question for a while and then gave an answer.",
    "The train to the city leaves every hour from the second platform.",
    "A good meal needs time, fresh vegetables and a little salt.",
    "They built the bridge over the river more than fifty years ago.",
    "Music can change how we feel about a place or a person.",
)
# Gap of the clean and the corrupted run, in nats, below which shares of it mean nothing.
LEAST_GAP = 0.05
# Seconds of one run from which on a model counts as slow.
SLOW_S = 0.05
# Kinds of questions of the world from which reference texts come.
REFERENCE_KINDS = ("opinion_false", "opinion_true", "fact")


@dataclass(frozen=True)
class Question:
    """Two texts and what is measured on them, resolved to tokens."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...] | None
    answer: int
    against: int | None
    name: str
    """Of the target."""
    columns: tuple[int, ...]
    """Answers whose probabilities are shown, the target's first."""
    note: str = ""
    """Which tokens of the answers are compared, in a sentence; empty where each answer is one token."""

    @property
    def words(self) -> str:
        """The target in a sentence."""
        first, _, second = self.name.partition(" \u2212 ")
        if not self.columns:
            return f"the {'gap in ' * (self.corrupted is not None)}{self.name}"
        return (
            f"\u201c{first.strip('·')}\u201d over \u201c{second.strip('·')}\u201d"
            if second
            else f"the logit of {first}"
        )

    @property
    def nats(self) -> str:
        """The unit of the target after a number; a scalar head has its own."""
        return " nats" if self.columns else ""

    @property
    def target(self) -> "Target":
        """What is measured, at the last token."""
        from probe.logits.targets import Target

        return Target(len(self.clean) - 1, self.answer, self.against, self.name)


@dataclass(frozen=True)
class Way:
    """How one intervenes on a grid of sites."""

    do: str
    """patch or ablate."""
    kind: "Kind"
    how: str
    """denoise or noise; zero, mean or resample."""
    at: int | None = None
    """The token of heads; None is every token."""


@dataclass(frozen=True)
class GridView:
    """A grid of effects as the page shows it."""

    grid: "Patching | Ablation"
    way: Way
    question: Question
    unit: float
    """What effects in nats are divided by: the gap of clean and corrupted, or 1."""
    label: str
    """What a number is."""

    @property
    def values(self) -> np.ndarray:
        """[rows columns] effects in the unit."""
        return np.asarray(self.grid.effects / self.unit)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return head_labels(self.values.shape[1]) if self.way.kind == "head" else self.grid.tokens

    @property
    def axis(self) -> str:
        """The label on one line."""
        return self.label.replace(", ", " ") if self.share else self.label

    @property
    def share(self) -> bool:
        """Whether numbers are shares of the gap between the two runs."""
        return self.way.do == "patch" and self.label.startswith("share")


def in_best_unit(grid: "Patching | Ablation", way: Way, question: Question) -> GridView:
    """Return a grid in its most informative unit: shares of the gap where there is one, else nats."""
    unit, label = 1.0, f"effect,{question.nats or ' ' + question.name}"
    gap = getattr(grid, "clean", 0.0) - getattr(grid, "corrupted", 0.0)
    if way.do == "patch" and abs(gap) > LEAST_GAP:
        unit = gap if way.how == "denoise" else -gap
        label = "share, restored" if way.how == "denoise" else "share, removed"
    return GridView(grid, way, question, unit, label)


def best(view: GridView) -> tuple[int, int]:
    """Return (layer, column) of the site to look at first, which is the strongest one.

    In the residual stream it is the strongest one at half depth, where neither the embedding nor the output makes it
    trivial.
    """
    values = np.nan_to_num(np.abs(view.values))
    rows = list(range(len(values)))
    if view.way.kind == "resid":
        rows = [len(values) // 2]
    row = max(rows, key=lambda at: float(values[at].max()))
    return view.grid.layers[row], int(values[row].argmax())


def nulls_of(outcome: "Outcome", view: GridView) -> "list[Null]":
    """Return the nulls of a site; where every head was run, all other heads are its null, and not only those drawn."""
    from probe.interventions.controls import Null

    site, (others, directions) = outcome.sites[0], outcome.nulls
    if not view.grid.exact or site.kind != "head":
        return [others, directions]
    effects = np.delete(view.grid.effects.ravel(), site.layer * len(view.columns) + (site.head or 0))
    names = [f"L{layer}{column}" for layer in view.grid.layers for column in view.columns]
    names.remove(site.name)
    return [Null(others.name, effects, np.zeros((len(effects), 0)), names), directions]


def worldly(lm: "LM") -> bool:
    """Whether a model was trained on a world."""
    from probe.world import of

    return of(lm) is not None


def readable(lm: "LM", texts: Sequence[str]) -> None:
    """Raise a DataError if a text is longer than the model's context."""
    from probe.model.scoring import check_lengths
    from probe.model.text import encode

    check_lengths(lm.model, [encode(lm.tokenizer, text) for text in texts], [])


def suggest(lm: "LM", prompt: str) -> "Counterpart":
    """Suggest the counterpart of a prompt: the corrupted prompt to run beside it, and the answers."""
    from probe.interventions.sites import counterpart
    from probe.world import of

    return counterpart(lm, prompt, of(lm))


def resolve(lm: "LM", do: str, prompt: str, corrupted: str, answer: str, against: str, chat: bool = False) -> Question:
    """Tokens of both texts and of the answers; what was not typed is suggested, else what the model holds likeliest.

    Raises:
        DataError: the texts have different numbers of tokens or are the same, an answer has no tokens, or no token
            tells the two apart.
    """
    from probe.interventions.patching import pair_of
    from probe.logits.answer_tokens import answer_tokens
    from probe.logits.targets import target_of
    from probe.model.text import encode

    counterpart = suggest(lm, prompt)
    other = corrupted.strip() or counterpart.corrupted
    is_default = other == counterpart.corrupted
    text, other = (
        lm.prompt_text([{"role": "user", "content": part}]) if chat and part else part
        for part in (counterpart.clean, other)
    )
    clean, dirty = encode(lm.tokenizer, text or ""), None
    if do == "patch" and other:
        pair = pair_of(lm, clean, other)
        clean, dirty = pair.clean, tuple(pair.corrupted)
    if lm.readout != "tokens":
        return Question(tuple(clean), dirty, 0, None, lm.readout, ())
    rows = lm.logits([clean, list(dirty)] if dirty else [clean])[:, -1]
    likeliest, theirs = rows[0].topk(2).indices.tolist(), int(rows[1].argmax()) if dirty else None
    rival = counterpart.rival or counterpart.against
    suggestion = (counterpart.against if do == "patch" else rival) if is_default else None
    first: str | int = with_blank(answer) or (counterpart.answer if is_default else None) or likeliest[0]
    typed = with_blank(against)
    second = typed or suggestion or (theirs if dirty else likeliest[1])
    try:
        target = target_of(lm, clean, first, second)
    except DataError:
        if typed:
            raise
        target = target_of(lm, clean, first)  # what is suggested is the same answer
    clean, dirty = target.text(clean), None if dirty is None else tuple(target.text(dirty))
    if target.shared:
        rows = lm.logits([clean, list(dirty)] if dirty else [clean])[:, -1]
        likeliest, theirs = rows[0].topk(2).indices.tolist(), int(rows[1].argmax()) if dirty else None
    candidates = [target.answer, target.against]
    if is_default:
        others = [counterpart.against, counterpart.rival] if do == "ablate" else [counterpart.rival]
        size = len(target.shared)
        for ids in (answer_tokens(lm, [text]).ids[0] for text in others if text):
            candidates += [ids[size] if ids[:size] == target.shared and len(ids) > size else None]
    candidates += [likeliest[0], theirs]
    columns = tuple(dict.fromkeys(column for column in candidates if column is not None))[:MOST_ANSWERS]
    return Question(tuple(clean), dirty, target.answer, target.against, target.name, columns, target.note)


def with_blank(answer: str) -> str:
    """Put a blank before an answer, as most tokenizers want it."""
    return f" {answer.strip()}" if answer.strip() else ""


def pace(lm: "LM", clean: tuple[int, ...]) -> float:
    """Seconds that one more run of a text takes in a batch."""
    from probe.interventions.sites import sweep
    from probe.logits.targets import Target

    target = Target(len(clean) - 1, 0)

    def run(rows: int) -> float:
        start = time.perf_counter(), time.process_time()
        sweep(lm, clean, [[]] * rows, target)
        return min(time.perf_counter() - start[0], time.process_time() - start[1])  # whatever else the machine does

    one = min(run(1), run(1))
    if one > SLOW_S:  # what a batch saves matters on small models only
        return one
    return max((min(run(4), run(4)) - one) / 3, one / 10)


def size(lm: "LM", way: Way, length: int) -> int:
    """How many runs an exact grid needs."""
    from probe.interventions.sites import grid

    return sum(len(row) for row in grid(lm, way.kind, length, way.at)) * (8 if way.how == "resample" else 1)


def exact(
    lm: "LM", question: Question, way: Way, reference: tuple[str, ...] = (), tick: Tick = ignore
) -> "Patching | Ablation":
    """Every site run, each alone."""
    from probe.interventions.patching import Direction, Mode, ablate, patch

    if way.do == "patch":
        direction = cast("Direction", way.how)
        return patch(lm, _pair(lm, question), question.target, way.kind, direction, way.at, tick=tick)
    mode, replacements = cast("Mode", way.how), stand_ins(lm, way, reference)
    return ablate(lm, question.clean, question.target, way.kind, mode, replacements, way.at, tick=tick)


def estimate(lm: "LM", question: Question, way: Way, reference: tuple[str, ...] = ()) -> "Patching | Ablation":
    """Every site estimated from one backward pass."""
    from probe.interventions.patching import Direction, Mode, ablate, attribute

    if way.do == "patch":
        direction = cast("Direction", way.how)
        return attribute(lm, _pair(lm, question), question.target, [way.kind], direction, way.at)[way.kind]
    mode, replacements = cast("Mode", way.how), stand_ins(lm, way, reference)
    return ablate(lm, question.clean, question.target, way.kind, mode, replacements, way.at, exact=False)


def outcome(
    lm: "LM",
    question: Question,
    way: Way,
    site: "Site",
    draws: int,
    reference: tuple[str, ...] = (),
    tick: Tick = ignore,
) -> "Outcome":
    """One site, with its nulls."""
    from probe.interventions.controls import intervene
    from probe.interventions.patching import Direction, Mode, sources
    from probe.interventions.sites import activations, hooks_of

    names, own = hooks_of(lm, [way.kind]), list(question.clean)
    if way.do == "patch":
        own, other = _pair(lm, question).run(cast("Direction", way.how))
        replacements: Sequence[Activations] = [activations(lm, other, names)]
    else:
        replacements = sources(lm, own, names, cast("Mode", way.how), stand_ins(lm, way, reference))
    return intervene(lm, own, [site], replacements, question.target, question.columns, draws, tick=tick)


def stand_ins(lm: "LM", way: Way, typed: tuple[str, ...]) -> "list[str] | Means":
    """Return the texts that an ablation takes activations from, or their means, made once for all prompts."""
    texts = references(lm, typed)
    return compute_part(_means, lm, kind=way.kind, texts=tuple(texts)) if way.how == "mean" else texts


def _means(lm: "LM", kind: "Kind", texts: tuple[str, ...]) -> "Means":
    from probe.interventions.patching import means
    from probe.interventions.sites import hooks_of

    return means(lm, texts, hooks_of(lm, [kind]))


def references(lm: "LM", typed: Sequence[str] = ()) -> list[str]:
    """Texts from which means and resampled activations come: typed ones, the world's questions, or plain sentences."""
    from probe.world import of

    world = of(lm)
    if typed or world is None:
        return list(typed or REFERENCE)
    return [item.prompt for kind in REFERENCE_KINDS for item in world.questions(kind, 8, 5)]


def _pair(lm: "LM", question: Question) -> "Pair":
    from probe.interventions.patching import pair_of

    return pair_of(lm, question.clean, question.corrupted or ())
