"""The run directory: one schema, one writer, one reader (docs/runs.md).

- read one run, or all runs: `open_run`, `list_runs`, `Run`
- write one: `RunWriter`, `ProbePrompt`
- lineage of runs: `lineage`, `Edge`
- problems of a run: `RunWarning`
- places of runs: `find`, `roots`
- make a run smaller for shipping: `thin`
- keep a run in a store (`s3://...`): `probe.runs.store`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
