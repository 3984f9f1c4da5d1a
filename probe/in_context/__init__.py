"""Learning from examples in the prompt (in-context learning), and the attention heads that do it.

- the whole experiment: `run`
- accuracy by number of examples: `few_shot_curve`, `pair_curves`
- with wrong labels: `map_label_ablation`
- loss of later tokens minus that of earlier ones: `in_context_score`
- induction heads and their ablation: `induction_score`, `ablate_induction`
- function vectors: `function_vectors`, `function_vectors_text` with `TextVectorSizes`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
