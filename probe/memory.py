"""How much memory is free, and sizes as words."""

from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """Bytes that new tensors on a device can take now; None where the system does not say.

    On a GPU the memory that torch holds and does not use counts as free. On the CPU it is what the kernel calls
    available, or what the limit of a container leaves.
    """
    place = torch.device(device)
    if place.type == "cuda":
        idle = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return torch.cuda.mem_get_info(place)[0] + idle
    if place.type != "cpu":
        return None
    known = [size for size in (_available(Path("/proc/meminfo")), _left(GROUPS)) if size is not None]
    return min(known, default=None)


def readable(size: int) -> str:
    """A number of bytes in the decimal unit that fits: 512 B, 4.7 MB, 18 GB."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def _available(file: Path) -> int | None:
    """What the kernel can give without swapping."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left(folder: Path) -> int | None:
    """What a control group's limit leaves, file pages that can be dropped counted as free; None without a limit."""
    for limit, used, stat, droppable in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
            rows = dict(line.split() for line in (folder / stat).read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most.isdigit():
            return max(0, int(most) - now + int(rows.get(droppable, 0)))
    return None
