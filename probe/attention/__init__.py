"""Attention: which tokens does each head look at, what does it write, and what is it good at?"""
