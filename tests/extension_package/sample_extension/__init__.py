"""A package that adds one extension of each kind to Probe."""
