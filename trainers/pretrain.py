"""Pretraining: next-token prediction on the world, on a text, or on documents (E7).

    L = - sum_t log pi_t(x_{t+1}) / (number of targets)

Every token is a target, except padding and the token that a row begins with; the sum is divided by the number of
targets of the whole batch. Departures from the paper: documents are packed into rows, and attention reaches over the
borders between them; fresh weights are a small Llama. With --base that model is the reference of the captured KL.

    probe train pretrain --out runs/base                                   # the world, a tiny model
    probe train pretrain --out runs/novel --data novel.txt --tokenizer char --length 256 --preset small
    probe train pretrain --out runs/more --base HuggingFaceTB/SmolLM2-135M --data docs.jsonl --lr 1e-4
    accelerate launch --num_processes 4 -m trainers.pretrain --out runs/base

Logged besides the common metrics: `eval_loss` (nats a token), `eval_bpb` (bits a byte of UTF-8), and on the world
`loss/<kind>` for the held-out documents of each kind.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import probe.world
from probe import LM, Run
from probe.cli import main
from probe.errors import ConfigError
from probe.model.presets import model_config
from probe.model.text import context_length
from probe.recording.recorder import ReferenceKL
from probe.rows import Rows, read_documents
from probe.world import World
from trainers.checkpoint import last_checkpoint
from trainers.config import PretrainConfig
from trainers.corpus import PADDING, Corpus, file_corpus, hold_out, world_corpus
from trainers.loop import Method, fit
from trainers.lora import starting_point
from trainers.record import Origin
from trainers.reference import origin_reference
from trainers.session import Session
from trainers.step import Loss
from trainers.tokenizers import train_tokenizer
from trainers.trainee import Trainee, make_trainee


def pretrain_loss(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """- sum log pi(target) in nats over the targets that are not `PADDING` (E7); divide by their number."""
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=PADDING, reduction="sum")


def row_tensors(
    rows: Sequence[np.ndarray] | np.ndarray, device: torch.device
) -> tuple[Int[Tensor, "B T-1"], Int[Tensor, "B T-1"]]:
    """What the model reads and what it is to say of rows [T]; padding is read as token 0 and never a target."""
    ids = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(device)
    return ids[:, :-1].clamp(min=0), ids[:, 1:]


def token_statistics(
    logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> tuple[float, float]:
    """Sum of the entropies in nats, and number of targets that are the most probable token."""
    with torch.no_grad():
        logprobs = logits[mask].float().log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum()
        return float(entropy), float((logprobs.argmax(-1) == targets[mask]).sum())


def row_loss(model: nn.Module, rows: Sequence[np.ndarray], detail: bool) -> Loss:
    """The loss of rows; padding stands at their end, where nothing that counts attends to it."""
    inputs, targets = row_tensors(rows, next(model.parameters()).device)
    mask = targets != PADDING
    logits = model(input_ids=inputs, use_cache=False).logits
    count = int(mask.sum())
    metrics: dict[str, tuple[Tensor | float, int]] = {}
    if detail:
        entropy, correct = token_statistics(logits, targets, mask)
        metrics = {"entropy": (entropy, count), "mean_token_accuracy": (correct, count)}
    return Loss(pretrain_loss(logits, targets), count, count, metrics)


class Pretraining(Method):
    """The method as the loop sees it."""

    name, dropout = "pretrain", True

    def __init__(self, session: Session, trainee: Trainee, corpus: Corpus) -> None:
        self.session, self.trainee, self.corpus = session, trainee, corpus

    def batch(self, step: int) -> Sequence[np.ndarray]:
        """The rows of a step."""
        return self.corpus.batch(step)

    def loss(self, model: nn.Module, examples: Sequence[np.ndarray], detail: bool) -> Loss:
        """Sum over the targets."""
        return row_loss(model, examples, detail)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Held-out loss by token, by byte and by kind of document; the processes share the rows."""
        corpus, names = self.corpus, ["", *self.corpus.kind_names]
        sums, counts = np.zeros(len(names)), np.zeros(len(names))
        size = self.session.config.batch_size
        for start in range(self.session.rank * size, len(corpus.held_out), self.session.processes * size):
            rows = corpus.held_out[start : start + size]
            inputs, targets = row_tensors(rows, self.session.device)
            logits = model(input_ids=inputs, use_cache=False).logits.float()
            nll = cross_entropy(logits.mT, targets, ignore_index=PADDING, reduction="none").double().cpu().numpy()
            real = rows[:, 1:] != PADDING
            sums[0], counts[0] = sums[0] + nll.sum(), counts[0] + real.sum()
            if corpus.kinds is not None:
                kinds = corpus.kinds[start : start + size, 1:][real] + 1
                sums += np.bincount(kinds, nll[real], len(names))
                counts += np.bincount(kinds, minlength=len(names))
        total = np.array(self.session.total([*sums, *counts]))
        sums, counts = total[: len(names)], total[len(names) :]
        metrics = {"eval_loss": sums[0] / counts[0], "eval_bpb": sums[0] / math.log(2) / corpus.held_out_bytes}
        return metrics | {f"loss/{name}": sums[i] / counts[i] for i, name in enumerate(names) if i and counts[i]}


def train(config: PretrainConfig) -> Run:
    """Pretrain and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: something was given that cannot be used; the message says what.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    documents = None if config.data == "world" else read_documents(Path(config.data), config.strict)
    if documents is not None:
        session.tell(documents)
    if config.lora and config.base:
        start: str | Path | None = starting_point(config, config.base)
    else:
        start = last_checkpoint(config) or config.base  # a resumed run keeps its own tokenizer
    base = session.load(start) if start else None
    lm, world, corpus = prepare(config, base, documents)
    lm.model.to(session.device)
    limit = context_length(lm.model)
    if limit is not None and config.length > limit:
        raise ConfigError(
            f"--length is {config.length} and the model reads at most {limit} tokens: give {limit} or less."
        )
    trainee = make_trainee(lm, config)
    reference, known = origin_reference(session, config.base, trainee) if config.base else (None, {})
    origin = Origin(
        parent=config.base,
        reference=config.base,
        world=world,
        data=corpus.data | known,
        prompts=corpus.prompts,
        instruments=[ReferenceKL(reference.logits)] if reference else [],
    )
    return fit(session, Pretraining(session, trainee, corpus), origin)


def prepare(config: PretrainConfig, base: LM | None, documents: Rows[str] | None) -> tuple[LM, World | None, Corpus]:
    """Model, world and rows; the tokenizer is the base's, the world's, or trained on the file."""
    if documents is None:
        world = (base and probe.world.of(base)) or World(config.world, config.world_seed)
        lm = base or LM.create(config.preset, world.tokenizer(), seed=config.seed)
        sizes = {"length": config.length, "batch_size": config.batch_size, "seed": config.seed}
        return lm, world, world_corpus(world, lm.tokenizer, **sizes)
    training, held_out = hold_out(documents)
    if base is None:
        context = model_config(config.preset).context
        tokenizer = train_tokenizer(training, config.tokenizer, config.vocab_size, context)
        base = LM.create(config.preset, tokenizer, seed=config.seed)
    sizes = {"length": config.length, "batch_size": config.batch_size, "seed": config.seed}
    corpus = file_corpus(documents.path, training, held_out, base.tokenizer, **sizes)
    return base, None, replace(corpus, data=corpus.data | {"left_out": len(documents.left_out)})


if __name__ == "__main__":
    sys.exit(main(["train", "pretrain", *sys.argv[1:]]))
