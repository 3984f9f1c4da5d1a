"""Circuits: the heads and MLPs that carry an answer, found by several methods and checked against every small subset.

- find the circuit of an answer, or check one that you name: `circuit`
- the edges of an answer, in one model or two: `edges`
- the target with all parts outside a subset ablated: `Subsets`
- the best subset of each size: `exhaustive`, `greedy`
- faithfulness, completeness and minimality of a circuit: `check`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
