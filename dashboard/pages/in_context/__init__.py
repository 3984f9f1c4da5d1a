"""The In-context learning page."""
