"""The Autoregression page."""
