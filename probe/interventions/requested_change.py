"""A change that a person asks for: which text runs, what is measured on it, what comes in place of an activation.

Patching puts in what another text has there, ablation zeros, means or what reference texts have. What is left open is
suggested: the corrupted prompt and the answers of a world's prompt, else the answers that the model holds likeliest.

Axes: T tokens, A answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

import probe.world
from probe.analyses.analysis_record import Input
from probe.errors import DataError
from probe.interventions.patching import Direction, Filling, Mode, Pair, means, pair_of
from probe.interventions.sites import Counterpart, Kind, counterpart, hooks_of, layers_of
from probe.logits.answer_tokens import answer_tokens
from probe.logits.targets import Target, target_of
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.scoring import check_lengths
from probe.model.text import encode
from probe.numbers import signed

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
"""Reference texts of mean and resampled ablation, for models of no world."""
REFERENCE_KINDS = ("opinion_false", "opinion_true", "fact")
"""Kinds of questions of the world that are reference texts."""
MOST_ANSWERS = 4
"""Answers whose probabilities are read, at most."""
LEAST_GAP = 0.05
"""Gap of the clean and the corrupted run, in nats, below which shares of it mean nothing."""
EVERY = -1
"""In the place of a token: all of them."""
EFFECT = (
    r"\text{effect}(s) = m\big(x \mid a_s \leftarrow a'_s\big) - m(x), \quad m = \mathrm{logit}(\text{answer}) - "
    r"\mathrm{logit}(\text{against})"
)
SHARE = (
    r"\text{share}(s) = \frac{m(x_{corr} \mid a_s \leftarrow a_s^{clean}) - m(x_{corr})}{m(x_{clean}) - m(x_{corr})}"
)
ESTIMATE = r"\widehat{\text{effect}}(s) = \big\langle \nabla_{a_s} m(x),\; a'_s - a_s \big\rangle"
Texts = str | Sequence[str]


def lines_of(texts: Texts) -> list[str]:
    """Return texts that stand one a line, without empty ones."""
    rows = texts.splitlines() if isinstance(texts, str) else texts
    return [row.strip() for row in rows if row.strip()]


def with_blank(answer: str) -> str:
    """Put a blank before an answer, as most tokenizers want it."""
    return f" {answer.strip()}" if answer.strip() else ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a person asks for: each field is an input of the analyses."""

    prompt: str
    kind: Kind = "head"
    how: str = "denoise"
    """A `Direction` of patching or a `Mode` of ablation."""
    at: int = EVERY
    """The token at which heads are changed."""
    corrupted: str = ""
    reference: Texts = ""
    answer: str | int = ""
    against: str | int = ""
    chat: bool = False

    @classmethod
    def among(cls, inputs: Mapping[str, Any]) -> "Change":
        """Return the change that inputs of an analysis describe."""
        return cls(**{each.name: inputs[each.name] for each in fields(cls) if each.name in inputs})

    @property
    def patches(self) -> bool:
        """Whether activations of another prompt are put in."""
        return self.how in get_args(Direction)

    @property
    def position(self) -> int | None:
        """The token of heads; None is every one."""
        return None if self.at == EVERY else self.at

    @property
    def where(self) -> str:
        """The token of heads in words."""
        return "every token" if self.position is None else f"token {self.position}"

    def counterpart(self, lm: LM) -> Counterpart:
        """Return the other prompt and the answers that are known of this one."""
        return counterpart(lm, self.prompt, probe.world.of(lm))

    def texts(self, lm: LM) -> tuple[list[int], list[int] | None]:
        """Return the ids of the clean text, and those of the corrupted one where activations of it are put in.

        Raises:
            DataError: no corrupted prompt is given or known, it is the same or has another number of tokens; an empty
                prompt or one that is too long, or a word that the tokenizer does not know.
        """
        if not self.prompt.strip():
            raise DataError("The prompt is empty: write one.")
        known = self.counterpart(lm)
        clean = self._encode(lm, known.clean)
        check_lengths(lm.model, [clean], [])
        if not self.patches:
            return clean, None
        other = self.corrupted.strip() or known.corrupted
        if not other:
            raise DataError(
                "Type a corrupted prompt to patch between, or choose ablate: it has as many tokens as the prompt and "
                "asks for another answer."
            )
        pair = pair_of(lm, clean, self._encode(lm, other))
        return pair.clean, pair.corrupted

    def _encode(self, lm: LM, text: str) -> list[int]:
        return encode(lm.tokenizer, lm.prompt_text([{"role": "user", "content": text}]) if self.chat else text)

    def question(self, lm: LM) -> "Question":
        """Return the texts and what is measured on them: answers as given, else suggested, else the likeliest ones.

        Raises:
            DataError: see `texts`; an answer without tokens, or two that no token tells apart.
        """
        clean, other = self.texts(lm)
        if lm.readout != "tokens":
            return Question(tuple(clean), tuple(other) if other else None, target_of(lm, clean), ())
        known, usual = self.counterpart(lm), True
        if self.patches:
            usual = self.corrupted.strip() in ("", known.corrupted)
        rival = known.rival or known.against
        suggested = (known.against if self.patches else rival) if usual else None
        own, theirs = _likeliest(lm, clean, other)
        typed = with_blank(self.against) if isinstance(self.against, str) else self.against
        first = with_blank(self.answer) if isinstance(self.answer, str) else self.answer
        first = first if first != "" else (known.answer if usual else None) or own[0]
        second = typed if typed != "" else suggested or (own[1] if theirs is None else theirs)
        try:
            target = target_of(lm, clean, first, second)
        except DataError:
            if typed != "":
                raise
            target = target_of(lm, clean, first)  # what is suggested is the same answer
        clean, other = target.text(clean), other and target.text(other)
        if target.shared:
            own, theirs = _likeliest(lm, clean, other)
        others = [known.rival] if self.patches else [known.against, known.rival]
        columns = [*target.answers, *_next_tokens(lm, target, others if usual else []), own[0]]
        columns += [] if theirs is None else [theirs]
        shown = tuple(dict.fromkeys(columns))[:MOST_ANSWERS]
        return Question(tuple(clean), tuple(other) if other else None, target, shown)

    def reference_texts(self, lm: LM) -> list[str]:
        """Return the texts from which means and resampled activations come: given, the world's, or plain sentences."""
        own, world = lines_of(self.reference), probe.world.of(lm)
        if own or world is None:
            return own or list(REFERENCE)
        return [item.prompt for kind in REFERENCE_KINDS for item in world.questions(kind, 8, 5)]

    def filling(self, lm: LM) -> Filling:
        """Return what an ablation puts in, from texts or their means.

        Raises:
            DataError: a reference text is too long, or has a word that the tokenizer does not know.
        """
        texts = [] if self.how == "zero" else self.reference_texts(lm)
        check_lengths(lm.model, [encode(lm.tokenizer, text) for text in texts], [])
        reference = means(lm, texts, hooks_of(lm, [self.kind])) if self.how == "mean" else texts
        return Filling(cast("Mode", self.how), reference)

    def n_sites(self, lm: LM, length: int) -> int:
        """Return how many sites a text of so many tokens has."""
        columns = lm.bridge.cfg.n_heads if self.kind == "head" else length
        return int(len(layers_of(lm, self.kind)) * columns)

    def seconds_a_run(self, lm: LM) -> tuple[float, int]:
        """Return the seconds that one run of the text takes in a batch, about, and its tokens."""
        length = len(self.texts(lm)[0])
        return seconds_a_token(lm) * length, length


def _likeliest(lm: LM, clean: Sequence[int], other: Sequence[int] | None) -> tuple[list[int], int | None]:
    """Return the two likeliest next tokens of the clean text, and the likeliest one of the other text."""
    rows = lm.logits([list(clean), list(other)] if other else [list(clean)])[:, -1]
    return rows[0].topk(2).indices.tolist(), int(rows[1].argmax()) if other else None


def _next_tokens(lm: LM, target: Target, answers: Sequence[str | None]) -> list[int]:
    """Return the tokens of answers at the place of the target, of those that begin as its own do."""
    size = len(target.shared)
    rows = [answer_tokens(lm, [answer]).ids[0] for answer in answers if answer]
    return [ids[size] for ids in rows if tuple(ids[:size]) == target.shared and len(ids) > size]


@dataclass(frozen=True)
class Question:
    """One text or two, and what is measured at the last token."""

    clean: tuple[int, ...]
    """[T] ids."""
    corrupted: tuple[int, ...] | None
    """[T] ids; None for ablation."""
    target: Target
    columns: tuple[int, ...]
    """[A] answers whose probabilities are read, the target's first; none for a scalar model."""

    @property
    def words(self) -> str:
        """The target in a sentence."""
        if not self.columns:
            return f"the {'gap in ' * (self.corrupted is not None)}{self.target.name}"
        first, _, second = self.target.name.partition(" \u2212 ")
        quoted = f"\u201c{first.strip('·')}\u201d over \u201c{second.strip('·')}\u201d"
        return quoted if second else f"the logit of {first}"

    @property
    def nats(self) -> str:
        """The unit of the target behind a number; a scalar model has its own."""
        return " nats" if self.columns else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Which tokens of the answers are compared, where one has several."""
        return (self.target.note,) if self.target.note else ()

    def pair(self, lm: LM) -> Pair:
        """Return both texts token by token."""
        return pair_of(lm, self.clean, self.corrupted or ())


class Scale(NamedTuple):
    """The unit in which effects say most: shares of the gap between the two runs where there is one, else nats."""

    unit: float
    """What effects in nats are divided by."""
    label: str
    """What a number is."""
    share: bool = False
    nats: str = ""
    """Behind a number that is no share."""

    @property
    def axis(self) -> str:
        """The label on one line."""
        return self.label.replace(", ", " ") if self.share else self.label

    def number(self, effect: float) -> str:
        """Write an effect as a share in percent, or with its sign and unit."""
        text = f"{100 * effect / self.unit:.0f} %" if self.share else f"{signed(effect)}{self.nats}"
        return "0 %" if text == "-0 %" else text.replace("-", "\u2212")


def scale_of(change: Change, question: Question, gap: float) -> Scale:
    """Return the unit of effects.

    Args:
        change: of the model.
        question: what is measured.
        gap: the target in the clean run minus that in the corrupted one; 0 for ablation.
    """
    if not change.patches or abs(gap) <= LEAST_GAP:
        return Scale(1.0, f"effect,{question.nats or ' ' + question.target.name}", nats=question.nats)
    restored = change.how == "denoise"
    return Scale(gap if restored else -gap, f"share, {'restored' if restored else 'removed'}", share=True)


def same_question(lms: Sequence[LM], **inputs: Any) -> dict[str, Any]:
    """Return the answers that all models are asked about where none are given: those of the last one.

    Models of other tokens are each asked about their own.

    Raises:
        DataError: see `Change.question`.
    """
    vocabulary = lms[-1].tokenizer.get_vocab()
    if any(lm.readout != "tokens" or lm.tokenizer.get_vocab() != vocabulary for lm in lms):
        return {}
    target = Change.among(inputs).question(lms[-1]).target
    if target.shared:  # words, which are the same for all of them
        return {}
    found = {"answer": target.answer, "against": target.against}
    return {name: token for name, token in found.items() if token is not None and inputs[name] == ""}


def known_texts(*lms: LM, prompt: str, name: str) -> str:
    """Return what a text or an answer is where none is typed, as the hint of its field."""
    known = counterpart(lms[-1], prompt, probe.world.of(lms[-1]))
    if name == "corrupted":
        return known.corrupted or "type one: exchange the word that decides the answer"
    found = {"answer": known.answer, "against": known.against, "rival": known.rival or known.against}[name]
    return (found or "").strip() or "likeliest"


def tokens_of_heads(*lms: LM, prompt: str, kind: Kind, chat: bool) -> tuple[int, int]:
    """Return the first and the last token at which heads can be changed, the same twice for other kinds of sites."""
    change = Change(prompt=prompt, how="zero", chat=chat)
    return EVERY, EVERY if kind != "head" else min(len(change.texts(lm)[0]) for lm in lms) - 1


SiteKind = Annotated[
    Literal["head", "resid", "mlp", "attn"],
    Input("Site", key="int_kind", labels={"head": "heads", "resid": "resid", "mlp": "MLP", "attn": "attn"}),
]
"""A kind of sites."""
PatchHow = Annotated[Direction, Input("How", key="int_how")]
AblateHow = Annotated[Literal["mean", "zero", "resample"], Input("How", key="int_how")]
FOLDED = "Texts"
InChat = Annotated[bool, Input("Chat template", key="chat", folded=FOLDED)]
"""Whether texts are sent as a user's message in the model's chat template."""
Corrupted = Annotated[
    str,
    Input(
        "Corrupted prompt: as many tokens, another answer",
        key="int_corrupted",
        placeholder=partial(known_texts, name="corrupted"),
        folded=FOLDED,
    ),
]
Reference = Annotated[
    Texts, Input("Reference texts, one a line", key="int_reference", lines=True, folded=FOLDED, type=str)
]
Answer = Annotated[
    str | int,
    Input("Answer", key="int_answer", placeholder=partial(known_texts, name="answer"), folded=FOLDED, type=str),
]
Against = Annotated[
    str | int,
    Input("against", key="int_against", placeholder=partial(known_texts, name="against"), folded=FOLDED, type=str),
]
Rival = Annotated[
    str | int,
    Input("against", key="int_against", placeholder=partial(known_texts, name="rival"), folded=FOLDED, type=str),
]
"""What is set against the answer on one text."""
At = Annotated[int, Input("At token", key="int_at", within=tokens_of_heads)]
"""The token at which heads are changed."""
