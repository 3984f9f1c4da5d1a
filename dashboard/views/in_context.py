"""In-context learning: what a model makes of examples in its prompt, and which heads carry it."""

from dashboard.parts.phenomena.shell import phenomenon

phenomenon("in_context")
