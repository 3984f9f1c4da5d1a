"""Callback for a Hugging Face `Trainer` or a trainer of TRL that writes a run for every page of the dashboard.

    from probe.recording.callback import ProbeCallback

    watched = ProbeCallback("runs/mine", every=50)
    DPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[watched]).train()

Trainers do not tell their callbacks that training was aborted. The run then ends at once if training is inside `with
ProbeCallback(...) as watched:`. Otherwise it ends at the end of the notebook cell, when another training begins with
the callback or in its folder, when the callback is deleted from memory, or with the process, whichever comes first.

GRPOTrainer and RLOOTrainer do not pass their completions to callbacks; to record rollouts, give the callback its
trainer:

    trainer.add_callback(ProbeCallback("runs/mine", trainer=trainer))

`ProbeCallback("runs/mine", alarms=True)` says when a fault of training shows, and `stop_on=["any"]` ends the training
then; its run is interrupted, with the last capture and the checkpoint.

A model of RewardTrainer is captured as a language model over the decoder in training, with the unembedding of its
original model, and with the reward at every token of four training pairs; evaluations record held-out pairs. With
DPOTrainer captures hold the log-probabilities of chosen and rejected completions of four training pairs after every
layer.

An adapter of peft is captured as it is, without a copy of the base's weights. Its reference is the base, or its first
state if the trainer keeps that as the adapter `ref`. The checkpoint is the adapter if its base lies on this machine,
else the whole model, merged. Captures and checkpoints need the whole model in one process; if its weights are spread
over several (FSDP, DeepSpeed stage 3), only metrics are written; a message at the start of training and in the run says
so.
"""

import math
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import TrainerCallback

import probe.world
from probe.diagnosis.alarms import Alarms
from probe.diagnosis.fault_record import check_names
from probe.errors import ConfigError, ModelError, ProbeError
from probe.model import adapters
from probe.model import loading as weights
from probe.model.adapted import is_peft_model, reference_active
from probe.model.lm import LM
from probe.model.references import resolve
from probe.model.rewards import RewardModel, language_model
from probe.model.template_marks import encoded_rows, own_tokenizer
from probe.model.text import Ids, unwrap
from probe.recording import trl_rollouts
from probe.recording.block_metrics import UpdateWatch
from probe.recording.capture_plan import CaptureOptions
from probe.recording.encoded_sample import first_rows
from probe.recording.pair_lens import PairLens, short_pairs
from probe.recording.recorder import Instrument, Prompt, Recorder, ReferenceKL, leave_undisturbed, watch
from probe.recording.reward_shift import LogitsFn
from probe.recording.reward_tokens import RewardTokens, TextPair, pair_rows, split_pair
from probe.runs.addresses import is_run
from probe.runs.captures import Captures
from probe.runs.encoded_rows import EncodedRow
from probe.runs.reader import Run
from probe.runs.schema import jsonable
from probe.runs.writer import LEFT, RunWriter, end_if_left, ended_by
from probe.texts import say

METHODS = {
    "SFTConfig": "sft",
    "DPOConfig": "dpo",
    "RewardConfig": "reward-model",
    "GRPOConfig": "rlvr",
    "RLOOConfig": "rlvr",
    "PPOConfig": "rlhf",
}
"""Class of a trainer's arguments to the method that sets the run's colour and pages; other trainers get `trainer`."""
TOKENS = "num_tokens"
"""Metric with the tokens trained on since the start, without padding."""
RENAMED = {"learning_rate": "lr", "eval_num_tokens": TOKENS}
"""Metrics that Probe names differently (docs/metrics.md); TRL's evaluations repeat the tokens trained on."""
TOTALS = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")
"""Totals that a trainer logs when training ends; they are stored in the last step under `train/`."""

CAPTURED, HELD_OUT = 4, 64
"""Numbers of a RewardTrainer's pairs that are captured, and that an evaluation records, as in `probe train`."""


class ProbeCallback(TrainerCallback):
    """Callback that writes a run with the trainer's metrics, captures, configuration and last weights.

    One callback writes one run; in distributed training only the main process writes.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        every: int = 50,
        prompts: Sequence[Prompt] | None = None,
        capture: CaptureOptions | None = None,
        method: str | None = None,
        parent: str | None = None,
        checkpoint: bool = True,
        trainer: Any = None,
        alarms: bool = False,
        stop_on: Sequence[str] = (),
    ) -> None:
        """Choose what to write; nothing is written before training starts.

        Args:
            run: directory of a new run.
            every: steps between captures; 0 makes none.
            prompts: prompts to capture, as in `probe.watch`.
            capture: what captures hold, and their largest size, as in `probe.watch`.
            method: method of the run; default: by the trainer's arguments (`METHODS`).
            parent: model from which training starts; default: the one that was loaded.
            checkpoint: save model and tokenizer at the end, so that the run can be loaded as a model.
            trainer: a GRPOTrainer or RLOOTrainer whose rollouts to record; other trainers are not needed.
            alarms: look for faults of training in what is logged, as in `probe.watch`.
            stop_on: names of faults, or `any`, at whose alarm training stops after the next step; implies `alarms`.

        Raises:
            ConfigError: `every` is negative, or there is no fault of a name.
        """
        if every < 0:
            raise ConfigError(f"Captures every {every} steps were requested; expected 1 or more, or 0 for none.")
        check_names(stop_on)
        self.alarms, self.stop_on = alarms or bool(stop_on), tuple(stop_on)
        self.path, self.every, self.prompts, self.method = Path(run).expanduser(), every, prompts, method
        self.parent, self.checkpoint, self.trainer = parent, checkpoint, trainer
        self.capture = capture or CaptureOptions()
        self.writer: RunWriter | None = None
        """Writer of the run during training; None before, after, and on processes that do not write."""
        self._model: Any = None
        self._tokenizer: Any = None
        self._recorder: Recorder | None = None
        self._alarms: Alarms | None = None
        self._update: UpdateWatch | None = None
        self._samples = trl_rollouts.SampleMetrics()
        self._reference: str | None = None
        self._language: Any = None
        """Language model over a reward model's decoder; None for other models."""
        self._head: RewardTokens | None = None
        self._notes: list[str] = []
        self._tokens: float | None = 0.0
        """Tokens trained on before a resume; None if unknown."""
        self._thread = 0
        self._ended: Callable[[], None] = lambda: None
        self._release: Callable[[], None] = lambda: None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **given: Any) -> None:
        """Create the run, or continue it, and make the first capture.

        Raises:
            RunError: the directory is not empty.
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
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # the tokenizer of a processor
        if tokenizer is None:
            raise ConfigError("ProbeCallback found no tokenizer: give the trainer one as `processing_class`.")
        self._model, self._tokenizer = model, tokenizer
        self.writer = self._writer(args, state, restart and bool(getattr(args, "auto_find_batch_size", False)))
        self._thread, self._ended = threading.get_ident(), end_if_left(self, self.writer, self._end)
        _WRITING.add(self)
        self._notes = []
        self._alarms = Alarms(self.writer, stop_on=self.stop_on) if self.alarms else None
        if self.every and _gives_rewards(model):
            self._language = _language_model(unwrap(model), self.parent or model.config._name_or_path)
            self._head = RewardTokens(nn.Identity(), _pairs(given.get("train_dataloader"), CAPTURED))
        self._say(_what_is_missing(model, self._language, self.every, self.checkpoint))
        self._update = UpdateWatch(model) if _is_whole(model) else None
        with leave_undisturbed(model):
            self._record_rows(first_rows(getattr(given.get("train_dataloader"), "dataset", None), self._tokenizer))
        self._record_rollouts(args)
        if self.every and _is_whole(model) and (_predicts_tokens(model) or self._language is not None):
            try:
                view = self._view()
                preferred = METHODS.get(type(args).__name__) == "dpo"
                pairs = short_pairs(_pairs(given.get("train_dataloader"), HELD_OUT)) if preferred else []
                self._recorder = watch(
                    view,
                    self.writer,
                    prompts=self.prompts,
                    every=self.every,
                    capture=self.capture,
                    instruments=self._instruments(view, int(state.global_step), pairs),
                )
                self._notes += [self._recorder.left_out] if self._recorder.left_out else []
                self._recorder.step(int(state.global_step))
                say(self._recorder.cost(int(state.max_steps)), error=True)
            except ProbeError as error:
                self._end("failed", str(error))
                raise

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure the gradient of each part of the model, in a step that is logged."""
        if self._update is not None and _is_logged(int(state.global_step) + 1, args, state):
            self._update.before()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure by how much each part of the model was updated."""
        if self._update is not None:
            self._update.after()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make a capture if one is due, and stop all processes if there is an alarm for it."""
        step = int(state.global_step)
        if self._recorder is not None and self._recorder.due(step):
            self._recorder.capture(step)
        if self.stop_on and _from_main_process(self._alarms is not None and self._alarms.stop is not None, args):
            control.should_training_stop = True
            control.should_save = str(getattr(args.save_strategy, "value", args.save_strategy)) != "no"

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **given: Any) -> None:
        """Write the metrics that the trainer logs."""
        values = {_name(name, args): value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if TOKENS in values and values[TOKENS] != state.num_input_tokens_seen:  # a count that begins anew on a resume
            values |= {TOKENS: math.nan if self._tokens is None else values[TOKENS] + self._tokens}
        if "grad_norm" in values:
            updates = self._update.take(values["grad_norm"]) if self._update is not None else {}
            values = self._samples.take() | updates | values
        if self.writer is not None and values:
            self.writer.log(int(state.global_step), values)
            if self._alarms is not None:
                self._alarms.look(int(state.global_step))

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Write the held-out pairs of a reward model with the reward at every token."""
        if self.writer is None or not _gives_rewards(self._model):
            return
        pairs = _pairs(given.get("eval_dataloader"), HELD_OUT)
        with leave_undisturbed(self._model):
            model = RewardModel(unwrap(self._model), self._tokenizer)
            self.writer.rollouts(pair_rows(model, int(state.global_step), pairs))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make the last capture and the checkpoint, and end the run."""
        if self.writer is None:
            return
        step = int(state.global_step)
        if self._recorder is not None and step not in Captures(self.path, live=True).steps:
            self._recorder.capture(step)
        if self.checkpoint and _is_whole(self._model):
            write = adapters.write_trained if is_peft_model(self._model) else weights.write
            try:
                with self.writer.checkpoint(step) as folder:
                    write(self._model, self._tokenizer, folder)
            except ModelError as error:  # what was trained is the trainer's to save
                self._notes.append(f"No checkpoint was written. {error}")
        alarm = self._alarms.stop if self._alarms is not None and step < state.max_steps else None
        self._notes[:0] = [alarm.ending(step)] if alarm is not None else []
        self._end("finished" if alarm is None else "interrupted", " ".join(self._notes) or None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run of an aborted training, of which trainers do not tell their callbacks."""
        self._end(*ended_by(error))

    def _is_left_behind(self, folder: Path) -> bool:
        """Return whether this callback writes to the folder in which this thread begins another training."""
        return self._thread == threading.get_ident() and self.path.resolve() == folder.resolve()

    def _writer(self, args: Any, state: Any, restart: bool) -> RunWriter:
        config = {"steps": int(state.max_steps), "lr": args.learning_rate, "batch_size": args.train_batch_size}
        config |= _settings(args)
        origin = self.parent or getattr(self._model.config, "_name_or_path", "") or None
        method = self.method or METHODS.get(type(args).__name__, "trainer")
        held = method == "dpo" or (method == "rlvr" and bool(getattr(args, "beta", None)))
        self._reference = origin if held else None
        if (state.global_step or restart) and is_run(self.path):
            self._tokens = None if self._thread else _tokens_at(Run(self.path), int(state.global_step))
            return RunWriter.resume(self.path, int(state.global_step), config)
        return RunWriter.create(
            self.path,
            method=method,
            config=config,
            parent=origin,
            reference=self._reference,
            world=_world_of(origin),
            seed=int(args.seed),
        )

    def _view(self) -> LM:
        """Return the model that captures read; for a reward model, its language model with the trained decoder."""
        model = self._model
        if self._language is not None and self._head is not None:
            self._head.head = unwrap(model).score
            model = self._language
        return LM(model, self._tokenizer, ref=str(getattr(model.config, "_name_or_path", "")), run_dir=self.path)

    def _instruments(self, view: LM, step: int, pairs: Sequence[TextPair]) -> list[Instrument]:
        """Return the further instruments of captures: pairs, and the KL to the reference."""
        if "rewards" not in self.capture.parts:
            return []
        instruments: list[Instrument] = [self._head] if self._head and self._head.pairs else []
        reference = self._reference_logits(view, step)
        if pairs:
            instruments.append(PairLens(pairs, reference))
        return instruments if reference is None else [*instruments, ReferenceKL(reference)]

    def _reference_logits(self, view: LM, step: int) -> LogitsFn | None:
        """Return the logits of the reference, if there is one; at step 0 it is the model itself."""
        origin = self._reference
        if origin is None or not step:  # at step 0 only log-probabilities are kept
            return None if origin is None else view.logits
        if (adapted := view.adapter) is not None:

            def reference(rows: Sequence[Ids]) -> Tensor:
                with reference_active(adapted):
                    return view.logits(rows)

            return reference
        try:
            resolve(origin)
        except ProbeError:  # a resumed training whose base is gone
            return None
        return lambda rows: LM.load(origin, device=view.device).logits(rows)

    def _record_rows(self, rows: Sequence[EncodedRow]) -> None:
        """Record rows as the model reads them, beside the chat templates of its own tokenizer and of the trainer's."""
        if self.writer is not None and rows:
            origin = self.parent or getattr(self._model.config, "_name_or_path", "")
            own = own_tokenizer(origin) if origin else None
            self.writer.encoded_rows(encoded_rows(self._tokenizer, own, rows, known=not origin or own is not None))

    def _record_rollouts(self, args: Any) -> None:
        """Record the trainer's samples, if it samples."""
        samples = METHODS.get(type(args).__name__) == "rlvr" or hasattr(self.trainer, trl_rollouts.SAMPLE)
        if self.writer is None or not samples or not _is_whole(self._model):
            return
        reason = trl_rollouts.misfit(self.trainer)
        self._say(reason)
        if reason is None:
            self._samples = trl_rollouts.SampleMetrics()
            self._release = trl_rollouts.record(
                self.trainer, self.writer.rollouts, self._samples, self._record_rows, self._say
            )

    def _say(self, note: str | None) -> None:
        """Report what cannot be written, now and in the run's message."""
        if note is not None:
            self._notes.append(note)
            warnings.warn(note, stacklevel=3)

    def _end(self, status: str, message: str | None = None) -> None:
        writer, undo = self.writer, self._ended
        self.writer = self._recorder = self._model = self._tokenizer = self._language = self._head = None
        self._alarms = self._update = None
        self._release()
        self._release = lambda: None
        if writer is not None:
            _WRITING.discard(self)
            undo()
            writer.finish(status, message=message)


_WRITING: weakref.WeakSet[ProbeCallback] = weakref.WeakSet()
"""Callbacks whose training has begun and has not ended."""


def _is_logged(step: int, args: Any, state: Any) -> bool:
    """Return whether a trainer logs a step; the last one of an epoch is not known beforehand, so any may be."""
    if (strategy := str(getattr(args.logging_strategy, "value", args.logging_strategy))) != "steps":
        return strategy == "epoch"
    return step % max(int(state.logging_steps), 1) == 0 or (step == 1 and bool(args.logging_first_step))


def _from_main_process(value: bool, args: Any) -> bool:
    """Return a value of the main process on every process."""
    if args.world_size == 1:
        return value
    return bool(broadcast_object_list([value])[0])


def _name(metric: str, args: Any) -> str:
    """Return Probe's name of a trainer's metric; input tokens that include padding keep their name."""
    if metric == "num_input_tokens_seen" and args.include_num_input_tokens_seen == "non_padding":
        return TOKENS
    return f"train/{metric.removeprefix('train_')}" if metric in TOTALS else RENAMED.get(metric, metric)


def _tokens_at(run: Run, step: int) -> float | None:
    """Return the tokens that a run had trained on at a step, or None if it logged no count then."""
    rows = run.metrics().reindex(columns=["step", TOKENS]).dropna()
    counts = rows.loc[rows["step"] == step, TOKENS]
    return float(counts.iloc[0]) if len(counts) else None


def _settings(args: Any) -> dict[str, Any]:
    """Return the trainer's arguments as JSON values; others become text."""
    values = {}
    for name, value in args.to_dict().items():
        try:
            values[name] = jsonable(value)
        except ProbeError:
            values[name] = str(value)
    return values


def _world_of(origin: str | None) -> dict[str, Any] | None:
    """Return the world of the run from which a model was loaded, if any."""
    if not origin or not Path(origin).exists():
        return None
    try:
        place = resolve(origin).run_dir
        world = probe.world.of(Run(place)) if place else None
    except ProbeError:
        return None
    return world.to_dict() if world else None


def _is_whole(model: nn.Module) -> bool:
    """Return whether this process holds all weights of a model."""
    if any(type(module).__name__.startswith("FullyShardedDataParallel") for module in model.modules()):
        return False
    return not any(hasattr(each, "ds_id") or hasattr(each, "device_mesh") for each in model.parameters())


def _predicts_tokens(model: nn.Module) -> bool:
    return getattr(model, "get_output_embeddings", lambda: None)() is not None


def _gives_rewards(model: nn.Module) -> bool:
    """Return whether the model is a reward model with all weights in this process."""
    return _is_whole(model) and not _predicts_tokens(model) and hasattr(model, "score")


def _pairs(loader: Any, most: int) -> list[TextPair]:
    """Return the first pairs of the data of a RewardTrainer or a DPOTrainer.

    Whole texts (RewardTrainer) are split after their common beginning; pairs without one are left out.
    """
    rows = [] if loader is None else list(islice(loader.dataset, most))
    names = ("chosen_ids", "rejected_ids")
    sides = [([*row.get("prompt_ids", ())], *(row[n] for n in names)) for row in rows if all(n in row for n in names)]
    pairs = [TextPair(first, [*a], [*b]) if first else split_pair(a, b) for first, a, b in sides]
    return [pair for pair in pairs if pair.prompt]


def _language_model(model: Any, origin: str) -> Any:
    """Return the language model from which a reward model was made, over the decoder in training; None if unknown."""
    try:
        return language_model(model, adapters.folders_of(resolve(origin).directory)[-1])
    except ProbeError:
        return None


def _what_is_missing(model: nn.Module, language: nn.Module | None, every: int, checkpoint: bool) -> str | None:
    """Say which requested parts of a run cannot be written, and why, in one sentence; None if all can."""
    if not _is_whole(model) and (every or checkpoint):
        return (
            "Only metrics are written, no captures and no checkpoint: the model's weights are spread over several"
            " processes (FSDP, DeepSpeed stage 3, tensor parallelism), so open the checkpoint that the trainer"
            " itself saves."
        )
    if every and language is None and not _predicts_tokens(model):
        return "Attention and lens are not captured: the model predicts no tokens."
    return None
