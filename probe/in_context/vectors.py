"""Function vectors: is a task that the examples show a direction that a few heads write (Todd et al. 2024, 2310.15213)?

For each task, every head's output at the last token is averaged over prompts with examples of that task. Heads are
ranked by their causal effect: how far a head's average raises the probability of the true answer in prompts with
permuted labels. The sum of the averages of the best heads, through W_O, is the task's function vector. It is added to
the residual stream after one block, at the last token of a prompt without examples; the answer to that prompt should
then follow the task.

The control is the function vector of another task: it says that there is a task of this kind, but not which one. The
block is chosen on one half of the tasks and measured on the other, both ways.

Axes: N prompts, D blocks, H heads, dh head width, d width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError
from probe.in_context.pairs import OPENINGS, PairDocument, answer_logprobs, relabel
from probe.model.heads import head_names, output_maps
from probe.model.text import encode
from probe.ticks import Tick, ignore, part
from probe.world import tasks
from probe.world.draws import Draws, generator
from probe.world.vocabulary import KEYS, LABELS

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World


class VectorTask(NamedTuple):
    """A task: prompts that show it, and questions without examples."""

    name: str
    shown: list[PairDocument]
    """Documents whose last pair is the question, with examples before it."""
    bare: list[PairDocument]
    """Documents of a single pair, one for every input."""


def vector_tasks(world: "World", kind: str, count: int = 8, n: int = 16, seed: int = 0) -> list[VectorTask]:
    """Draw maps, or take functions of the pool (at most as many as exist), each shown in `n` prompts.

    Raises:
        ConfigError: the kind has no such tasks.
    """
    if kind not in ("map", "function"):
        raise ConfigError(f"Function vectors of {kind!r} were requested: give map or function.")
    draws = Draws(generator("questions", world.seed, seed, *b"vectors"))
    config, result = world.config, []
    for number in range(count if kind == "map" else min(count, len(world.pool))):
        if kind == "map":
            rule = {key: draws.pick(LABELS) for key in draws.sample(KEYS, config.map_keys)}
            keys, name = list(rule), f"map {number}"
            demonstrations = []
            for _ in range(n):
                context = [draws.pick(keys) for _ in range(config.pairs - 1)]
                demonstrations.append([(key, rule[key]) for key in [*context, draws.pick(context)]])
        else:
            task = world.pool[number]
            (a, b), p = task, config.modulus
            rule, name = {str(x): str((a * x + b) % p) for x in range(p)}, f"y = {a} x + {b} mod {p}"
            demonstrations = [tasks.draw_function(config, draws, task) for _ in range(n)]
        bare = [PairDocument(kind, [pair]) for pair in rule.items()]
        result.append(VectorTask(name, [PairDocument(kind, pairs) for pairs in demonstrations], bare))
    return result


@torch.no_grad()
def head_means(lm: "LM", documents: Sequence[PairDocument]) -> Float[Tensor, "D H dh"]:
    """Return the mean output of every head at the last token of prompts, before W_O."""
    names = [f"blocks.{block}.attn.hook_z" for block in range(lm.bridge.cfg.n_layers)]
    rows = [encode(lm.tokenizer, document.prompt(len(document.pairs) - 1)) for document in documents]
    _, cache = lm.run_with_cache(rows, names)
    last = torch.tensor([len(row) - 1 for row in rows], device=lm.device)
    each = torch.arange(len(rows), device=lm.device)
    return torch.stack([cache[name][each, last].float().mean(0) for name in names])


def causal_effects(
    lm: "LM",
    found: Sequence[VectorTask],
    means: Sequence[Tensor],
    space: Sequence[str],
    seed: int = 0,
    tick: Tick = ignore,
) -> np.ndarray:
    """Return the mean rise [D H] of the true answer's probability by a head's mean, with permuted labels."""
    rng = np.random.default_rng(seed)
    depth, heads = means[0].shape[:2]
    total, count = np.zeros((depth, heads)), 0
    for task, mean in zip(found, means, strict=True):
        variants = []
        for document in task.shown:
            *examples, last = document.pairs
            labels = relabel([label for _, label in examples], space, "permuted", rng)
            pairs = [(key, label) for (key, _), label in zip(examples, labels, strict=True)]
            variants.append(PairDocument(document.kind, [*pairs, last]))
        before = _p_true(lm, variants, space)
        rows = torch.tensor([len(encode(lm.tokenizer, each.prompt(len(each.pairs) - 1))) - 1 for each in variants])
        for block, head in np.ndindex(depth, heads):
            with lm.hooks([(f"blocks.{block}.attn.hook_z", _put(head, mean[block, head], rows))]):
                total[block, head] += (_p_true(lm, variants, space) - before).sum()
        count += len(variants)
        tick(count / sum(len(each.shown) for each in found))
    return total / count


def _put(head: int, value: Tensor, last: Tensor) -> Any:
    def fn(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[torch.arange(len(z)), last[: len(z)].to(z.device), head] = value.to(z)
        return z

    return fn


def _add(vector: Tensor, last: Tensor) -> Any:
    def fn(states: Tensor, hook: Any) -> Tensor:
        states = states.clone()
        states[torch.arange(len(states)), last[: len(states)].to(states.device)] += vector.to(states)
        return states

    return fn


def _p_true(lm: "LM", documents: Sequence[PairDocument], space: Sequence[str]) -> np.ndarray:
    """Return the probability [N] of the true answer to the last pair of each document."""
    logprobs = answer_logprobs(lm, documents, space, last=True)[:, 0]
    truth = [space.index(document.pairs[-1][1]) for document in documents]
    return np.exp(logprobs[np.arange(len(truth)), truth])


class FunctionVectors(NamedTuple):
    """Effect of function vectors on questions without examples."""

    items: pd.DataFrame
    """One row per question: task, prompt, expected, block (where the vector was added, chosen on other tasks), plain,
    own and other (probability of the true answer without a vector, with that of its task, with that of another task),
    function_vector = own - other."""
    blocks: pd.DataFrame
    """One row per block: block, plain, own, other: means over all questions."""
    heads: list[str]
    """Heads whose means make the vector, strongest first."""
    effects: np.ndarray
    """[D H] causal effect of each head."""


def function_vectors(
    lm: "LM",
    world: "World",
    kind: str = "map",
    count: int = 8,
    n: int = 16,
    heads: int = 4,
    seed: int = 0,
    tick: Tick = ignore,
) -> FunctionVectors:
    """Find function vectors of a world's maps or functions and measure their effect.

    Args:
        lm: a model with the world's tokenizer.
        world: the world with the tasks.
        kind: `map` or `function`.
        count: number of tasks, at least two.
        n: number of prompts that show each task.
        heads: number of heads that make the vector; limited to all.
        seed: random seed of tasks and prompts.
        tick: progress.

    Raises:
        ConfigError: fewer than two tasks.
    """
    cases = vector_tasks(world, kind, count, n, seed)
    if len(cases) < 2:
        raise ConfigError(
            f"Function vectors are compared between tasks, and there is {len(cases)} task: give two or more."
        )
    assert kind in OPENINGS
    space = LABELS if kind == "map" else world.numbers
    with torch.no_grad():
        means = [head_means(lm, task.shown) for task in cases]
        effects = causal_effects(lm, cases, means, space, seed, part(tick, 0, 2))
        order = np.argsort(-effects.ravel(), kind="stable")[:heads].tolist()
        picks = [divmod(at, effects.shape[1]) for at in order]
        vectors = []
        for mean in means:
            parts = [mean[block, head] @ output_maps(lm, block)[head].float() for block, head in picks]
            vectors.append(torch.stack(parts).sum(0))
        depth = effects.shape[0]
        plain: list[np.ndarray] = []
        own: list[np.ndarray] = []
        other: list[np.ndarray] = []
        for index, task in enumerate(cases):
            last = torch.tensor([len(encode(lm.tokenizer, each.prompt(0))) - 1 for each in task.bare])
            plain.append(_p_true(lm, task.bare, space))
            neighbour = vectors[(index + 1) % len(vectors)]
            for vector, probabilities in ((vectors[index], own), (neighbour, other)):
                by_block = []
                for block in range(depth):
                    with lm.hooks([(f"blocks.{block}.hook_resid_post", _add(vector, last))]):
                        by_block.append(_p_true(lm, task.bare, space))
                probabilities.append(np.stack(by_block))
    tick(1.0)
    gains = np.array([(own_value - base).mean(1) for own_value, base in zip(own, plain, strict=True)])
    halves = [gains[half::2].mean(0) for half in (0, 1)]
    rows = []
    for index, task in enumerate(cases):
        block = int(halves[(index + 1) % 2].argmax())
        for at, document in enumerate(task.bare):
            row = {"task": task.name, "prompt": document.prompt(0), "expected": document.pairs[0][1], "block": block}
            own_value, wrong = float(own[index][block, at]), float(other[index][block, at])
            row |= {"plain": float(plain[index][at]), "own": own_value, "other": wrong}
            rows.append(row | {"function_vector": own_value - wrong})
    table = pd.DataFrame(
        {
            "block": range(depth),
            "plain": float(np.concatenate(plain).mean()),
            "own": np.concatenate(own, axis=1).mean(1),
            "other": np.concatenate(other, axis=1).mean(1),
        }
    )
    names = head_names(*effects.shape)
    return FunctionVectors(pd.DataFrame(rows), table, [names[at] for at in order], effects)
