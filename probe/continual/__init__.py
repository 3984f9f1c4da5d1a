"""Continual learning: how much do later tasks make a model forget, and how much do replay and EWC save?

- the whole experiment: `run`
- accuracy on each task after each phase: `accuracy_matrix`
- what it amounts to: `average_accuracy`, `backward_transfer`, `forward_transfer`, `forgetting`
- steps that relearning saves: `savings`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
