"""Probes: what is decodable from the states of a model, at which block and token, and whether the model uses it.

- score of a linear probe by block, people held out, with a control task and shuffled labels: `decode`
- erase, move or swap what was decoded, and see whether the answer follows: `use`
- probability at each token that what a model writes there is wrong: `token_truth`
- labels of a world: `labelled_texts`
- remove all linear information about labels from states, with the least change: `erase`

An equation for each is in docs/probes.md.
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
