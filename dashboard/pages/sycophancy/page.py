"""Sycophancy: whether a model says what its user wants to hear, and where inside that is decided."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("sycophancy")
