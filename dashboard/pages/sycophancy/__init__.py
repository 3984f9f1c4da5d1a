"""The Sycophancy page."""
