"""Audit: what alignment changed in a model, from two references alone: behaviour, next tokens, weights and residuals.

- run all parts on a base and an aligned model: `audit_models`, with `AuditSettings`
- the parts and the sets that they ask: `plan_parts`, `Part`
- what was found: `Audit`, and one that was saved: `read_audit`, `stored_audits`
- the same as one HTML file: `audit_html`
- a bound that a change must keep, such as `sycophancy>+0.05`: `read_bound`, `Bound`; a margin within which it must be
  shown to stay: `read_within`, `Within`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
