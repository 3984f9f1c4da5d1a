"""A process of `probe train` keeps the memory that a step frees."""

import subprocess
import sys

import pytest

FREE = """
import ctypes, sys
from trainers.commands import keep_memory

if sys.argv[1] == "kept":
    keep_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
size, pieces = 2**20, []
for _ in range(64):
    pieces.append(library.malloc(size))
    ctypes.memset(pieces[-1], 1, size)
for piece in reversed(pieces):
    library.free(piece)
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc returns and takes memory step by step")
def test_freed_memory_stays_with_the_process() -> None:
    plain, kept = (
        float(subprocess.run([sys.executable, "-c", FREE, way], capture_output=True, text=True, check=True).stdout)
        for way in ("plain", "kept")
    )
    assert kept > plain + 50  # MB, of 64
