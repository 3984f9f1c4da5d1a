"""The record of a training: a run directory with metrics, captures and checkpoints, and optional trackers.

Only the main process writes. On other processes the methods do nothing, except that processes that share one model
(--shard) capture and evaluate together.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probe import LM, Run
from probe.diagnosis.alarms import Alarms
from probe.errors import ConfigError, DataError, ModelError, RunError, TrainingStopped
from probe.logits.answer_tokens import answer_tokens
from probe.model.hooks import fused_parts
from probe.model.template_marks import decoded_row, encoded_rows
from probe.model.text import context_length, encode_all, pieces, quote_words, unknown_tokens, unread
from probe.recording.recorder import Instrument, Prompt, Recorder, as_prompt, default_prompts
from probe.rewards.evaluation import evaluate
from probe.rows import Row, is_messages, is_text, read_columns, read_text
from probe.runs import ProbePrompt, RunWriter
from probe.runs.alarm_rows import Alarm
from probe.runs.captures import Captures
from probe.runs.encoded_rows import ROWS
from probe.runs.schema import step_name
from probe.runs.trained_on import repeated
from probe.untrusted import open_file
from probe.world import World
from trainers import checkpoint
from trainers.checkpoint import State
from trainers.config import TrainConfig
from trainers.optimizer import Optimizer
from trainers.reference import ReferenceEvaluation
from trainers.resume import check_method, check_unchanged
from trainers.session import Session
from trainers.trainee import Trainee


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Origin of a run, which is written into run.json."""

    parent: str | None = None
    """Model that training starts from, as the user named it; None for a new model."""
    reference: str | None = None
    """Reference model of the KL or the implicit reward."""
    reward_model: str | None = None
    """Reward model."""
    world: World | None = None
    """World of the data."""
    data: dict[str, Any] = field(default_factory=dict)
    """Description of the data: source, hash, number of examples. They must be unchanged when the run is resumed."""
    texts: Iterable[str] = ()
    """Texts of the data files (`data_texts`), from which the run records which questions it was trained on."""
    rows: Iterable[tuple[Sequence[int], Sequence[int]]] = ()
    """Ids of the prompt and of the answer, if there is one, of the rows that are trained on; the first are recorded."""
    prompts: Sequence[Any] = ()
    """Prompts to capture on, in the form of `probe.watch`."""
    instruments: Sequence[Instrument] = ()
    """Further measurements at every capture."""
    evaluated: bool = True
    """Whether the trained model answers the world's questions at the end (a reward model does not)."""
    evaluators: Sequence[Callable[[LM], Sequence[Mapping[str, Any]]]] = ()
    """Functions from the trained model to further rows of the headline (metric, value, ci_low, ci_high, n)."""
    measured: Callable[[LM], Mapping[str, float]] | None = None
    """Function from the model to metrics that are logged at every capture."""
    evaluation: ReferenceEvaluation | None = None
    """Measurements against reference, reward and exact optimum."""


class Record:
    """The run directory of one training, created or resumed."""

    def __init__(self, session: Session, trainee: Trainee, method: str, origin: Origin) -> None:
        """Check everything that can be checked before anything is written.

        Raises:
            ConfigError, RunError, DataError: the run cannot be resumed with this config, or its prompts cannot be
                captured.
        """
        self.session, self.trainee, self.method, self.origin = session, trainee, method, origin
        self.saved = checkpoint.last_checkpoint(session.config)
        """Newest checkpoint."""
        if session.config.resume:
            check_same(session.config, method, origin, int(self.saved.name) if self.saved else 0)
        self.writer: RunWriter | None = None
        self._recorder: Recorder | None = None
        self._alarms: Alarms | None = None
        self._prompts, self._left_out = probe_prompts(session, trainee.view, origin)

    def open(self) -> None:
        """Create the run directory, or continue in it; every process calls it."""
        session, config, origin = self.session, self.session.config, self.origin
        session.accelerator.wait_for_everyone()  # all have read the checkpoints before the main process writes
        if not session.main:
            self._record(cast(RunWriter, Onlooker()))
            return
        if config.resume:
            step = int(self.saved.name) if self.saved else None
            self.writer = RunWriter.resume(config.out, step, config=config.to_dict())
        else:
            self.writer = RunWriter.create(
                config.out,
                method=self.method,
                config=config.to_dict(),
                parent=origin.parent,
                reference=origin.reference,
                reward_model=origin.reward_model,
                world=origin.world.to_dict() if origin.world else None,
                data=origin.data,
                seed=config.seed,
            )
        self.writer.trained_on(origin.texts)
        tokenizer = self.trainee.lm.tokenizer
        rows = [decoded_row(tokenizer, prompt, answer) for prompt, answer in islice(origin.rows, ROWS)]
        self.writer.encoded_rows(encoded_rows(tokenizer, tokenizer, rows))
        if config.alarms or config.stop_on:
            self._alarms = Alarms(self.writer, stop_on=config.stop_on)
        self._record(self.writer)
        if config.track:
            flat = {k: v if isinstance(v, int | float | str) else str(v) for k, v in config.to_dict().items()}
            session.accelerator.init_trackers("probe", config=flat)

    def _record(self, writer: RunWriter) -> None:
        """Prepare the captures; every process takes part in them."""
        config, evaluation = self.session.config, self.origin.evaluation
        instruments = [*self.origin.instruments, *(evaluation.instruments if evaluation else ())]
        if self._prompts:
            self._recorder = Recorder(
                self.trainee.view,
                writer,
                self._prompts,
                config.capture_every,
                instruments if "rewards" in config.capture_parts else (),
                capture=config.captures,
                left_out=self._left_out,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row of metrics."""
        if self.writer is not None and values:
            self.writer.log(step, values)
            if self.session.config.track:
                self.session.accelerator.log(dict(values), step=step)
            if self._alarms is not None:
                self._alarms.look(step)

    @property
    def stopping(self) -> Alarm | None:
        """Alarm for which training should stop; None without one, and on processes that do not write."""
        return self._alarms.stop if self._alarms is not None else None

    def distance(self) -> dict[str, float]:
        """Measure the trainee's distance to the optimum of its objective, if the reference evaluation has one."""
        evaluation = self.origin.evaluation
        if not self.session.measures or evaluation is None or evaluation.optimum is None:
            return {}
        return evaluation.optimum.distance(self.trainee.lm)

    def capture(self, step: int, last: bool = False) -> None:
        """Capture on the probe prompts if a capture is due at `step`, or if it is the last one."""
        if self._recorder is not None and (last or self._recorder.due(step)):
            self.trainee.refresh()
            self._recorder.capture(step)
            if self._recorder.captures == 1:
                self.session.say(self._recorder.cost(self.session.config.steps))
            if self.origin.measured is not None and "rewards" in self.session.config.capture_parts:
                self.log(step, self.origin.measured(self.trainee.view))
            self.rollouts(self.origin.evaluation.rows(step) if self.origin.evaluation else ())

    def rollouts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append sampled completions."""
        if self.writer is not None and rows:
            self.writer.rollouts(rows)

    def save(self, optimizer: Optimizer, state: State, extra: Mapping[str, Tensor]) -> None:
        """Write a checkpoint; all processes wait for it."""
        if self.writer is not None:
            with self.writer.checkpoint(state.step) as directory:
                checkpoint.save(directory, self.trainee, optimizer, state, extra)
            self.saved = self.writer.path / "checkpoints" / step_name(state.step)
        elif self.session.shards:
            checkpoint.save(None, self.trainee, optimizer, state, extra)
        self.session.accelerator.wait_for_everyone()

    def headline(self) -> list[dict[str, Any]] | None:
        """Evaluate on the run's world, if any, and with the method's evaluators; return None without results."""
        n, origin = self.session.config.evaluate, self.origin
        world = origin.world
        if not self.session.measures or not n:
            return None
        self.trainee.refresh()
        rows: list[Mapping[str, Any]] = []
        if world is not None and origin.evaluated:
            self.session.say(f"{self.method}: evaluating on the world")
            arguments = origin.evaluation.arguments if origin.evaluation else {}
            results = evaluate(self.trainee.view, world, n=n, **arguments).to_dict("records")
            rows += [{str(name): value for name, value in row.items()} for row in results]
        for evaluator in origin.evaluators:
            rows += evaluator(self.trainee.view)
        return [dict(row) for row in rows] or None

    def finish(self, status: str, message: str | None = None, headline: Sequence[Mapping] | None = None) -> None:
        """End the run."""
        if self.writer is not None:
            for tracker in getattr(self.session.accelerator, "trackers", ()):
                tracker.finish()
            self.writer.finish(status, headline=headline, message=message)

    def abandon(self, status: str, message: str) -> None:
        """Mark the run as failed after an error, if the disk still allows it."""
        with suppress(OSError, RunError):
            self.finish(status, message)

    def run(self) -> Run:
        """Wait for all processes, and return the finished run."""
        self.session.accelerator.wait_for_everyone()
        return Run(self.session.config.out)

    def stop_error(self, reason: str) -> TrainingStopped:
        """Return the error to raise when training cannot continue; it names the last good checkpoint."""
        if self.saved is None:
            return TrainingStopped(f"{reason}; no checkpoint had been written yet, so start again with another --out.")
        if not self.saved.exists():
            return TrainingStopped(f"{reason}; its checkpoints are gone as well, so start again.")
        return TrainingStopped(f"{reason}; the last good checkpoint is `{self.saved}`: --resume continues from it.")


class Onlooker:
    """Substitute for a run's writer on a process that captures with the others but writes nothing."""

    captured = 0
    """Bytes of the newest capture."""

    def prompts(self, prompts: Sequence[ProbePrompt], left_out: str = "", holds: str = "") -> None:
        """Ignore the prompts."""

    def capture(self, step: int, tensors: Mapping[str, Tensor], started: float | None = None) -> None:
        """Ignore the capture."""

    def first_capture(self, before: int) -> tuple[None, None]:
        """Return neither a file nor a folder."""
        return None, None


def probe_prompts(session: Session, lm: LM, origin: Origin) -> tuple[list[ProbePrompt], str]:
    """Return the prompts to capture on: those of --probe-prompts, or those of the data; none without captures.

    A resumed run keeps its prompts from the data. Prompts from the data that the tokenizer cannot encode are left out;
    the message that names them is printed and returned.

    Raises:
        DataError: the file cannot be read or is empty, or a prompt is too long or cannot be encoded by the tokenizer.
        ConfigError: the model cannot be hooked.
    """
    file, prompts = session.config.probe_prompts, origin.prompts
    if not session.config.capture_every or not session.measures:
        return [], ""
    if file is None and session.config.resume:
        prompts = Captures(session.config.out, live=True).prompts or prompts
    if file is not None:
        prompts = read_probe_prompts(file)
    try:
        lm.hook_names()
    except ModelError as error:
        raise ConfigError(
            f"Captures need a model that transformer-lens can hook, and {type(lm.model).__name__} is not one: give"
            " --capture-every 0 to train it without them."
        ) from error
    if session.shards and fused_parts(lm.bridge):
        raise ConfigError(
            f"--shard cannot capture {type(lm.model).__name__}, whose fused projections are split outside of its"
            " blocks: give --capture-every 0, or train it without --shard."
        )
    if file is None:
        probes, left_out = default_prompts(lm, prompts)
    else:
        probes, left_out = [as_prompt(lm, prompt, index) for index, prompt in enumerate(prompts)], ""
    limit = context_length(lm.model)
    for prompt in probes:
        if limit is not None and prompt.length > limit:
            raise DataError(f"A probe prompt has {prompt.length} tokens and the model reads {limit}: shorten it.")
    if left_out:
        session.say(left_out)
    return probes, left_out


def read_probe_prompts(path: Path) -> list[Any]:
    """Read the prompts of a file.

    Each line is a prompt; in JSON Lines (.jsonl), the prompt of a row is in `text`, with `answers` and `kind` if given.

    Raises:
        DataError: it cannot be read, or a row has no text, or answers that are no list of texts.
    """
    if path.suffix != ".jsonl":
        return [line for line in read_text(path).splitlines() if line.strip()]
    rows = read_columns(path, {"text": is_text}, strict=True)
    for row in rows:
        answers = row.values.get("answers", [])
        if not isinstance(answers, list) or not all(isinstance(each, str) and each for each in answers):
            raise DataError(f"{row.where} has `answers` that are not a list of texts: give texts, each with its blank.")
    return [row.values for row in rows]


def check_same(config: TrainConfig, method: str, origin: Origin, step: int) -> None:
    """Check that a run resumed at `step` has the same method, options and data.

    Raises:
        ConfigError, RunError: one of them differs; the message names it.
    """
    run = Run(config.out)
    check_method(run, method)
    check_unchanged(config, run, step)
    data = run.meta.get("data") or {}
    for name, value in origin.data.items():
        if (
            name in ("reference", "left_out", "held_out", "held_out_repeated") and name not in data
        ):  # an older version did not record it
            continue
        if data.get(name) != value:
            raise RunError(
                f"The data of the run in `{config.out}` have changed ({name} was {data.get(name)} and is {value}):"
                " put the old data back to resume, or start a new run."
            )


CAPTURE_TOKENS = 64
"""Largest number of tokens of a captured prompt from data files; the cost grows with its square."""
LOOKED = 1000
"""Number of texts of the data that are searched for prompts to capture on."""
ANSWER_LETTERS = 24
"""Characters of an answer of the data in the labels of charts."""


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files.

    A resumed run identifies its data by this hash.
    """
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        names = [f"{each.relative_to(path).as_posix()} {file_hash(each)}" for each in files]
        return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_texts(*files: Iterable[Row | str] | None) -> Iterator[str]:
    """Yield the questions in data: whole documents, from other rows the prompt and all messages but the assistant's.

    Args:
        files: rows that a training reads; None for the world's data, which the world can reproduce.
    """
    for row in chain.from_iterable(filter(None, files)):
        if isinstance(row, str):
            yield row
            continue
        first = row.values.get("prompt") or row.values.get("question")
        for said in (first, row.values.get("messages")):
            if isinstance(said, str):
                yield said
            elif isinstance(said, list) and is_messages(said):
                yield from (message["content"] for message in said if message["role"] != "assistant")


def held_out_data(lm: LM, training: Iterable[Sequence[int]], held_out: Sequence[Sequence[int]]) -> dict[str, int]:
    """Return how many rows are held out, and of how many the prompt is trained on but for case, space and marks.

    Args:
        lm: the model to train.
        training: ids of the prompts of the rows that are trained on.
        held_out: ids of the prompts of the held-out rows.

    Returns:
        `held_out` and `held_out_repeated`, for run.json.
    """
    prompts = [lm.tokenizer.decode(ids) for ids in held_out]
    others = map(lm.tokenizer.decode, training if prompts else ())
    return {"held_out": len(prompts), "held_out_repeated": repeated(prompts, others)}


def capture_prompts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], count: int = 4) -> list[Prompt]:
    """Return the first texts that the tokenizer can encode and that are short enough to capture on.

    If all are too long, the first is truncated. If none can be encoded, the first are used without the characters or
    words unknown to the tokenizer, which `note` names.
    """
    fitting: list[Prompt] = []
    long: list[Prompt] = []
    parts: list[Prompt] = []
    for text in islice(texts, LOOKED):
        (ids,) = encode_all(tokenizer, [text])
        words = unread(tokenizer, text)
        if words:
            if len(parts) < count:
                parts += _without(tokenizer, ids, words)
        elif not text.strip():
            continue
        elif len(ids) <= CAPTURE_TOKENS:
            fitting.append(text)
        elif not long:
            long.append(tokenizer.decode(ids[:CAPTURE_TOKENS], skip_special_tokens=True))
        if len(fitting) == count:
            break
    return fitting or long or parts


def _without(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], words: Sequence[str]) -> list[Prompt]:
    """Return a prompt without words or characters unknown to the tokenizer, or no prompt if nothing is left."""
    unknown = unknown_tokens(tokenizer)
    known = [token for token in ids if token not in unknown][:CAPTURE_TOKENS]
    rest = " ".join(str(tokenizer.decode(known, skip_special_tokens=True)).split())
    if not rest or unread(tokenizer, rest):
        return []
    left = f"This text of the data is shown without {quote_words(words)}, which the tokenizer does not know."
    return [{"text": rest, "note": left}]


class AnsweredPrompt(NamedTuple):
    """A prompt of the data with its known answers, as ids."""

    prompt: list[int]
    answers: dict[str, list[int]]
    """Answers by role, such as `chosen`; the first is the one that the others are compared with."""
    origin: str
    """Source of the answers, in a sentence."""


def answered_prompts(lm: LM, items: Iterable[AnsweredPrompt], count: int = 4) -> list[ProbePrompt]:
    """Return the first prompts to capture on, with their answers followed from the first token that differs.

    Prompts are short enough together with the common beginning of their answers; if all are too long, the end of the
    first is used. If the answers do not differ in any token, the prompt has none.
    """
    fitting: list[ProbePrompt] = []
    long: list[ProbePrompt] = []
    for item in items:
        if not item.prompt:
            continue
        prompt = _answered(lm, item, str(len(fitting)))
        if len(prompt.token_ids) <= CAPTURE_TOKENS:
            fitting.append(prompt)
        elif not long:
            long.append(_cut(lm, prompt))
        if len(fitting) == count:
            break
    return fitting or long


def _answered(lm: LM, item: AnsweredPrompt, name: str) -> ProbePrompt:
    tokenizer, answers = lm.tokenizer, list(item.answers.values())
    whole = [f"{_words(tokenizer, ids)} ({role})" for role, ids in item.answers.items()]
    try:
        chosen = answer_tokens(lm, answers, whole)
    except DataError as error:
        chosen, answers, origin = answer_tokens(lm, []), [], f"{item.origin} {error}"
    else:
        origin = f"{item.origin} {chosen.note}"
    ids = [*item.prompt, *chosen.shared]
    before = "\u2026" if chosen.count else ""
    return ProbePrompt(
        id=name,
        text=_without_bos(tokenizer, item.prompt),
        token_ids=ids,
        tokens=pieces(tokenizer, ids),
        answers=[
            f"{before}{_words(tokenizer, each[chosen.count :])} ({role})"
            for role, each in zip(item.answers, answers, strict=False)
        ],
        answer_ids=chosen.tokens,
        shared=chosen.count,
        note=origin.strip(),
    )


def _without_bos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode a prompt without the initial token that the tokenizer adds."""
    return str(tokenizer.decode(list(ids[ids[0] == tokenizer.bos_token_id :])))


def _words(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode the beginning of an answer for labels."""
    part = list(ids[:ANSWER_LETTERS])
    text = tokenizer.decode(part, skip_special_tokens=True).strip() or tokenizer.decode(part)
    text = " ".join(text.split())
    return text if len(text) <= ANSWER_LETTERS else f"{text[:ANSWER_LETTERS].rstrip()}\u2026"


def _cut(lm: LM, prompt: ProbePrompt) -> ProbePrompt:
    """Truncate a long prompt from the left, but keep its initial special token."""
    first = [prompt.token_ids[0]] if prompt.token_ids[0] == lm.tokenizer.bos_token_id else []
    ids = [*first, *prompt.token_ids[len(first) - CAPTURE_TOKENS :]]
    shared = min(prompt.shared, CAPTURE_TOKENS - len(first))
    return replace(
        prompt,
        text=_without_bos(lm.tokenizer, ids[: len(ids) - shared]),
        token_ids=ids,
        tokens=pieces(lm.tokenizer, ids),
        shared=shared,
        note=f"{prompt.note} The prompt is cut to its last {CAPTURE_TOKENS} tokens.".strip(),
    )
