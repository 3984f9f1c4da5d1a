"""Diagnosis: faults of a training that its run shows, with the step at which each began, evidence, and a remedy.

- diagnose a run, or metrics in a table: `diagnose`; the result: `Diagnosis`, with each `Finding`
- declare a fault: `fault`, with a function from a `Reading` to a `Sign`
- all faults, or one by name: `faults`, `find_fault`
- numbers of a metric by step, as a `Reading` gives them: `Series`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
