"""Probe: train, align and look inside language models.

- a model, a reward model, a fresh one: `LM`, `RewardModel`, `ModelConfig`
- where the parts of a plain module are: `ModuleMap`
- runs of training, and one by name: `list_runs`, `open_run`, `Run`
- record a training loop of your own: `watch`
- run an experiment, and what it returns: `run_experiment`, `Result`
- an experiment of your own, what it returns and its metrics: `experiment`, `Evidence`, `Mean`, `Share`, `Statistic`
- an analysis of your own, with its page and command: `analysis`
- other extensions: `annotator`, `verifier`

Subjects, each with a few functions, which `help(probe.logits)` lists: `analyses`, `attention`, `audit`,
`autoregression`, `chain_of_thought`, `compare`, `continual`, `experiments`, `findings`, `hallucination`, `in_context`,
`interventions`, `logits`, `model`, `plotting`, `questions`, `recording`, `report`, `retrieval`, `rewards`, `runs`,
`seeds`, `sweep`, `sycophancy`, `world`. Names are loaded on first use, so that `import probe` and `probe --help` stay
fast.
"""

import lazy_loader

# Without the third, `__all__`, here and in the subjects: `help()` would print every class that it names whole.
__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
