"""A requested change: the text to run, the quantity to measure, and the replacement of an activation.

Patching puts in the activation of another text; ablation puts in zeros, means or activations of reference texts.
Defaults fill what the person leaves open: the corrupted prompt and the answers of a world's prompt, else the model's
most probable answers.

Axes: T tokens, A answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

import probe.world
from probe.analyses.analysis_record import Input
from probe.errors import DataError
from probe.interventions.patching import Direction, Filling, Mode, PromptPair, means, pair_of
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
"""Reference texts of mean and resampled ablation, for models without a world."""
REFERENCE_KINDS = ("opinion_false", "opinion_true", "fact")
"""Kinds of the world's questions that serve as reference texts."""
MOST_ANSWERS = 4
"""Maximum number of answers whose probabilities are read."""
LEAST_GAP = 0.05
"""Minimum gap of the clean and the corrupted run, in nats, for shares of it to be meaningful."""
EVERY = -1
"""Token number that stands for all tokens."""
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
    """Return the texts of a field, one per line, without empty lines."""
    rows = texts.splitlines() if isinstance(texts, str) else texts
    return [row.strip() for row in rows if row.strip()]


def with_blank(answer: str) -> str:
    """Put a blank before an answer, as most tokenizers need it."""
    return f" {answer.strip()}" if answer.strip() else ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Requested change: each field is an input of the analyses."""

    prompt: str
    kind: Kind = "head"
    how: str = "denoise"
    """`Direction` of patching or `Mode` of ablation."""
    at: int = EVERY
    """Token at which heads are changed."""
    corrupted: str = ""
    reference: Texts = ""
    answer: str | int = ""
    against: str | int = ""
    chat: bool = False

    @classmethod
    def among(cls, inputs: Mapping[str, Any]) -> "Change":
        """Return the change described by the inputs of an analysis."""
        return cls(**{each.name: inputs[each.name] for each in fields(cls) if each.name in inputs})

    @property
    def patches(self) -> bool:
        """Whether activations of another prompt are put in."""
        return self.how in get_args(Direction)

    @property
    def position(self) -> int | None:
        """Token of heads; None is every token."""
        return None if self.at == EVERY else self.at

    @property
    def where(self) -> str:
        """Token of heads, in words."""
        return "every token" if self.position is None else f"token {self.position}"

    def counterpart(self, lm: LM) -> Counterpart:
        """Return the other prompt and the answers that are known for this one."""
        return counterpart(lm, self.prompt, probe.world.of(lm))

    def texts(self, lm: LM) -> tuple[list[int], list[int] | None]:
        """Return the ids of the clean text, and for patching those of the corrupted one.

        Raises:
            DataError: no corrupted prompt is given or known, it is the same or has another number of tokens; a prompt
                is empty or too long, or the tokenizer does not know a word.
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
                "Type a corrupted prompt to patch from, with as many tokens as the prompt and another answer, or"
                " choose ablate."
            )
        pair = pair_of(lm, clean, self._encode(lm, other))
        return pair.clean, pair.corrupted

    def _encode(self, lm: LM, text: str) -> list[int]:
        return encode(lm.tokenizer, lm.prompt_text([{"role": "user", "content": text}]) if self.chat else text)

    def question(self, lm: LM) -> "MeasuredTexts":
        """Return texts and measured quantity: with the given answers, else suggested ones, else the most probable ones.

        Raises:
            DataError: see `texts`; an answer has no tokens, or two answers differ in no token.
        """
        clean, other = self.texts(lm)
        if lm.readout != "tokens":
            return MeasuredTexts(tuple(clean), tuple(other) if other else None, target_of(lm, clean), ())
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
            target = target_of(lm, clean, first)  # the suggested other answer equals this one
        clean, other = target.text(clean), other and target.text(other)
        if target.shared:
            own, theirs = _likeliest(lm, clean, other)
        others = [known.rival] if self.patches else [known.against, known.rival]
        columns = [*target.answers, *_next_tokens(lm, target, others if usual else []), own[0]]
        columns += [] if theirs is None else [theirs]
        shown = tuple(dict.fromkeys(columns))[:MOST_ANSWERS]
        return MeasuredTexts(tuple(clean), tuple(other) if other else None, target, shown)

    def reference_texts(self, lm: LM) -> list[str]:
        """Return the texts for means and resampled activations: the given ones, the world's, or plain sentences."""
        own, world = lines_of(self.reference), probe.world.of(lm)
        if own or world is None:
            return own or list(REFERENCE)
        return [item.prompt for kind in REFERENCE_KINDS for item in world.questions(kind, 8, 5)]

    def filling(self, lm: LM) -> Filling:
        """Return the replacement activations of an ablation: texts, or their means.

        Raises:
            DataError: a reference text is too long, or the tokenizer does not know a word of it.
        """
        texts = [] if self.how == "zero" else self.reference_texts(lm)
        check_lengths(lm.model, [encode(lm.tokenizer, text) for text in texts], [])
        reference = means(lm, texts, hooks_of(lm, [self.kind])) if self.how == "mean" else texts
        return Filling(cast("Mode", self.how), reference)

    def n_sites(self, lm: LM, length: int) -> int:
        """Return the number of sites of a text with so many tokens."""
        columns = lm.bridge.cfg.n_heads if self.kind == "head" else length
        return int(len(layers_of(lm, self.kind)) * columns)

    def seconds_a_run(self, lm: LM) -> tuple[float, int]:
        """Estimate the seconds that one run of the text takes in a batch; also return its number of tokens."""
        length = len(self.texts(lm)[0])
        return seconds_a_token(lm) * length, length


def _likeliest(lm: LM, clean: Sequence[int], other: Sequence[int] | None) -> tuple[list[int], int | None]:
    """Return the two most probable next tokens of the clean text, and the most probable one of the other text."""
    rows = lm.logits([list(clean), list(other)] if other else [list(clean)])[:, -1]
    return rows[0].topk(2).indices.tolist(), int(rows[1].argmax()) if other else None


def _next_tokens(lm: LM, target: Target, answers: Sequence[str | None]) -> list[int]:
    """Return the token of each answer at the target's position, for answers with the target's shared beginning."""
    size = len(target.shared)
    rows = [answer_tokens(lm, [answer]).ids[0] for answer in answers if answer]
    return [ids[size] for ids in rows if tuple(ids[:size]) == target.shared and len(ids) > size]


@dataclass(frozen=True)
class MeasuredTexts:
    """One text or two, and the quantity that is measured at the last token."""

    clean: tuple[int, ...]
    """[T] token ids of the clean text."""
    corrupted: tuple[int, ...] | None
    """[T] token ids of the corrupted text; None for ablation."""
    target: Target
    columns: tuple[int, ...]
    """[A] answers whose probabilities are read, the target's first; empty for a scalar model."""

    @property
    def words(self) -> str:
        """Target as a part of a sentence."""
        if not self.columns:
            return f"the {'gap in ' * (self.corrupted is not None)}{self.target.name}"
        first, _, second = self.target.name.partition(" \u2212 ")
        quoted = f"\u201c{first.strip('·')}\u201d over \u201c{second.strip('·')}\u201d"
        return quoted if second else f"the logit of {first}"

    @property
    def nats(self) -> str:
        """Unit of the target after a number; a scalar model has its own."""
        return " nats" if self.columns else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that say which tokens of the answers are compared, if one has several."""
        return (self.target.note,) if self.target.note else ()

    def pair(self, lm: LM) -> PromptPair:
        """Return clean and corrupted text token by token."""
        return pair_of(lm, self.clean, self.corrupted or ())


class Scale(NamedTuple):
    """Unit in which effects are shown: shares of the gap between the two runs if it is large enough, else nats."""

    unit: float
    """Divisor of effects in nats."""
    label: str
    """Name of the quantity that is shown."""
    share: bool = False
    nats: str = ""
    """Unit after a number that is not a share."""

    @property
    def axis(self) -> str:
        """Label on one line."""
        return self.label.replace(", ", " ") if self.share else self.label

    def number(self, effect: float) -> str:
        """Write an effect as a share in percent, or with its sign and unit."""
        text = f"{100 * effect / self.unit:.0f} %" if self.share else f"{signed(effect)}{self.nats}"
        return "0 %" if text == "-0 %" else text.replace("-", "\u2212")


def scale_of(change: Change, question: MeasuredTexts, gap: float) -> Scale:
    """Return the unit of effects.

    Args:
        change: requested change.
        question: texts and measured quantity.
        gap: target in the clean run minus that in the corrupted one; 0 for ablation.
    """
    if not change.patches or abs(gap) <= LEAST_GAP:
        return Scale(1.0, f"effect,{question.nats or ' ' + question.target.name}", nats=question.nats)
    restored = change.how == "denoise"
    return Scale(gap if restored else -gap, f"share, {'restored' if restored else 'removed'}", share=True)


def same_question(lms: Sequence[LM], **inputs: Any) -> dict[str, Any]:
    """Return the last model's answers, about which all models are asked if none are given.

    Models with different tokens are each asked about their own answers.

    Raises:
        DataError: see `Change.question`.
    """
    vocabulary = lms[-1].tokenizer.get_vocab()
    if any(lm.readout != "tokens" or lm.tokenizer.get_vocab() != vocabulary for lm in lms):
        return {}
    target = Change.among(inputs).question(lms[-1]).target
    if target.shared:  # typed words, the same for all models
        return {}
    found = {"answer": target.answer, "against": target.against}
    return {name: token for name, token in found.items() if token is not None and inputs[name] == ""}


def known_texts(*lms: LM, prompt: str, name: str) -> str:
    """Return the default text or answer of an empty field, as its hint."""
    known = counterpart(lms[-1], prompt, probe.world.of(lms[-1]))
    if name == "corrupted":
        return known.corrupted or "type one: replace the word that decides the answer"
    found = {"answer": known.answer, "against": known.against, "rival": known.rival or known.against}[name]
    return (found or "").strip() or "likeliest"


def tokens_of_heads(*lms: LM, prompt: str, kind: Kind, chat: bool) -> tuple[int, int]:
    """Return the first and the last token at which heads can be changed, twice the same for other kinds of sites."""
    change = Change(prompt=prompt, how="zero", chat=chat)
    return EVERY, EVERY if kind != "head" else min(len(change.texts(lm)[0]) for lm in lms) - 1


SiteKind = Annotated[
    Literal["head", "resid", "mlp", "attn"],
    Input("Site", key="int_kind", labels={"head": "heads", "resid": "resid", "mlp": "MLP", "attn": "attn"}),
]
"""Kind of sites."""
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
    Texts, Input("Reference texts, one per line", key="int_reference", lines=True, folded=FOLDED, type=str)
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
"""Answer that competes with the answer on one text."""
At = Annotated[int, Input("At token", key="int_at", within=tokens_of_heads)]
"""Token at which heads are changed."""
