"""Recipes of the sample runs of the dashboard, and of other runs that are made in the same way.

    probe samples                       # into ./sample_runs, under an hour on two CPU cores
    probe samples --seeds 5             # the whole pipeline five times
    probe samples --steps-scale 0.05    # a quick trial
    probe samples --real                # runs on a real model: real_samples.py
    probe samples --controls --out controls    # runs that test published claims: control_runs.py
    probe samples --factorial           # all combinations of the differences of two annotators: factorial_samples.py

recipes.py holds the recipes of the sample runs, make_samples.py makes runs of all kinds as a sweep, and
stored_analyses.py the results of analyses that come with them.
"""
