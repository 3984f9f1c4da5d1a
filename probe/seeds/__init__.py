"""Seeds: how much does a number vary between trainings that differ only by their seed?

- runs of one recipe: `groups`, `group_of`, `Group`
- headline figures and curves of a group: `headline`, `curves`
- the mean of a few trainings, and the difference of two methods: `mean_over_trainings`, `paired_by_seed`
- stored results of an experiment over trainings: `result_of`
- simulated coverage of such intervals: `simulate`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
