"""Autoregression: how far back does a model look, through which path, and how do its mistakes propagate?

- how far back it looks, by lags and by truncated contexts: `look_back`, or each separately: `lag_profile`,
  `effective_order`
- the best linear autoregression on the same state: `linear_autoregression`
- influence of each input by gradients: `jacobian_profile`
- the content path and the attention path (E23): `jacobian_norms`, `jacobian_split`
- the spectrum of a block's Jacobian: `neutral_jacobian`
- effects of one wrong token: `follow_wrong_token`; on your own prompts: `snowball`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
