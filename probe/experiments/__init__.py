"""Experiments: how one is found, run, summed up, stored and found again; each lies in the folder of its subject.

Each is `run(lm, *, baseline=None, data=None, n, seed, ...) -> Result`. `registry` finds them (built in, from entry
points, from a file), `metrics` turns items into numbers with intervals, `result` holds and stores what was found,
`store` finds it again.
"""
