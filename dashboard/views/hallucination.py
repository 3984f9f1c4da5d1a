"""Hallucination: what a model invents where it knows nothing, and what its confidence is worth."""

from dashboard.parts.phenomena.shell import phenomenon

phenomenon("hallucination")
