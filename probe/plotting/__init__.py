"""Plotting: what the figures of all subjects share, and how they are exported."""
