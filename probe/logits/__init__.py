"""Logits: what would the model say after each layer, and which part wrote the answer?

- the logit lens: `logit_lens`
- an answer, or one against another: `target_of`
- which part wrote the answer: `attribute_answer`, `attribute`
- the same of a model that reads out one number: `scalar_lens`, `attribute_scalar`
- what a part promotes: `read_parts`, `promoted_tokens`
- what a model holds likely while it writes: `follow_writing`
- what a run captured while it was trained: `follow_logits`
- how far apart two models are: `compare_layers`; two distributions: `kl`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
