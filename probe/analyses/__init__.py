"""Analyses: what looks inside models, each declared once; page, command, documents and plugins follow from the record.

- make a function one: `analysis`, with inputs such as `Prompt` and what else a page asks for, `Input`
- which there are, and one by name: `analyses`, `find_analysis`
- what one returns: `Drawable`, with a sentence, tables and figures
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
