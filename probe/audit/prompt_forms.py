"""The form in which an audit asks: one for both models, and what the form alone does to the base.

Two models whose tokenizers have different chat templates would read different prompts, and a difference between them
could be one of prompts. So both are asked in the form of the base, unless another is named; how the base itself changes
when it is asked in the aligned model's form stands beside each difference.
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
"""Both in the base's form; both in the aligned model's; each in its own."""


def check_form(form: str) -> None:
    """Refuse a form that is none.

    Raises:
        ConfigError: it is not one of `AuditForm`.
    """
    if form not in get_args(AuditForm):
        raise ConfigError(f"The form of an audit is `{form}`; expected {', '.join(get_args(AuditForm))}.")


def same_form(base: LM, aligned: LM) -> bool:
    """Return whether two models have the same chat template, or both have none."""
    return bool(base.tokenizer.chat_template == aligned.tokenizer.chat_template)


def in_form_of(lm: LM, other: LM) -> LM:
    """Return the model with the chat template of another one, or with none where that has none; weights are shared."""
    if same_form(lm, other):
        return lm
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = other.tokenizer.chat_template
    turned = LM(lm.model, tokenizer, lm.ref, lm.directory, lm.run_dir)
    turned.world, turned._weights = lm.world, lm._weights
    return turned


class Asked(NamedTuple):
    """The models as an audit asks them."""

    base: LM
    """The base."""
    aligned: LM
    """The other one."""
    in_other: LM | None
    """The base in the form of the two in which it is not asked; None where both forms are one."""
    in_own: bool
    """Whether the base is asked in its own form."""

    @property
    def models(self) -> tuple[LM, ...]:
        """All that are asked."""
        return (self.base, self.aligned) if self.in_other is None else (*self[:2], self.in_other)


def ask_in(base: LM, aligned: LM, form: AuditForm = "base") -> Asked:
    """Return the models as they are asked in a form.

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
    """Return by how much each metric of the base changes from its own form to the aligned model's, as columns `FORM`.

    Args:
        metrics: of which.
        in_own: items of the base in its own form.
        in_other: the same in the aligned model's form.
        seed: of the bootstrap.
    """
    there, here = pair_items(in_other, in_own)
    found = [paired(metric, there, here, seed) for metric in metrics]
    return {
        name: [float(getattr(each, end)) for each in found] for name, end in zip(FORM, Interval._fields, strict=True)
    }
