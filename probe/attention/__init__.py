"""Attention: which tokens does each head look at, what does it write, and what is it good at?

- what every head looks at on a text: `read_attention`, `attention`
- one head stage by stage: `read_stages`
- scores of what heads do (induction, previous token, ...): `score_heads`, `repeat_scores`
- which heads look elsewhere in another model: `compare_attention`
- what the weights alone say: `read_circuits`, `compose_heads`
- attention through all layers: `attention_rollout`
- statistics of long texts without their patterns: `attention_statistics`
- what a run captured: `captured_attention` at a step, `follow_attention` through training
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
