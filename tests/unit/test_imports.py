"""What the processes that Ray starts import: each of them waits for it before it works."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = {"sklearn", "scipy.optimize", "scipy.stats", "astropy.coordinates", "astropy.table"}
TORCH = {"torch"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("raypipe.training.loop", SLOW),
        ("raypipe.embedding.part", SLOW),
        ("raypipe.ingestion.part", SLOW | TORCH),
        ("raypipe.cli", SLOW | TORCH | {"ray", "pandas"}),
    ],
)
def test_what_is_not_needed_to_begin_is_not_waited_for(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert absent & set(loaded.stdout.split()) == set()
