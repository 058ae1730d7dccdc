"""What is packaged works where it is installed: the wheel, in a fresh venv outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import raypipe
from raypipe.box import MODEL_ID

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGED = ["pyproject.toml", "README.md", "LICENSE", "raypipe"]
BOX = {f"raypipe/box/{MODEL_ID}/{name}" for name in (
    "README.md", "config.toml", "metrics.json", "model.safetensors",
)}  # fmt: skip
MEASURE = """
import json, sys, raypipe
model = raypipe.load_model()
row = model.encode(sys.argv[1]).iloc[0]
print(json.dumps({"file": raypipe.__file__, "model_id": model.model_id, "z0": float(row["z0"]),
                  "fit_zscore": float(row["fit_zscore"])}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout, without its package on the path; what it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist of the checkout, built from a copy, without a network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in PACKAGED:
        place = CHECKOUT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, source)
    build = "from setuptools import build_meta as b; b.build_wheel({0!r}); b.build_sdist({0!r})"
    run(sys.executable, "-c", build.format(str(out)), cwd=source)
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh venv that has the wheel.

    It finds the wheel's dependencies, and nothing else, where this Python has them: a .pth file
    adds the folder without the editable installation of the checkout in it.
    """
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (wheel,) = built.glob("*.whl")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run(*pip, wheel, cwd=folder)
    paths = sysconfig.get_paths()
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def spectrum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spectrum as a file, with ARF and RMF beside it."""
    folder = tmp_path_factory.mktemp("spectra")
    raypipe.simulate(folder, detections=1, seed=4)
    (path,) = folder.glob("*pha3.fits.gz")
    return path


def test_wheel_and_sdist_hold_the_model_in_the_box(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert set(zipfile.ZipFile(wheel).namelist()) >= BOX
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= BOX
    assert max(wheel.stat().st_size, sdist.stat().st_size) < 5_000_000


def test_the_installed_model_measures_a_spectrum(
    installed: Path, spectrum: Path, tmp_path: Path
) -> None:
    measured = json.loads(run(installed / "python", "-c", MEASURE, spectrum, cwd=tmp_path))
    assert Path(measured["file"]).is_relative_to(installed.parent)
    assert measured["model_id"] == MODEL_ID
    here = raypipe.load_model().encode(spectrum).iloc[0]
    assert measured["z0"] == pytest.approx(here["z0"], abs=1e-3)
    assert measured["fit_zscore"] == pytest.approx(here["fit_zscore"], abs=1e-2)


def test_the_installed_command_lists_the_model(installed: Path, tmp_path: Path) -> None:
    (only,) = json.loads(run(installed / "raypipe", "models", "--json", cwd=tmp_path))
    assert only["model_id"] == MODEL_ID
    assert Path(only["uri"]).is_relative_to(installed.parent)


def test_the_installed_command_describes_a_spectrum(
    installed: Path, spectrum: Path, tmp_path: Path
) -> None:
    printed = run(installed / "raypipe", "describe", spectrum, "--json", cwd=tmp_path)
    assert MODEL_ID in printed
    assert json.loads(printed)
