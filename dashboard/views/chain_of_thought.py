"""Chain of thought: whether written steps help, and whether the answer follows from them."""

from dashboard.parts.phenomena.shell import phenomenon

phenomenon("chain_of_thought")
