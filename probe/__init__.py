"""Probe: train, align and look inside language models.

The public names and the subjects (`probe.logits.logit_lens`), loaded on first use so that `import probe` and
`probe --help` stay fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
