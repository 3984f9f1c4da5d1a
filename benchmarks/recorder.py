"""Cost of captures during training: blocks of steps at the default interval, with and without the recorder."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import probe
from benchmarks.against_trl import fresh, settings, stepper
from benchmarks.dpo import PAIRS, of_the_world
from benchmarks.harness import Row, compare
from benchmarks.models import world
from benchmarks.throughput import pretraining
from probe.recording.recorder import Instrument
from trainers.config import DPOConfig, TrainConfig
from trainers.dpo import DPO, with_reference
from trainers.preferences import encode_pair
from trainers.reference import Aim, ReferenceEvaluation
from trainers.reward_functions import resolve
from trainers.session import Session
from trainers.trainee import Trainee

EVERY = TrainConfig(out=Path("unused")).capture_every


def run() -> tuple[list[Row], list[str]]:
    """Measure pretraining with attention, lens and entropy, and DPO also with the reward shift (sampled answers)."""
    lm = fresh()
    step, size = pretraining(lm)
    plain = measure(f"{EVERY} pretraining steps of {size}", lm, lambda: step(1), ())
    config = settings(DPOConfig, base="unused", batch_size=PAIRS, capture_every=EVERY)
    assert isinstance(config, DPOConfig)
    session, trainee = Session(config), Trainee(fresh())
    pairs = with_reference(session, trainee.lm.model, [encode_pair(trainee.lm, *row) for row in of_the_world()])
    aligning = stepper(session, DPO(session, config, trainee, pairs), detail=False)
    (reward,) = resolve([config.annotator], world())
    evaluation = ReferenceEvaluation.of(session, trainee, world(), Aim(reward=reward, beta=config.beta))
    assert evaluation is not None
    name = f"{EVERY} DPO steps of {PAIRS} of the world's pairs, reward shift captured"
    shift = measure(name, trainee.lm, lambda: aligning(1), evaluation.instruments)
    return [plain[0], shift[0]], [plain[1], shift[1]]


def measure(name: str, lm: probe.LM, step: Callable[[], object], instruments: Sequence[Instrument]) -> tuple[Row, str]:
    """Measure blocks of one default interval: its training steps and the capture due in it."""

    def steps() -> None:
        for _ in range(EVERY):
            step()

    with tempfile.TemporaryDirectory() as directory:
        prompts = world().probe_prompts()
        recorder = probe.watch(lm, Path(directory) / "run", prompts=prompts, every=EVERY, instruments=instruments)
        counter = iter(range(1000))

        def watched() -> None:
            steps()
            recorder.capture(next(counter))

        row = compare(name, ("plain", steps), ("with a capture", watched), repeats=7, warmup=1, target="<= 1.03")
        recorder.close()
        share = recorder.seconds / next(counter) / row.seconds_a
    return row, f"A capture of {len(prompts)} prompts takes {100 * share:.2f} % of {name}."
