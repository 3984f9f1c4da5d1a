"""A synthetic world with known ground truth: corpus, questions, judge, annotators and Bayes-optimal predictors.

- a world, and that of a model: `World`, `of`
- its configuration: `WorldConfig`, `KINDS`
- its documents and questions: `Document`, `Item`
- verdicts of its judge: `Verdict`
- simulated preferences: `Annotator`, `AGREEABLE`, `HONEST`
- its data sets as files, and documents in rows: `export`, `pack`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
