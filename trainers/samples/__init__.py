"""The sample runs that the dashboard opens with, and others that are made in the same way.

    probe samples                       # into ./sample_runs, under an hour on two CPU cores
    probe samples --seeds 5             # the whole pipeline five times
    probe samples --steps-scale 0.05    # a quick rehearsal
    probe samples --real                # those on a real model: real_samples.py
    probe samples --controls --out controls    # what claims are tested against: control_runs.py
    probe samples --factorial           # one cause at a time, every combination of two annotators: factorial_samples.py

recipes.py has the recipes of the sample runs, make_samples.py makes runs of all kinds as a sweep.
"""
