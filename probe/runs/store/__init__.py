"""Runs in an object store (`s3://bucket/runs`): uploaded as numbered versions, fetched, and shown like local runs.

- send a run, and fetch one: `upload`, `download`
- send a run repeatedly during training: `Uploads`
- show all runs of a folder in a store: `Mirror`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
