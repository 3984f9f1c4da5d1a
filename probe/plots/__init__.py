"""Plots: tidy tables and arrays in, plotly figures out, in one theme for screen and paper.

No function here reads a file or runs a model, so that every figure can be made in a notebook from the same arrays.
"""
