"""Texts of the Start page."""

import numpy as np

from dashboard.pages.start.compute import Example
from probe.numbers import rate

TITLE = "Probe trains and aligns language models, and shows what changes inside them."

WORLD = (
    "The models here are four-layer transformers of a small synthetic world. Its facts are known, so every answer can "
    "be checked, and every measured rate has an exact truth beside it."
)

OWN_RUNS = "Open Runs to see where each model comes from, or Side by side to compare two of them on a prompt."

EMPTY = (
    "No run is here yet. Train one on the page New run, or open any Hugging Face model: type its folder as the base "
    "model of Side by side."
)

NO_EXAMPLE = (
    "An example stands here once a run is listed with its parent and was captured on a prompt whose likeliest answer "
    "changed: record it with probe.watch(lm, folder, prompts=[{'text': ..., 'answers': [..., ...]}])."
)

OWN_MODEL = """
- **A Hugging Face model**: type its folder, or its name on the hub, as *base model* or *aligned model* on a page under
  Compare. Nothing is fetched before you agree.
- **A run of your own loop**: three lines with `probe.watch` log attention, logits and rewards while it trains.
- **Runs elsewhere**: `probe dashboard --runs FOLDER`.
"""

GLOSSARY = {
    "base model": "The model before alignment, and the reference of most comparisons.",
    "aligned model": "A model trained further from it: on demonstrations, preferences or rewards.",
    "logit": "The score that a model gives a token before the softmax turns scores into probabilities. Unit: nats.",
    "attention head": "A part of a layer that copies information from earlier tokens. L2H1 is head 1 of layer 2.",
    "KL divergence": "How far one model's next-token probabilities are from another's. 0 nats: they are equal.",
    "reward": "The number that a training for preferences makes large: a reward model's score, or a verifier's.",
}
"""Definitions of six terms that every page uses."""

PLACES = {
    "Compare": "Two models on one prompt: continuations, attention, logits, interventions, how far back they look.",
    "Behaviour": "Sycophancy, hallucination, in-context learning, chain of thought, retrieval and continual learning.",
    "Training": "Where runs come from, training a new one, its curves and captures, rewards against KL divergence.",
    "Evidence": "Claims of published papers, measured on these models.",
}
"""Content of each heading of the navigation."""


def sentence(example: Example) -> str:
    """Describe the effect of training on the worked example, and on all such questions."""
    before, after = (example.prompt.answers[i].strip() for i in (example.before, example.after))
    chances = [
        rate(float(np.exp(row[i])))
        for row, i in ((example.logprobs[0], example.before), (example.logprobs[-1], example.after))
    ]
    parts = [f"{example.base} answers {before} ({chances[0]}), {example.aligned} answers {after} ({chances[1]})."]
    if example.rates:
        before, after = example.rates
        parts.append(f"Agreement with false claims (sampled, this training): {before} before, {after} after.")
    return " ".join(parts)


def about_head(example: Example) -> str:
    """State which head carries the change by direct effect, and name the measures of other pages."""
    if example.head is None:
        return ""
    name, nats = example.head
    before, after = (example.prompt.answers[i].strip() for i in (example.before, example.after))
    return (
        f"By direct effect, {name} carries most of the change of all heads: what it adds to logit({after}) - "
        f"logit({before}) grew by {nats:.1f} nats. Other measures name other parts: Logits counts MLPs too, Attention "
        "says which head looks elsewhere, Interventions what changes without a part."
    )
