"""Rewards: what a policy's answers earn, what they cost in KL, and how far the policy is from the exact optimum.

- policies under the exact frontier: `place_policies`
- answers before and after alignment: `compare_rewards`
- overoptimisation, and best of N against its bound: `fit_overoptimisation`, `compare_best_of_n`
- effect of each preference of an annotator, one at a time: `separate_causes`
- which tokens earn a reward: `compare_completions`, `contrast`
- final rewards and KL of policies over several trainings: `compare_trainings`
- rewards over training: `follow_rewards`, `follow_pairs`; chosen and rejected completions through the layers:
  `follow_pair_layers`
- distance of a policy from the optimum (E12): `kl_to_optimal`
- a model against the world: `evaluate`

The parts are in modules: `answers` (all answers of the world's prompts), `optimum` (E10, E11), `frontiers` (questions,
places, fits), `shift` (samples), `bias` (preferences of a reward model).
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
