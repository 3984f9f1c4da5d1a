"""Analyses of models, each declared once; page, command, documents and plugins are derived from the record.

- turn a function into an analysis: `analysis`; its inputs are typed as `Prompt`, or described for a form with `Input`
- list all analyses, or find one by name: `analyses`, `find_analysis`
- the type of a result: `Drawable`, with a sentence, tables and figures
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
