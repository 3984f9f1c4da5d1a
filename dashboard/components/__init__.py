"""Parts of pages: the figure with its downloads, the chips of tokens, the folded details."""
