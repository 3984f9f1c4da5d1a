"""Jobs: commands of Probe as processes of their own, which outlive the page and the server that started them.

- what runs, waits and has ended: `list_jobs`, `Job` (its state, progress, log and error)
- start one, stop it, continue it: `start`, `stop`, `resume`
- the order of those that wait for a core: `move`; forget one that has ended: `remove`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
