"""Recording: instruments in any training loop, and the captures that they write into a run.

- three lines in your own loop: `watch`
- a callback for trainers of transformers and TRL: `ProbeCallback`
- what `watch` is made of: `Recorder`
- further instruments: `RewardShift`, `ReferenceKL`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
