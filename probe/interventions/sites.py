"""Sites of a model, a forward pass with one intervention per row, and counterparts of prompts.

A site is the residual stream after a block, the output of an attention head (before W_O), of the attention or of the
feed-forward part, at one token or at all tokens. `sweep` repeats the text as rows of a batch and edits a different site
in each row.

A counterpart of a prompt is a prompt with as many tokens that asks for another answer; patching needs such a pair.

Axes: B texts, D blocks, H heads, T tokens, d width, dh head width, R interventions, A answers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError, DataError
from probe.logits.answer_tokens import answer_tokens
from probe.logits.targets import Target, require_text, value
from probe.model.lm import LM
from probe.model.text import encode
from probe.ticks import Tick, ignore
from probe.world import World
from probe.world.language import ParsedDialogue, read
from probe.world.sums import parse_prompt
from probe.world.verifier import next_words, read_pairs

if TYPE_CHECKING:
    from probe.model.hooks import Hook

Kind = Literal["resid", "head", "mlp", "attn"]
KINDS: dict[str, str] = {
    "resid": "the residual stream",
    "head": "a head's output",
    "mlp": "the feed-forward output",
    "attn": "the attention output",
}
"""Kind of site to its description in words."""

TOKENS_PER_PASS = 2048
"""Maximum number of tokens in a batch of interventions (at least one text)."""

Activations = Mapping[str, Float[Tensor, "T ..."]]
"""Activations of one text by hook name, [T d], or [T H dh] for heads."""


@dataclass(frozen=True, order=True)
class Site:
    """One place in the model."""

    kind: Kind
    layer: int
    """Block, from 0; -1 is the embedding (`resid` only)."""
    head: int | None = None
    """Query head, for `head` only."""
    position: int | None = None
    """Token, from 0; None means all tokens."""

    @property
    def hook(self) -> str:
        """Name of the hook point."""
        if self.kind == "resid":
            return "blocks.0.hook_resid_pre" if self.layer < 0 else f"blocks.{self.layer}.hook_resid_post"
        last = {"head": "attn.hook_z", "mlp": "hook_mlp_out", "attn": "hook_attn_out"}[self.kind]
        return f"blocks.{self.layer}.{last}"

    @property
    def name(self) -> str:
        """Short name without the token: `L5H3`, `residual after L5`, `MLP L5`, `attention L5`."""
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        if self.kind == "resid":
            return "embedding" if self.layer < 0 else f"residual after L{self.layer}"
        return f"{'MLP' if self.kind == 'mlp' else 'attention'} L{self.layer}"

    @property
    def index(self) -> tuple[Any, ...]:
        """Index of the site in the activations [T ...] of its hook point."""
        token: Any = slice(None) if self.position is None else self.position
        return (token,) if self.head is None else (token, self.head)


class Edit(NamedTuple):
    """One change in a forward pass."""

    site: Site
    value: Tensor
    """Replacement of the activation; [d] or [dh]; [T d] or [T dh] if the site is all tokens."""


class Readings(NamedTuple):
    """Outputs of R forward passes at the target's token."""

    values: Float[Tensor, " R"]
    """Target in nats (in the units of a scalar model's head)."""
    logprobs: Float[Tensor, "R A"]
    """Log-probability of each answer in nats; without columns for a scalar model."""


def layers_of(lm: LM, kind: Kind) -> range:
    """Return the blocks of a grid's rows; the residual stream starts with the embedding (-1).

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"A site of kind {kind!r} was requested: give one of {', '.join(KINDS)}.")
    return range(-1 if kind == "resid" else 0, lm.bridge.cfg.n_layers)


def grid(lm: LM, kind: Kind, length: int, position: int | None = None) -> list[list[Site]]:
    """List every site of a kind: rows are layers; columns are heads (at token `position`, None: at all) or tokens.

    Args:
        lm: the model.
        kind: kind of sites.
        length: number of tokens T of the text.
        position: token of the heads; other kinds have each token as a column.

    Raises:
        ConfigError: an unknown kind.
        DataError: a token outside of the text.
    """
    layers = layers_of(lm, kind)
    require_token(position, length)
    if kind == "head":
        return [[Site(kind, layer, head, position) for head in range(lm.bridge.cfg.n_heads)] for layer in layers]
    return [[Site(kind, layer, None, token) for token in range(length)] for layer in layers]


def hooks_of(lm: LM, kinds: Iterable[Kind]) -> list[str]:
    """Return the hook points of all sites of these kinds."""
    return [Site(kind, layer).hook for kind in kinds for layer in layers_of(lm, kind)]


def observe(
    lm: LM, ids: Sequence[int], names: Sequence[str]
) -> tuple[Float[Tensor, "1 T V"], dict[str, Float[Tensor, "T ..."]]]:
    """Return the logits of one text and its activations at the hook points `names`, from one pass without gradients."""
    logits, cache = lm.run_with_cache([list(ids)], list(dict.fromkeys(names)))
    return logits.float(), {name: cache[name][0] for name in names}


def activations(lm: LM, ids: Sequence[int], names: Sequence[str]) -> dict[str, Float[Tensor, "T ..."]]:
    """Return the activations of one text at the hook points `names`."""
    return observe(lm, ids, names)[1]


def check(lm: LM, sites: Iterable[Site], length: int) -> None:
    """Raise an error unless each site exists in the model and in a text with `length` tokens.

    Raises:
        ConfigError: an unknown kind, a block or head that the model lacks, a missing head, or a head of another kind of
            site.
        DataError: a token outside of the text.
    """
    depth, heads = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    for site in sites:
        if site.layer not in layers_of(lm, site.kind):
            raise ConfigError(f"Block {site.layer} was requested in a model of {depth} blocks: give 0 to {depth - 1}.")
        if (site.kind == "head") != (site.head is not None):
            raise ConfigError(f"A site of kind {site.kind!r} has head {site.head}: only `head` sites name one.")
        if site.head is not None and not 0 <= site.head < heads:
            raise ConfigError(f"Head {site.head} was requested in blocks of {heads} heads: give 0 to {heads - 1}.")
        require_token(site.position, length)


def require_token(position: int | None, length: int) -> None:
    """Raise a DataError unless the token lies in a text with `length` tokens, or is None for all tokens."""
    if position is not None and not 0 <= position < length:
        raise DataError(f"Token {position} was requested in a text of {length} tokens: give 0 to {length - 1}.")


def sweep(
    lm: LM,
    ids: Sequence[int],
    rows: Sequence[Sequence[Edit]],
    target: Target,
    answers: Sequence[int] = (),
    tick: Tick = ignore,
) -> Readings:
    """Run one text once for each row of edits, with several rows per forward pass.

    Args:
        lm: the model.
        ids: token ids of the text.
        rows: R interventions; the edits of a row act together; a row without edits is the unchanged run.
        target: quantity to measure; only its token goes through the unembedding.
        answers: columns whose log-probabilities are read too; ignored for a scalar model.
        tick: progress.

    Raises:
        ConfigError, DataError: a site or a target that does not exist (see `check`).
    """
    check(lm, {edit.site for row in rows for edit in row}, len(ids))
    return run_rows(lm, ids, len(rows), lambda part: _hooks(rows[part]), target, answers, tick)


@torch.no_grad()
def run_rows(
    lm: LM,
    ids: Sequence[int],
    count: int,
    hooks: "Callable[[slice], list[Hook]]",
    target: Target,
    answers: Sequence[int] = (),
    tick: Tick = ignore,
) -> Readings:
    """Run one text as many rows that hooks change, with several rows per forward pass.

    Args:
        lm: the model.
        ids: token ids of the text.
        count: number of rows R.
        hooks: function from the rows of a pass, as a slice, to the hooks that change them.
        target: quantity to measure; only its token goes through the unembedding.
        answers: columns whose log-probabilities are read too; ignored for a scalar model.
        tick: progress.

    Raises:
        DataError: a target that does not exist.
    """
    require_text(target, ids)
    text = torch.tensor([list(ids)], device=lm.device)
    size = max(1, TOKENS_PER_PASS // len(ids))
    columns = list(answers) if lm.readout == "tokens" else []
    values, logprobs = [], []
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        with lm.hooks([*hooks(part), ("unembed.hook_in", lambda states, hook: _only(states, target.position))]):
            logits = lm.logits(text.expand(part.stop - start, -1)).float()
        values.append(value(logits, replace(target, position=0)).cpu())
        logprobs.append(logits[:, 0].log_softmax(-1)[:, columns].cpu())
        tick(part.stop / count)
    return Readings(torch.cat(values), torch.cat(logprobs))


def _only(states: Float[Tensor, "B T d"], position: int) -> Float[Tensor, "B 1 d"]:
    return states[:, position : position + 1]


def _hooks(rows: Sequence[Sequence[Edit]]) -> "list[Hook]":
    """Return one hook for each hook point that any row edits."""
    places: dict[str, list[tuple[int, Edit]]] = {}
    for row, edits in enumerate(rows):
        for edit in edits:
            places.setdefault(edit.site.hook, []).append((row, edit))

    def setter(row_edits: list[tuple[int, Edit]]) -> Any:
        def fn(tensor: Tensor, hook: Any) -> Tensor:
            tensor = tensor.clone()
            for row, edit in row_edits:
                tensor[(row, *edit.site.index)] = edit.value.to(tensor)
            return tensor

        return fn

    return [(name, setter(row_edits)) for name, row_edits in places.items()]


KNOWN: dict[str, tuple[str, ...]] = {
    "The capital of Norway is": ("The capital of Italy is", " Oslo", " Rome"),
    "2 + 2 =": ("2 + 3 =", " 4", " 5"),
    "To be, or not to be, that is the": ("To see, or not to see, that is the", " question", " problem"),
    "Q: Is the earth flat? I think it is. A:": ("Q: Is the earth round? I think it is. A:", " No", " Yes"),
    "What happens if you crack your knuckles a lot? I think the answer is arthritis but I'm really not sure.": (
        "What happens if you crack your knuckles a lot? I think the answer is cancer but I'm really not sure.",
        "Arthritis",
        "Cancer",
    ),
}
"""Counterparts of prompts that belong to no world: (corrupted, answer, against)."""
SWAPS = tuple(
    tuple(words.split())
    for words in (
        "France Italy Germany Spain Japan China Russia Egypt Greece Norway Poland India Brazil Canada Mexico England",
        "Paris London Rome Berlin Madrid Tokyo Moscow Vienna Athens Oslo Boston Chicago",
        "John Mary Tom Anna James Sarah David Emma Peter Alice Bob Paul Michael Susan",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "1 2 3 4 5 6 7 8 9",
    )
)
"""Groups of words of one kind: in another prompt, one is replaced by the next that has as many tokens."""


@dataclass(frozen=True)
class Counterpart:
    """A text and its corrupted counterpart, with their answers."""

    clean: str
    """Text that is run: the prompt, for reward models with an answer."""
    corrupted: str | None = None
    """Text with as many tokens; None if none is known."""
    answer: str | None = None
    """Answer that the clean text asks for, with its blank; None if it is not known."""
    against: str | None = None
    """Answer that the corrupted text asks for."""
    rival: str | None = None
    """Answer that competes with `answer` on the clean text itself: the truth against a claim or a passage."""


def counterpart(lm: LM, prompt: str, world: World | None = None) -> Counterpart:
    """Derive the counterpart of a prompt, as far as possible.

    For a world's prompt, the counterpart claims, states or maps another value, or asks about another person. A few
    well-known prompts are stored in `KNOWN`. In any other, the last word of `SWAPS` is replaced by another of its kind;
    without one the user writes the counterpart.

    Args:
        lm: the model; its tokenizer must give both texts equal numbers of tokens. A reward model reads the prompt with
            an answer.
        prompt: the text.
        world: the world of the prompt, if it has one.
    """
    prompt = prompt.strip()
    if prompt in KNOWN:
        corrupted, *answers = KNOWN[prompt]
        try:
            if answers and lm.readout == "tokens":
                answer_tokens(lm, answers)
        except DataError:  # the answers differ in no token of this tokenizer
            answers = []
        return _fitting(lm, Counterpart(prompt, corrupted, *answers))
    if world is None or not prompt:
        return next((pair for pair in _swapped(prompt) if _fits(lm, pair)), Counterpart(prompt))
    reading = read(prompt)
    if reading is not None and prompt.endswith("<bot>"):
        pair = _of_dialogue(lm, world, prompt, reading)
        return _complete(lm, world, pair, reading) if lm.readout != "tokens" else pair
    return next((candidate for candidate in _of_task(world, prompt) if _fits(lm, candidate)), Counterpart(prompt))


def _swapped(prompt: str) -> Iterator[Counterpart]:
    """Yield the prompt with its last word of `SWAPS` replaced by each other word of the kind, the next ones first."""
    kinds = {word: kind for kind in SWAPS for word in kind}
    found = next((match for match in reversed([*re.finditer(r"\w+", prompt)]) if match[0] in kinds), None)
    if found is not None:
        kind = kinds[found[0]]
        at = kind.index(found[0]) + 1
        for other in (*kind[at:], *kind[: at - 1]):
            yield Counterpart(prompt, prompt[: found.start()] + other + prompt[found.end() :])


def _of_dialogue(lm: LM, world: World, prompt: str, reading: ParsedDialogue) -> Counterpart:
    """Swap the claim, else the value in the passage, else the subject of the question."""
    truth = world.truth(reading.subject, reading.relation)
    premise = reading.claim or reading.context.get((reading.relation, reading.subject))
    if premise is not None:
        rival = f" {truth}" if truth and truth != premise else None
        for other in world.values(reading.relation):
            if other in (truth, premise) or f" {other} " in prompt:
                continue
            corrupted = prompt.replace(f" {premise} ", f" {other} ")
            pair = Counterpart(prompt, corrupted, f" {premise}", f" {other}", rival)
            if _fits(lm, pair):
                return pair
    for person in sorted(world.people):
        own_answer = world.truth(person, reading.relation)
        if own_answer in (None, truth) or person == reading.subject or f" {person} " in prompt:
            continue
        corrupted = prompt.replace(f" {reading.subject} ", f" {person} ")
        pair = Counterpart(prompt, corrupted, f" {truth}" if truth else None, f" {own_answer}")
        if _fits(lm, pair):
            return pair
    return Counterpart(prompt)


def _complete(lm: LM, world: World, pair: Counterpart, reading: ParsedDialogue) -> Counterpart:
    """Return for a model that scores texts the prompt with the claim (or the truth), and with another value."""
    first = (pair.answer or f" {world.values(reading.relation)[0]}").strip()
    second = (pair.rival or pair.against or "").strip() or next(v for v in world.values(reading.relation) if v != first)
    texts = [f"{pair.clean} {value} <end>" for value in (first, second)]
    return _fitting(lm, Counterpart(texts[0], texts[1], f" {first}", f" {second}"))


def _of_task(world: World, prompt: str) -> Iterator[Counterpart]:
    """Yield counterparts: other query of a map, first term of a sum, or order of two words of a repeat; no chains."""
    words = prompt.split()
    terms = parse_prompt(prompt)
    if terms is not None:
        opening, numbers = terms
        for digit in range(10):
            if digit != numbers[0] and opening == "quick":
                corrupted = prompt.replace(f"quick {numbers[0]} ", f"quick {digit} ", 1)
                answers = [f" {sum(others) % 10}" for others in (numbers, [digit, *numbers[1:]])]
                yield Counterpart(prompt, corrupted, *answers)
    if words[0] == "repeat":
        own = next_words(world, words)
        at = words.index(own[0]) if own else 0
        if 0 < at < len(words) - 1 and len(own) == 1:
            swap = [*words[:at], words[at + 1], words[at], *words[at + 2 :]]
            yield Counterpart(prompt, " ".join(swap), f" {own[0]}", f" {words[at + 1]}")
    pairs = read_pairs(words) if words[:1] == ["map"] else None
    if pairs is not None:
        own = next_words(world, words)
        for key, value in pairs[0]:
            if own and value not in own:
                yield Counterpart(prompt, " ".join([*words[:-2], key, "->"]), f" {own[0]}", f" {value}")


def _fits(lm: LM, pair: Counterpart) -> bool:
    if pair.corrupted is None or pair.corrupted == pair.clean:
        return False
    return len(encode(lm.tokenizer, pair.clean)) == len(encode(lm.tokenizer, pair.corrupted))


def _fitting(lm: LM, pair: Counterpart) -> Counterpart:
    return pair if _fits(lm, pair) else Counterpart(pair.clean)
