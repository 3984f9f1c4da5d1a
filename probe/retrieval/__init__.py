"""Retrieval: how do documents in the prompt change the answer, where do they help and where do they conflict?

- the whole experiment: `run`
- a folder of texts, and files of them: `read_folder`, `read_documents`
- search: `Retriever`, `recall_curve`, `reciprocal_rank`
- how far a document moves the answer: `persuasion`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
