"""Findings: ten published claims about aligned language models, each measured on runs that are here.

- which claims, and one by name: `findings`, `finding`
- where they are measured: `Bench`
- what was found: `Claim`, `Measurement`, `read_record`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
