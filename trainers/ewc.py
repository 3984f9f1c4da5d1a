"""Elastic weight consolidation: changes of weights that are important for earlier tasks are penalised (E22).

    (lambda / 2) sum_i F_i (theta_i - theta*_i)^2

Kirkpatrick et al. 2017 (arXiv 1612.00796). F is the diagonal of the Fisher information from gradients of single
examples,

    F_i = sum_n (d log p(y_n | x_n) / d theta_i)^2 / (number of targets in all),

and not the square of the gradient of a batch's mean, in which the gradients of different examples cancel. With
`sampled` labels y ~ p(. | x) this estimates the Fisher information; `empirical` takes the labels of the data (Kunstner
et al. 2019, arXiv 1905.12558, discuss how much the two can differ). F is a mean over targets, like the loss, so lambda
is the number of old targets weighed against each new one.

Departure from the paper: after several phases the Fisher informations are summed and there is one anchor theta*, the
weights after the last phase (Huszar 2018, arXiv 1712.03847); the paper adds one penalty per phase.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.model.text import Ids, whole_logits

Values = Mapping[str, Tensor]
"""Name of a trained parameter -> tensor of its shape."""
Text = tuple[Ids, Sequence[bool]]
"""Token ids and the mask of targets (never the first token)."""


def ewc_penalty(model: nn.Module, fisher: Values, anchor: Values, strength: float) -> Float[Tensor, ""]:
    """Return (lambda / 2) sum_i F_i (theta_i - theta*_i)^2 over the parameters in `fisher`, in nats (E22).

    Args:
        model: the gradient flows into its parameters.
        fisher: F, the Fisher information per target.
        anchor: theta*.
        strength: lambda.
    """
    squares = [
        (fisher[name] * (parameter - anchor[name]).square()).sum()
        for name, parameter in model.named_parameters()
        if name in fisher
    ]
    return strength / 2 * torch.stack(squares).sum()


def predictions(model: nn.Module, text: Text) -> tuple[Float[Tensor, "K V"], Int[Tensor, " K"]]:
    """Return the logits that predict the K targets of a text, and the targets."""
    ids, flags = text
    at = torch.tensor([i for i, target in enumerate(flags) if target], dtype=torch.long)
    logits = whole_logits(model, [ids])[0]
    return logits[at.to(logits.device) - 1], torch.tensor(ids)[at].to(logits.device)


def fisher_information(
    model: nn.Module, texts: Sequence[Text], seeds: Sequence[int] | None
) -> tuple[dict[str, Tensor], int]:
    """Sum the squared gradients of the texts' log-likelihoods, and count the texts' targets.

    Args:
        model: model in evaluation mode; its stored gradients are not changed.
        texts: texts, one example each.
        seeds: one seed per text, with which labels are drawn from the model at every target, given the text before it;
            None uses the labels of the text (empirical).
    """
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters}
    count = 0
    for number, text in enumerate(texts):
        logits, labels = predictions(model, text)
        if not len(labels):
            continue
        logprobs = logits.float().log_softmax(-1)
        if seeds is not None:
            generator = torch.Generator().manual_seed(seeds[number])
            labels = torch.multinomial(logprobs.detach().exp().cpu(), 1, generator=generator)[:, 0].to(labels.device)
        likelihood = logprobs.gather(-1, labels[:, None]).sum()
        gradients = torch.autograd.grad(likelihood, [parameter for _, parameter in parameters], allow_unused=True)
        for (name, _), gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.square()
        count += len(labels)
    return sums, count
