"""The Logits page in words: its sentence (where each model decides, and which part carries that) and definitions."""

from typing import TYPE_CHECKING

from probe.logits.attribution import ALIKE_NATS, BY_SOURCE, SUM_OF_PARTS, above_all, target_change
from probe.logits.lens import LENS
from probe.numbers import signed

if TYPE_CHECKING:
    from probe.logits.answer_tokens import AnswerTokens
    from probe.logits.attribution import Attribution
    from probe.logits.trajectories import LayerTrajectory


def decision(name: str, trajectory: "LayerTrajectory", position: int) -> str:
    """Return a clause such as `dpo says "rome" (91 %), its favourite from L2 on`."""
    return trajectory.lens.decision(name, position - trajectory.start)


def tokens(names: list[str], lenses: "list[LayerTrajectory]", parts: "list[Attribution]", label: str) -> str:
    """One model or two of tokens."""
    position = parts[-1].target.position
    clauses = [decision(name, each, position) for name, each in zip(names, lenses, strict=True)]
    change = target_change(parts)
    whole = f"{label} = {signed(parts[-1].total)} nats, by direct effect above all from {above_all(parts)}"
    if len(clauses) == 1:
        return f"{clauses[0]}; {whole}."
    both = "; ".join(clauses)
    if change is None:
        return f"{both}. With {names[1]}, {whole}."
    if abs(change) < ALIKE_NATS:
        return f"{both}. {label} is the same in both to {ALIKE_NATS} nats."
    return f"{both}. {label} moves by {signed(change)} nats, by direct effect above all through {above_all(parts)}."


def chosen_tokens(answers: "AnswerTokens", names: list[str], sums: list[list[float]]) -> str:
    """Which tokens of the answers the page is about, and how likely each model holds the whole answers."""
    clauses = []
    for name, values in zip(names, sums, strict=True):
        each = zip(answers.texts, values, answers.ids, strict=True)
        words = [f"{value:.2f} for \u201c{text}\u201d ({len(ids)})".replace("-", "\u2212") for text, value, ids in each]
        clauses.append(f"{' and '.join(words)} with {name}")
    return f"{answers.note} Log-probability of the whole answer in nats (tokens): {'; '.join(clauses)}."


def scalars(names: list[str], parts: "list[Attribution]", word: str, unit: str) -> str:
    """One model or two that read one number."""
    change = target_change(parts)
    readings = " and ".join(f"{name} reads {signed(each.total)}" for name, each in zip(names, parts, strict=True))
    if change is not None:
        if abs(change) < ALIKE_NATS:
            return f"After \u201c{word}\u201d, {readings}, the same {unit} to {ALIKE_NATS}."
        most = f"by direct effect the difference comes above all from {above_all(parts)}"
        return f"After \u201c{word}\u201d, {readings}; {most}."
    return f"After \u201c{word}\u201d, {readings} as its {unit}, by direct effect above all from {above_all(parts)}."


DEFINITION = """
**Lens.** The residual stream after the embedding and after each block, through the final norm and the unembedding: what
the model would say if it stopped there. Column *t* tells what follows token *t*; the last row is the model itself. A
model *settles* at the first layer from which on its favourite stays that of the output.

**Entropy** of that distribution, **margin** between the log-probabilities of its two likeliest tokens, **rank** of an
answer (1 is the likeliest). KL is taken of the aligned model from the base.

**Direct attribution.** The stream before the final norm is the sum of what embedding, heads and MLPs wrote. With the
norm's scale held at its value, norm and unembedding are linear, so the parts sum to the logit (checked every time). A
norm behind heads or MLP (Gemma 2 and 3) and a cap on the logits (Gemma 2, its factor at the logit) are held alike. It
says what a part writes directly, not what would happen without it: later parts read what it wrote, which the page
Interventions measures.

**Promoted tokens** of a part: what it adds to the logit of every token by the same rule, before a cap. A shift of all
logits alike changes no probability, so read differences.

**Over training**: the same from a run's captures, after the last token of a captured prompt, what each head, each MLP
and the strongest neurons of each block add to the first answer minus the second, and after every token
KL(π ‖ π_ref) from the run's reference (a run from fresh weights has none). Captures of older versions know ranks
among five favourites, and the entropy of the output alone.
"""

EQUATIONS = (
    SUM_OF_PARTS,
    BY_SOURCE,
    LENS + r",\qquad \mathrm{margin} = \log p_{(1)} - \log p_{(2)}",
)
