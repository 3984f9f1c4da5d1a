"""Retrieval: how documents in the prompt change the answer, where they help, and where they conflict with memory.

- the whole experiment: `run`
- a folder of questions and documents: `read_folder`, `read_documents`
- search: `Retriever`, `recall_curve`, `reciprocal_rank`
- how far a document changes the answers: `persuasion`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
