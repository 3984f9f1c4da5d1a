"""The Logits page."""
