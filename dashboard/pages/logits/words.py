"""The Logits page in words: its sentence (where each model decides, and which part carries that) and definitions."""

from typing import TYPE_CHECKING

import numpy as np

from probe.numbers import signed

if TYPE_CHECKING:
    from probe.logits.answer_tokens import AnswerTokens
    from probe.logits.attribution import Attribution
    from probe.logits.trajectories import LayerTrajectory

ALIKE_NATS = 0.005
"""A change of the target below which two models are said to agree."""

Part = tuple[int, int | None]
"""(layer, head); head None is the MLP."""


def part_name(part: Part) -> str:
    """Such as `L2H1` or `L2 MLP`."""
    layer, head = part
    return f"L{layer} MLP" if head is None else f"L{layer}H{head}"


def parse(name: str) -> Part:
    """Return the part whose name `part_name` gave."""
    layer, _, head = name[1:].replace(" MLP", "H").partition("H")
    return int(layer), int(head) if head else None


def part_names(parts: "Attribution") -> list[str]:
    """All heads and MLPs, block by block."""
    depth, heads = parts.heads.shape
    return [part_name((layer, head)) for layer in range(depth) for head in [*range(heads), None]]


def largest(heads: np.ndarray, mlps: np.ndarray, sign: float) -> tuple[Part, float]:
    """Find the head or MLP that adds most in the direction of `sign`, and what it adds."""
    values = np.concatenate([heads, mlps[:, None]], axis=1)
    layer, column = np.unravel_index(int(np.argmax(values * (sign or 1.0))), values.shape)
    part = int(layer), int(column) if column < heads.shape[1] else None
    return part, float(values[layer, column])


def target_change(parts: "list[Attribution]") -> float | None:
    """By how much the target moves between two models whose parts pair up; None for one, or where they do not."""
    alike = len(parts) == 2 and parts[0].heads.shape == parts[1].heads.shape
    return parts[1].total - parts[0].total if alike else None


def carrier(parts: "list[Attribution]") -> tuple[Part, float]:
    """Find the head or MLP that adds most to the target's move between two models or, without one, to the target."""
    last, change = parts[-1], target_change(parts)
    if change is not None and abs(change) >= ALIKE_NATS:
        return largest(last.heads - parts[0].heads, last.mlps - parts[0].mlps, np.sign(change))
    return largest(last.heads, last.mlps, np.sign(last.total))


def every_part(parts: "Attribution") -> dict[str, float]:
    """Return what each part on the map adds, by its name: heads, MLPs, biases, and what has no layer."""
    layers = range(len(parts.mlps))
    values = {part_name((layer, head)): float(value) for (layer, head), value in np.ndenumerate(parts.heads)}
    values |= {part_name((layer, None)): float(parts.mlps[layer]) for layer in layers}
    values |= {f"the attention bias of L{layer}": float(parts.biases[layer]) for layer in layers}
    return values | {
        "the embedding": parts.embedding,
        "the positions": parts.positions,
        "the bias of the final norm": parts.norm_bias,
        "the bias of the unembedding": parts.unembedding_bias,
    }


def above_all(parts: "list[Attribution]") -> str:
    """Name the part that adds most to the target, or to its move, with its number.

    If that part is neither a head nor an MLP, also name the head or MLP that adds most.

    It is the largest cell of the map in the direction of the sum.
    """
    values, change = every_part(parts[-1]), target_change(parts)
    if change is not None and abs(change) >= ALIKE_NATS:
        before = every_part(parts[0])
        values, total = {name: value - before[name] for name, value in values.items()}, change
    else:
        total = parts[-1].total
    most = max(values, key=lambda name: values[name] * (np.sign(total) or 1.0))
    part, own = carrier(parts)
    largest_part = f"{most} ({signed(values[most])})"
    more = f", of heads and MLPs {part_name(part)} ({signed(own)})"
    return largest_part if most == part_name(part) else largest_part + more


def decision(name: str, trajectory: "LayerTrajectory", position: int) -> tuple[str, str]:
    """Return the favourite, and a clause such as `dpo says "rome" (91 %), its favourite from L2 on`."""
    column = position - trajectory.start
    word = str(trajectory.lens.top_tokens[-1, column, 0]).strip("\u00b7")
    share = 100 * float(np.exp(trajectory.lens.top_logprobs[-1, column, 0]))
    row, last = trajectory.decision_row(position), len(trajectory.entropy) - 1
    since = (
        "from the embedding on" if row == 0 else "only after the last layer" if row == last else f"from L{row - 1} on"
    )
    return word, f"{name} says \u201c{word}\u201d ({share:.0f} %), its favourite {since}"


def tokens(names: list[str], lenses: "list[LayerTrajectory]", parts: "list[Attribution]", label: str) -> str:
    """One model or two of tokens."""
    position = parts[-1].target.position
    clauses = [decision(name, each, position)[1] for name, each in zip(names, lenses, strict=True)]
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
    r"\ell_t(a) = \underbrace{\langle h^0_t, u_a\rangle}_{\text{embedding}} + \sum_{l,h} \langle z^{lh}_t W_O^{lh}, "
    r"u_a\rangle + \sum_l \langle \mathrm{MLP}^l_t, u_a\rangle + \text{biases},\qquad u_a = C\,\frac{g \odot "
    r"W_{out}[a]}{\sigma_t}",
    r"\langle z^{lh}_t W_O^{lh}, u_a\rangle = \sum_{s \le t} \alpha^{lh}_{t,s}\, \langle v^{lh}_s W_O^{lh}, u_a\rangle",
    r"\mathrm{lens}_l(t) = \mathrm{softmax}\big(W_{out}\, \mathrm{norm}(h_t^l) + b_{out}\big),\qquad \mathrm{margin} = "
    r"\log p_{(1)} - \log p_{(2)}",
)
