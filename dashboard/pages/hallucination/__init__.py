"""The Hallucination page."""
