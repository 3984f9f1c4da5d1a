"""Attention: which tokens does each head look at, what does it write, and what is it good at?

- what every head looks at on a text: `read_attention`, `attention`
- one head stage by stage: `stages`
- attention through all layers: `rollout`
- scores of what heads do (induction, previous token, ...): `head_scores`, `repeat_scores`
- statistics of long texts without their patterns: `attention_statistics`
- what the weights alone say: `spectra`, `composition`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
