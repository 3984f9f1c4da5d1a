"""Edges: what one part of a model passes directly to another one, and what an answer owes to it.

The residual stream is a sum, so a reader v (the query, key or value of a head, an MLP, the logits) reads the sum of
what the writers u before it wrote (the embedding, heads, MLPs). The effect of an edge is what the target m loses when v
alone reads what u writes in another text, at every token (path patching, Wang et al. 2022, Goldowsky-Dill et al. 2023,
arXiv 2304.05969). To first order (edge attribution patching, Syed et al. 2023, arXiv 2310.10348) it is

    <gradient of m by the input of v, a_u - a'_u>

with the activations a of the text and a' of the other one. The estimates are those of transformer-lens.

Axes: R runs, E edges, T tokens, d width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.tools.analysis import EdgeAttributionConfig, Node, attribution_patch

from probe.errors import ModelError
from probe.interventions.sites import observe, run_rows
from probe.logits.attribution import part_name
from probe.logits.targets import Target, value
from probe.model.lm import LM
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.hooks import Hook

READS = {"q_input": " query", "k_input": " key", "v_input": " value"}
"""Kind of a head's input to its name after that of the head."""


class End(NamedTuple):
    """Writer or reader of an edge, at every token."""

    kind: str
    """Kind of the node in transformer-lens, such as `mlp_out`."""
    layer: int | None
    head: int | None

    @property
    def name(self) -> str:
        """Name, such as `L2H1`, `L2H1 query`, `L2 MLP`, `embedding` or `logits`."""
        if self.kind == "logits" or self.layer is None:
            return "logits" if self.kind == "logits" else "embedding"
        return part_name((self.layer, self.head)) + READS.get(self.kind, "")

    @property
    def hook(self) -> str:
        """Hook point of what it writes [T d] or [T H d], or of what it reads."""
        if self.kind == "attn_head_out":
            return f"blocks.{self.layer}.attn.hook_result"
        return Node(self.kind, 0, self.layer, self.head).hook_name


class Edge(NamedTuple):
    """A writer and a reader."""

    writer: End
    reader: End


def estimate_edges(lm: LM, ids: Sequence[int], other: Sequence[int], target: Target) -> dict[Edge, float]:
    """Estimate what the target loses in nats without each edge from one backward pass.

    Args:
        lm: the model.
        ids: token ids of the text.
        other: as many token ids of the other text.
        target: quantity to measure.

    Raises:
        ModelError: heads share keys and values, or norms follow them, so that inputs are no sums by head.
    """
    texts = [torch.tensor([list(each)], device=lm.device) for each in (other, ids)]
    try:
        found = attribution_patch(
            lm.bridge, *texts, lambda logits: value(logits, target)[0], EdgeAttributionConfig("edge")
        )
    except ValueError as error:
        raise ModelError(
            f"The edges of this model cannot be told apart ({str(error).partition(',')[0]}): measure its heads and MLPs"
            " instead."
        ) from error
    effects: dict[Edge, float] = {}
    for pair, effect in found.edge_scores.items():  # one for each token
        edge = Edge(*(End(node.kind, node.layer, node.head) for node in pair))
        effects[edge] = effects.get(edge, 0.0) - effect
    return effects


@contextmanager
def split_inputs(lm: LM) -> Iterator[None]:
    """Let hooks see what each head writes and reads, as long as the context lasts."""
    bridge = lm.bridge
    flags = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
    before = {flag: bool(getattr(bridge.cfg, flag)) for flag in flags}
    try:
        for flag in flags:
            getattr(bridge, f"set_{flag}")(True)
        yield
    finally:
        for flag, was in before.items():
            getattr(bridge, f"set_{flag}")(was)


def run_edges(
    lm: LM,
    ids: Sequence[int],
    other: Sequence[int],
    edges: Sequence[Edge],
    kept: Bool[np.ndarray, "R E"],
    target: Target,
    tick: Tick = ignore,
) -> Float[np.ndarray, " R"]:
    """Return the target in nats when only some edges are kept, exactly; without any it is that of the other text.

    Args:
        lm: the model.
        ids: token ids of the text.
        other: as many token ids of the other text.
        edges: all edges.
        kept: which of them each run keeps.
        target: quantity to measure.
        tick: progress.
    """
    gone = torch.from_numpy(~kept)
    readers: dict[str, list[int]] = {}
    for at, edge in enumerate(edges):
        readers.setdefault(edge.reader.hook, []).append(at)
    with split_inputs(lm):
        source = observe(lm, other, sorted({edge.writer.hook for edge in edges}))[1]

        def hooks(part: slice) -> "list[Hook]":
            changes: dict[str, Tensor] = {}  # from what is written in a run to what is written in the other text
            rows = gone[part].to(lm.device)

            def watch(name: str) -> "Hook":
                return name, lambda tensor, hook: changes.__setitem__(name, source[name].to(tensor) - tensor)

            def swap(name: str) -> "Hook":
                def read(tensor: Tensor, hook: Any) -> Tensor:
                    tensor = tensor.clone()
                    for at in readers[name]:
                        if rows[:, at].any():
                            change = _of_head(changes[edges[at].writer.hook], edges[at].writer)
                            _of_head(tensor, edges[at].reader)[rows[:, at]] += change[rows[:, at]]
                    return tensor

                return name, read

            return [*map(watch, source), *map(swap, readers)]

        return run_rows(lm, ids, len(kept), hooks, target, tick=tick).values.double().numpy()


def _of_head(tensor: Float[Tensor, "R T ..."], end: End) -> Float[Tensor, "R T d"]:
    """Return the part of what is at a hook point that belongs to a writer or reader, as a view."""
    return tensor if end.head is None else tensor[:, :, end.head]


def without_each(count: int, edges: int) -> Bool[np.ndarray, "R E"]:
    """Return the runs that leave out each of the first `count` edges alone."""
    return ~np.eye(count, edges, dtype=bool)
