"""Trainers: one file a method, read top to bottom; `probe train METHOD` or `python -m trainers.METHOD` runs it.

A method's file says what it is and where it departs from the paper, then holds its config (a frozen dataclass), its
loss as a pure function, and `train(config) -> probe.Run`. What methods share lives beside them:

    config.py      the options every method has
    session.py     this process among all processes: device, its share of the batch, sums over everybody
    loop.py        the optimiser steps, the same for every method
    record.py      what a run leaves behind: metrics, captures, checkpoints, how it ended
    checkpoint.py  the state that a run continues from
    data.py        files of examples; tokenizers.py trains a tokenizer on a text; progress.py shows how far we are
    commands.py    `probe train` and `probe samples`; samples.py the recipes of the sample runs
"""
