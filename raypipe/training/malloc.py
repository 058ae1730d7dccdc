"""Keep glibc from returning the memory freed by a training step to the system."""

from __future__ import annotations

import ctypes
import platform

_HEAP = 64 * 2**20
"""Size of the heap that glibc gives a thread on a 64-bit machine, bytes."""
_SETTINGS = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: never shrink a heap
    -2: _HEAP,  # M_TOP_PAD: never unmap an empty heap
    -3: _HEAP // 2,  # M_MMAP_THRESHOLD, at its maximum: put smaller blocks on a heap
}
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> bool:
    """Let the C library keep memory that tensors free; returns whether it accepted the setting.

    glibc returns the memory of a step to the system at the step's end, above all in a thread, which
    is where Ray Train calls the training function. The next step faults it in again, page by page,
    which costs a tenth of the time of two workers. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return sum(mallopt(*setting) for setting in _SETTINGS.items()) == len(_SETTINGS)
