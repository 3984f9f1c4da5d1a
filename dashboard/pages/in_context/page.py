"""In-context learning: what a model makes of examples in its prompt, and which heads carry it."""

from dashboard.pages.in_context.choices import remark
from dashboard.phenomena.page import phenomenon
from dashboard.state import current, is_given

shared = current()
alone = shared.aligned if is_given() and shared.aligned == shared.base else None
phenomenon("in_context", remark(shared.store, alone) if alone else "")
