"""Logits: what the model would predict after each layer, and which part wrote the answer.

- the logit lens, and lenses that are fitted: `logit_lens`, `fit_lens`
- an answer, or one against another: `target_of`
- which part wrote the answer: `attribute_answer`, `attribute`
- the same for a model that reads out one number: `scalar_lens`, `attribute_scalar`
- tokens that a part promotes: `read_parts`, `promoted_tokens`
- probabilities while a model writes: `follow_writing`
- captures of a run over training: `follow_logits`
- distance of two models: `compare_layers`; KL of two distributions: `kl`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
