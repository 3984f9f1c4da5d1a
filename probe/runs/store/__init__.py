"""Runs in a store of objects (`s3://bucket/runs`): sent whole and numbered, fetched, shown as if they lay here.

- send one, and bring one here: `upload`, `download`
- send one again and again while it is trained: `Uploads`
- show all that a folder of a store holds: `Mirror`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
