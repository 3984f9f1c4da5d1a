"""Retrieval: what documents in the prompt do to the answer, where they help and where they conflict."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("retrieval")
