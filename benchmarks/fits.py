"""Time batched fits of physical models beside the fits of scipy, and compare their statistics.

Usage: python -m benchmarks.fits FOLDER [FOLDER ...] [--spectra 512] [--scipy 4] [--threads 1]

A FOLDER holds real spectra, as for `benchmarks.real_spectra`; bright ones are thinned. Both kinds
of fits take the same counts, background and response, on the model's energy grid. The batch repeats
the spectra, with counts drawn again, up to the number of `--spectra`; scipy fits the first
`--scipy` of them (0: all). A ratio is the speed of the batch over that of scipy.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.physical_fits import Observation, fit_one
from benchmarks.real_spectra import MOST_COUNTS, RealSpectrum, read_folders
from raypipe.fits import MODELS, fit_model
from raypipe.model.features import Batch, prepare
from raypipe.ogip import Spectrum
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid


def on_the_grid(real: RealSpectrum) -> Observation:
    """Observe through the response on the model's grid, as the batched fits do."""
    return Observation.through(
        real.counts,
        real.background,
        float(real.batch.exposure_s[0]),
        real.batch.arf_cm2[0].astype(float),
        real.batch.responses[0][:, : real.bins].astype(float),
    )


def repeated(spectra: list[Spectrum], size: int) -> Batch:
    """Make a batch of `size` rows from spectra, with their counts drawn again."""
    batch = SpectraBatch.from_spectra(spectra)
    rows = np.sort(np.resize(np.arange(len(spectra)), size))
    many = prepare(batch.take(rows))
    share = (MOST_COUNTS / many.counts.sum(1, keepdim=True)).clamp_max(1.0)
    generator = torch.Generator().manual_seed(0)
    many.counts.copy_(torch.poisson(share * many.counts, generator))
    many.background.mul_(share)
    many.exposure_s.mul_(share[:, 0])
    return many


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--spectra", type=int, default=512)
    parser.add_argument("--scipy", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    grid = EnergyGrid()
    found = list(read_folders(options.folders))
    thinned = [each.thinned(MOST_COUNTS, seed) for seed, each in enumerate(found)]
    many = repeated([each.spectrum for each in found], options.spectra)
    print("model     spectra/s  scipy/s   ratio   largest difference of Cash, batch - scipy")
    for name in MODELS:
        fit_model(many.take(torch.arange(1)), grid, name)  # Makes the tables.
        started = time.perf_counter()
        fit_model(many, grid, name)
        speed = options.spectra / (time.perf_counter() - started)
        compared = thinned[: options.scipy or None]
        started = time.perf_counter()
        peers = [fit_one(on_the_grid(each), name).cash for each in compared]
        peer_speed = len(compared) / (time.perf_counter() - started)
        own = [fit_model(prepare(each.batch), grid, name).stat[0] for each in compared]
        worst = max(np.subtract(own, peers), key=abs, default=0.0)
        print(
            f"{name:8s} {speed:10.0f} {peer_speed:8.2f} {speed / peer_speed:7.0f}   {worst:+.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
