"""Faults between sampler and trainer: samples of another policy than the one that is trained."""

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import level, stretch
from probe.diagnosis.run_reading import SAMPLING, Reading
from probe.stats import Interval

GAPS = {"float32": 1e-3}
"""Mean gap of log-probabilities, nats a token, that number formats explain, by the format of the weights: in float32
rounding is 1e-6."""
GAP = 0.05
"""The same for other formats: bfloat16 on two kernels gives 0.005 to 0.03."""
CUT = 0.05
"""Probability that top-k and top-p exclude from which the trainer's policy differs from the sampled one."""


@fault(
    title="Sampler is not the trainer",
    needs=("sampling/sampling_logp_difference/mean or sampling/cut_mass",),
    remedy="Give both the same weights, temperature and number format; sample without top-k and top-p, and update the"
    " sampler's weights before every step.",
    methods=SAMPLING,
    least=4,
    at_once=True,
)
def sampler_is_not_trainer(reading: Reading) -> Sign | None:
    """Find log-probabilities of the sampler that differ from the trainer's before any update."""
    bound = GAPS.get(str(reading.config.get("dtype")), GAP)
    for name, most in (("sampling/sampling_logp_difference/mean", bound), ("sampling/cut_mass", CUT)):
        series = reading.series(name).coarse()
        found = stretch(series.values > most)
        if found is None:
            continue
        expected = Interval(0.0, float("nan"), float("nan"))
        before = level(series.part(0, found.start).values) if found.start else expected
        after = level(series.part(found.start, found.stop).values)
        sentence = (
            f"“{reading.title(name)}” is {reading.text(name, after)}; up to {most:g} is explained by rounding."
            if most is bound
            else f"“{reading.title(name)}” is {reading.text(name, after)}: the trainer gives these tokens probability,"
            " and they are never sampled."
        )
        size = 0.4 + after.value / (10 * most)
        return Sign(
            int(series.steps[found.start]),
            name,
            before,
            after,
            sentence,
            size,
            also=("sampling/effective_sample_size",),
        )
    return None
