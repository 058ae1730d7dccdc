"""Fixtures every test may use."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

# There are as many test processes as cores: threads of one would wait for those of the other, and
# trainings take three times as long. PyTorch and the processes that tests start read this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

import raypipe

# A machine that is busy is no fault: examples may take as long as they take.
hypothesis.settings.register_profile("raypipe", deadline=None)
hypothesis.settings.load_profile("raypipe")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real Chandra products beside the checkout; tests that need them skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real Chandra products (../shared/data) are not there")
    return folder


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own: Ray keeps a token there, astropy and matplotlib their caches."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        yield home


@pytest.fixture(autouse=True)
def unconfigured_logger() -> Iterator[None]:
    """A verb that a test runs in this process sets up raypipe's logger; undo that at the end."""
    yield
    log = logging.getLogger("raypipe")
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Tests run in the background of a shell ignore SIGINT, and would hand that on to commands."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated survey of 160 detections as FITS files; not to be changed."""
    folder = tmp_path_factory.mktemp("survey")
    raypipe.simulate(folder, detections=160, seed=3)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 KB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    """Change a mounted disk: its size, or whether it can be written."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)
