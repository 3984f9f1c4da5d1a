"""A synthetic world with known ground truth: corpus, questions, judge, annotators and Bayes-optimal predictors.

- a world, and that of a model: `World`, `of`
- what it is made from: `WorldConfig`, `KINDS`
- what it writes and asks: `Document`, `Item`
- what its judge says: `Verdict`
- who prefers which answer: `Annotator`, `AGREEABLE`, `HONEST`
- its data sets as files, and documents in rows: `export`, `pack`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
