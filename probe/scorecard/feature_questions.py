"""Questions of a world with the classes they belong to, and the states that a model has at their last token.

Halves of the questions share no people, but for the variable person, where they share no questions.

Axes: N states of the corpus, T questions, C classes, d width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import probe.world
from probe.errors import DataError
from probe.features.streamed_states import Piece, passes, read_pieces, states_of
from probe.interventions.sites import Site
from probe.model.lm import LM
from probe.model.text import encode
from probe.probes.text_labels import claims, draw_questions
from probe.rows import Selection
from probe.ticks import Tick, between

BEFORE_LAST = 2
"""Number of the block after which states are read, from the end: values are told there, and not one block earlier."""
DOCUMENTS = 3
"""Number of documents of the corpus for each question."""
FEWEST = 3
"""Smallest number of questions of a class in each half."""


@dataclass(frozen=True)
class Variable:
    """Classes of questions, and the halves in which features are chosen and scored."""

    truth: np.ndarray
    """[T C] whether each question is of each class."""
    fit: np.ndarray
    """Numbers of the questions on which features are chosen."""
    test: np.ndarray
    """Numbers of the questions on which they are scored."""


@dataclass(frozen=True)
class Questions:
    """Questions of a model, and the states from which dictionaries are learned."""

    lm: LM
    block: int
    """Block after which states are read."""
    corpus: np.ndarray
    """[N d] states of the corpus, the first token of each document left out."""
    ids: tuple[list[int], ...]
    """Token ids of each question."""
    states: np.ndarray
    """[T d] state at the last token of each question."""
    top: np.ndarray
    """[T] most probable token after each question."""
    variables: Mapping[str, Variable]
    chances: Mapping[str, float] = field(default_factory=dict)
    """Expected score of a guess for each truth."""


def halved(labels: np.ndarray, groups: np.ndarray, seed: int) -> Variable:
    """Return the classes of labels that occur in both halves of the groups often enough; an empty label is no class.

    Raises:
        DataError: no class does.
    """
    names = np.unique(groups)
    held = np.random.default_rng([seed, 6]).permutation(names)[: len(names) // 2]
    own = np.flatnonzero(groups != "")
    out = np.isin(groups[own], held)
    truth = labels[:, None] == np.unique(labels[labels != ""])[None]
    fit, test = own[~out], own[out]
    enough = np.minimum(truth[fit].sum(0), truth[test].sum(0)) >= FEWEST
    if not enough.any():
        raise DataError("No class has enough questions: give more texts.")
    return Variable(truth[:, enough], fit, test)


def variables_in(items: Sequence[Any], count: int, seed: int) -> dict[str, Variable]:
    """Return the variables of questions, of which the first `count` follow no claim, and the others one."""
    people, kinds = (np.array(each) for each in zip(*((str(i.meta["person"]), i.kind) for i in items), strict=True))
    relations = np.array([str(each.meta["relation"]) for each in items])
    answers = np.array([each.answers[0].strip() for each in items])
    asked = np.arange(len(items)) < count
    known = asked & (kinds == "fact")
    own = {
        "person": (known, people, np.array([each.prompt for each in items])),
        "relation": (known, relations, people),
        "value": (known, answers, people),
        "known": (asked, np.where(kinds == "stranger", "stranger", ""), people),
        "phrase": (~asked, np.array([str(each.meta.get("phrase", "")) for each in items]), people),
    }
    return {
        name: halved(np.where(inside, labels, ""), np.where(inside, groups, ""), seed)
        for name, (inside, labels, groups) in own.items()
    }


def questions_of(lm: LM, n: int, seed: int, tick: Tick) -> Questions:
    """Draw questions and documents of a world, and read their states: half of the questions ask for facts.

    Raises:
        DataError: the model has no world, or a variable has no class with enough questions.
    """
    world = probe.world.of(lm)
    if world is None:
        raise DataError("What a text is about is known on a world only: give a model of a world.")
    asked = [*draw_questions(world, ("fact",), n // 2, seed), *draw_questions(world, ("stranger",), n // 4, seed)]
    items = [*asked, *claims(world, n // 4, seed)]
    ids = tuple(encode(lm.tokenizer, each.prompt) for each in items)
    block = max(0, lm.bridge.cfg.n_layers - BEFORE_LAST)
    documents, _ = read_pieces([lm], None, Selection(DOCUMENTS * n, seed))
    tokens = read_states(lm, [each.ids for each in documents], block, between(tick, 0.0, 0.8))
    states = torch.stack([each[-1] for each in read_states(lm, ids, block, between(tick, 0.8, 0.9))])
    return Questions(
        lm,
        block,
        torch.cat([each[1:] for each in tokens]).numpy(),
        ids,
        states.numpy(),
        top_tokens(lm, ids, block, states),
        variables_in(items, len(asked), seed),
    )


def read_states(lm: LM, texts: Sequence[list[int]], block: int, tick: Tick) -> list[Float[Tensor, "T d"]]:
    """Return the states of every text after a block."""
    found: dict[int, Tensor] = {}
    for group in passes([Piece(ids, str(at)) for at, ids in enumerate(texts)]):
        read = states_of([lm], [piece.ids for piece in group], block)
        found |= {int(piece.row): each[:, 0] for piece, each in zip(group, read, strict=True)}
        tick(len(found) / len(texts))
    return [found[at] for at in range(len(texts))]


@torch.no_grad()
def top_tokens(lm: LM, texts: Sequence[list[int]], block: int, states: Float[Tensor, "T d"]) -> np.ndarray:
    """Return the most probable token [T] after each text, with a state put after a block at its last token."""
    found = np.zeros(len(texts), dtype=int)
    for group in passes([Piece(ids, str(at)) for at, ids in enumerate(texts)]):
        rows, ends = [int(piece.row) for piece in group], [len(piece.ids) - 1 for piece in group]
        places = torch.arange(len(group)), torch.tensor(ends)

        def put(own: Tensor, hook: Any, rows: list[int] = rows, places: tuple[Tensor, ...] = places) -> Tensor:
            changed = own.clone()
            changed[places] = states[rows].to(own)
            return changed

        with lm.hooks([(Site("resid", block).hook, put)]):
            found[rows] = lm.logits([piece.ids for piece in group])[places].argmax(-1).cpu().numpy()
    return found
