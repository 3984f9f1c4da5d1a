"""In-context learning: how does a model use the examples in its prompt, and which heads carry it?

- the whole experiment: `run`
- accuracy over the number of examples: `few_shot_curve`, `pair_curves`
- with wrong labels: `map_label_ablation`
- later tokens against earlier ones: `in_context_score`
- induction heads, and the model without them: `induction_score`, `ablate_induction`
- function vectors: `function_vectors`, `function_vectors_text` with `TextVectorSizes`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
