"""Hallucination: what a model makes up where it knows nothing, and what its confidence is worth."""

from dashboard.phenomena.page import phenomenon

phenomenon("hallucination")
