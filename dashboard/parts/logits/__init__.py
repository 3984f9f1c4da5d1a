"""Parts of the Logits page."""
