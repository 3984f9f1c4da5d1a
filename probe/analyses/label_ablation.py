"""Do the labels of the examples matter? The same examples with gold, random and permuted labels (Min et al. 2022).

Min et al. (2202.12837) found that models which know a task keep most of their accuracy when the labels of the examples
are drawn at random: the examples tell them the form and the label space. Where a task is in the examples alone, as in
the maps and functions of the world, random labels leave nothing to go by, and accuracy must fall to chance.

- gold: as they are;
- random: each label is drawn uniformly from the label space, every example alone;
- permuted: the labels are dealt anew among the examples, so that the same labels stand in the prompt.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np
import pandas as pd

from probe.analyses.in_context_curves import PairDocument, answer_logprobs, pair_documents
from probe.errors import ConfigError
from probe.world.vocabulary import LABELS

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World

Mode = Literal["gold", "random", "permuted"]
MODES: tuple[Mode, ...] = get_args(Mode)
T = TypeVar("T")


def relabel(labels: Sequence[T], space: Sequence[T], mode: Mode, rng: np.random.Generator) -> list[T]:
    """The labels of the examples, as a mode has them.

    Args:
        labels: the gold labels, in the order of the examples.
        space: the label space.
        mode: gold, random or permuted.
        rng: draws.

    Raises:
        ConfigError: an unknown mode.
    """
    if mode not in MODES:
        raise ConfigError(f"The label ablation {mode!r} is unknown: give one of {', '.join(MODES)}.")
    if mode == "gold":
        return list(labels)
    if mode == "random":
        return [space[at] for at in rng.integers(0, len(space), len(labels))]
    return [labels[at] for at in rng.permutation(len(labels))]


def map_label_ablation(lm: "LM", world: "World", n: int = 200, seed: int = 0, kind: str = "map") -> pd.DataFrame:
    """The questions of a world with gold, random and permuted labels of their examples; the gold answer is expected.

    Args:
        lm: a model with the world's tokenizer.
        world: whose questions.
        n: questions; equal to those of `world.questions(kind, n, seed)`.
        seed: of questions and labels.
        kind: `map`, `function` or `function_new`.

    Returns:
        One row a question and mode: question, labels (the mode), prompt, expected, answer (the likeliest of the label
        space), right (0 or 1), p_true, shown (what the model gives to labels that stand in the prompt).
    """
    space = LABELS if kind == "map" else world.numbers
    documents = pair_documents(world, kind, n, seed)

    def score(mode: Mode, rng: np.random.Generator) -> pd.DataFrame:
        changed = []
        for document in documents:
            *examples, last = document.pairs
            labels = relabel([label for _, label in examples], space, mode, rng)
            pairs = [(key, label) for (key, _), label in zip(examples, labels, strict=True)]
            changed.append(PairDocument(kind, [*pairs, last]))
        logprobs = answer_logprobs(lm, changed, space, last=True)[:, 0]
        rows = []
        for index, document in enumerate(changed):
            *examples, (_, truth) = document.pairs
            shown = sorted({space.index(label) for _, label in examples})
            said = logprobs[index]
            row = {"question": index, "prompt": document.prompt(len(examples)), "expected": truth}
            row |= {"answer": space[int(said.argmax())], "p_true": float(np.exp(said[space.index(truth)]))}
            rows.append(row | {"shown": float(np.exp(said[shown]).sum())})
        return pd.DataFrame(rows)

    return ablated(score, seed)


def ablated(score: Callable[[Mode, np.random.Generator], pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """What `score` gives for every mode, with the columns `labels` and `right`, and the effect of gold labels.

    Args:
        score: (mode, random numbers) to one row a question: question, answer, expected and more.
        seed: of the labels; every mode has random numbers of its own.

    Returns:
        Modes one after the other. On the rows of gold labels `label_effect` is right minus what it is with random
        labels, and `binding_effect` minus what it is with permuted ones, question by question: a model that answers
        with any label of the prompt, whichever text it stands with, has the first and not the second.
    """
    frames = []
    for number, mode in enumerate(MODES):
        frame = score(mode, np.random.default_rng((seed, number))).assign(labels=mode)
        frames.append(frame.assign(right=(frame["answer"] == frame["expected"]).astype(float)))
    gold, *others = (frame.set_index("question")["right"] for frame in frames)
    for name, other in zip(("label_effect", "binding_effect"), others, strict=True):
        frames[0][name] = (gold - other).reindex(frames[0]["question"]).to_numpy()
    return pd.concat(frames, ignore_index=True)
