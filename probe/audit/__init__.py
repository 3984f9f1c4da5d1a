"""Audit of a base and an aligned model: changes of behaviour, next tokens, weights and residuals.

- run all parts on the two models: `audit_models`, with `AuditSettings`
- the parts and their question sets: `plan_parts`, `Part`
- the result: `Audit`; saved results: `read_audit`, `stored_audits`
- the result as one HTML file: `audit_html`
- a bound that a change must not exceed, such as `sycophancy>+0.05`: `read_bound`, `Bound`; a margin within which it
  must be shown to stay: `read_within`, `Within`
"""

import lazy_loader

__getattr__, __dir__ = lazy_loader.attach_stub(__name__, __file__)[:2]
