"""A folder of runs of which most are damaged on purpose, each in another file and another way, beside sound ones."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from probe.untrusted import FIELDS
from tests.places import SAMPLES

DEEP = (150, 500, 700, 900, 990)
"""Lists inside of each other: what `json.loads` reads and a function that calls itself for each does not."""
KEYS = FIELDS + 1
"""Names of an object: one more than is read."""
GOOD = ("base", "dpo-agreeable")
STEP = "00000040"
FILES = (
    "run.json",
    "metrics.jsonl",
    "rollouts.jsonl",
    "captures/index.jsonl",
    "captures/prompts.json",
    f"captures/{STEP}.safetensors",
    f"checkpoints/{STEP}/config.json",
    f"checkpoints/{STEP}/tokenizer_config.json",
    f"checkpoints/{STEP}/tokenizer.json",
    f"checkpoints/{STEP}/model.safetensors",
    "results/sycophancy-0/result.json",
    "results/sycophancy-0/items.json.gz",
)
"""Files of a run, below its folder."""
BESIDE = (
    ".training/NAME.json",
    ".training/NAME.log",
    "NAME/.sweep/journal.jsonl",
    "NAME/.sweep/logs/ask.json",
    "audits/NAME/audit.json",
)
"""Files beside the runs of a folder."""


def deep(path: Path, depth: int = 500) -> None:
    """Put a value in that is nested deeply; of a JSON file its own values stay around it."""
    nested = '{"a": [' * (depth // 2) + "1" + "]}" * (depth // 2)
    text = path.read_text() if path.is_file() and path.suffix in (".json", ".jsonl") else "{}"
    first = text.splitlines()[0] if path.suffix == ".jsonl" and text else text
    whole = json.dumps({**json.loads(first), "extra": "@"}).replace('"@"', nested) + "\n"
    again(path).write_text(whole + (text if path.suffix == ".jsonl" else ""))


def wide(path: Path) -> None:
    """Put an object in with very many keys."""
    text = path.read_text() if path.is_file() and path.suffix in (".json", ".jsonl") else "{}"
    first = text.splitlines()[0] if path.suffix == ".jsonl" and text else text
    row = json.loads(first) | {f"key{number}": number for number in range(KEYS)}
    again(path).write_text(json.dumps(row) + "\n" + (text if path.suffix == ".jsonl" else ""))


def pipe(path: Path) -> None:
    """A named pipe that nobody writes."""
    os.mkfifo(again(path))


def zeros(path: Path) -> None:
    """A link to a device without an end."""
    again(path).symlink_to("/dev/zero")


def huge(path: Path) -> None:
    """A file of four terabytes without room on the disk."""
    with open(again(path), "wb") as file:
        file.truncate(2**42)


def again(path: Path) -> Path:
    """The path, with nothing there any more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


DAMAGE: dict[str, Callable[[Path], None]] = {"deep": deep, "wide": wide, "pipe": pipe, "zeros": zeros, "huge": huge}


def write(root: Path, runs: Path) -> Path:
    """Fill a folder: the runs of `runs`, which are sound, and a damaged copy for each file and each damage."""
    for name in GOOD:
        shutil.copytree(runs / name, root / name)
    stored = next((SAMPLES / "dpo-agreeable" / "results").glob("sycophancy-*"))
    shutil.copytree(stored, root / "dpo-agreeable" / "results" / "sycophancy-0")
    for file in FILES:
        for kind, damage in DAMAGE.items():
            if kind in ("deep", "wide") and not file.endswith((".json", ".jsonl")):
                continue
            bad = root / f"bad-{Path(file).name.replace('.', '-')}-{kind}"
            shutil.copytree(root / "dpo-agreeable", bad)
            damage(bad / file)
    for depth in DEEP:
        bad = root / f"bad-run-json-deep-{depth}"
        shutil.copytree(root / "dpo-agreeable", bad)
        deep(bad / "run.json", depth)
    for file in BESIDE:
        for kind, damage in DAMAGE.items():
            damage(root / file.replace("NAME", f"beside-{kind}"))
    for kind in DAMAGE:
        (root / f"beside-{kind}" / ".sweep" / "logs").mkdir(parents=True, exist_ok=True)
    return root
