"""Comparison of two models: on a prompt, over a corpus, in activations, in weights, by parts, and by interpolation.

- two language models on a prompt, token by token: `compare`; layer by layer: `compare_lenses`
- two language models over a corpus: `compare_corpus`, on the texts of a file (`read_texts`), or on the questions of
  their world or of the built-in sets (`shared_texts`)
- the head or MLP that carries the aligned model's answer, next to those that other measures name: `find_carriers`
- two models of rewards or values: `compare_scalars`
- norm and rank of the change of every matrix, head and block: `weight_change`
- the difference of their activations at the first tokens of texts, read through the lens: `compare_first_tokens`, and
  steering by it: `steer_by_first_tokens`
- one block, head or MLP of the aligned model put into the base: `transplant_parts`
- interpolation of their weights, and an experiment along the line: `interpolate`, `follow_line`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
