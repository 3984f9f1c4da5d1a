"""What every part of a model wrote after one token of a text.

One hooked forward pass gives all that direct attribution and promoted tokens need; of patterns only one row is kept, so
that a long text costs little.

Axes: D blocks, H heads, T tokens, m neurons, d width, dh head width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import DataError, ModelError
from probe.model.lm import LM
from probe.model.scoring import check_lengths
from probe.model.text import text_ids

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class Reading:
    """What the parts of a model wrote after the token at `position`, in single precision."""

    ids: list[int]
    """[T] the text."""
    position: int
    """The token after which everything is read."""
    logits: Float[Tensor, " V"]
    """The model's own output."""
    embedding: Float[Tensor, " d"]
    """The residual stream before the first block."""
    learned: Float[Tensor, " d"] | None
    """The part of it that is a learned position, if there is one."""
    final: Float[Tensor, " d"]
    """The residual stream after the last block."""
    z: list[Float[Tensor, "H dh"]]
    """Of each block, the mixed values of its heads, before W_O."""
    pattern: list[Float[Tensor, "H T"]]
    """Of each block, what the query at `position` attends to."""
    values: list[Float[Tensor, "T G dh"]]
    """Of each block, the values that are mixed; G of them, each for H / G heads."""
    mlps: list[Float[Tensor, " d"]]
    """Of each block, what its MLP wrote."""
    posts: list[Float[Tensor, " m"] | None]
    """Of each block, what enters W_out, where there is such a thing."""


@torch.no_grad()
def read_parts(lm: LM, text: str | Sequence[int], position: int | None = None) -> Reading:
    """Run a text and keep what every part wrote after one token.

    Args:
        lm: the model.
        text: a text or its ids.
        position: default: the last token.

    Raises:
        ModelError: the architecture has no attention in some block.
        DataError: an empty or too long text, or a position outside of it.
    """
    ids = text_ids(lm.tokenizer, text)
    check_lengths(lm.model, [ids], [])
    t = len(ids) - 1 if position is None else position
    if not 0 <= t < len(ids):
        raise DataError(f"Position {t} was asked for in a text of {len(ids)} tokens: give 0 to {len(ids) - 1}.")
    bridge = lm.bridge
    depth, known = bridge.cfg.n_layers, bridge.hook_dict
    first, last = "blocks.0.hook_resid_pre", f"blocks.{depth - 1}.hook_resid_post"
    keep: dict[str, Callable[[Tensor], Tensor]] = {first: lambda x: x[0, t], last: lambda x: x[0, t]}
    for layer in range(depth):
        keep[f"blocks.{layer}.attn.hook_z"] = lambda x: x[0, t]
        keep[f"blocks.{layer}.attn.hook_pattern"] = lambda x: x[0, :, t]
        keep[f"blocks.{layer}.attn.hook_v"] = lambda x: x[0]
        keep[f"blocks.{layer}.hook_mlp_out"] = lambda x: x[0, t]
    missing = [name for name in keep if name not in known]
    if missing:
        raise ModelError(
            f"{type(lm.model).__name__} has no {missing[0]}, so its logit cannot be split into heads and MLPs: use a "
            "transformer with attention in every block."
        )
    optional = ["hook_pos_embed", *(f"blocks.{layer}.mlp.hook_post" for layer in range(depth))]
    keep |= {name: (lambda x: x.reshape(-1, *x.shape[-2:])[0, t]) for name in optional if name in known}
    logits, seen = _read(lm, ids, keep)
    z, values = [], []
    for layer in range(depth):
        heads = len(seen[f"blocks.{layer}.attn.hook_pattern"])
        z.append(seen[f"blocks.{layer}.attn.hook_z"].reshape(heads, -1))
        values.append(seen[f"blocks.{layer}.attn.hook_v"].reshape(len(ids), -1, z[-1].shape[1]))
    return Reading(
        ids=ids,
        position=t,
        logits=logits[0, t].float(),
        embedding=seen[first],
        learned=seen.get("hook_pos_embed"),
        final=seen[last],
        z=z,
        pattern=[seen[f"blocks.{layer}.attn.hook_pattern"] for layer in range(depth)],
        values=values,
        mlps=[seen[f"blocks.{layer}.hook_mlp_out"] for layer in range(depth)],
        posts=[seen.get(f"blocks.{layer}.mlp.hook_post") for layer in range(depth)],
    )


def output_weights(
    bridge: "TransformerBridge", layer: int
) -> tuple[Float[Tensor, "H dh d"], Float[Tensor, " d"] | None]:
    """W_O of a block by head, and its bias if there is one."""
    attention = bridge.blocks[layer].attn
    bias = attention.b_O
    return attention.W_O.detach().float(), None if bias is None else bias.detach().float()


def _read(
    lm: LM, ids: Sequence[int], keep: dict[str, Callable[[Tensor], Tensor]]
) -> tuple[Float[Tensor, "1 T V"], dict[str, Tensor]]:
    """Logits, and of each named activation the part that is asked for."""
    seen: dict[str, Tensor] = {}

    def reader(name: str, part: Callable[[Tensor], Tensor]) -> Callable[[Tensor, object], None]:
        def take(tensor: Tensor, hook: object) -> None:
            seen[name] = part(tensor).detach().float().clone()

        return take

    with lm.hooks([(name, reader(name, part)) for name, part in keep.items()]):
        logits = lm.logits([list(ids)])
    return logits, seen
