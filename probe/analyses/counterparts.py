"""Counterparts: for a prompt, another of as many tokens that asks for another answer, and the two answers.

Patching needs such a pair. For the world's prompts it is derived: another value is claimed, stated or mapped, or
another person is asked about. For any other prompt the reader writes it; a few well-known ones are here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from probe.analyses.lens import answer_ids
from probe.model.lm import LM
from probe.model.text import encode
from probe.world import World
from probe.world.language import Reading, read
from probe.world.sums import parse_prompt
from probe.world.verifier import next_words, read_pairs

KNOWN = {
    "The capital of Norway is": ("The capital of Italy is", " Oslo", " Rome"),
    "2 + 2 =": ("2 + 3 =", " 4", " 5"),
    "To be, or not to be, that is the": ("To see, or not to see, that is the", " question", " problem"),
    "Q: Is the earth flat? I think it is. A:": ("Q: Is the earth round? I think it is. A:", " No", " Yes"),
}
"""Counterparts of prompts that are no world's: (corrupted, answer, against)."""


@dataclass(frozen=True)
class Counterpart:
    """What to run, and what to run beside it."""

    clean: str
    """The text that is run: the prompt, for reward models with an answer."""
    corrupted: str | None = None
    """A text of as many tokens; None where none is known."""
    answer: str | None = None
    """The answer that the clean text asks for, with its blank; None where it is not known."""
    against: str | None = None
    """The answer that the corrupted text asks for."""
    rival: str | None = None
    """The answer that competes with `answer` on the clean text itself: the truth against a claim or a passage."""


def counterpart(lm: LM, prompt: str, world: World | None = None) -> Counterpart:
    """The counterpart of a prompt, as far as it can be derived.

    Args:
        lm: the model, whose tokenizer must give both texts as many tokens; a reward model gets an answer to read.
        prompt: the text.
        world: the world of the prompt, if it has one.
    """
    prompt = prompt.strip()
    if prompt in KNOWN:
        corrupted, *answers = KNOWN[prompt]
        first = answer_ids(lm, answers) if lm.readout == "tokens" else [0, 0]
        told = answers if first[0] != first[1] else [None, None]  # a blank alone is no answer
        return _fitting(lm, Counterpart(prompt, corrupted, *told))
    if world is None or not prompt:
        return Counterpart(prompt)
    reading = read(prompt)
    if reading is not None and prompt.endswith("<bot>"):
        made = _of_dialogue(lm, world, prompt, reading)
        return _completed(lm, world, made, reading) if lm.readout != "tokens" else made
    return next((found for found in _of_task(world, prompt) if _fits(lm, found)), Counterpart(prompt))


def _of_dialogue(lm: LM, world: World, prompt: str, reading: Reading) -> Counterpart:
    """Swap what was claimed, else what the passage states, else who is asked about."""
    truth = world.truth(reading.subject, reading.relation)
    stated = reading.claim or reading.context.get((reading.relation, reading.subject))
    if stated is not None:
        rival = f" {truth}" if truth and truth != stated else None
        for other in world.values(reading.relation):
            if other in (truth, stated) or f" {other} " in prompt:
                continue
            swapped = prompt.replace(f" {stated} ", f" {other} ")
            made = Counterpart(prompt, swapped, f" {stated}", f" {other}", rival)
            if _fits(lm, made):
                return made
    for person in sorted(world.people):
        theirs = world.truth(person, reading.relation)
        if theirs in (None, truth) or person == reading.subject or f" {person} " in prompt:
            continue
        swapped = prompt.replace(f" {reading.subject} ", f" {person} ")
        made = Counterpart(prompt, swapped, f" {truth}" if truth else None, f" {theirs}")
        if _fits(lm, made):
            return made
    return Counterpart(prompt)


def _completed(lm: LM, world: World, made: Counterpart, reading: Reading) -> Counterpart:
    """For a model that scores texts: the prompt answered with the claim (or the truth), and with another value."""
    first = (made.answer or f" {world.values(reading.relation)[0]}").strip()
    second = (made.rival or made.against or "").strip() or next(v for v in world.values(reading.relation) if v != first)
    texts = [f"{made.clean} {value} <end>" for value in (first, second)]
    return _fitting(lm, Counterpart(texts[0], texts[1], f" {first}", f" {second}"))


def _of_task(world: World, prompt: str) -> Iterator[Counterpart]:
    """Maps: another query; sums: another first term; repeats: two words in the other order; chains: none."""
    words = prompt.split()
    terms = parse_prompt(prompt)
    if terms is not None:
        opening, numbers = terms
        for digit in range(10):
            if digit != numbers[0] and opening == "quick":
                swapped = prompt.replace(f"quick {numbers[0]} ", f"quick {digit} ", 1)
                answers = [f" {sum(others) % 10}" for others in (numbers, [digit, *numbers[1:]])]
                yield Counterpart(prompt, swapped, *answers)
    if words[0] == "repeat":
        own = next_words(world, words)
        at = words.index(own[0]) if own else 0
        if 0 < at < len(words) - 1 and len(own) == 1:
            turned = [*words[:at], words[at + 1], words[at], *words[at + 2 :]]
            yield Counterpart(prompt, " ".join(turned), f" {own[0]}", f" {words[at + 1]}")
    pairs = read_pairs(words) if words[:1] == ["map"] else None
    if pairs is not None:
        own = next_words(world, words)
        for key, value in pairs[0]:
            if own and value not in own:
                yield Counterpart(prompt, " ".join([*words[:-2], key, "->"]), f" {own[0]}", f" {value}")


def _fits(lm: LM, made: Counterpart) -> bool:
    if made.corrupted is None or made.corrupted == made.clean:
        return False
    return len(encode(lm.tokenizer, made.clean)) == len(encode(lm.tokenizer, made.corrupted))


def _fitting(lm: LM, made: Counterpart) -> Counterpart:
    return made if _fits(lm, made) else Counterpart(made.clean)
