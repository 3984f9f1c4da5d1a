"""A Hugging Face `Trainer`, or any trainer of TRL, that leaves a run which every page of the dashboard shows.

    from probe.recording.callback import ProbeCallback

    watched = ProbeCallback("runs/mine", every=50)
    DPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[watched]).train()

Trainers do not tell their callbacks that a training breaks off. Its run ends at once if the training stands in
`with ProbeCallback(...) as watched:`; else at the end of the cell of a notebook, when another training begins with the
callback or in its folder, when the callback is gone from memory, or with the process: whichever comes first.

An adapter of peft is captured, and saved, merged into a copy of its base. Captures and checkpoints need the whole model
in one process; where its weights are spread over several (FSDP, DeepSpeed stage 3), metrics alone are written, which is
said when training starts and in the run's message.
"""

import copy
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn
from transformers import TrainerCallback

import probe.world
from probe.errors import ConfigError, ProbeError
from probe.model import loading as weights
from probe.model.lm import LM
from probe.model.references import resolve
from probe.recording.recorder import Prompt, Recorder, watch
from probe.runs.captures import Captures
from probe.runs.directories import is_run
from probe.runs.reader import Run
from probe.runs.schema import jsonable
from probe.runs.writer import LEFT, RunWriter, end_if_left, ended_by

METHODS = {
    "SFTConfig": "sft",
    "DPOConfig": "dpo",
    "RewardConfig": "reward-model",
    "GRPOConfig": "rlvr",
    "RLOOConfig": "rlvr",
    "PPOConfig": "rlhf",
}
"""Class of a trainer's arguments to the method whose colour and pages its run gets; others are a `trainer`."""
RENAMED = {"learning_rate": "lr"}
"""Metrics that have a name of their own here (docs/metrics.md)."""
TOTALS = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")
"""What a trainer logs of a training as a whole when it ends; it goes to the last step under `train/`."""


class ProbeCallback(TrainerCallback):
    """Writes a run with the trainer's metrics, captures, configuration and last weights.

    One callback writes one run; in distributed training only the main process writes.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        every: int = 50,
        prompts: Sequence[Prompt] | None = None,
        method: str | None = None,
        parent: str | None = None,
        checkpoint: bool = True,
    ) -> None:
        """Choose what to write; nothing is written before training starts.

        Args:
            run: directory of a new run.
            every: steps between captures; 0 makes none.
            prompts: to capture on, as `probe.watch` takes them.
            method: of the run; default: by the trainer's arguments (`METHODS`).
            parent: the model that training starts from; default: what it was loaded from.
            checkpoint: save model and tokenizer at the end, so that the run is a model too.

        Raises:
            ConfigError: `every` is negative.
        """
        if every < 0:
            raise ConfigError(f"Captures every {every} steps were asked for: give 1 or more, or 0 for none.")
        self.path, self.every, self.prompts, self.method = Path(run).expanduser(), every, prompts, method
        self.parent, self.checkpoint = parent, checkpoint
        self.writer: RunWriter | None = None
        """Of the run while it is written; None before, after, and on processes that do not write."""
        self._model: Any = None
        self._tokenizer: Any = None
        self._recorder: Recorder | None = None
        self._note: str | None = None
        self._thread = 0
        self._ended: Callable[[], None] = lambda: None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **given: Any) -> None:
        """Create the run, or go on with it, and make the first capture.

        Raises:
            RunError: the directory holds something.
            ConfigError: the trainer has no tokenizer.
            DataError: a prompt cannot be captured.
        """
        if not state.is_world_process_zero:
            return
        restart = self.writer is not None
        self._end("failed", LEFT)
        for other in [each for each in _WRITING if each._is_left_behind(self.path)]:
            other._end("failed", LEFT)
        tokenizer = given.get("processing_class") or given.get("tokenizer")
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor
        if tokenizer is None:
            raise ConfigError("ProbeCallback found no tokenizer: give the trainer one as `processing_class`.")
        self._model, self._tokenizer = model, tokenizer
        self.writer = self._writer(args, state, restart and bool(getattr(args, "auto_find_batch_size", False)))
        self._thread, self._ended = threading.get_ident(), end_if_left(self, self.writer, self._end)
        _WRITING.add(self)
        self._note = _what_is_missing(model, self.every, self.checkpoint)
        if self._note:
            warnings.warn(self._note, stacklevel=2)
        if self.every and _is_whole(model) and _predicts_tokens(model):
            try:
                self._recorder = watch(self._view(), self.writer, prompts=self.prompts, every=self.every)
                self._recorder.step(int(state.global_step))
            except ProbeError as error:
                self._end("failed", str(error))
                raise

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Capture when a capture is due."""
        step = int(state.global_step)
        if self._recorder is not None and self._recorder.due(step):
            self._capture(step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **given: Any) -> None:
        """Write the metrics that the trainer logs."""
        values = {_name(name): value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if self.writer is not None and values:
            self.writer.log(int(state.global_step), values)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make the last capture and the checkpoint, and end the run."""
        if self.writer is None:
            return
        step = int(state.global_step)
        if self._recorder is not None and step not in Captures(self.path).steps:
            self._capture(step)
        if self.checkpoint and _is_whole(self._model):
            with self.writer.checkpoint(step) as folder:
                weights.write(self._whole(), self._tokenizer, folder)
        self._end("finished", self._note)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run of a training that broke off, which trainers do not tell their callbacks."""
        self._end(*ended_by(error))

    def _is_left_behind(self, folder: Path) -> bool:
        """Whether this callback writes to a folder in which this thread begins another training."""
        return self._thread == threading.get_ident() and self.path.resolve() == folder.resolve()

    def _writer(self, args: Any, state: Any, restart: bool) -> RunWriter:
        config = {"steps": int(state.max_steps), "lr": args.learning_rate, "batch_size": args.train_batch_size}
        config |= _settings(args)
        if (state.global_step or restart) and is_run(self.path):
            return RunWriter.resume(self.path, int(state.global_step), config)
        origin = self.parent or getattr(self._model.config, "_name_or_path", "") or None
        method = self.method or METHODS.get(type(args).__name__, "trainer")
        return RunWriter.create(
            self.path,
            method=method,
            config=config,
            parent=origin,
            reference=origin if method == "dpo" else None,
            world=_world_of(origin),
            seed=int(args.seed),
        )

    def _whole(self) -> Any:
        """The model to save: itself; one with an adapter of peft as a copy that it is merged into."""
        return (
            copy.deepcopy(self._model).merge_and_unload() if hasattr(self._model, "merge_and_unload") else self._model
        )

    def _view(self) -> LM:
        """The model to look at."""
        model = self._whole()
        return LM(model, self._tokenizer, ref=str(getattr(model.config, "_name_or_path", "")), run_dir=self.path)

    def _capture(self, step: int) -> None:
        assert self._recorder is not None
        if hasattr(self._model, "merge_and_unload"):
            self._recorder.lm = self._view()
        self._recorder.capture(step)

    def _end(self, status: str, message: str | None = None) -> None:
        writer, undo = self.writer, self._ended
        self.writer = self._recorder = self._model = self._tokenizer = None
        if writer is not None:
            _WRITING.discard(self)
            undo()
            writer.finish(status, message=message)


_WRITING: weakref.WeakSet[ProbeCallback] = weakref.WeakSet()
"""Callbacks whose training has begun and has not ended."""


def _name(metric: str) -> str:
    """A trainer's metric under its name in Probe."""
    return f"train/{metric.removeprefix('train_')}" if metric in TOTALS else RENAMED.get(metric, metric)


def _settings(args: Any) -> dict[str, Any]:
    """The trainer's arguments as JSON values; others as text."""
    values = {}
    for name, value in args.to_dict().items():
        try:
            values[name] = jsonable(value)
        except ProbeError:
            values[name] = str(value)
    return values


def _world_of(origin: str | None) -> dict[str, Any] | None:
    """The world of the run that a model was loaded from."""
    if not origin or not Path(origin).exists():
        return None
    try:
        place = resolve(origin).run_dir
        world = probe.world.of(Run(place)) if place else None
    except ProbeError:
        return None
    return world.to_dict() if world else None


def _is_whole(model: nn.Module) -> bool:
    """Whether this process holds all weights of a model."""
    if any(type(module).__name__.startswith("FullyShardedDataParallel") for module in model.modules()):
        return False
    return not any(hasattr(each, "ds_id") or hasattr(each, "device_mesh") for each in model.parameters())


def _predicts_tokens(model: nn.Module) -> bool:
    return getattr(model, "get_output_embeddings", lambda: None)() is not None


def _what_is_missing(model: nn.Module, every: int, checkpoint: bool) -> str | None:
    """The requested parts of a run that cannot be written, and why, in one sentence."""
    if not _is_whole(model) and (every or checkpoint):
        return (
            "Metrics alone are written, neither captures nor a checkpoint: the model's weights are spread over several"
            " processes (FSDP, DeepSpeed stage 3, tensor parallelism), so open what the trainer itself saves."
        )
    if every and not _predicts_tokens(model):
        return "Attention and lens are not captured: the model predicts no tokens."
    return None
