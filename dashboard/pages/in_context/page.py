"""In-context learning: the use of examples in the prompt, and the heads that carry it."""

from dashboard.pages.experiments.experiment import draw_built_in
from dashboard.pages.in_context.choices import remark
from dashboard.state import current, is_given

shared = current()
alone = shared.aligned if is_given() and shared.aligned == shared.base else None
draw_built_in("in_context", remark(shared.store, alone) if alone else "")
