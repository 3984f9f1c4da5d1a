"""The model: load one, hook it, score and write text, and take it apart into the paper's equations (E1 to E6).

- a language model, a reward model: `LM`, `RewardModel`
- a fresh one: `ModelConfig`
- tokens of a text: `encode`, `pieces`
- log-probabilities of completions: `completion_logprobs`, `TokenLogprobs`
- what `LM.generate` gives: `Generation`
- is what the hooks show what the model computes: `trust`
- will it fit into memory: `preflight`
- the equations on the model's own weights: `read_network`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
