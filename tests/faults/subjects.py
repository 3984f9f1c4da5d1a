"""All that meets faults: trainings of every method, and sweeps, audits, uploads and exports of their runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from tests.buckets import empty_bucket, s3_server
from tests.faults.harm import Subject
from tests.faults.others import KILLED, Audit, Export, Report, Sweep, Upload
from tests.faults.trainings import EVERYTHING, Training
from tests.faults.wire import Wire
from tests.trainers.quick import COMMON, QUICK, quick_config, short_run, small_model, train


@contextmanager
def subjects(folder: Path) -> Iterator[dict[str, Callable[[], Subject]]]:
    """Make what they need, in an empty folder; gives a function for each by name."""
    model = small_model(folder / "model")
    base = short_run(folder / "base", model)
    with ExitStack() as servers:

        def run() -> Path:
            out = folder / "run"
            if not out.exists():
                train(quick_config("sft", base, out, **EVERYTHING))
            return out

        def to_folder() -> Subject:
            kinds = (*KILLED, "disk full", "read-only")
            return Upload("upload to a folder", kinds, run(), lambda place: f"file://{place}/store")

        def to_s3() -> Subject:
            wire = Wire(*servers.enter_context(s3_server()))
            servers.callback(wire.close)
            servers.enter_context(empty_bucket(wire.address, folder / "cache"))
            names: dict[Path, str] = {}
            kinds = ("killed", "killed at a time", "store gone", "store gone")
            named = lambda place: f"s3://bucket/{names.setdefault(place, uuid4().hex)}"  # noqa: E731
            return Upload("upload to S3", kinds, run(), named, wire)

        options = COMMON | QUICK["sft"] | EVERYTHING
        sweep = {name.replace("_", "-"): value for name, value in options.items()}
        yield {
            **{name: lambda name=name: Training(name, model if name == "pretrain" else base, base) for name in QUICK},
            "sweep": lambda: Sweep(base, sweep),
            "audit": lambda: Audit(base, run()),
            "upload to a folder": to_folder,
            "upload to S3": to_s3,
            "export": lambda: Export(run()),
            "report": lambda: Report(run()),
        }
