"""Continual learning: how much does a model forget through later tasks, and how much do replay and EWC prevent?

- the whole experiment: `run`
- accuracy on each task after each phase: `accuracy_matrix`
- measures computed from it: `average_accuracy`, `backward_transfer`, `forward_transfer`, `forgetting`
- steps that relearning saves: `savings`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
