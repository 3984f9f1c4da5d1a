"""Attention: which tokens does each head look at, what does it write, and what is it good at?

- attention of every head on a text: `read_attention`, `attention`
- one head, stage by stage: `read_stages`
- scores of head behaviours (induction, previous token, ...): `score_heads`, `repeat_scores`
- heads whose attention differs between two models: `compare_attention`
- circuits computed from the weights alone: `read_circuits`, `compose_heads`
- attention through all layers: `attention_rollout`
- statistics over long texts, without storing the patterns: `attention_statistics`
- attention that a run captured: `captured_attention` at one step, `follow_attention` through training,
  `rank_movement` of all heads and layers between two steps
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
