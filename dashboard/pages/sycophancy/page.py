"""Sycophancy: whether a model says what its user wants to hear, and which components cause it."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("sycophancy")
