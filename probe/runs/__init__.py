"""The run directory: one schema, one writer, one reader (docs/runs.md).

- read one, or all that are there: `open_run`, `list_runs`, `Run`
- write one: `RunWriter`, `ProbePrompt`
- which came from which: `lineage`, `Edge`
- what is wrong with one: `RunWarning`
- where they lie: `find`, `roots`
- make one smaller for shipping: `thin`
- keep one in a store (`s3://...`): `probe.runs.store`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
