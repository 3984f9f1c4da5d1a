"""Autoregression: how far back does a model look, through which path, and how do its own mistakes carry on?"""
