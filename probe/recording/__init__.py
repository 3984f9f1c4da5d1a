"""Recording: instruments in any training loop, and what they leave in a run."""
