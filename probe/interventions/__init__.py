"""Interventions: what changes when a part of the model is patched, removed or steered.

- the effect of every site on an answer: `patch_every_site`, `ablate_every_site`; one site with null controls:
  `patch_one_site`, `ablate_one_site`
- a pair of prompts with the same number of tokens: `pair_of`
- replace activations of one run by those of another: `patch`
- estimate all patches from one gradient: `attribute`
- remove a part: `ablate`
- push along a direction: `steer_answers`, with custom texts `contrast`, `dose_response`
- any change at any site: `intervene`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
