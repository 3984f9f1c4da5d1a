"""Compare: two models on one prompt, token by token and layer by layer."""
