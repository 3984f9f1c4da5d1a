"""Log-probabilities of groups and pairs, forward and backward: shared prompts against repeated prompts."""

from benchmarks.harness import Row, compare
from benchmarks.models import completions, prompts, tiny
from probe.model.scoring import completion_logprobs


def run() -> tuple[list[Row], list[str]]:
    """Measure groups of 8 (as in GRPO) and pairs (as in DPO)."""
    return [measure("log-probabilities of 24 x 8 completions", 8), measure("log-probabilities of 24 pairs", 2)], []


def measure(name: str, size: int) -> Row:
    """Measure forward and backward of 24 prompts of 18 tokens with `size` completions of 8 tokens."""
    model, groups = tiny().model, completions(size)

    def step(share: bool) -> None:
        model.zero_grad()
        completion_logprobs(model, prompts(), groups, share_prompt=share).values.sum().backward()

    return compare(
        name, ("shared prompt", lambda: step(True)), ("repeated prompt", lambda: step(False)), target=">= 1.5"
    )
