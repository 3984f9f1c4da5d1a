"""Instruments in a training loop: attention, logit lens, entropy and residual norms on fixed prompts, every N steps.

    recorder = probe.watch(lm, "runs/mine", every=50, config={"lr": 1e-3}, seed=0)
    for step in range(steps):
        ...                                    # any loop that changes lm.model
        recorder.step(step, loss=loss)
    recorder.close()                           # the last capture and a checkpoint: every page can show the run

`with probe.watch(...) as recorder:` around the loop closes it however the loop ends: after Ctrl-C as interrupted, after
an error as failed, with the model as it is then. What a capture holds, and that training does not notice it:
`probe.capture`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

import probe.world
from probe.capture import measure, undisturbed
from probe.errors import ConfigError, DataError
from probe.logits.lens import answer_ids
from probe.model.lm import LM
from probe.model.text import encode, encode_all, pieces
from probe.runs.endings import end_with_owner, ended_by
from probe.runs.schema import ProbePrompt, jsonable
from probe.runs.writer import RunWriter

__all__ = ["Instrument", "Recorder", "as_prompt", "generic_prompts", "measure", "undisturbed", "watch"]

GENERIC = ("The capital of France is", "one two three four", "She opened the door and", "a b a b a")
Prompt = str | Mapping[str, Any] | ProbePrompt
Instrument = Callable[[LM, Sequence[ProbePrompt]], Mapping[str, Tensor]]
"""(model, prompts) to tensors that join a capture under names of their own, usually with P as their first axis."""


def watch(
    lm: LM,
    run: RunWriter | str | Path,
    *,
    prompts: Sequence[Prompt] | None = None,
    every: int = 50,
    instruments: Sequence[Instrument] = (),
    method: str = "watch",
    config: Any = None,
    seed: int = 0,
    checkpoint: bool = True,
) -> "Recorder":
    """Watch a model while it is trained, by whatever loop.

    Args:
        lm: the model; train `lm.model`.
        run: the directory of a new run, which `Recorder.close` ends; or the writer of a run, which its owner ends.
        prompts: texts, dicts with `text`, `answers` and `kind`, or `ProbePrompt`s; default: those that the run has
            already, else those of the model's world, else a few short texts whose answers are the likeliest tokens now.
        every: steps between captures; 0 makes none: the run has metrics and its checkpoint.
        instruments: further measurements for every capture, made in evaluation mode without gradients.
        method: of a new run, such as `dpo`: it decides the run's colour and pages.
        config: settings of a new run, a dict or a dataclass.
        seed: of a new run, as a record: nothing is drawn here.
        checkpoint: save model and tokenizer when a new run ends, so that it is a model too.

    Raises:
        ConfigError: `every` is negative; a writer was given with `method`, `config` or `seed`, which it has already; or
            there are captures of a model of one number (a reward, a value), which has no lens.
        DataError: a prompt that is empty, too long or lacks its text.
        RunError: the directory is in use or cannot be written, or the config holds what JSON has no form for.
    """
    if every < 0:
        raise ConfigError(f"Captures every {every} steps were asked for: give 1 or more, or 0 for none.")
    if isinstance(run, RunWriter) and (method, config, seed) != ("watch", None, 0):
        raise ConfigError("The writer of a run was given with method, config or seed: give these to the writer.")
    if every and lm.readout != "tokens":
        raise ConfigError(
            f"A {lm.readout} model gives one number and no probabilities of tokens, which captures hold: watch it with "
            "every=0, which records metrics alone."
        )
    world = probe.world.of(lm)
    if not every:
        prompts = ()
    elif prompts is None:
        known = run.fixed_prompts if isinstance(run, RunWriter) else []
        prompts = known or (world.probe_prompts() if world else generic_prompts(lm))
    fixed = [as_prompt(lm, prompt, index) for index, prompt in enumerate(prompts)]
    if every and (not fixed or len({prompt.id for prompt in fixed}) < len(fixed)):
        raise DataError(f"{len(fixed)} probe prompts were given: give at least one, each with an id of its own.")
    if isinstance(run, RunWriter):
        return Recorder(lm, run, fixed, every, instruments)
    settings = jsonable(config if config is not None else {})
    if not isinstance(settings, dict):
        raise ConfigError(f"The config is a {type(config).__name__}: give a dict or a dataclass.")
    writer = RunWriter.create(
        run,
        method=method,
        config={"every": every, "prompts": len(fixed), "model": type(lm.model).__name__} | settings,
        parent=lm.ref or getattr(lm.model.config, "_name_or_path", "") or None,
        world=world.to_dict() if world else None,
        seed=seed,
    )
    return Recorder(lm, writer, fixed, every, instruments, owner=True, checkpoint=checkpoint)


class Recorder:
    """Captures a model on fixed prompts; made by `watch`."""

    def __init__(
        self,
        lm: LM,
        writer: RunWriter,
        prompts: Sequence[ProbePrompt],
        every: int,
        instruments: Sequence[Instrument] = (),
        *,
        owner: bool = False,
        checkpoint: bool = False,
    ) -> None:
        self.lm = lm
        self.writer = writer
        """The run's writer, for metrics, rollouts and checkpoints beside the captures."""
        self.prompts = list(prompts)
        self.every = every
        self.instruments = tuple(instruments)
        self.seconds = 0.0
        """What all captures took so far."""
        self._owner, self._checkpoint, self._closed = owner, checkpoint, False
        self._newest = self._captured = -1
        self._ended = end_with_owner(self, writer) if owner else lambda: None
        if not self.prompts:
            return
        try:
            writer.prompts(self.prompts)
        except BaseException as error:
            self._finish(*ended_by(error))
            raise

    def step(self, step: int, **metrics: Any) -> None:
        """Tell that `step` optimiser steps were taken: logs the metrics, and captures when a capture is due.

        Args:
            step: from 0; captures are due at the multiples of `every`.
            metrics: single numbers by name (tensors too); names with a slash are given as `**{"a/b": 1.0}`.
        """
        if metrics:
            self.writer.log(step, metrics)
        self._newest = step
        if self.due(step):
            self.capture(step)

    def due(self, step: int) -> bool:
        """Whether `step` is to be captured and was not."""
        return self.every > 0 and step % self.every == 0 and step != self._captured

    def capture(self, step: int) -> Path:
        """Capture now; gives the safetensors file."""
        start = time.perf_counter()
        tensors = measure(self.lm, self.prompts)
        for instrument in self.instruments:
            with undisturbed(self.lm.model):
                found = instrument(self.lm, self.prompts)
            taken = sorted(found.keys() & tensors.keys())
            if taken:
                raise ConfigError(f"Two instruments measure `{taken[0]}`: give each tensor a name of its own.")
            tensors |= found
        path = self.writer.capture(step, tensors)
        self._captured = step
        self.seconds += time.perf_counter() - start
        return path

    def close(self, status: str = "finished", message: str | None = None) -> None:
        """Stop watching; a run that `watch` created gets a last capture and its checkpoint, and is ended.

        A run that did not finish gets the checkpoint alone; why there is none, if so, joins its message.

        Raises:
            ConfigError, RunError: capture or checkpoint of a finished run cannot be made; the run ends as failed.
        """
        if not self._owner or self._closed:
            return
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
                self.lm.save(folder)

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
    """A prompt in any of its forms as a `ProbePrompt`; without an id it gets its number.

    Raises:
        DataError: there is no text in it.
    """
    if isinstance(prompt, ProbePrompt):
        return prompt
    given = prompt if isinstance(prompt, Mapping) else {"text": prompt}
    text = given.get("text")
    if not isinstance(text, str) or not text:
        raise DataError(f"Probe prompt {index + 1} was given as {prompt!r}: give a text, or a dict with `text`.")
    ids = encode(lm.tokenizer, text)
    answers = [str(answer) for answer in given.get("answers") or ()]
    return ProbePrompt(
        id=str(given.get("id") or index),
        text=text,
        token_ids=ids,
        tokens=pieces(lm.tokenizer, ids),
        answers=answers,
        answer_ids=answer_ids(lm, answers),
        kind=str(given.get("kind") or ""),
    )


def generic_prompts(lm: LM, texts: Sequence[str] = GENERIC, answers: int = 3) -> list[ProbePrompt]:
    """Short texts for a model of which nothing is known; their answers are the likeliest next tokens at present."""
    prompts = []
    for index, text in enumerate(texts):
        (ids,) = encode_all(lm.tokenizer, [text])
        if not ids:  # none of its letters is in the vocabulary
            continue
        with undisturbed(lm.model):
            logits = lm.logits([ids])[0, -1]
        top = logits.topk(min(answers, len(logits))).indices.tolist()
        prompts.append(
            ProbePrompt(
                id=str(index),
                text=text,
                token_ids=ids,
                tokens=pieces(lm.tokenizer, ids),
                answers=pieces(lm.tokenizer, top),
                answer_ids=top,
                kind="generic",
            )
        )
    return prompts
