"""Trainers: one file a method, read top to bottom; `probe train METHOD` or `python -m trainers.METHOD` runs it.

A method's file says what it is and where it departs from the paper, then holds its config (a frozen dataclass), its
loss as a pure function, the class that gives the loop its batches and losses, and `train(config) -> probe.Run`. What
methods share lives beside them:

    config.py       the options every method has, and what a resumed run may change
    session.py      this process among all processes: device, its share of the batch, sums over everybody
    step.py         one optimiser step on a whole batch, however it is split; the learning rate
    loop.py         the steps of a training, the same for every method: `fit`
    record.py       what a run leaves behind: metrics, captures, checkpoints, how it ended
    checkpoint.py   the state that a run continues from
    data.py         files of examples, with errors that name the line; the order in which they are drawn
    corpus.py       rows of tokens for pretraining; tokenizers.py trains a tokenizer on a text
    trainee.py      what is trained; lora.py trains an adapter in its place, reference.py is what stays as it was
    curriculum.py   the tasks of continual learning; strategies.py is what is done against forgetting, with ewc.py
    preferences.py  pairs of completions
    online.py       options of the methods that sample while they train; prompts.py reads what they are to answer
    rollout.py      groups of sampled completions, scored, the same on every process; gold.py has the world judge them
    rewards.py      rewards by name; judges.py lists those that the world offers
    grpo.py         advantages, denominators, KL estimators and the clipped surrogate
    progress.py     how far we are, and a clean stop on Ctrl-C
    commands.py     `probe train` and `probe samples`; samples.py holds the recipes of the sample runs
"""
