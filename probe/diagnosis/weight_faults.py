"""Nothing is trained: rates, gradients, updates, exact measurements and saved weights that show it."""

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import level, stretch
from probe.diagnosis.run_reading import CHECKPOINT, Reading, Series
from probe.runs.ancestry import descent
from probe.runs.reader import Run
from probe.stats import Interval
from probe.untrusted import open_file, parse_json

ALIKE = 0.99
"""Share of the prompts whose completions are all paid alike from which there is no gradient but that of a KL."""
ZERO = Interval(0.0, float("nan"), float("nan"))
HEAD = 100_000_000
"""Most bytes of the head of a safetensors file, as its own library allows."""
CHUNK = 1 << 20
"""Bytes that are compared at once."""
ADAPTER = "adapter_model.safetensors"


FIXED = ("kl_to_reference", "answer_mass", "eval_loss")
"""Measurements on questions or texts that stay the same, which every update changes."""
DIGITS = 6
"""Decimals of a measurement; one that has no more is taken for rounded, and may stand still."""


@fault(
    title="Nothing is trained",
    needs=("lr or grad_norm or update_ratio/* or checkpoint",),
    remedy="Look whether parameters require a gradient, whether the optimiser was made after the adapter was added, and"
    " whether the learning rate is above 0.",
    least=4,
    hides=("wrong_reference", "no_signal", "flipped_labels", "loss_on_wrong_tokens", "rate_too_high"),
    at_once=True,
)
def nothing_is_trained(reading: Reading) -> Sign | None:
    """Find a rate, a gradient or updates of 0, measurements that never change, or saved weights that did not move."""
    named = [(reading.series("lr"), "learning rate")]
    explained = is_paid_alike(reading)
    if not explained:
        named.append((reading.series("grad_norm"), "gradient norm"))
        named.append((largest_update(reading), "update of every part of the model"))
    for measured, what in named:
        series = measured.coarse()
        found = stretch(series.values == 0, least=4)
        if found is not None and 2 * (found.stop - found.start) > len(series):
            step = int(series.steps[found.start])
            before = level(series.part(0, found.start).values) if found.start else ZERO
            sentence = f"The {what} is 0 from step {step:,} to {int(series.steps[found.stop - 1]):,}."
            return Sign(step, series.metric, before, ZERO, sentence, 1.0, also=("loss",))
    return None if explained else still_measurements(reading) or still_weights(reading)


def largest_update(reading: Reading) -> Series:
    """Return the largest `update_ratio/PART` of each step."""
    names = list(reading.matching("update_ratio/*"))
    parts = [part for name in names if len(part := reading.series(name))]
    if not parts:
        return Series("", np.empty(0, np.int64), np.empty(0))
    steps = np.unique(np.concatenate([part.steps for part in parts]))
    largest = np.zeros(len(steps))
    for part in parts:
        np.maximum.at(largest, np.searchsorted(steps, part.steps), np.abs(part.values))
    return Series(parts[0].metric, steps, largest)


def still_measurements(reading: Reading) -> Sign | None:
    """Return the sign of exact measurements of the model that are the same, bit by bit, throughout the run."""
    logged = [series for name in FIXED if len(series := reading.series(name)) >= 4]
    exact = [series for series in logged if series.metric == "kl_to_reference" or _has_digits(series)]
    if not exact or any(np.ptp(series.values) for series in logged):
        return None
    first = exact[0]
    value = level(first.values[:1])
    where = f"from step {first.steps[0]:,} to {first.steps[-1]:,}"
    sentence = f"“{reading.title(first.metric)}” is {reading.text(first.metric, value)} {where}."
    return Sign(int(first.steps[0]), first.metric, value, value, sentence, 1.0, also=("loss",))


def _has_digits(series: Series) -> bool:
    """Return whether a measurement has more than `DIGITS` decimals."""
    return bool(round(float(series.values[0]), DIGITS) != series.values[0])


def still_weights(reading: Reading) -> Sign | None:
    """Return the sign of saved weights that equal those before training."""
    if reading.run is None or not reading.has(CHECKPOINT) or reading.last_step < 1:
        return None
    try:
        sentence = unmoved(reading.run)
    except OSError:  # a file that is being written, or may not be read
        return None
    return Sign(0, "", ZERO, ZERO, sentence, 1.0) if sentence else None


def is_paid_alike(reading: Reading) -> bool:
    """Return whether rewards tell nothing apart, so that a gradient of 0 follows from them (`no_signal`)."""
    alike = reading.series("frac_reward_zero_std").values
    return len(alike) > 0 and float(np.median(alike)) >= ALIKE


def unmoved(run: Run) -> str:
    """Say which saved weights of a run equal those before training; empty if they moved or cannot be compared."""
    saved = run.checkpoints()
    last = saved[-1]
    if (last.path / ADAPTER).is_file():
        return adapter_at_zero(last.path / ADAPTER)
    line = descent(run)
    earlier = [saved[0].path] if len(saved) > 1 else []
    earlier += [line[1].checkpoints()[-1].path] if len(line) > 1 and line[1].checkpoints() else []
    for place in earlier:
        if are_equal(place, last.path):
            return f"All weights of the checkpoint of step {last.step:,} equal those of {place.parent.parent.name}."
    return ""


class Place(NamedTuple):
    """Where a tensor stands in a file, and what it is."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte."""
    size: int
    """Number of bytes."""


def read_places(file: Path) -> dict[str, Place]:
    """Return the places of the tensors of a safetensors file; none if it is not as the format says."""
    places = {}
    try:
        with open_file(file) as opened:
            size = int.from_bytes(opened.read(8), "little")
            head = parse_json(opened.read(size)) if 0 < size <= HEAD else {}
            whole = opened.seek(0, 2)
        for name, each in head.items():
            if name != "__metadata__":
                start, stop = map(int, each["data_offsets"])
                shape = tuple(map(int, each["shape"]))
                places[str(name)] = Place(str(each["dtype"]), shape, 8 + size + start, stop - start)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {}
    sound = all(each.start >= 8 and 0 <= each.size <= whole - each.start for each in places.values())
    return places if sound and sum(each.size for each in places.values()) <= whole else {}


def are_equal(first: Path, second: Path) -> bool:
    """Return whether two folders hold the same tensors, bit by bit; it stops at the first difference."""
    names = sorted(path.name for path in first.glob("model*.safetensors"))
    if not names or names != sorted(path.name for path in second.glob("model*.safetensors")):
        return False
    for name in names:
        one, other = read_places(first / name), read_places(second / name)
        if not one or one.keys() != other.keys():
            return False
        with open_file(first / name) as a, open_file(second / name) as b:
            for key, place in one.items():
                if place[:2] != other[key][:2] or place.size != other[key].size:
                    return False
                if not same_bytes(a, place.start, b, other[key].start, place.size):
                    return False
    return True


def same_bytes(a: BinaryIO, at: int, b: BinaryIO, there: int, size: int) -> bool:
    """Return whether two files have the same bytes at two places."""
    a.seek(at)
    b.seek(there)
    while size > 0:
        part, other = a.read(min(CHUNK, size)), b.read(min(CHUNK, size))
        if part != other or not part:
            return False
        size -= len(part)
    return True


def adapter_at_zero(file: Path) -> str:
    """Say that an adapter adds nothing, if every matrix B of it is 0, as before the first step; else return ""."""
    matrices = [place for name, place in read_places(file).items() if "lora_B" in name]
    with open_file(file) as opened:
        for place in matrices:
            opened.seek(place.start)
            left = place.size
            while left > 0:
                part = opened.read(min(CHUNK, left))
                if not part or np.frombuffer(part, np.uint8).any():
                    return ""
                left -= len(part)
    return f"All {len(matrices)} matrices B of the saved adapter are 0, as before the first step." if matrices else ""
