"""Memory that one step frees serves the next."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from raypipe.training.malloc import keep_freed_memory

# What a step does, in a thread as Ray Train has it; prints the MB that the C library gives back to
# the system at the end of each of two steps.
STEPS = """
import ctypes, sys, threading
import torch
from raypipe.training.malloc import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info

def taken():
    info = mallinfo()
    return info.arena + info.hblkhd

def step():
    tensors = [torch.ones(1 + i * 7919 % 4000 * 1000) for i in range(100)]
    most = taken()
    del tensors
    return most - taken()

if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
given_back = []
thread = threading.Thread(target=lambda: given_back.extend([step(), step()]))
thread.start()
thread.join()
print(*(size >> 20 for size in given_back))
"""


def megabytes_given_back(how: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="mallopt and mallinfo2 are glibc's"
)
def test_a_step_takes_the_memory_that_the_one_before_freed() -> None:
    assert megabytes_given_back("kept") == [0, 0]
    mapped, trimmed = megabytes_given_back("as it comes")
    assert mapped > 100
    assert trimmed > 0


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
