"""Features: sparse directions of the residual stream that an autoencoder learns, of one model or of two together.

- fit an autoencoder, or a crosscoder of two models, and measure it on held-out texts: `fit_features`, `FitSettings`
- read and write its files, in the layout of SAELens: `read_features`, `write_features`, `Features`
- reconstruction, sparsity, and the model's loss with it: `measure`
- features that match known variables: `match_variables`
- texts that activate a neuron, a head or a feature most, beside random directions: `top_texts`
- all features of a fit: `list_features`; steer by one: `steer_feature`
- which features of a crosscoder two models share, and which alignment changed, added or took away: `scale_latents`,
  `compare_features`

The autoencoder is BatchTopK (Bussmann, Leask and Nanda 2024, arXiv 2412.06410), the crosscoder that of Minder et al.
(2025, arXiv 2504.02922).
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
