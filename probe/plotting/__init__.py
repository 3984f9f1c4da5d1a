"""Drawing of figures that all subjects share, and their export to files.

- style (colour and dash) of each run: `styles`, `Style`
- curves of metrics over training: `metric_curves`
- parallel coordinates of options and metrics: `parallel_coordinates`
- tree of runs by parent, reference and reward model: `lineage`
- values with intervals: `headline_intervals`
- export to a file with its provenance: `save`; in several formats: `save_all`; as bytes: `render`
- width, text size and theme of an exported figure: `Paper`, `put_on_paper`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
