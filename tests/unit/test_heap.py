"""Memory that one step frees serves the next."""

from __future__ import annotations

import subprocess
import sys

import pytest

from raypipe.training.heap import keep_freed_memory

# What a step does, in a thread as Ray Train has it; prints the pages that were faulted in.
STEPS = """
import resource, sys, threading
import torch
from raypipe.training.heap import keep_freed_memory

def steps():
    for _ in range(30):
        tensors = [torch.ones(1 + i * 7919 % 4000 * 1000) for i in range(100)]
        del tensors

if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults = []
def run():
    steps()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    steps()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

torch.set_num_threads(1)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print(faults[0])
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_step_takes_the_memory_that_the_one_before_freed() -> None:
    assert faults("kept") < 1_000 < 10_000 < faults("as it comes")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
