"""Sycophancy: does a model say what its user wants to hear, and which components cause it?

- the whole experiment: `run`
- answers that match a behaviour, from a file: `read_choices`, `score_choices`
- weak beliefs and doubt (Sharma et al.): `read_questions`, `score_templates`
- agreement separated from mention: `agreement_table`, `score_lettered`
- comments for a user who likes a text: `read_texts`, `positivity`
- repeated pressure in the world: `walks`
- which heads, and steering against it: `by_file_head`, `by_steering`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
