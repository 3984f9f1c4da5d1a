"""Traits: directions of a model's states that stand for a behaviour, and what trainings and data do along them.

- direction of a trait from answers that show it and answers that lack it, with its test on held-out prompts:
  `trait_direction`
- built-in pairs of answers: `contrasts`; a pair of one's own: `Contrast`
- which rows of a data set push a model along a trait, before training on it: `project_data`
- states and behaviour of the checkpoints of a run: `project_training`

The method is that of persona vectors (Chen et al. 2025, arXiv 2507.21509). On a world the behaviour has an exact rate
(`exact_rates.exact_rate`), against which the projections are scored (docs/traits.md).
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
