"""The Continual learning page."""
