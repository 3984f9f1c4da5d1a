"""Report: runs and their results as one HTML file that needs no network.

- the report of runs: `report`, with analyses of their models: `look_inside`
- the commands that reproduce a run and its results: `training_command`, `experiment_command`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
