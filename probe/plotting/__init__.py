"""Plotting: what the figures of all subjects share, and how they are exported.

- a colour and a dash for each run: `styles`, `Style`
- metrics over training: `metric_curves`
- which run was made from which: `lineage`
- values with intervals: `headline_intervals`
- to files, with where they come from: `save`, `render`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
