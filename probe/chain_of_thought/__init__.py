"""Chain of thought: do written steps help, and does the answer depend on them?

- the whole experiment: `run`
- problems from a file: `read_problems`, `final_answer`
- sums of the world, with and without steps: `sum_answers`
- truncated steps, edited steps, and biased examples: `faithfulness`, `edited_steps`, `bias_sums`
- at least one of k samples: `pass_at_k`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
