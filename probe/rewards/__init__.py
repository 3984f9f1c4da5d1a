"""Rewards: what do a policy's answers earn, what does it cost in KL, and how far is the exact optimum?

- all answers of the world's prompts: `enumerate_answers`
- the exact optimum and the frontier (E10, E11): `frontier`, `kl_to_optimal`
- where policies stand: `ask`, `field_of`, `place`
- answers before and after: `samples`
- best of N against its bound: `compare_best_of_n`
- what each wish of an annotator does, one at a time: `separate_causes`
- what a reward model pays for: `reward_bias`, `contrast`
- a model against the world: `evaluate`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
