"""The model: how one is loaded, run, hooked, scored, sampled from and taken apart into the paper's equations."""
