"""Findings: published claims about aligned language models, each tested on the available runs and on a null control.

- the criterion of each claim, and its verdict: `read_plan`
- test all claims, or one: `findings`, `finding`
- the runs that claims are tested on: `Bench`
- claims and results: `Claim`, `Measurement`, `Null`, `Finding`, `read_record`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
