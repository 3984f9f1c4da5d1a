"""Question sets that come with Probe, each with its source and its licence: `--data truthfulqa` asks one by its name.

- the sets by name, with source, version, licence, choice of rows and changes: `SETS`
- the file of a set: `locate`
- the set that an experiment asks of a model without a world: `default_set`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
