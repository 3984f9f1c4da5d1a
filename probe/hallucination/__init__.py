"""Hallucination: what does a model invent where it knows nothing, and what is its confidence worth?"""
