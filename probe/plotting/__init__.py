"""Plotting: what the figures of all subjects share, and how they are exported.

- a colour and a dash for each run: `styles`, `Style`
- metrics over training: `metric_curves`
- which run was made from which: `lineage`
- values with intervals: `headline_intervals`
- to a file for a paper, with where it comes from: `save`; in several formats: `save_all`; as bytes: `render`
- widths, text and theme of such files: `Paper`, `put_on_paper`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
