"""Chat template in which an audit asks both models, and its effect alone on the base.

Two models whose tokenizers have different chat templates would read different prompts, and a difference between them
could be one of prompts. So both are asked with the chat template of the base (its form), unless another is named. Each
difference is shown together with the change of the base itself when it is asked with the aligned model's chat template.
"""

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import pandas as pd

from probe.audit.change import FORM
from probe.errors import ConfigError
from probe.experiments.metrics import Metric, pair_items, paired
from probe.model.lm import LM
from probe.stats import Interval

AuditForm = Literal["base", "aligned", "own"]
"""Chat template to ask with: the base's for both, the aligned model's for both, or each model's own."""


def check_form(form: str) -> None:
    """Raise an error for an unknown form.

    Raises:
        ConfigError: the form is not one of `AuditForm`.
    """
    if form not in get_args(AuditForm):
        raise ConfigError(f"The form of an audit is `{form}`; expected {', '.join(get_args(AuditForm))}.")


def same_form(base: LM, aligned: LM) -> bool:
    """Return whether two models have the same chat template, or both have none."""
    return bool(base.tokenizer.chat_template == aligned.tokenizer.chat_template)


def in_form_of(lm: LM, other: LM) -> LM:
    """Return the model with the chat template of another model, or none if that has none; weights are shared."""
    if same_form(lm, other):
        return lm
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = other.tokenizer.chat_template
    turned = LM(lm.model, tokenizer, lm.ref, lm.directory, lm.run_dir)
    turned.world, turned._weights = lm.world, lm._weights
    return turned


class Asked(NamedTuple):
    """Base and aligned model with the chat templates that the audit uses."""

    base: LM
    """Base model."""
    aligned: LM
    """Aligned model."""
    in_other: LM | None
    """Base with the other of the two chat templates; None if both are the same."""
    in_own: bool
    """Whether the base is asked with its own chat template."""

    @property
    def models(self) -> tuple[LM, ...]:
        """Base and aligned model, and the base in the other form if there is one."""
        return (self.base, self.aligned) if self.in_other is None else (*self[:2], self.in_other)


def ask_in(base: LM, aligned: LM, form: AuditForm = "base") -> Asked:
    """Return the models with the chat templates of a form.

    Raises:
        ConfigError: see `check_form`.
    """
    check_form(form)
    if same_form(base, aligned):
        return Asked(base, aligned, None, True)
    turned = in_form_of(base, aligned)
    if form == "aligned":
        return Asked(turned, aligned, base, False)
    return Asked(base, aligned if form == "own" else in_form_of(aligned, base), turned, True)


def form_effects(
    metrics: Sequence[Metric], in_own: pd.DataFrame, in_other: pd.DataFrame, seed: int = 0
) -> dict[str, list[float]]:
    """Compute the change of each metric of the base from its own form to the aligned model's, as columns `FORM`.

    Args:
        metrics: metrics to compute.
        in_own: items of the base with its own chat template.
        in_other: the same items with the aligned model's chat template.
        seed: seed of the bootstrap.
    """
    there, here = pair_items(in_other, in_own)
    found = [paired(metric, there, here, seed) for metric in metrics]
    return {
        name: [float(getattr(each, end)) for each in found] for name, end in zip(FORM, Interval._fields, strict=True)
    }
