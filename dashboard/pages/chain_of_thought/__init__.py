"""The Chain of thought page."""
