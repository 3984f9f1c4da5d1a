"""A process of `probe train` keeps the memory that a step frees; the threads of a server share a few heaps."""

import subprocess
import sys

import pytest

from probe.jobs.heap import ARENAS

FREE = """
import ctypes, sys
from probe.jobs.heap import keep_memory

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


HEAPS = """
import ctypes, sys, threading
from probe.jobs.heap import share_heaps

if sys.argv[1] == "shared":
    share_heaps()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together, heaps = threading.Barrier(16), set()

def take():
    together.wait()
    heaps.add(library.malloc(1000) >> 26)  # a heap of a thread begins at a multiple of 64 MB
    together.wait()

threads = [threading.Thread(target=take) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(heaps))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives threads heaps of their own")
def test_threads_share_a_few_heaps() -> None:
    own, shared = (
        int(subprocess.run([sys.executable, "-c", HEAPS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("own", "shared")
    )
    assert shared <= ARENAS < own
