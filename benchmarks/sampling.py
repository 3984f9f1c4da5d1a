"""Sampling at temperature 1 against `generate` of transformers: 24 prompts x 8 completions of 8 tokens."""

import torch

from benchmarks.harness import Row, compare
from benchmarks.models import COMPLETIONS, NEW_TOKENS, prompts, tiny
from probe.model.text import pad_id


def run() -> tuple[list[Row], list[str]]:
    """Measure without end tokens, so that both sides sample the same number of tokens."""
    lm = tiny()
    ids = torch.tensor(prompts())
    options = {"num_return_sequences": COMPLETIONS, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}

    def ours() -> None:
        samples = lm.generate(prompts(), n=COMPLETIONS, max_new_tokens=NEW_TOKENS, stop=(), seed=0)
        assert samples.tokens.shape == (len(ids) * COMPLETIONS, NEW_TOKENS)

    def theirs() -> None:
        samples = lm.model.generate(
            ids,
            do_sample=True,
            top_k=0,
            attention_mask=torch.ones_like(ids),
            pad_token_id=pad_id(lm.tokenizer),
            **options,
        )
        assert samples.shape == (len(ids) * COMPLETIONS, ids.shape[1] + NEW_TOKENS)

    name = "sampling 24 x 8 completions of 8 tokens"
    return [compare(name, ("LM.generate", ours), ("transformers", theirs), target=">= 2.5")], []
