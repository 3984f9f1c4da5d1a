"""Recording: measurements in any training loop, written into a run as captures.

- three lines in a custom loop: `watch`
- a callback for trainers of transformers and TRL: `ProbeCallback`
- class behind `watch`: `Recorder`
- choice of what captures hold, and their largest size: `CaptureOptions`
- further instruments: `RewardShift`, `ReferenceKL`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
