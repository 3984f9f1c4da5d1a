"""Sycophancy: does a model say what its user wants to hear, and which part of it decides that?"""
