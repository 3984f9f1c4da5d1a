"""Logits: what would the model say after each layer, and which part wrote the answer?

- the logit lens: `logit_lens`
- an answer, or one against another: `target_of`
- which part wrote the answer: `attribute_answer`, `attribute`
- what a part promotes: `read_parts`, `promoted_tokens`
- trajectories over layers and over written tokens: `over_layers`, `pair_over_layers`, `over_writing`, `scalar_lens`
- distance of two distributions: `kl`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
