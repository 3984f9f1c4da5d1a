"""Hallucination: false answers about unknown facts, and the calibration of the model's confidence."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("hallucination")
