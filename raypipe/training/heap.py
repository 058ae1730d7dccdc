"""What glibc does with memory that a training step has let go of."""

from __future__ import annotations

import ctypes
import platform

_HEAP = 64 * 2**20
"""Size of a heap of glibc for a thread, on a 64-bit machine, bytes."""
_SETTINGS = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: a heap never shrinks
    -2: _HEAP,  # M_TOP_PAD: nor does an empty one go
    -3: _HEAP // 2,  # M_MMAP_THRESHOLD, the largest: what is smaller lies on a heap
}
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have the C library keep what tensors free for the next ones; whether it could be told.

    glibc gives the memory of a step back to the system at the step's end, above all in a thread,
    where Ray Train calls the training function, and the next step faults it in again, page by
    page: a tenth of the time of two workers. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return sum(mallopt(*setting) for setting in _SETTINGS.items()) == len(_SETTINGS)
