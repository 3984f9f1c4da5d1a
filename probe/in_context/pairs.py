"""Accuracy and loss by number of examples, against the Bayes predictors of a world (exact), and with wrong labels.

A document "rule 3 -> 1 ; 0 -> 4 ; ... ; 2 -> 0" is read once: the model's prediction after the k-th arrow is its answer
after k examples. The Bayes predictor gives the best possible answer there. In a map, a label is certain once its key
has occurred, and uniform before. In a function, an answer has the share of the tasks that fit the examples so far, over
the task pool (which the corpus teaches) or over all tasks (which generalises; Raventos et al. 2023, 2306.15063).

Distances are KL(Bayes || model) in nats, with the model's probabilities over its whole vocabulary: the model's expected
loss in excess of that predictor's, if the predictor matches the world.

Axes: N documents, K examples before the query (0 to pairs - 1), A answers.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import pandas as pd
import torch

from probe.autoregression.lags import batches
from probe.errors import ConfigError, DataError
from probe.model.text import encode
from probe.world import tasks
from probe.world.verifier import read_pairs
from probe.world.vocabulary import LABELS

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World

KINDS = ("map", "function", "function_new")
"""Kinds of questions with examples: maps, functions of the pool, and functions outside the pool."""
OPENINGS = {"map": "map", "function": "rule", "function_new": "rule"}


class PairDocument(NamedTuple):
    """A map or function with all its pairs; the last one is the question."""

    kind: str
    pairs: list[tuple[str, str]]

    def prompt(self, k: int) -> str:
        """Return the text before the answer to pair k: k examples and the query."""
        return tasks.pairs_text(OPENINGS[self.kind], self.pairs[:k], self.pairs[k][0])


def pair_documents(world: "World", kind: str, n: int, seed: int = 0) -> list[PairDocument]:
    """Return the questions `world.questions(kind, n, seed)` with their answers, as documents.

    Raises:
        DataError: this world asks no such questions, or they have no examples.
    """
    documents = []
    for item in world.questions(kind, n, seed):
        form = read_pairs(item.prompt.split())
        if form is None:
            raise DataError(f"Questions of kind {kind!r} have no examples: ask for one of {', '.join(KINDS)}.")
        pairs, query = form
        documents.append(PairDocument(kind, [*pairs, (query, item.answers[0].strip())]))
    return documents


def bayes_map(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return the Bayes predictive [K A] of each label of `LABELS` at every pair of a map, given the pairs before it.

    Labels are drawn uniformly and independently for each key: the label is certain if the key has occurred, else
    uniform.
    """
    labels: dict[str, str] = {}
    rows = []
    for key, label in pairs:
        earlier = labels.get(key)
        rows.append([1 / len(LABELS) if earlier is None else float(earlier == each) for each in LABELS])
        labels[key] = label
    return np.array(rows)


def counting_map(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return the predictive [K A] of a model that counts labels and ignores keys: (count + 1 / A) / (k + 1)."""
    labels = np.array([[float(label == each) for each in LABELS] for _, label in pairs])
    counts = np.cumsum(labels, axis=0) - labels
    return (counts + 1 / len(LABELS)) / (np.arange(len(pairs))[:, None] + 1)


def bayes_function(pairs: Sequence[tuple[str, str]], p: int, pool: Sequence[tasks.Task]) -> np.ndarray:
    """Return the Bayes predictive [K p] of y at every pair of a function, with a uniform prior over `pool`.

    It equals `probe.world.bayes.function_predictive` at each prefix; it is uniform if no task of the pool fits.
    """
    values = np.array([[(a * x + b) % p for x in range(p)] for a, b in pool])
    fits = np.ones(len(pool), dtype=bool)
    rows = []
    for left, right in pairs:
        x, y = int(left), int(right)
        answers = values[fits, x]
        rows.append(np.bincount(answers, minlength=p) / len(answers) if len(answers) else np.full(p, 1 / p))
        fits &= values[:, x] == y
    return np.array(rows)


def divergence(truth: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
    """Return KL(truth || model) [...] in nats over the last axis.

    Args:
        truth: [... A] probabilities, zeros allowed.
        logprobs: [... A] the model's log-probabilities of the same outcomes; other outcomes need not be included.
    """
    safe = np.where(truth > 0, truth, 1.0)
    return np.where(truth > 0, truth * (np.log(safe) - logprobs), 0.0).sum(-1)


@torch.no_grad()
def answer_logprobs(
    lm: "LM", documents: Sequence[PairDocument], answers: Sequence[str], last: bool = False
) -> np.ndarray:
    """Return the log-probability [N K A] in nats of each answer after 0 to K - 1 examples; hooks of `lm.hooks` apply.

    Args:
        lm: the model.
        documents: N documents with K pairs each.
        answers: A answers of one word each.
        last: score only the answer after K - 1 examples, [N 1 A].

    Raises:
        DataError: an answer is more than one token, or the examples do not begin as their documents do.
    """
    columns = single_tokens(lm, answers)
    rows, places = [], []
    for document in documents:
        final = len(document.pairs) - 1
        row = encode(lm.tokenizer, document.prompt(final))
        prefixes = [encode(lm.tokenizer, document.prompt(k)) for k in range(final if last else 0, final + 1)]
        if any(row[: len(prefix)] != prefix for prefix in prefixes):
            raise DataError("This tokenizer joins examples with the text after them: use a model with the world's own.")
        rows.append(row)
        places.append([len(prefix) - 1 for prefix in prefixes])
    values = np.empty((len(rows), len(places[0]), len(columns)))
    for part in batches(len(rows), max(map(len, rows)), len(lm.tokenizer)):
        logits = lm.logits(rows[part])
        at = torch.tensor(places[part], device=logits.device)
        logprobs = logits[torch.arange(len(at), device=logits.device)[:, None], at].float().log_softmax(-1)
        values[part] = logprobs[:, :, columns].double().cpu().numpy()
    return values


def single_tokens(lm: "LM", words: Sequence[str]) -> list[int]:
    """Return the token of each word preceded by a blank.

    Raises:
        DataError: a word is more than one token of this tokenizer.
    """
    tokens = []
    for word in words:
        ids = lm.tokenizer.encode(f" {word}", add_special_tokens=False)
        if len(ids) != 1:
            raise DataError(
                f'The world\'s word "{word}" is not a single token of this model: use a model of the world.'
            )
        tokens.append(int(ids[0]))
    return tokens


def pair_curves(lm: "LM", world: "World", kind: str, n: int = 200, seed: int = 0) -> pd.DataFrame:
    """Compare a model's answers after every number of examples with those of the Bayes predictors.

    Args:
        lm: a model with the world's tokenizer.
        world: the world with the maps or functions.
        kind: one of `KINDS`.
        n: number of documents; their last pairs are the questions of `world.questions(kind, n, seed)`.
        seed: random seed of the documents.

    Returns:
        One row per document and number of examples: document, examples, prompt, expected (the true answer), answer (the
        most probable one), copies (number of earlier occurrences of the query), p_true, loss; for maps the probability
        and the KL of the Bayes predictor (bayes_p_true, kl_bayes) and of `counting_map` (counting_p_true, kl_counting);
        for functions those of the Bayes predictors over the `pool` and over `all` tasks (pool_p_true, kl_pool,
        all_p_true, kl_all). Losses and distances in nats.

    Raises:
        DataError: the world has no such tasks, or the tokenizer is not the world's.
    """
    documents = pair_documents(world, kind, n, seed)
    p = world.config.modulus
    answers = LABELS if kind == "map" else world.numbers
    logprobs = answer_logprobs(lm, documents, answers)
    if kind == "map":
        truths = {
            "bayes": np.stack([bayes_map(document.pairs) for document in documents]),
            "counting": np.stack([counting_map(document.pairs) for document in documents]),
        }
    else:
        pools = {"pool": world.pool, "all": tasks.all_tasks(p)}
        truths = {
            name: np.stack([bayes_function(document.pairs, p, pool) for document in documents])
            for name, pool in pools.items()
        }
    rows = [
        {
            "document": index,
            "examples": k,
            "prompt": document.prompt(k),
            "answer": answers[int(logprobs[index, k].argmax())],
            "expected": label,
            "copies": sum(key == query for key, _ in document.pairs[:k]),
            "p_true": float(np.exp(logprobs[index, k, answers.index(label)])),
            "loss": float(-logprobs[index, k, answers.index(label)]),
        }
        | {f"{name}_p_true": float(truth[index, k, answers.index(label)]) for name, truth in truths.items()}
        for index, document in enumerate(documents)
        for k, (query, label) in enumerate(document.pairs)
    ]
    distances = {f"kl_{name}": divergence(truth, logprobs).ravel() for name, truth in truths.items()}
    return pd.DataFrame(rows).assign(**distances)


Mode = Literal["gold", "random", "permuted"]
MODES: tuple[Mode, ...] = get_args(Mode)
T = TypeVar("T")


def relabel(labels: Sequence[T], space: Sequence[T], mode: Mode, rng: np.random.Generator) -> list[T]:
    """Return the labels of the examples in a mode.

    - gold: unchanged;
    - random: each label is drawn uniformly from the label space, independently for every example;
    - permuted: the labels are permuted among the examples, so that the prompt holds the same labels.

    Args:
        labels: the gold labels, in the order of the examples.
        space: the label space.
        mode: gold, random or permuted.
        rng: random generator.

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
    """Ask the questions of a world with gold, random and permuted labels in the examples; expect the gold answer.

    Min et al. (2022, 2202.12837) found that models which know a task keep most of their accuracy when the labels of the
    examples are drawn at random: the examples tell them the form and the label space. If only the examples define the
    task, as in the maps and functions of the world, random labels carry no information, and accuracy must fall to
    chance.

    Args:
        lm: a model with the world's tokenizer.
        world: the world that asks the questions.
        n: number of questions; they are those of `world.questions(kind, n, seed)`.
        seed: random seed of questions and labels.
        kind: `map`, `function` or `function_new`.

    Returns:
        One row per question and mode: question, labels (the mode), prompt, expected, answer (the most probable label),
        right (0 or 1), p_true, shown (total probability of the labels that occur in the prompt).
    """
    space = LABELS if kind == "map" else world.numbers
    documents = pair_documents(world, kind, n, seed)

    def score(mode: Mode, rng: np.random.Generator) -> pd.DataFrame:
        variants = []
        for document in documents:
            *examples, last = document.pairs
            labels = relabel([label for _, label in examples], space, mode, rng)
            pairs = [(key, label) for (key, _), label in zip(examples, labels, strict=True)]
            variants.append(PairDocument(kind, [*pairs, last]))
        logprobs = answer_logprobs(lm, variants, space, last=True)[:, 0]
        rows = []
        for index, document in enumerate(variants):
            *examples, (_, truth) = document.pairs
            in_prompt = sorted({space.index(label) for _, label in examples})
            values = logprobs[index]
            row = {"question": index, "prompt": document.prompt(len(examples)), "expected": truth}
            row |= {"answer": space[int(values.argmax())], "p_true": float(np.exp(values[space.index(truth)]))}
            rows.append(row | {"shown": float(np.exp(values[in_prompt]).sum())})
        return pd.DataFrame(rows)

    return ablate_labels(score, seed)


def ablate_labels(score: Callable[[Mode, np.random.Generator], pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Apply `score` in every mode; add the columns `labels` and `right`, and the effect of gold labels.

    Args:
        score: function of (mode, random generator) that returns one row per question: question, answer, expected and
            more.
        seed: random seed of the labels; every mode has a separate generator.

    Returns:
        The rows of one mode after the other. In the rows of gold labels, `label_effect` is `right` with gold labels
        minus `right` with random labels of the same question, and `binding_effect` the same difference to permuted
        labels. A model that answers with any label of the prompt, whatever its text, has the first effect and not the
        second.
    """
    frames = []
    for number, mode in enumerate(MODES):
        frame = score(mode, np.random.default_rng((seed, number))).assign(labels=mode)
        frames.append(frame.assign(right=(frame["answer"] == frame["expected"]).astype(float)))
    gold, *others = (frame.set_index("question")["right"] for frame in frames)
    for name, other in zip(("label_effect", "binding_effect"), others, strict=True):
        frames[0][name] = (gold - other).reindex(frames[0]["question"]).to_numpy()
    return pd.concat(frames, ignore_index=True)
