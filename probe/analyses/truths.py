"""What a world says must follow a prompt, word by word, and the wrong word that stands there instead."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from probe.errors import DataError
from probe.model.lm import LM
from probe.model.text import encode
from probe.world.vocabulary import ABSTENTION, DIGITS

if TYPE_CHECKING:
    from probe.world.world import World

END = "<end>"
SUMS, OPEN = ("quick", "sum"), ("map", "rule")


class Fork(NamedTuple):
    """Where two continuations of a prompt part, in token ids."""

    before: list[int]
    """The prompt and the continuation up to the exchanged token."""
    at: int
    """Which token of the continuation that is."""
    clean: int
    wrong: int
    rest: list[int] | None
    """What the world says must follow the clean token; None where it does not know the clean token."""


def true_words(world: "World", prompt: str, length: int = 64) -> list[str]:
    """The words that follow a prompt as far as the world determines them, at most `length`; none where it asks nothing.

    Found by asking the world's judge which of all answers is true. Questions and sums close with "<end>", a map or a
    rule goes on as it likes after the answer, and a repeated segment is followed to its last word.
    """
    opening = _opening(prompt)
    words: list[str] = []
    while len(words) < length:
        so_far = " ".join([prompt, *words])
        try:
            true = [option for option in world.candidates(so_far) if world.verify(so_far, option).kind == "true"]
        except DataError:
            break
        if len(true) != 1 or (opening == "repeat" and words and true[0].split() == _body(prompt)[1:2]):
            break
        words += true[0].split()
        if opening != "repeat":
            words += [END] if opening not in OPEN else []
            break
    return words[:length]


def answer_place(prompt: str, words: list[str]) -> int:
    """The first word of a true continuation that is an answer: of written steps the first result."""
    return words.index("=") + 1 if _opening(prompt) == "sum" and "=" in words else 0


def wrong_words(world: "World", prompt: str, truth: str) -> list[str]:
    """Words of the kind of the answer that are not `truth`: other values, digits or words; never an abstention."""
    if _opening(prompt) in SUMS:
        options = list(DIGITS)
    else:
        options = [option.split()[0] for option in world.candidates(prompt) if option.strip() != ABSTENTION]
    return [word for word in dict.fromkeys(options) if word != truth]


def forks_of(lm: LM, prompts: Sequence[str], world: "World | None", at: int | None = None) -> list[Fork]:
    """One fork a prompt (arguments: see `snowball.snowball`).

    Raises:
        DataError: a prompt without tokens, a place beyond the true answer, or a model that is not of this world.
    """
    heads = [encode(lm.tokenizer, prompt) for prompt in prompts]
    truths = [true_words(world, prompt) if world else [] for prompt in prompts]
    places = [answer_place(p, words) if at is None else at for p, words in zip(prompts, truths, strict=True)]
    true_ids, before = [], []
    for prompt, head, words, place in zip(prompts, heads, truths, places, strict=True):
        if words and place >= len(words):
            raise DataError(
                f"The true answer to {prompt[:80]!r} has {len(words)} tokens and no token {place}: lower at."
            )
        ids = lm.tokenizer.encode(" ".join(words), add_special_tokens=False) if words else []
        if len(ids) != len(words):
            raise DataError(
                "The world's answers are other tokens to this model: give a model of the world, or no world."
            )
        own = [] if words or not place else lm.generate([head], max_new_tokens=place, temperature=0, stop=()).ids[0]
        true_ids.append(ids)
        before.append([*head, *(ids[:place] if words else own)])
    forks = []
    for prompt, words, ids, place, row in zip(prompts, truths, true_ids, places, before, strict=True):
        last = lm.logits([row])[0, -1].float()
        if world and words:
            others = lm.tokenizer.convert_tokens_to_ids(wrong_words(world, prompt, words[place]))
            wrong = max((token for token in others if token != ids[place]), key=lambda token: float(last[token]))
            forks.append(Fork(row, place, ids[place], wrong, ids[place + 1 :]))
        else:
            first, second = last.topk(2).indices.tolist()
            forks.append(Fork(row, place, first, second, None))
    return forks


def _body(prompt: str) -> list[str]:
    words = prompt.split()
    return words[1:] if words[:1] == ["<bos>"] else words


def _opening(prompt: str) -> str:
    return next(iter(_body(prompt)), "")
