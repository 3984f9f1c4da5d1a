"""Sweep: many trainings and experiments as one graph of tasks, which is resumed where it stopped.

- a spec (a TOML file, or the same as a dictionary) and its tasks: `read_spec`, `Spec`, `Task`
- run all of it: `run_sweep`
- the state of a sweep, its tasks and its metrics: `Sweep`; sweeps on disk: `read_sweep`, `find_sweeps`
- its finished trainings beside each other, with options and metrics: `compare_runs`, `ComparedRuns`
- the store through which machines share runs: `Store`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
