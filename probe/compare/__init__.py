"""Compare: two models on one prompt, token by token and layer by layer, and over a corpus.

- two language models on a prompt: `compare`, `read_both`
- two language models over a corpus: `compare_corpus`, on the texts of a file (`read_texts`) or of their world
  (`world_texts`)
- two models of rewards or values: `compare_scalars`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
