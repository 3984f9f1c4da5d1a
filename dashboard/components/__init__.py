"""Parts of pages: figures with downloads, token chips, folded details."""
