"""Parts of the Rewards page."""
