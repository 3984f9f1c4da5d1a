"""Continual learning: what do later tasks take from earlier ones, and what do replay and EWC save?"""
