"""Continual learning: forgetting of earlier tasks, and its prevention by replay and EWC."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("continual")
