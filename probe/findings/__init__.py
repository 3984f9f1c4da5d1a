"""Findings: ten published claims about aligned language models, each measured on runs that are here."""
