"""Chain of thought: whether written steps help, and whether the answer follows from them."""

from dashboard.phenomena.page import phenomenon

phenomenon("chain_of_thought")
