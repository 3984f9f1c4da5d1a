"""Pretraining: next-token prediction on the world's corpus, on a text, or on documents (E7).

    L = - sum_t log pi_t(x_{t+1}) / (number of targets)

Every token is a target, except padding and the first token of a row; the sum is divided by the number of targets of the
whole batch. Rows are arrays of T ids; `PADDING` marks missing tokens. Departures from the paper: documents are packed
into rows, and attention crosses the boundaries between them; new models are small Llamas. With --base that model is the
reference of the captured KL.

    probe train pretrain --out runs/base                                   # the world, a tiny model
    probe train pretrain --out runs/novel --data novel.txt --tokenizer char --length 256 --preset small
    probe train pretrain --out runs/more --base HuggingFaceTB/SmolLM2-135M --data docs.jsonl --lr 1e-4
    accelerate launch --num_processes 4 -m trainers.pretrain --out runs/base

Logged in addition to the common metrics: `eval_loss` (nats per token), `eval_bpb` (bits per byte of UTF-8), and on the
world `loss/<kind>` for the held-out documents of each kind.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

import probe.world
from probe import LM, Run
from probe.cli import main
from probe.errors import ConfigError, DataError
from probe.model.presets import model_config
from probe.model.text import context_length, encode
from probe.recording.recorder import ReferenceKL
from probe.rows import Rows, read_documents
from probe.world import World
from probe.world.config import KINDS
from probe.world.packing import pack
from trainers.checkpoint import last_checkpoint
from trainers.config import PretrainConfig
from trainers.loop import Loss, Method, draw, fit
from trainers.record import Origin, capture_prompts, data_texts, file_hash
from trainers.reference import origin_reference
from trainers.session import Session, derive_seed
from trainers.starting import make_trainee, starting_point
from trainers.trainee import Trainee, cast

PADDING = -1
HELD_OUT = 20
"""Inverse of the held-out share of a file."""
MEASURED = 50_000
"""Largest number of characters of a file's held-out documents in an evaluation, to keep it fast."""
WORLD_HELD_OUT = 1500
"""Number of held-out documents of the world."""
_CHUNK = 1 << 16
_LOGITS = 1 << 21
"""Largest number of logits in an evaluation batch, unless a training batch has more."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Training batches and held-out rows."""

    batch: Callable[[int], Sequence[np.ndarray]]
    """Function from step 1, 2, ... to the rows [T] of its batch."""
    held_out: np.ndarray
    """[N T] rows that are never trained on."""
    held_out_bytes: int
    """Length of their text in bytes of UTF-8."""
    kinds: np.ndarray | None = None
    """[N T] index into `kind_names` for each held-out token."""
    kind_names: Sequence[str] = ()
    data: dict[str, Any]
    """Description of the data for run.json."""
    prompts: Sequence[Any]
    """Prompts to capture on."""


def world_corpus(
    world: World, tokenizer: PreTrainedTokenizerBase, *, length: int, batch_size: int, seed: int
) -> Corpus:
    """Pack the world's infinite stream of documents into rows of `length`, and other documents into held-out rows."""
    documents = list(islice(world.documents(derive_seed(seed, 1)), WORLD_HELD_OUT))
    packed = list(pack(documents, tokenizer, length))
    kinds = np.stack([kinds for _, kinds in packed])
    return Corpus(
        batch=_Stream(lambda: _drop_padding(pack(world.documents(seed), tokenizer, length)), batch_size),
        held_out=np.where(kinds < 0, PADDING, np.stack([ids for ids, _ in packed])),
        held_out_bytes=sum(len(document.text.encode()) for document in documents),
        kinds=kinds,
        kind_names=KINDS,
        data={"source": "world", "hash": world.hash},
        prompts=world.probe_prompts(),
    )


class _Stream:
    """Batches of an infinite stream by step; after a resume the stream is advanced to the step."""

    def __init__(self, start: Callable[[], Iterator[np.ndarray]], batch_size: int) -> None:
        self._start, self._size = start, batch_size
        self._rows, self._next = start(), 1

    def __call__(self, step: int) -> list[np.ndarray]:
        if step < self._next:
            self._rows, self._next = self._start(), 1
        for _ in islice(self._rows, (step - self._next) * self._size):
            pass
        self._next = step + 1
        return list(islice(self._rows, self._size))


def _drop_padding(packed: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    return (np.where(kinds < 0, PADDING, ids) for ids, kinds in packed)


def hold_out(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off held-out documents: every 20th, or with few documents the last 20th of each."""
    if len(documents) >= HELD_OUT:
        flags = [i % HELD_OUT == HELD_OUT - 1 for i in range(len(documents))]
        return (
            [document for document, out in zip(documents, flags, strict=True) if not out],
            [document for document, out in zip(documents, flags, strict=True) if out],
        )
    cuts = [_cut_place(document) for document in documents]
    pairs = list(zip(documents, cuts, strict=True))
    return [document[:cut] for document, cut in pairs], [document[cut:] for document, cut in pairs]


def _cut_place(document: str) -> int:
    """Find the beginning of the last 20th, at the start of a line if one is near."""
    cut = len(document) - max(len(document) // HELD_OUT, 1)
    line = document.rfind("\n", 0, cut) + 1
    return line if line > 0.9 * cut else cut


def file_corpus(
    path: Path,
    train: Sequence[str],
    held_out: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    batch_size: int,
    seed: int,
) -> Corpus:
    """Build a corpus of rows of `length` tokens from the documents of a file.

    Raises:
        DataError: the text does not fill a single row.
    """
    rows = cut_rows(tokenize(train, tokenizer), encode(tokenizer, ""), length)
    if (rows[0] == PADDING).any():
        tokens = int((rows[0] != PADDING).sum())
        raise DataError(
            f"`{path}` has only {tokens} tokens to train on and a row has {length}: give a longer text or a smaller"
            " --length."
        )
    sample = list(_first(held_out, MEASURED))
    lines = (line.strip() for document in sample for line in document.splitlines() if line.strip())
    return Corpus(
        batch=lambda step: list(rows[draw(len(rows), batch_size, step, seed)]),
        held_out=cut_rows(tokenize(sample, tokenizer), encode(tokenizer, ""), length),
        held_out_bytes=sum(len(document.encode()) for document in sample),
        data={"source": str(path), "hash": file_hash(path), "rows": len(rows), "documents": len(train) + len(held_out)},
        prompts=capture_prompts(tokenizer, (" ".join(line.split()[:12]) for line in lines)),
    )


def _first(documents: Sequence[str], letters: int) -> Iterator[str]:
    """Yield the first documents up to a number of characters; the last one may be cut."""
    for document in documents:
        if letters > 0:
            yield document[:letters]
        letters -= len(document)


def tokenize(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the ids of all documents in one array, each document ended by the end token if there is one."""
    ids: list[np.ndarray] = []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for document in documents:
        parts = tokenizer(_chunks(document), add_special_tokens=False, verbose=False)["input_ids"]
        ids += [np.array(part, dtype=np.int32) for part in [*parts, end]]
    return np.concatenate(ids)


def cut_rows(ids: np.ndarray, front: Sequence[int], length: int) -> np.ndarray:
    """Cut ids into rows [N T] in which every id is a target once.

    Each row begins with `front`, or without it with the last id of the row before.
    """
    step, lead = (length - len(front), len(front)) if front else (length - 1, 0)
    starts = np.arange(0, max(len(ids) - (0 if front else 1), 1), step)
    rows = np.full((len(starts), length), PADDING, dtype=np.int32)
    rows[:, :lead] = front
    for row, start in zip(rows, starts, strict=True):
        part = ids[start : start + length - lead]
        row[lead : lead + len(part)] = part
    return rows


def _chunks(document: str) -> list[str]:
    """Split a document into parts of about 64,000 characters, after single line ends, which no token crosses."""
    if len(document) <= _CHUNK:
        return [document]
    cuts = [0]
    for match in re.finditer(r"(?<!\s)\n(?=\S)", document):
        if match.end() - cuts[-1] >= _CHUNK:
            cuts.append(match.end())
    return [document[a:b] for a, b in zip(cuts, [*cuts[1:], len(document)], strict=True)]


BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"
SPECIAL = [PAD, BOS, EOS, UNK]
BYTES = 256


def train_tokenizer(
    texts: Iterable[str], kind: Literal["char", "bpe"], vocab_size: int, context: int
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts` that puts `<bos>` first; decoding gives back the exact text.

    Args:
        texts: training texts, iterated once.
        kind: `char` has a token for each of the most frequent characters and `<unk>` for others; `bpe` merges bytes, so
            it can encode every text.
        vocab_size: largest number of tokens, special tokens included.
        context: context length of the model.

    Raises:
        ConfigError: the vocabulary is too small for the kind.
    """
    least = len(SPECIAL) + (BYTES if kind == "bpe" else 1)
    if vocab_size < least:
        raise ConfigError(f"--vocab-size is {vocab_size}; expected at least {least} with --tokenizer {kind}.")
    tokenizer = (_train_bpe if kind == "bpe" else _train_characters)(texts, vocab_size)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        padding_side="left",
    )


def _train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_characters(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    letters = sorted(counts, key=lambda letter: (-counts[letter], letter))[: vocab_size - len(SPECIAL)]
    ids = {token: i for i, token in enumerate([*SPECIAL, *sorted(letters)])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def pretrain_loss(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Return - sum log pi(target) in nats over the targets that are not `PADDING` (E7); divide by their number."""
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=PADDING, reduction="sum")


def row_tensors(
    rows: Sequence[np.ndarray] | np.ndarray, device: torch.device
) -> tuple[Int[Tensor, "B T-1"], Int[Tensor, "B T-1"]]:
    """Return the inputs and the targets of rows [T]; padding is read as token 0 and is never a target."""
    ids = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(device)
    return ids[:, :-1].clamp(min=0), ids[:, 1:]


def token_statistics(
    logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> tuple[float, float]:
    """Return the sum of the entropies in nats, and the number of targets that are the most probable token."""
    with torch.no_grad():
        logprobs = logits[mask].float().log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum()
        return float(entropy), float((logprobs.argmax(-1) == targets[mask]).sum())


def row_loss(model: nn.Module, rows: Sequence[np.ndarray], detail: bool) -> Loss:
    """Return the loss of rows; padding is at their end, where no target attends to it."""
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
    """Pretraining as a method of the loop."""

    name, dropout = "pretrain", True

    def __init__(self, session: Session, trainee: Trainee, corpus: Corpus) -> None:
        self.session, self.trainee, self.corpus = session, trainee, corpus

    def batch(self, step: int) -> Sequence[np.ndarray]:
        """Return the rows of a step."""
        return self.corpus.batch(step)

    def loss(self, model: nn.Module, examples: Sequence[np.ndarray], detail: bool) -> Loss:
        """Return the loss summed over the targets."""
        return row_loss(model, examples, detail)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measure the held-out loss per token, per byte and by kind of document; the processes share the rows."""
        corpus, names = self.corpus, ["", *self.corpus.kind_names]
        sums, counts = np.zeros(len(names)), np.zeros(len(names))
        logits_of_row = corpus.held_out.shape[1] * len(self.trainee.lm.tokenizer)
        size = max(self.session.config.batch_size, _LOGITS // logits_of_row)
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
        ConfigError, DataError, ModelError, RunError: an input cannot be used; the message says which.
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
    cast(lm.model.to(session.device), session.weights)
    limit = context_length(lm.model)
    if limit is not None and config.length > limit:
        raise ConfigError(
            f"--length is {config.length} and the model reads at most {limit} tokens: give {limit} or less."
        )
    trainee = make_trainee(lm, config)
    reference, facts = origin_reference(session, config.base, trainee) if config.base else (None, {})
    origin = Origin(
        parent=config.base,
        reference=config.base,
        world=world,
        data=corpus.data | facts,
        texts=data_texts(documents),
        prompts=corpus.prompts,
        instruments=[ReferenceKL(reference.logits)] if reference else [],
    )
    return fit(session, Pretraining(session, trainee, corpus), origin)


def prepare(config: PretrainConfig, base: LM | None, documents: Rows[str] | None) -> tuple[LM, World | None, Corpus]:
    """Prepare model, world and rows; the tokenizer is the base's, the world's, or trained on the file."""
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
