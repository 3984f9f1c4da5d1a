"""In-context learning: what a model makes of examples in its prompt, and which heads carry it."""

from dashboard.phenomena.page import phenomenon

phenomenon("in_context")
