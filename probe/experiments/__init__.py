"""Experiments: registry, execution, summaries and storage; each experiment is defined in the folder of its subject.

Each is `run(lm, *, baseline=None, data=None, n, seed, ...) -> Result`.

- turn a function into an experiment: `experiment`
- list, find or run experiments by name: `experiments`, `find_experiment`, `run_experiment`
- what the function returns, and the result: `Evidence`, `Result`
- metrics with intervals, computed from items: `Mean`, `Share`, `Statistic`
- compare named filters on items with all other items: `compare_slices`
- run an experiment or load its stored result: `obtain`; list stored results: `results`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
