"""The tasks of continual learning: the examples of each phase and the measurement of what was learned.

In the world a phase teaches the facts of some people, and the base's knowledge is the world's corpus; the verifier
judges answers to questions. With files a phase is a file, measured on its held-out part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from probe import LM
from probe.errors import ConfigError, DataError
from probe.model.generation import end_tokens
from probe.model.text import context_length, encode
from probe.rewards.evaluation import ANSWER_TOKENS, answer
from probe.rows import Row, Rows
from probe.runs import ProbePrompt
from probe.world import World
from probe.world.language import subject_of
from probe.world.packing import pack
from probe.world.questions import Item
from trainers import pretrain, sft
from trainers.ewc import Text, predictions
from trainers.loop import LossFunction
from trainers.pretrain import PADDING, cut_rows, row_loss, tokenize
from trainers.record import capture_prompts, file_hash
from trainers.session import derive_seed
from trainers.sft import Demonstration, demonstration_loss, encode_completion, file_demonstrations

MOST = 4000
"""Largest number of rows or demonstrations that teach a world's task."""
MEASURED = 200
"""Largest number of held-out examples of a file for measurements."""


@dataclass(frozen=True, kw_only=True)
class PhaseTask:
    """A task: what one phase teaches, or what the base knew."""

    name: str
    examples: Sequence[Any]
    """Examples for learning, replay and the Fisher information: rows [T] or `Demonstration`s."""
    measure: Callable[[LM], np.ndarray]
    """Function from a model to the scores [items] of the task's items, between 0 and 1; the items are always the
    same."""
    texts: Sequence[tuple[str, str]]
    """Question and right answer of each item; for a row of a document, its text and an empty string."""
    people: Sequence[str] | None = None
    """Person of each item of a world, the unit of intervals; None with files."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Kind of example, as the loss uses it."""

    loss: LossFunction
    text: Callable[[Any], Text]
    """Function from an example to its ids and a mask of the targets."""


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """The phases in order, and the base's knowledge."""

    kind: Kind
    phases: Sequence[PhaseTask]
    old: PhaseTask | None
    """Task of the base's knowledge."""
    data: dict[str, Any]
    """Description of the data for run.json."""
    prompts: Sequence[Any]
    """Prompts to capture on."""


def row_text(row: np.ndarray) -> Text:
    """Return the tokens of a row without padding, and the mask of targets: all but the first token."""
    ids = row[row != PADDING].tolist()
    return ids, [False] + [True] * (len(ids) - 1)


def demonstration_text(example: Demonstration) -> Text:
    """Return the tokens of a demonstration, and the mask of targets: the learned tokens of its completion."""
    return [*example.prompt, *example.completion], [False] * len(example.prompt) + list(example.learned)


def example_text(lm: LM, example: "np.ndarray | Demonstration") -> tuple[str, str]:
    """Decode an example: a demonstration into prompt and completion, a row into its text and an empty string."""
    tokenizer = lm.tokenizer
    if isinstance(example, Demonstration):
        prompt, right = example.prompt, example.completion
        right = right[:-1] if right[-1] in end_tokens(lm.model, tokenizer) else right
    else:
        prompt, right = example[example != PADDING].tolist(), []
    front = encode(tokenizer, "")
    prompt = prompt[len(front) :] if prompt[: len(front)] == front else prompt
    return str(tokenizer.decode(prompt)), str(tokenizer.decode(right))


KINDS = {
    "pretrain": Kind(loss=row_loss, text=row_text),
    "sft": Kind(loss=demonstration_loss, text=demonstration_text),
}
"""Objective -> its kind of examples."""


def world_curriculum(
    lm: LM, world: World, *, phases: int, objective: str, length: int, examples: int, questions: int, seed: int
) -> Curriculum:
    """Build the curriculum of the world: its phases, and its corpus as the base's knowledge.

    Raises:
        ConfigError: the world has fewer phases.
    """
    if phases > world.config.phases:
        raise ConfigError(
            f"--phases is {phases} and the world of the base has {world.config.phases}: give that many or fewer."
        )
    teachers: dict[str, Callable[[str, int], list[Any]]] = {
        "pretrain": partial(_world_rows, lm, world, min(examples, MOST), length),
        "sft": partial(_world_answers, lm, world, min(examples, MOST)),
    }
    teach = teachers[objective]
    tasks = []
    for number, (name, group) in enumerate([("old", "fact"), *((f"phase_{i}",) * 2 for i in range(phases))]):
        items = world.questions(group, questions, derive_seed(seed, number, 1))
        task = PhaseTask(
            name=name,
            examples=teach(group, derive_seed(seed, number)),
            measure=partial(_true_answers, world, items),
            texts=[(item.prompt, item.answers[0]) for item in items],
            people=[str(subject_of(item.prompt)) for item in items],
        )
        tasks.append(task)
    data = {"source": "world", "hash": world.hash, "phases": phases}
    return Curriculum(kind=KINDS[objective], phases=tasks[1:], old=tasks[0], data=data, prompts=_prompts(world, phases))


def file_curriculum(
    lm: LM,
    files: Sequence[Rows[Any]],
    old: Rows[Any] | None,
    *,
    objective: str,
    length: int,
    seed: int,
    say: Callable[[str], None],
) -> Curriculum:
    """Build a curriculum with one phase per file, from the rows of `probe.continual.training.read_phases`.

    Raises:
        DataError: a file cannot be used; the message says why.
    """
    readers: dict[str, Callable[[Rows[Any]], tuple[list[Any], list[Any], list[Any]]]] = {
        "pretrain": partial(_file_rows, lm, length, say),
        "sft": partial(_file_demonstrations, lm, seed, say),
    }
    read, kind = readers[objective], KINDS[objective]
    names = [f"{i + 1}-{rows.path.stem}" for i, rows in enumerate(files)]
    tasks, prompts = [], list[Any]()
    for name, rows in zip(["old", *names], [old, *files], strict=True):
        if rows is not None:
            examples, held_out, new_prompts = read(rows)
            test_set = held_out[:MEASURED]
            measure = partial(_share_predicted, kind, test_set)
            texts = [example_text(lm, example) for example in test_set]
            tasks.append(PhaseTask(name=name, examples=examples, measure=measure, texts=texts))
            prompts += new_prompts[:2]
    inputs = [rows for rows in (old, *files) if rows is not None]
    sources = [rows.path for rows in inputs]
    data = {"source": ",".join(map(str, sources)), "hash": ",".join(map(file_hash, sources))}
    counts = {"left_out": sum(len(rows.left_out) for rows in inputs)}
    first = len(tasks) - len(files)
    return Curriculum(
        kind=kind,
        phases=tasks[first:],
        old=tasks[0] if first else None,
        data=data | counts,
        prompts=_once(prompts),
    )


def _once(prompts: Sequence[Any]) -> list[Any]:
    """Keep one prompt of each text if several files share it, and number the kept prompts from 0."""
    by_text = {prompt.text if isinstance(prompt, ProbePrompt) else str(prompt): prompt for prompt in prompts}
    kept = enumerate(by_text.values())
    return [replace(each, id=str(number)) if isinstance(each, ProbePrompt) else each for number, each in kept]


def _prompts(world: World, phases: int) -> list[dict[str, Any]]:
    """Return the world's probe prompts, and one about a person of each phase."""
    prompts = world.probe_prompts()
    for phase in range(phases):
        item = world.questions(f"phase_{phase}", 1, 0)[0]
        others = [value for value in world.candidates(item.prompt) if value != item.answers[0]]
        prompts.append({"text": item.prompt, "answers": [item.answers[0], *others[:2]], "kind": f"phase_{phase}"})
    return prompts


def _world_rows(lm: LM, world: World, n: int, length: int, group: str, seed: int) -> list[np.ndarray]:
    """Pack the documents of a phase, or of the corpus, into rows."""
    phase = group.removeprefix("phase_")
    documents = world.phase_documents(int(phase), seed) if phase.isdecimal() else world.documents(seed)
    packed = islice(pack(documents, lm.tokenizer, length), n)
    return [np.where(kinds < 0, PADDING, ids) for ids, kinds in packed]


def _world_answers(lm: LM, world: World, n: int, group: str, seed: int) -> list[Demonstration]:
    """Encode questions about the people of a group, with their answers."""
    return [encode_completion(lm, i.prompt, i.answers[0]) for i in world.questions(group, n, seed)]


def _true_answers(world: World, items: Sequence[Item], lm: LM) -> np.ndarray:
    """Sample one answer to each question and return which answers are true.

    The temperature is 1, and the random numbers are always the same.
    """
    return np.array([verdict.kind == "true" for verdict in answer(lm, world, items, ANSWER_TOKENS, 0).verdicts])


def _file_rows(
    lm: LM, length: int, say: Callable[[str], None], documents: Rows[str]
) -> tuple[list[np.ndarray], list[np.ndarray], list[Any]]:
    limit = context_length(lm.model)
    if limit is not None and length > limit:
        raise ConfigError(f"--length is {length} and the model reads at most {limit} tokens: give {limit} or less.")
    for note in documents.notes():
        say(note)
    parts = pretrain.hold_out(documents)
    front = encode(lm.tokenizer, "")
    training, held_out = (list(cut_rows(tokenize(part, lm.tokenizer), front, length)) for part in parts)
    lines = (" ".join(line.split()[:12]) for document in parts[1] for line in document.splitlines() if line.strip())
    return training, held_out, capture_prompts(lm.tokenizer, lines)


def _file_demonstrations(
    lm: LM, seed: int, say: Callable[[str], None], rows: Rows[Row]
) -> tuple[list[Demonstration], list[Demonstration], list[ProbePrompt]]:
    data = file_demonstrations(lm, rows, every_turn=True, longest=0, report=say)
    training, held_out = sft.hold_out(data.examples, 1 / pretrain.HELD_OUT, seed)
    if not held_out:
        raise DataError(f"`{rows.path}` has {len(data.examples)} examples, too few to hold some out: give at least 20.")
    return training, held_out, list(data.prompts)


@torch.no_grad()
def _share_predicted(kind: Kind, examples: Sequence[Any], lm: LM) -> np.ndarray:
    """Return, per example, the share of targets that are the most probable token under the model."""
    scores = []
    for example in examples:
        logits, targets = predictions(lm.model, kind.text(example))
        scores.append(float((logits.argmax(-1) == targets).float().mean()) if len(targets) else 0.0)
    return np.array(scores)
