"""The exact distribution of a model's answer to a sum of the world, over all the steps that it may write before it.

Between the beginning that is given and the answer a model may write any result at each step, right or wrong. So the
probability of an answer is a sum over a tree: ten results a step, each weighed by the model, down to the digit behind
"so"; what is written behind the answer does not matter. Operands are those that the form asks for: the result before
and the next term. What a model puts on other texts, and on branches that are rarer than `least`, is 1 - `mass`, which
bounds the error of every number from here.

Axes: P sums, 10 digits.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from probe.model.text import encode
from probe.ticks import Tick, ignore, part
from probe.world.tasks import steps_text, sum_prompt

if TYPE_CHECKING:
    from probe.model.lm import LM

LEAST = 1e-3
"""Branches that are less probable than this are left out."""
TOKENS = 16384
"""Tokens in one pass of the model, padding included."""
DIGITS = tuple("0123456789")
Array = NDArray[np.float64]


class Written(NamedTuple):
    """A sum of which some steps are written."""

    terms: tuple[int, ...]
    """The digits that are added."""
    results: tuple[int, ...] = ()
    """The results of the steps that are written, right or wrong, from the first on."""
    context: str = ""
    """What stands before it, with a blank behind."""

    @property
    def prompt(self) -> str:
        """The text up to where the model goes on: behind "=" or behind the ";" of a step."""
        asked = self.context + sum_prompt("sum", self.terms)
        if not self.results:
            return asked
        steps = steps_text(self.terms[: len(self.results) + 1], self.results).rsplit(" ; so", 1)[0]
        return f"{asked} {steps} ;"

    @property
    def left(self) -> int:
        """What the next step starts from."""
        return self.results[-1] if self.results else self.terms[0]

    @property
    def missing(self) -> int:
        """Steps that are still to be written."""
        return len(self.terms) - 1 - len(self.results)

    @property
    def consequence(self) -> int:
        """The answer that follows from what is written, if all that is missing is right."""
        return (self.left + sum(self.terms[len(self.results) + 1 :])) % 10


class SumAnswers(NamedTuple):
    """What a model answers."""

    values: Float[Array, "P 10"]
    """The probability of each digit as the answer."""
    repeats: Float[Array, " P"]
    """How much of it repeats the result of the last step."""

    @property
    def mass(self) -> Float[Array, " P"]:
        """How much the enumeration has seen; what is missing from 1 went to other texts and to rare branches."""
        return self.values.sum(1)


class _Node(NamedTuple):
    """A branch of the tree: everything up to `ids` has probability exp(logp), `forced` is still to be read."""

    sum: int
    ids: list[int]
    forced: list[int]
    logp: float
    left: int
    missing: int


def sum_answers(lm: "LM", sums: Sequence[Written], least: float = LEAST, tick: Tick = ignore) -> SumAnswers:
    """The distribution of the answers to sums of which any number of steps is written; exact up to 1 - `mass`.

    Args:
        lm: a model with the world's tokenizer.
        sums: what is given.
        least: branches that are less probable are left out.
        tick: called with the share that is done.
    """
    ids = lm.tokenizer.convert_tokens_to_ids
    values, repeats = np.zeros((len(sums), 10)), np.zeros(len(sums))
    frontier = [
        _open(_Node(p, encode(lm.tokenizer, one.prompt), [], 0.0, one.left, one.missing), one, ids)
        for p, one in enumerate(sums)
    ]
    rounds = 1 + max((one.missing for one in sums), default=0)
    for done in range(rounds):
        logps, digits = _read(lm, frontier, part(tick, done, rounds))
        grown: list[_Node] = []
        for node, forced, row in zip(frontier, logps, digits, strict=True):
            here = node.logp + forced
            if not node.missing:
                values[node.sum] += np.exp(here + row)
                repeats[node.sum] += np.exp(here + row[node.left])
                continue
            for digit in np.flatnonzero(here + row >= np.log(least)):
                read = [*node.ids, *node.forced, ids(DIGITS[digit])]
                child = _Node(node.sum, read, [ids(";")], here + row[digit], int(digit), node.missing - 1)
                grown.append(_open(child, sums[node.sum], ids))
        frontier = grown
        tick((done + 1) / rounds)
    return SumAnswers(values, repeats)


@torch.no_grad()
def forced_answers(lm: "LM", prompts: Sequence[str]) -> Float[Array, "P 10"]:
    """The probability of each digit as the next token, after prompts that open the answer; exact."""
    nodes = [_Node(p, encode(lm.tokenizer, prompt), [], 0.0, 0, 0) for p, prompt in enumerate(prompts)]
    return np.exp(_read(lm, nodes)[1])


def _open(node: _Node, asked: Written, ids: Callable[[str], int]) -> _Node:
    """The node with what must come next: the operands of the next step, or "so"."""
    term = asked.terms[-node.missing] if node.missing else None
    words = ["so"] if term is None else f"{node.left} + {term} =".split()
    return node._replace(forced=[*node.forced, *(ids(word) for word in words)])


@torch.no_grad()
def _read(lm: "LM", nodes: Sequence[_Node], tick: Tick = ignore) -> tuple[Float[Array, " N"], Float[Array, "N 10"]]:
    """The log-probability of what is forced at each node, and those of the ten digits behind it."""
    digits = torch.tensor(lm.tokenizer.convert_tokens_to_ids(list(DIGITS)))
    logps, found = np.zeros(len(nodes)), np.zeros((len(nodes), 10))
    order = sorted(range(len(nodes)), key=lambda i: len(nodes[i].ids) + len(nodes[i].forced))
    while order:
        width = len(nodes[order[0]].ids) + len(nodes[order[0]].forced)
        room = max(1, TOKENS // (width + 4))
        batch, order = order[:room], order[room:]
        most = max(len(nodes[i].forced) for i in batch)
        texts = [[*nodes[i].ids, *nodes[i].forced] for i in batch]
        logits = lm.logits(texts)
        # For each node the positions that predict its forced tokens, and the last one, which predicts the digit.
        last = torch.tensor([len(text) - 1 for text in texts], device=logits.device)
        at = (last[:, None] - torch.arange(most, -1, -1, device=logits.device)).clamp(min=0)
        rows = logits[torch.arange(len(batch), device=logits.device)[:, None], at].double().log_softmax(-1).cpu()
        tokens = torch.zeros(len(batch), most, dtype=torch.long)
        real = torch.zeros(len(batch), most, dtype=torch.bool)
        for row, i in enumerate(batch):
            count = len(nodes[i].forced)
            tokens[row, most - count :] = torch.tensor(nodes[i].forced)
            real[row, most - count :] = True
        forced = rows[:, :-1].gather(-1, tokens[..., None])[..., 0].where(real, 0)
        logps[batch], found[batch] = forced.sum(1).numpy(), rows[:, -1, digits].numpy()
        tick(1 - len(order) / len(nodes))
    return logps, found
