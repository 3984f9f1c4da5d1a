"""Hallucination: what a model makes up where it knows nothing, and what its confidence is worth."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("hallucination")
