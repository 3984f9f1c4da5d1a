"""Scorecard: how well methods that look inside a model find what is known of it, over the bases of five seeds.

- a method, which is one function: `method`; all of them, or one: `methods`, `find_methods`
- a family of methods with its truths and its score: `Family`, `families`
- score methods on bases: `score_methods`; the stored card: `read_card`, `Card`

A family is added by a module with a constant `FAMILY` (a `Family`) and the methods of the family, and by a line in
`probe.scorecard.family_record.MODULES` and a section in plan.toml; `probe.scorecard.input_family` is an example.
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
