"""Experiments: how one is found, run, summed up, stored and found again; each lies in the folder of its subject.

Each is `run(lm, *, baseline=None, data=None, n, seed, ...) -> Result`.

- make a function one: `experiment`
- which there are, and run one by name: `experiments`, `find_experiment`, `run_experiment`
- what it returns, and what comes of it: `Evidence`, `Result`
- numbers with intervals from items: `Mean`, `Share`, `Statistic`
- run it, or take what is stored: `obtain`, `results`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
