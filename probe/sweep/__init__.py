"""Sweep: many trainings and experiments as one graph of tasks, which is resumed where it stopped.

- a spec (a TOML file, or the same as a dictionary) and its tasks: `read_spec`, `Spec`, `Task`
- run all of it: `run_sweep`
- how a sweep stands, its tasks and its numbers: `Sweep`; one that lies on the disk: `read_sweep`, `find_sweeps`
- what copies runs to where other machines find them: `Store`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
