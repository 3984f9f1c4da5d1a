"""Interventions: what changes when a part of the model is patched, removed or steered?"""
