"""A line of Ray's that does not apply is dropped from standard error, and no other line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

import pytest

from raypipe.logs import hide_lines
from raypipe.ray_session import without_restart_warning

WARNING = (
    b"[2026-11-27 02:38:23,812 E 25807 25807] core_worker.cc:2465: Actor with class name: "
    b"'MapWorker(MapBatches(embed))' and ID: 'c145b24e' has constructor arguments in the object "
    b"store and max_restarts > 0. If the arguments in the object store go out of scope or are "
    b"lost, the actor restart will fail.\n"
)
OTHERS = (
    b"core_worker.cc:99: the node is out of memory\n",
    b"a detection has constructor arguments in the object store and max_restarts > 0\n",
    b"03:00:00 embed: 1/2 parts\n",
    b"\xff not text\n",
    b"a line without its end",
)


def test_only_the_warning_is_dropped(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with without_restart_warning():
        for line in WARNING, *OTHERS[:2], WARNING, *OTHERS[2:]:
            os.write(2, line)
    os.write(2, WARNING)
    assert capfdbinary.readouterr().err == b"".join(OTHERS) + WARNING


def test_what_python_prints_keeps_its_order() -> None:
    """In its own process: pytest gives Python another standard error than that of C++."""
    code = (
        "import re, sys; from raypipe.logs import hide_lines\n"
        "print('before', file=sys.stderr)\n"
        "with hide_lines(re.compile(b'hidden')): print('within\\nhidden', file=sys.stderr)\n"
        "print('after, not hidden', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "before\nwithin\nafter, not hidden\n"


def _interrupted() -> None:
    with hide_lines(re.compile(b"hidden")):
        os.write(2, b"hidden\nshown\n")
        raise KeyboardInterrupt


def test_an_error_passes_and_restores_standard_error(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted()
    os.write(2, b"hidden no more\n")
    assert capfdbinary.readouterr().err == b"shown\nhidden no more\n"


def test_blocks_within_blocks_and_in_other_threads(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    inner_is_in, outer_is_out = threading.Event(), threading.Event()

    def other() -> None:
        with hide_lines(re.compile(b"hidden")):
            inner_is_in.set()
            outer_is_out.wait(10)

    thread = threading.Thread(target=other)
    with hide_lines(re.compile(b"hidden")):
        thread.start()
        assert inner_is_in.wait(10)
        os.write(2, b"hidden\n")
    outer_is_out.set()
    thread.join()
    os.write(2, b"hidden no more\n")
    assert capfdbinary.readouterr().err == b"hidden no more\n"


@pytest.mark.parametrize("redirected", ["2>&-", "2>&1 | head -1"])
def test_a_standard_error_that_is_closed_stops_nothing(redirected: str) -> None:
    code = (
        "import os, re; from raypipe.logs import hide_lines\n"
        "with hide_lines(re.compile(b'hidden')):\n"
        "    try:\n"
        "        for _ in range(1000): os.write(2, b'line' * 1000 + bytes([10]))\n"
        "    except OSError: pass\n"
        "print('done')"
    )
    command = f'{sys.executable} -c "$CODE" {redirected}'
    if "head" in redirected:
        command = f'{{ {sys.executable} -c "$CODE" 3>&1 1>&2 2>&3 | head -c 9; }} 2>&1'
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"CODE": code},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "done" in done.stdout
