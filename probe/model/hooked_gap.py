"""Whether hooked activations can be trusted: the difference of hooked and plain logits on a text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import torch

from probe.model.kernels import read_weights
from probe.model.lm import LM
from probe.model.passes import hooked_logits
from probe.model.placement import format_of
from probe.model.sharing import left_out
from probe.model.text import text_ids


@dataclass(frozen=True)
class Trust:
    """Comparison of the hooked with the plain model on one text."""

    gap: float
    """Largest |hooked - plain| over all positions and columns of the logits, in nats."""
    scale: float
    """Standard deviation of the plain logits over the columns, averaged over positions; of a scalar over positions."""
    agree: bool
    """Whether both have the same most probable token at every position (always for a scalar)."""
    tokens: int
    """Number of tokens of the text."""
    mode: str
    """Mode, evaluation or training; in training mode dropout makes two runs differ."""
    dtype: str
    kernel: str
    """Attention kernel of the plain model."""
    hooked_kernel: str
    device: str
    left_out: tuple[str, ...] = ()
    """Faster ways of scoring that gave other log-probabilities and are not used (`probe.model.sharing`)."""

    @property
    def sound(self) -> bool:
        """Whether the gap is only rounding: below a thousandth of the logits' spread.

        In half precision and with quantised weights it is a tenth.
        """
        limit = 1e-3 if self.dtype in ("float32", "float64") else 0.1
        return self.gap <= limit * max(self.scale, 1e-6)

    def table(self) -> pd.DataFrame:
        """Return the comparison as a table of one row."""
        return pd.DataFrame([asdict(self) | {"sound": self.sound}])


@torch.no_grad()
def trust(lm: LM, text: str | Sequence[int]) -> Trust:
    """Run a text through the plain and the hooked model (about three forward passes), with all hooks of attention.

    Passes that the page has shared are not run again.

    Raises:
        ModelError: the architecture cannot be hooked.
        DataError: the text is empty or longer than the context.
    """
    ids = text_ids(lm.tokenizer, text)
    plain = lm.logits([ids])[0].float()
    shared = hooked_logits(lm, ids)
    if shared is None:
        with lm.hooks(read_weights(lm.bridge)):
            shared = lm.logits([ids])
    hooked = shared[0].float()
    spread = plain.std(dim=-1).mean() if plain.shape[-1] > 1 else plain[:, 0].std(correction=0)
    return Trust(
        gap=float((hooked - plain).abs().max()),
        scale=float(spread),
        agree=bool((hooked.argmax(-1) == plain.argmax(-1)).all()),
        tokens=len(ids),
        mode="training" if lm.model.training else "evaluation",
        dtype=format_of(lm.model),
        kernel=str(lm.model.config._attn_implementation),
        hooked_kernel=str(lm.bridge.original_model.config._attn_implementation),
        device=str(lm.device),
        left_out=tuple(left_out(lm.model)),
    )
