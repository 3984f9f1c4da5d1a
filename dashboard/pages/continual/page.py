"""Continual learning: what later tasks take from earlier ones, and what replay and EWC save."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("continual")
