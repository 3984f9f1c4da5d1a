"""Compare: two models on one prompt, over a corpus, in their weights, and on the line between them.

- two language models on a prompt, token by token and layer by layer: `compare`, `read_both`
- two language models over a corpus: `compare_corpus`, on the texts of a file (`read_texts`) or of their world
  (`world_texts`)
- two models of rewards or values: `compare_scalars`
- norm and rank of the change of every matrix, head and block: `weight_change`
- their weights mixed, and an experiment along the way: `interpolate`, `along`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
