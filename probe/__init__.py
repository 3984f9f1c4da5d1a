"""Probe: train, align and look inside language models.

- a model, a reward model, the configuration of a new one: `LM`, `RewardModel`, `ModelConfig`
- the location of parts in a plain module: `ModuleMap`
- training runs: `list_runs`, `open_run`, `Run`
- record a custom training loop: `watch`
- run an experiment and read its result: `run_experiment`, `Result`
- define an experiment, its evidence and its metrics: `experiment`, `Evidence`, `Mean`, `Share`, `Statistic`
- define an analysis, with page and command: `analysis`
- other extensions: `annotator`, `fault`, `method`, `verifier`

Subjects, each with a few functions, which `help(probe.logits)` lists: `analyses`, `attention`, `audit`,
`autoregression`, `chain_of_thought`, `circuits`, `compare`, `continual`, `diagnosis`, `experiments`, `features`,
`findings`, `hallucination`, `in_context`, `interventions`, `jobs`, `logits`, `logs`, `model`, `plotting`,
`probes`, `questions`, `recording`, `report`, `retrieval`, `rewards`, `runs`, `scorecard`, `seeds`, `sweep`,
`sycophancy`, `traits`, `world`.
Names are loaded on first use, so that `import probe` and `probe --help` stay fast.
"""

import lazy_loader

# Without the third, `__all__`, here and in the subjects: `help()` would print every class that it names whole.
__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
