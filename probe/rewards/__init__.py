"""Rewards: what do a policy's answers earn, what does it cost in KL, and how far is the exact optimum?

- policies under the exact frontier: `place_policies`
- answers before and after alignment: `compare_rewards`
- overoptimisation, and best of N against its bound: `fit_overoptimisation`, `compare_best_of_n`
- what each wish of an annotator does, one at a time: `separate_causes`
- which tokens earn a reward: `compare_completions`, `contrast`
- where policies end over several trainings: `compare_trainings`
- while a model was trained: `follow_rewards`, `follow_pairs`
- how far a policy is from the optimum (E12): `kl_to_optimal`
- a model against the world: `evaluate`

The parts are in modules: `answers` (all answers of the world's prompts), `optimum` (E10, E11), `frontiers` (questions,
places, fits), `shift` (samples), `bias` (what a reward model pays for).
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
