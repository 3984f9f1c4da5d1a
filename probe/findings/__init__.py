"""Findings: published claims about aligned language models, each measured on runs that are here, and on its null.

- what each is held to, and the verdicts that follow: `read_plan`
- which claims, and one by name: `findings`, `finding`
- where they are measured: `Bench`
- what was found: `Claim`, `Measurement`, `Null`, `Finding`, `read_record`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
