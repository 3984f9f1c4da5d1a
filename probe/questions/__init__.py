"""Question sets that come with Probe, each with its source and licence: `--data truthfulqa` selects one by name.

- the sets by name, with source, version, licence, choice of rows and changes: `SETS`
- the file of a set, and its questions with their right answers: `locate`, `right_answers`, `plain_texts`
- the set that an experiment uses for a model without a world: `default_set`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
