"""Function vectors of few-shot classification (Todd et al., 2310.15213): is the effect of examples a direction?

The vector of a task after a block is the mean residual at the last token of prompts with examples minus the mean for
the same queries without examples: added to prompts without examples, it shifts their mean as the examples would. (The
vector is read from the residual stream, not from the best heads' outputs as in `probe.in_context.vectors`: the causal
effect of each head costs a pass over every prompt with examples, too many for the models that files are meant for.)

Controls: the vector of the same prompts with permuted labels, which carries the form and the labels but not which text
has which; and random directions with the norm of the vector.

The texts are split into two halves. Queries of one half get vectors from prompts of the other half; the vectors are
added after the block where vectors of this half raise the true label most on the queries of the other half. So a query
occurs in no prompt that makes its vector, and its answer did not influence the choice of its block. Accuracy has a
separate block, chosen by the true label's share among the labels: a late block may raise all labels alike. A few
queries share a vector, and no two vectors share a prompt: intervals that resample whole vectors (column `vector`) take
account of both.

Labels are scored as `lm-evaluation-harness` scores multiple choice: the summed log-likelihood of each label's tokens.
Only the prompt's last token is changed, even if a label has several tokens. Labels of one token share one row.

Axes: P prompts, Q queries, L labels, V vectors, D blocks to try, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe import stats
from probe.errors import ConfigError, DataError, ModelError
from probe.in_context.few_shot import TEMPLATE, LabelledText, Query, few_shot_prompt, fitting_shots
from probe.in_context.pairs import Mode, relabel
from probe.interventions.sites import TOKENS_PER_PASS, Site
from probe.model.text import encode, split
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    from probe.model.lm import LM

VECTORS: tuple[tuple[str, Mode], ...] = (("own", "gold"), ("shuffled", "permuted"))
"""Name of each vector to the labels of the examples that make it."""


def draw_prompts(
    data: Sequence[LabelledText], half: Sequence[int], count: int, shots: int, rng: np.random.Generator
) -> list[Query]:
    """Draw queries from one half, each with other examples of that half before it."""
    questions = []
    for _ in range(count):
        query, *others = rng.permutation(np.asarray(half))[: shots + 1].tolist()
        questions.append(Query(query, data[query], [data[other] for other in others]))
    return questions


@torch.no_grad()
def example_vectors(
    lm: "LM",
    drawn: Sequence[Query],
    labels: Sequence[str],
    k: int,
    blocks: Sequence[int],
    template: str,
    rng: np.random.Generator,
    tick: Tick = ignore,
) -> dict[str, Float[Tensor, "P D d"]]:
    """Return by name of `VECTORS` the residual at each prompt's last token with examples minus that without.

    Args:
        lm: the model.
        drawn: P queries with their examples.
        labels: all labels.
        k: number of examples in each prompt, the first ones.
        blocks: D blocks after which the residual is read.
        template: format of an example.
        rng: random generator that permutes the labels of each prompt.
        tick: progress.
    """
    vectors: dict[str, list[Tensor]] = {name: [] for name, _ in VECTORS}
    for number, question in enumerate(drawn):
        zero = _last(lm, few_shot_prompt([], question.query.text, template), blocks)
        for name, mode in VECTORS:
            examples = question.examples[:k]
            new_labels = relabel([example.label for example in examples], labels, mode, rng)
            context = [LabelledText(example.text, label) for example, label in zip(examples, new_labels, strict=True)]
            vectors[name].append(_last(lm, few_shot_prompt(context, question.query.text, template), blocks) - zero)
        tick((number + 1) / len(drawn))
    return {name: torch.stack(each) for name, each in vectors.items()}


def _last(lm: "LM", text: str, blocks: Sequence[int]) -> Float[Tensor, "D d"]:
    """Return the residual at the last token after each of the blocks."""
    states_by_block: list[Tensor] = []

    def keep(states: Tensor, hook: Any) -> None:
        states_by_block.append(states[0, -1].double())

    def last(states: Tensor, hook: Any) -> Tensor:
        return states[:, -1:]

    with lm.hooks([*((Site("resid", block).hook, keep) for block in blocks), ("unembed.hook_in", last)]):
        lm.logits([encode(lm.tokenizer, text)])
    return torch.stack(states_by_block)


class LabelPlace(NamedTuple):
    """Place of a label's score in the rows."""

    prompt: int
    label: int
    ids: list[int]


class LabelPrompts(NamedTuple):
    """Prompts and labels as rows of ids; a row does not need the last token of its label."""

    rows: list[list[int]]
    ends: list[int]
    """Position of the prompt's last token in each row."""
    wanted: list[list[LabelPlace]]
    """Labels to read in each row."""
    shape: tuple[int, int]
    """Numbers of prompts and of labels."""


def ask(lm: "LM", prompts: Sequence[str], labels: Sequence[str]) -> LabelPrompts:
    """Build the rows that are needed to score each label, preceded by a blank, after each prompt."""
    row_numbers: dict[tuple[int, ...], int] = {}
    batch = LabelPrompts([], [], [], (len(prompts), len(labels)))
    for number, prompt in enumerate(prompts):
        for index, label in enumerate(labels):
            head, ids = split(lm.tokenizer, prompt, f" {label}")
            row = (*head, *ids[:-1])
            if row not in row_numbers:
                row_numbers[row] = len(row_numbers)
                batch.rows.append(list(row))
                batch.ends.append(len(head) - 1)
                batch.wanted.append([])
            batch.wanted[row_numbers[row]].append(LabelPlace(number, index, ids))
    return batch


@torch.no_grad()
def steered_labels(
    lm: "LM", asked: LabelPrompts, vectors: Float[Tensor, "Q d"] | None = None, block: int = 0
) -> Float[np.ndarray, "Q L"]:
    """Return the summed log-likelihood in nats of each label, with a vector added to each prompt's residual stream.

    Args:
        lm: the model.
        asked: result of `ask`.
        vectors: vector to add at the last token of each prompt; None adds nothing.
        block: block after which they are added.
    """
    label_logprobs = np.empty(asked.shape)
    size = max(1, TOKENS_PER_PASS // max(map(len, asked.rows)))
    for first in range(0, len(asked.rows), size):
        rows, ends = asked.rows[first : first + size], asked.ends[first : first + size]
        owners, start = [targets[0].prompt for targets in asked.wanted[first : first + size]], min(ends)

        def add(states: Tensor, hook: Any, ends: list[int] = ends, owners: list[int] = owners) -> Tensor | None:
            if vectors is None:
                return None
            states = states.clone()
            states[torch.arange(len(ends)), torch.tensor(ends)] += vectors[owners].to(states)
            return states

        def needed(states: Tensor, hook: Any, start: int = start) -> Tensor:
            return states[:, start:]

        with lm.hooks([(Site("resid", block).hook, add), ("unembed.hook_in", needed)]):
            logits = lm.logits(rows)
        for at, (end, targets) in enumerate(zip(ends, asked.wanted[first : first + size], strict=True)):
            for prompt, label, ids in targets:
                steps = torch.arange(len(ids))
                logprobs = logits[at, steps + end - start].double().log_softmax(-1)
                label_logprobs[prompt, label] = float(logprobs[steps, torch.tensor(ids)].sum())
    return label_logprobs


class TextVectors(NamedTuple):
    """Effect of the vectors of prompts with examples on prompts without examples."""

    items: pd.DataFrame
    """One row per query: question (its number in the data), prompt, expected, vector (its number).

    Probability of the true label with vectors after `block`: plain (without), own, shuffled, random (mean);
    vector_gain = own - plain, vector_gain_shuffled, vector_gain_random, vector_binding = own - shuffled.

    Whether the true label is the most probable one, 0 or 1, with vectors after `block_accuracy`: right_plain,
    right_own, right_shuffled, right_random (a share); vector_accuracy_gain and so on are the same differences of these.

    length: norm of the own vector after `block`; length_difference: norm of own - shuffled."""
    blocks: pd.DataFrame
    """One row per block and vector (plain, own, shuffled): block, vector, p_true, ci_low, ci_high, accuracy,
    accuracy_low, accuracy_high (means over all queries; the intervals resample queries), n."""
    shots: int
    """Number of examples in the prompts of the vectors."""


@dataclass(frozen=True, kw_only=True)
class TextVectorSizes:
    """How much goes into the function vectors of texts."""

    n: int = 40
    """Texts that are used, drawn at random; all of these are queries."""
    prompts: int = 2
    """Prompts with examples that make one vector."""
    share: int = 2
    """Queries that share one vector."""
    shots: int = 8
    """Examples in each prompt, at most; fewer where the half has fewer, or the context ends."""
    blocks: int = 8
    """Blocks that are tried, evenly spaced."""
    directions: int = 2
    """Random directions for each vector."""

    def __post_init__(self) -> None:
        if min(self.n, self.prompts, self.share, self.shots, self.blocks, self.directions) < 1:
            raise ConfigError(
                f"{self.n} texts, {self.prompts} prompts for {self.share} queries, {self.shots} shots, {self.blocks}"
                f" blocks and {self.directions} directions were requested: give 1 or more of each."
            )


def function_vectors_text(
    lm: "LM",
    data: Sequence[LabelledText],
    sizes: TextVectorSizes = TextVectorSizes(),
    template: str = TEMPLATE,
    seed: int = 0,
    tick: Tick = ignore,
) -> TextVectors:
    """Find function vectors of a file of classified texts and measure their effect.

    Args:
        lm: any model of tokens whose blocks can be hooked.
        data: labelled texts, 6 or more.
        sizes: how many of them are used, and what for.
        template: format of an example.
        seed: random seed of halves, examples, labels and directions.
        tick: progress.

    Raises:
        ConfigError: a template that cannot be used.
        DataError: too few texts, or a text too long for one example to stand before it.
    """
    rng, prompts, shots = np.random.default_rng(seed), sizes.prompts, sizes.shots
    picks = rng.permutation(len(data))[: sizes.n].tolist()
    if len(picks) < 6:
        raise DataError(
            f"{len(picks)} texts are too few for a function vector: give 6 or more, half of them to learn it from."
        )
    labels = sorted({example.label for example in data})
    halves = [picks[half::2] for half in (0, 1)]
    groups = [np.arange(len(half)) // sizes.share for half in halves]
    questions = [draw_prompts(data, halves[1 - half], prompts * (1 + groups[half][-1]), shots, rng) for half in (0, 1)]
    k = fitting_shots(lm, [*questions[0], *questions[1]], range(1, shots + 1), template)[-1]
    depth = lm.bridge.cfg.n_layers
    layers = sorted({int(block) for block in np.linspace(0, depth - 1, min(sizes.blocks, depth)).round()})
    prompts_alone = [[few_shot_prompt([], data[at].text, template) for at in half] for half in halves]
    batches = [ask(lm, texts, labels) for texts in prompts_alone]
    truths = [np.array([labels.index(data[at].label) for at in half]) for half in halves]
    means, scans = [], []
    for half in (0, 1):
        tensors = example_vectors(lm, questions[half], labels, k, layers, template, rng, part(tick, half, 4))
        means.append({name: _group_means(each, prompts)[groups[half]] for name, each in tensors.items()})
    for half in (0, 1):
        scans.append(_scan(lm, batches[half], means[half], layers, part(tick, 2 + half, 4)))
    best = [_best(scan["own"], truth) for scan, truth in zip(scans, truths, strict=True)]
    frames = []
    for half in (0, 1):
        at, truth = best[1 - half][0], truths[half]
        own, other = (means[half][name][:, at] for name in ("own", "shuffled"))
        columns: dict[str, Any] = {"question": halves[half], "prompt": prompts_alone[half]}
        columns["row"] = [data[at].row for at in halves[half]]
        columns["expected"] = [labels[true] for true in truth]
        columns["vector"] = [f"{half}-{group}" for group in groups[half]]
        for at, prefix, block, score in zip(
            best[1 - half], ("", "right_"), ("", "_accuracy"), (_true, _right), strict=True
        ):
            by_name = {name: each[at][None] for name, each in scans[half].items()}
            vectors = means[half]["own"][:, at]
            by_name["random"] = _random(lm, batches[half], vectors, groups[half], layers[at], sizes.directions, rng)
            columns[f"block{block}"] = layers[at]
            columns |= {f"{prefix}{name}": score(each, truth).mean(0) for name, each in by_name.items()}
        columns |= {"length": own.norm(dim=-1).cpu(), "length_difference": (own - other).norm(dim=-1).cpu()}
        frames.append(pd.DataFrame(columns))
    tick(1.0)
    return TextVectors(_differences(pd.concat(frames, ignore_index=True)), _by_block(layers, scans, truths), k)


def vector_parts(
    lm: "LM", examples: Sequence[LabelledText], n: int, shots: int, template: str, seed: int, tick: Tick
) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame], dict[str, Any]]:
    """Return items, tables and facts of the function vectors, if possible.

    Args:
        lm: the model.
        examples: labelled texts of the file.
        n: maximum number of queries.
        shots: maximum number of examples in the prompts that the vectors are read from.
        template: format of an example; prompts are plain ones.
        seed: random seed of all choices.
        tick: progress.
    """
    if not has_heads(lm) or shots < 1:
        return [], {}, {}
    most = TextVectorSizes()
    sizes = TextVectorSizes(n=min(n, most.n), shots=min(shots, most.shots))
    try:
        vectors = function_vectors_text(lm, examples, sizes, template, seed, tick)
    except DataError as error:  # there are too few texts, or there is no room for an example
        return [], {}, {"no_function_vector": str(error)}
    names = [f"vector-{number}" for number in vectors.items["question"]]
    items = vectors.items.assign(item=names, kind="vector").drop(columns="question")
    return [items], {"text_vectors": vectors.blocks}, {"function_vector_shots": vectors.shots}


def has_heads(lm: "LM") -> bool:
    """Return whether attention can be read: recurrent models have none, some architectures cannot be hooked."""
    try:
        return "blocks.0.attn.hook_pattern" in lm.bridge.hook_dict
    except ModelError:
        return False


def _group_means(each: Float[Tensor, "P D d"], size: int) -> Float[Tensor, "V D d"]:
    """Return the means of consecutive groups of `size` prompts."""
    return each.unflatten(0, (-1, size)).mean(1)


def _scan(
    lm: "LM", batch: LabelPrompts, vectors: dict[str, Float[Tensor, "Q D d"]], blocks: Sequence[int], tick: Tick
) -> dict[str, Float[np.ndarray, "D Q L"]]:
    """Return the log-likelihoods of the labels without a vector and with each, by block."""
    results = {"plain": np.stack([steered_labels(lm, batch)] * len(blocks))}
    for number, (name, each) in enumerate(vectors.items()):
        steps = []
        for at, block in enumerate(blocks):
            steps.append(steered_labels(lm, batch, each[:, at], block))
            part(tick, number, len(vectors))((at + 1) / len(blocks))
        results[name] = np.stack(steps)
    return results


def _random(
    lm: "LM",
    batch: LabelPrompts,
    like: Float[Tensor, "Q d"],
    groups: np.ndarray,
    block: int,
    count: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "R Q L"]:
    """Return the log-likelihoods with random directions of the vectors' norms; a group of queries shares each."""
    results, lengths = [], like.norm(dim=-1, keepdim=True)
    for _ in range(count):
        noise = torch.as_tensor(rng.standard_normal((groups[-1] + 1, like.shape[-1]))).to(like)[groups]
        results.append(steered_labels(lm, batch, noise / noise.norm(dim=-1, keepdim=True) * lengths, block))
    return np.stack(results)


def _true(logprobs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the probability [... Q] of the true label from [... Q L]."""
    probabilities: np.ndarray = np.exp(logprobs[..., np.arange(len(truth)), truth])
    return probabilities


def _right(logprobs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return whether the true label is the most probable one, [... Q] from [... Q L]."""
    hits: np.ndarray = (logprobs.argmax(-1) == truth).astype(float)
    return hits


def _best(logprobs: Float[np.ndarray, "D Q L"], truth: np.ndarray) -> tuple[int, int]:
    """Return the blocks where the true label's mean probability is highest, and where its share among the labels is."""
    shares = logprobs - np.logaddexp.reduce(logprobs, axis=-1, keepdims=True)
    return int(_true(logprobs, truth).mean(1).argmax()), int(_true(shares, truth).mean(1).argmax())


def _differences(items: pd.DataFrame) -> pd.DataFrame:
    for prefix, column in (("vector", ""), ("vector_accuracy", "right_")):
        items[f"{prefix}_gain"] = items[f"{column}own"] - items[f"{column}plain"]
        for name in ("shuffled", "random"):
            items[f"{prefix}_gain_{name}"] = items[f"{column}{name}"] - items[f"{column}plain"]
        items[f"{prefix}_binding"] = items[f"{column}own"] - items[f"{column}shuffled"]
    return items


def _by_block(
    layers: Sequence[int], scans: Sequence[dict[str, np.ndarray]], truths: Sequence[np.ndarray]
) -> pd.DataFrame:
    rows = []
    for at, block in enumerate(layers):
        for name in scans[0]:
            pairs = [(scan[name][at], truth) for scan, truth in zip(scans, truths, strict=True)]
            true = np.concatenate([_true(each, truth) for each, truth in pairs])
            right = np.concatenate([_right(each, truth) for each, truth in pairs])
            value, low, high = stats.bootstrap_mean(true, resamples=1000, bounds=stats.SHARE)
            row = {"block": block, "vector": name, "p_true": value, "ci_low": low, "ci_high": high}
            rows.append(row | stats.wilson(int(right.sum()), len(right)).row(len(true), "accuracy"))
    return pd.DataFrame(rows)
