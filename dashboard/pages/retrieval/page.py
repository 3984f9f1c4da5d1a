"""Retrieval: the effect of documents in the prompt on the answer, both helpful and conflicting ones."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("retrieval")
