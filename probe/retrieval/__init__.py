"""Retrieval: what do documents in the prompt do to the answer, where do they help and where do they conflict?"""
