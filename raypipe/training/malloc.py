"""Keep glibc from returning the memory freed by a training step to the system."""

from __future__ import annotations

import ctypes
import platform

_HEAP = 64 * 2**20
"""Size of a thread's heap in glibc on a 64-bit machine, bytes."""
_SETTINGS = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: never shrink a heap
    -2: _HEAP,  # M_TOP_PAD: never unmap an empty heap
    -3: _HEAP // 2,  # M_MMAP_THRESHOLD, at its maximum: put smaller blocks on a heap
}
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> bool:
    """Make the C library keep memory that tensors free; returns whether it accepted the setting.

    glibc returns the memory of a step to the system at the end of the step, above all in a thread,
    and Ray Train calls the training function in a thread. The next step then takes a page fault for
    each page, which costs two workers a tenth of their time. Other C libraries are not changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return sum(mallopt(*setting) for setting in _SETTINGS.items()) == len(_SETTINGS)
