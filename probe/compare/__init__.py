"""Compare: two models on one prompt, over a corpus, inside, in their weights, part by part, and on the line between.

- two language models on a prompt, token by token and layer by layer: `compare`, `read_both`
- two language models over a corpus: `compare_corpus`, on the texts of a file (`read_texts`), or on the questions of
  their world or of the shipped sets (`shared_texts`)
- two models of rewards or values: `compare_scalars`
- norm and rank of the change of every matrix, head and block: `weight_change`
- the difference of their activations at the first tokens of texts, through the lens: `compare_first_tokens`, and
  steering by it: `steer_by_first_tokens`
- one block, head or MLP of the aligned model put into the base: `transplant_parts`
- their weights mixed, and an experiment along the way: `interpolate`, `follow_line`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
