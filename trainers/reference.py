"""The frozen model that a KL or an implicit reward refers to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe import LM, open_run
from probe.errors import ProbeError
from probe.model.scoring import TokenLogprobs, completion_logprobs
from probe.model.text import Ids, whole_logits

if TYPE_CHECKING:
    from trainers.session import Session
    from trainers.trainee import Trainee


class Reference:
    """A model that does not change; nothing it computes has gradients."""

    def __init__(self, lm: LM) -> None:
        self.lm = lm

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The module to run inside the context."""
        with torch.no_grad():
            yield self.lm.model

    def logprobs(
        self, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]], temperature: float = 1.0
    ) -> TokenLogprobs:
        """log pi_ref of every token of every completion: see `probe.model.scoring.completion_logprobs`."""
        with self.active() as model:
            return completion_logprobs(model, prompts, completions, temperature=temperature)

    def logits(self, rows: Sequence[Ids]) -> Float[Tensor, "N T V"]:
        """Logits of whole texts, padded on the right."""
        with self.active() as model:
            return whole_logits(model, rows)


def origin_reference(session: "Session", base: str, trainee: "Trainee") -> tuple[Reference | None, dict[str, Any]]:
    """The model that a run started from, for a method that goes on without it; and what run.json keeps to know it by.

    A resumed run has weights of its own by then, so the base is loaded again. Where it is not the one that the run
    started from, or is gone, training goes on without a reference.

    Args:
        session: its config says whether anything is captured and whether the run is resumed.
        base: the model as the user named it.
        trainee: what will be trained, before it is.
    """
    config = session.config
    wanted = session.main and config.capture_every > 0
    if not config.resume:
        return trainee.reference() if wanted else None, {"reference": trainee.fingerprint}
    known = (open_run(config.out).meta.get("data") or {}).get("reference")
    if not wanted or known is None:
        return None, {}
    try:
        reference = trainee.reference() if config.lora else Reference(session.load(base))
        same = reference.lm.fingerprint == known
    except ProbeError:
        same = False
    if same:
        return reference, {}
    session.say(f"{base} is not the model that this run started from any more: captures go on without the KL to it.")
    return None, {}
