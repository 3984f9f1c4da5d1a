"""Experiments: one file a phenomenon, each `run(lm, *, baseline=None, data=None, n, seed, ...) -> Result`.

`registry` finds them (built in, from entry points, from a file), `metrics` turns items into numbers with intervals,
`result` holds and stores what was found, `store` finds it again.
"""
