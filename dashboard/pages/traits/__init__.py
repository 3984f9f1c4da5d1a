"""The Traits page."""
