"""Chain of thought: whether written steps help, and whether the answer follows from them."""

from dashboard.pages.experiments.experiment import draw_built_in

draw_built_in("chain_of_thought")
