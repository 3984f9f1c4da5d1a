"""The model: load one, hook it, score and write text, and split it into the paper's equations (E1 to E6).

- a language model, a reward model: `LM`, `RewardModel`
- a new model: `ModelConfig`
- tokens of a text: `encode`, `pieces`
- log-probabilities of completions: `completion_logprobs`, `TokenLogprobs`
- result of `LM.generate`: `Generation`
- whether hooked and plain logits agree: `trust`
- whether a capture fits into memory: `preflight`
- the equations on the model's own weights: `read_network`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
