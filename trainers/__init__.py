"""Trainers: one file per training method; `probe train METHOD` or `python -m trainers.METHOD` runs it.

A method's file describes the method and its departures from the paper. It then reads its data and defines its loss as a
pure function, the class that gives the loop its batches and losses, and `train(config) -> probe.Run`. `config.py` holds
the options of all methods, so that `probe train METHOD --help` need not import torch. Methods share:

    session.py      the process among all processes: device, share of the batch, sums over processes
    loop.py         the steps of a training, the same for every method: `fit`; one optimiser step on a whole batch
    optimizer.py    AdamW on the weights that this process holds, and the learning rate of each step
    blocks.py       the blocks of a model, and gradient checkpointing
    sharding.py     one model shared among processes, for training and measurements
    record.py       the record of a run: metrics, captures, checkpoints, outcome
    checkpoint.py   the state from which a run is resumed
    starting.py     the trainee that a config asks for
    trainee.py      the trained model and its frozen reference; lora.py an adapter, scalar_heads.py a scalar head
    reference.py    measurements against the reference: exact optimum, reward shift, KL
    preferences.py  pairs of completions, for dpo.py and reward_model.py
    sampling.py     prompts with scored groups of completions, for rlhf.py, rlvr.py and rsft.py
    reward_functions.py   rewards by name: the world's, reward models, custom functions
    curriculum.py   the tasks of continual.py; ewc.py one of its strategies against forgetting
    gradient.py     the weight of each token in the gradient of each method, checked against its loss
    commands.py     `probe train` and `probe samples`; samples/ has the recipes of the sample runs
"""
