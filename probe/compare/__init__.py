"""Compare: two models on one prompt, token by token and layer by layer.

- two language models: `compare`, `read_both`
- two models of rewards or values: `compare_scalars`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
