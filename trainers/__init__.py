"""Trainers: one file a method, read top to bottom; `probe train METHOD` or `python -m trainers.METHOD` runs it.

A method's file says what it is and where it departs from the paper, then reads its data, has its loss as a pure
function, the class that gives the loop its batches and losses, and `train(config) -> probe.Run`. `config.py` holds the
options of all methods, so that `probe train METHOD --help` need not import torch. What methods share:

    session.py      this process among all processes: device, its share of the batch, sums over everybody
    loop.py         the steps of a training, the same for every method: `fit`; one optimiser step on a whole batch
    optimizer.py    AdamW on what this process holds of the weights, and the learning rate of each step
    blocks.py       the blocks of a model, computed again in the backward pass to save memory
    sharding.py     one model shared among processes, and what looks at it
    record.py       what a run leaves behind: metrics, captures, checkpoints, how it ended
    checkpoint.py   the state that a run continues from
    starting.py     which trainee a config asks for
    trainee.py      what is trained, and its frozen reference; lora.py an adapter in its place, scalar_heads.py a head
    reference.py    what a method is measured by against its reference: exact optimum, reward shift, KL
    preferences.py  pairs of completions, for dpo.py and reward_model.py
    sampling.py     prompts, and groups of completions of each, scored, for rlhf.py, rlvr.py and rsft.py
    reward_functions.py   rewards by name: the world's, reward models, functions of your own
    curriculum.py   the tasks of continual.py; strategies.py is what is done against forgetting, with ewc.py
    gradient.py     what each token weighs in the gradient of each method, checked against its loss
    commands.py     `probe train` and `probe samples`; samples/ makes the sample runs
"""
