"""Measurements in a training loop: attention, logit lens, entropy and residual norms on fixed prompts, every N steps.

    recorder = probe.watch(lm, "runs/mine", every=50, config={"lr": 1e-3}, seed=0)
    for step in range(steps):
        ...                                    # any loop that changes lm.model
        recorder.step(step, loss=loss)
    recorder.close()                           # the last capture and a checkpoint: every page can show the run

With `alarms=True` faults of training that show are said, and with `stop_on=["any"]` a loop can end at one: `if
recorder.stop: break` (`probe.diagnosis.alarms`).

`with probe.watch(...) as recorder:` around the loop closes it in every case: after Ctrl-C as interrupted, after an
error as failed, with the model in its current state.

A capture is attention, lens, norms and direct attribution of the model on the prompts, all from one hooked pass
(`probe.recording.measurement`); `CaptureOptions` choose what it holds, within a budget of bytes. A capture does not
affect training: it runs without gradients on a separate module tree that shares the parameters (`LM.bridge`), and does
not change random generators, training mode or the model's hooks.

Axes: P prompts, D blocks, H heads, T tokens (padded on the right, zero there), k predictions, A answers, n neurons, V
vocabulary.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

import probe.world
from probe.diagnosis.alarms import Alarms
from probe.diagnosis.fault_record import check_names
from probe.errors import ConfigError, DataError
from probe.logits.answer_tokens import answer_tokens
from probe.logits.lens import kl
from probe.model import adapters
from probe.model.lm import LM
from probe.model.text import (
    NAMED,
    encode,
    near_clause,
    pieces,
    quote_words,
    unknown_tokens,
    unread,
    whole_logits,
)
from probe.numbers import duration, file_size
from probe.recording.capture_plan import CaptureOptions
from probe.recording.measurement import leave_undisturbed, measure, plan_for
from probe.recording.reward_shift import LogitsFn
from probe.runs.schema import ProbePrompt, jsonable
from probe.runs.writer import RunWriter, end_with_owner, ended_by

GENERIC = ("The capital of France is", "one two three four", "She opened the door and", "a b a b a")
Prompt = str | Mapping[str, Any] | ProbePrompt
Instrument = Callable[[LM, Sequence[ProbePrompt]], Mapping[str, Tensor]]
"""Function (model, prompts) -> named tensors that are added to a capture, usually with P as their first axis."""


def watch(
    lm: LM,
    run: RunWriter | str | Path,
    *,
    prompts: Sequence[Prompt] | None = None,
    every: int = 50,
    capture: CaptureOptions | None = None,
    instruments: Sequence[Instrument] = (),
    method: str = "watch",
    config: Any = None,
    seed: int = 0,
    checkpoint: bool = True,
    alarms: bool = False,
    stop_on: Sequence[str] = (),
) -> "Recorder":
    """Watch a model while any loop trains it.

    Args:
        lm: the model; train `lm.model`.
        run: directory of a new run, which `Recorder.close` ends; or the writer of a run, which its owner ends.
        prompts: texts, dicts with `text`, `answers` and `kind`, or `ProbePrompt`s; default: the run's existing prompts,
            else those of the model's world, else a few short texts whose answers are the currently most probable
            tokens. Default prompts that the tokenizer cannot read are left out with a warning.
        every: steps between captures; 0 makes none, so the run has only metrics and its checkpoint.
        capture: what captures hold, and their largest size; default: everything, as far as it fits into 32 MB.
        instruments: further measurements for every capture, made in evaluation mode without gradients.
        method: method of a new run, such as `dpo`; it sets the run's colour and pages.
        config: settings of a new run, a dict or a dataclass.
        seed: random seed of a new run; it is only recorded.
        checkpoint: save model and tokenizer when a new run ends, so that it can be loaded as a model; of an adapter of
            peft whose base lies on this machine, only the adapter.
        alarms: look for faults of training in what is logged (docs/diagnosis.md): an alarm is a line on standard error
            and a line of the run's alarms.jsonl.
        stop_on: names of faults, or `any`, at whose alarm `Recorder.stop` becomes true; implies `alarms`.

    Raises:
        ConfigError: `every` is negative; there is no fault of a name; a writer was given together with `method`,
            `config` or `seed`, which it already has; or captures of a scalar model (a reward, a value), which has no
            lens, were requested.
        DataError: a prompt is empty, too long, lacks its text, or cannot be read by the tokenizer.
        RunError: the directory is in use or cannot be written, or the config holds values that JSON cannot represent.
    """
    if every < 0:
        raise ConfigError(f"Captures every {every} steps were requested; expected 1 or more, or 0 for none.")
    if isinstance(run, RunWriter) and (method, config, seed) != ("watch", None, 0):
        raise ConfigError("A writer was given together with method, config or seed: give these to the writer instead.")
    if every and lm.readout != "tokens":
        raise ConfigError(
            f"A {lm.readout} model outputs one number and no probabilities of tokens, which captures hold: watch"
            " it with every=0, which records only metrics."
        )
    check_names(stop_on)
    world, left_out = probe.world.of(lm), ""
    if not every:
        prompts = ()
    elif prompts is None:
        prompts = run.fixed_prompts if isinstance(run, RunWriter) else []
        if not prompts:
            prompts, left_out = default_prompts(lm, world.probe_prompts() if world else None)
    if left_out:
        warnings.warn(left_out, stacklevel=2)
    probes = [as_prompt(lm, prompt, index) for index, prompt in enumerate(prompts)]
    if every and (not probes or len({prompt.id for prompt in probes}) < len(probes)):
        raise DataError(f"{len(probes)} probe prompts were given: give at least one, each with an id of its own.")
    if isinstance(run, RunWriter):
        watched = Alarms(run, stop_on=stop_on) if alarms or stop_on else None
        return Recorder(lm, run, probes, every, instruments, capture=capture, left_out=left_out, alarms=watched)
    settings = jsonable(config if config is not None else {})
    if not isinstance(settings, dict):
        raise ConfigError(f"The config is a {type(config).__name__}: give a dict or a dataclass.")
    writer = RunWriter.create(
        run,
        method=method,
        config={"every": every, "prompts": len(probes), "model": type(lm.model).__name__} | settings,
        parent=lm.ref or getattr(lm.model.config, "_name_or_path", "") or None,
        world=world.to_dict() if world else None,
        seed=seed,
    )
    return Recorder(
        lm,
        writer,
        probes,
        every,
        instruments,
        capture=capture,
        owner=True,
        checkpoint=checkpoint,
        left_out=left_out,
        alarms=Alarms(writer, stop_on=stop_on) if alarms or stop_on else None,
    )


class Recorder:
    """Recorder that captures a model on fixed prompts; `watch` makes it."""

    def __init__(
        self,
        lm: LM,
        writer: RunWriter,
        prompts: Sequence[ProbePrompt],
        every: int,
        instruments: Sequence[Instrument] = (),
        *,
        capture: CaptureOptions | None = None,
        owner: bool = False,
        checkpoint: bool = False,
        left_out: str = "",
        alarms: Alarms | None = None,
    ) -> None:
        self.lm = lm
        self.writer = writer
        """Writer of the run, for metrics, rollouts and checkpoints in addition to the captures."""
        self.prompts = list(prompts)
        self.left_out = left_out
        """Sentences on default prompts that are left out, and why; empty if there are none."""
        self.every = every
        self.instruments = tuple(instruments)
        self.plan = plan_for(lm, self.prompts, capture or CaptureOptions()) if self.prompts else None
        """What captures hold; None without captures."""
        self.captures, self.bytes, self.seconds = 0, 0, 0.0
        """Number of captures so far, their bytes, and the seconds that they took."""
        self._alarms = alarms
        self._owner, self._checkpoint, self._closed = owner, checkpoint, False
        self._newest = self._captured = -1
        self._ended = end_with_owner(self, writer) if owner else lambda: None
        if not self.prompts:
            return
        try:
            writer.prompts(self.prompts, left_out, self.plan.sentence if self.plan else "")
        except BaseException as error:
            self._finish(*ended_by(error))
            raise

    def step(self, step: int, **metrics: Any) -> None:
        """Record that `step` optimiser steps were taken: log the metrics, and capture if a capture is due.

        Args:
            step: number of steps, from 0; captures are due at multiples of `every`.
            metrics: single numbers (or tensors) by name; pass names with a slash as `**{"a/b": 1.0}`.
        """
        if metrics:
            self.writer.log(step, metrics)
        self._newest = step
        if self._alarms is not None:
            self._alarms.look(step)
        if self.due(step):
            self.capture(step)

    @property
    def stop(self) -> bool:
        """Whether the loop should end for an alarm that `stop_on` names; `close` then ends the run as interrupted."""
        return self._alarms is not None and self._alarms.stop is not None

    def due(self, step: int) -> bool:
        """Return whether a capture of `step` is due and has not been made."""
        return self.every > 0 and step % self.every == 0 and step != self._captured

    def capture(self, step: int) -> Path:
        """Make a capture and return its safetensors file."""
        start, (first, folder) = time.perf_counter(), self.writer.first_capture(step)
        tensors = measure(self.lm, self.prompts, self.plan, first=first, scratch=folder)
        for instrument in self.instruments:
            with leave_undisturbed(self.lm.model):
                measurements = instrument(self.lm, self.prompts)
            duplicates = sorted(measurements.keys() & tensors.keys())
            if duplicates:
                raise ConfigError(f"Two instruments measure `{duplicates[0]}`: give each tensor a name of its own.")
            tensors |= measurements
        path = self.writer.capture(step, tensors, started=start)
        self._captured = step
        self.seconds += time.perf_counter() - start
        self.captures, self.bytes = self.captures + 1, self.bytes + self.writer.captured
        return path

    def cost(self, steps: int | None = None) -> str:
        """Return a sentence on what captures hold and on what they take, after the first one.

        Args:
            steps: number of steps of the whole training, if known; then the sentence also gives the total.
        """
        if not self.captures or self.plan is None:
            return ""
        size, seconds = self.bytes / self.captures, self.seconds / self.captures
        each = f"{self.plan.sentence} Each takes {file_size(int(size))} and about {duration(seconds, 0.01)}"
        if steps is None or not self.every:
            return f"{each}."
        count = len({*range(0, steps + 1, self.every), steps})
        return f"{each}; {count} of them take {file_size(int(count * size))} and {duration(count * seconds)}."

    def close(self, status: str = "finished", message: str | None = None) -> None:
        """Stop watching; a run that `watch` created gets a last capture and its checkpoint, and ends.

        An unfinished run gets only the checkpoint; if that fails, the reason is added to its message.

        Raises:
            ConfigError, RunError: capture or checkpoint of a finished run cannot be made; the run ends as failed.
        """
        if not self._owner or self._closed:
            return
        alarm = self._alarms.stop if self._alarms is not None else None
        if alarm is not None and status == "finished":
            status, message = "interrupted", message or alarm.ending(self._newest)
        try:
            if status == "finished" and self.every and self._newest > self._captured:
                self.capture(self._newest)
            self._save()
        except BaseException as error:
            if status == "finished" or not isinstance(error, Exception):
                self._finish(*ended_by(error))
                raise
            message = f"{message or 'It was stopped'}; the model could not be saved ({error})"
        self._finish(status, message)

    def _save(self) -> None:
        if self._checkpoint and self._newest >= 0:
            with self.writer.checkpoint(self._newest) as folder:
                if self.lm.adapter is None:
                    self.lm.save(folder)
                else:
                    adapters.write_trained(self.lm.adapter, self.lm.tokenizer, folder)

    def _finish(self, status: str, message: str | None = None) -> None:
        if self._owner and not self._closed:
            self._closed = True
            self._ended()
            self.writer.finish(status, message=message)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(*(("finished", None) if error is None else ended_by(error)))


def as_prompt(lm: LM, prompt: Prompt, index: int) -> ProbePrompt:
    """Return a prompt in any form as a `ProbePrompt`; without an id it gets its number as id.

    Raises:
        DataError: it has no text, the tokenizer cannot read it, an answer has no tokens, or its answers differ in no
            token.
    """
    if isinstance(prompt, ProbePrompt):
        return prompt
    record = prompt if isinstance(prompt, Mapping) else {"text": prompt}
    text = record.get("text")
    if not isinstance(text, str) or not text:
        raise DataError(f"Probe prompt {index + 1} was given as {prompt!r}: give a text, or a dict with `text`.")
    words = unread(lm.tokenizer, text)
    if words:
        raise DataError(
            f"The tokenizer does not know {quote_words(words)} of probe prompt {index + 1}, \u201c{text}\u201d:"
            f" {near_clause(lm.tokenizer, words)}write it in words of the model (`tokenizer.get_vocab()` lists them)."
        )
    answers = [str(answer) for answer in record.get("answers") or ()]
    chosen = answer_tokens(lm, answers)
    ids = [*encode(lm.tokenizer, text), *chosen.shared]
    return ProbePrompt(
        id=str(record.get("id") or index),
        text=text,
        token_ids=ids,
        tokens=pieces(lm.tokenizer, ids),
        answers=answers,
        answer_ids=chosen.tokens,
        kind=str(record.get("kind") or ""),
        shared=chosen.count,
        note=f"{record.get('note') or ''} {chosen.note}".strip(),
    )


def default_prompts(lm: LM, prompts: Sequence[Prompt] | None = None) -> tuple[list[ProbePrompt], str]:
    """Return default prompts without those that the tokenizer cannot read.

    If none is left, two tokens of the model's vocabulary make a prompt.

    Args:
        lm: the model.
        prompts: prompts of its world or data; default: a few short texts for a model without known data.

    Returns:
        The prompts to capture, and a sentence on those that are left out and why; it is empty if all can be read.
    """
    default = [{"text": text, "kind": "generic"} for text in GENERIC] if prompts is None else prompts
    kept, reasons = list[ProbePrompt](), list[str]()
    for index, prompt in enumerate(default):
        text = prompt if isinstance(prompt, str) else "" if isinstance(prompt, ProbePrompt) else str(prompt.get("text"))
        words = unread(lm.tokenizer, text)
        try:
            if not words:
                kept.append(as_prompt(lm, prompt, index))
                continue
            reason = f"the tokenizer does not know {quote_words(words)}"
        except DataError as error:
            reason = str(error).rstrip(".")
        reasons.append(f"\u201c{text}\u201d ({reason})")
    left_out = ""
    if reasons:
        more = f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
        left_out = (
            f"{len(reasons)} of the {len(default)} default prompts are left out of the captures:"
            f" {', '.join(reasons[:NAMED])}{more}. Give prompts of your own to capture others."
        )
    if reasons and not kept:
        kept, prompts = [own_prompt(lm)], None
        left_out += f" \u201c{kept[0].text}\u201d, made of tokens of the model, is captured instead."
    return kept if prompts is not None else [with_likeliest(lm, prompt) for prompt in kept], left_out


def with_likeliest(lm: LM, prompt: ProbePrompt) -> ProbePrompt:
    """Return a prompt with the three currently most probable next tokens as its answers."""
    with leave_undisturbed(lm.model):
        logits = lm.logits([prompt.token_ids])[0, -1]
    top = logits.topk(min(3, len(logits))).indices.tolist()
    return replace(prompt, answers=pieces(lm.tokenizer, top), answer_ids=top)


def own_prompt(lm: LM) -> ProbePrompt:
    """Return a prompt that alternates the first two tokens made of letters, if a model reads no default prompt."""
    tokenizer, front = lm.tokenizer, encode(lm.tokenizer, "")
    without = {*tokenizer.all_special_ids, *unknown_tokens(tokenizer)}
    tokens = [token for token in sorted(tokenizer.get_vocab().values()) if token not in without]
    letters = islice((token for token in tokens if tokenizer.decode([token]).strip().isalnum()), 2)
    first, second = (*letters, *tokens, 0, 0)[:2]
    ids = [first, second, first, second, first]
    return ProbePrompt(
        id="0",
        text=str(tokenizer.decode(ids)),
        token_ids=[*front, *ids],
        tokens=pieces(tokenizer, [*front, *ids]),
        kind="generic",
    )


class ReferenceKL:
    """An instrument for `probe.watch`: KL(pi || pi_ref) of the model from its reference, by token of the prompts.

        recorder = probe.watch(lm, run, every=50, instruments=[ReferenceKL(reference.logits)])

    The reference does not change, so it is run once: its log-probabilities of the prompts are kept, and a capture costs
    one plain forward pass of the model in training. (The hooked pass rounds differently, in half precision by as much
    as a small KL, so an unchanged model would not be at 0.) `probe.logits.trained.kl_over_training` reads the result.
    """

    def __init__(self, reference_logits: LogitsFn) -> None:
        """Choose the reference.

        Args:
            reference_logits: function from whole texts, as rows of ids padded on the right, to logits; for a frozen
                `LM` called `reference` it is `reference.logits`. It is called only at the first capture (or when the
                prompts change), so with `lm.logits` of the model in training the reference is the model at that time.
        """
        self.reference_logits = reference_logits
        self._rows: list[list[int]] = []
        self._reference: list[Float[Tensor, "L V"]] = []
        """Log-probabilities of each prompt under the reference, without padding, in CPU memory."""

    @torch.no_grad()
    def __call__(self, lm: LM, prompts: Sequence[ProbePrompt]) -> dict[str, Float[Tensor, "P T"]]:
        """Compute the tensor of one capture.

        Returns:
            reference_kl [P T]: KL(pi || pi_ref) in nats of the distributions after each token, 0 after the end of a
            prompt. If vocabularies are padded to different sizes, the common tokens count.
        """
        rows = [list(prompt.token_ids) for prompt in prompts]
        if rows != self._rows:
            self._reference = [part.cpu() for part in _logprobs(self.reference_logits(rows), rows)]
            self._rows = rows
        divergences = torch.zeros(len(rows), max(map(len, rows)))
        ours = _logprobs(whole_logits(lm.model, rows), rows)
        for row, (policy, reference) in enumerate(zip(ours, self._reference, strict=True)):
            divergences[row, : len(policy)] = kl(policy, reference).cpu()
        return {"reference_kl": divergences}


def _logprobs(logits: Float[Tensor, "P T V"], rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "L V"]]:
    """Return the log-probabilities of each row without its padding."""
    return [logits[index, : len(ids)].float().log_softmax(-1) for index, ids in enumerate(rows)]
