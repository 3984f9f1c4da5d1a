"""Parts of the Autoregression page."""
