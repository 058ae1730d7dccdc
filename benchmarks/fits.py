"""Time batched fits of physical models, and compare them with fits of scipy and of XSPEC.

Usage: python -m benchmarks.fits FOLDER [FOLDER ...] [--spectra 512] [--processes 2] [--xspec DATA]

A FOLDER holds real spectra, as for `benchmarks.real_spectra`; those with more than 30,000 counts
are thinned. Both kinds of fits take the same counts, background and response, on the model's energy
grid, between the same limits. The first table has the speed of one process per second of its CPU
time, which other work on the machine hardly changes, of `--processes` at once, and of scipy; each
process repeats the spectra, with counts drawn again, up to the number of `--spectra`. The second
has the Cash statistic of each spectrum's fits minus that of scipy's.

DATA is a folder with `xspec_fits.json` and `fits_index.json`: fits of an absorbed power law by
XSPEC's own models, W statistic, from 0.5 to 8 keV, and the files that were fitted. The third table
compares with them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.physical_fits import Observation, fit_one
from benchmarks.real_spectra import MOST_COUNTS, RealSpectrum, read_folders
from raypipe import read_spectrum
from raypipe.fits import MODELS, Fit, fit_model
from raypipe.model.features import Batch, prepare
from raypipe.ogip import Spectrum
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.grid import EnergyGrid

GRID = EnergyGrid()
XSPEC_KEV = (0.5, 8.0)
"""Nominal energies that XSPEC fitted."""
XSPEC_LOWEST_NH = 1.01e-4
"""A column density of XSPEC, 10^22 cm^-2, that is at its lower limit."""


def on_the_grid(real: RealSpectrum) -> Observation:
    """Observe through the response on the model's grid, as the batched fits do."""
    return Observation.through(
        real.counts,
        real.background,
        float(real.batch.exposure_s[0]),
        real.batch.arf_cm2[0].astype(float),
        real.batch.responses[0][:, : real.bins].astype(float),
    )


def repeated(spectra: Sequence[Spectrum], size: int) -> Batch:
    """Make a batch of `size` rows from spectra, with their counts drawn again."""
    batch = SpectraBatch.from_spectra(list(spectra))
    rows = np.sort(np.resize(np.arange(len(spectra)), size))
    many = prepare(batch.take(rows))
    share = (MOST_COUNTS / many.counts.sum(1, keepdim=True)).clamp_max(1.0)
    generator = torch.Generator().manual_seed(0)
    many.counts.copy_(torch.poisson(share * many.counts, generator))
    many.background.mul_(share)
    many.exposure_s.mul_(share[:, 0])
    return many


def within(batch: Batch, spectrum: SpectraBatch, low_kev: float, high_kev: float) -> Batch:
    """Leave only the channel bins of one spectrum whose middle lies between two energies."""
    middle = spectrum.bins[0].mid_kev
    kept = torch.zeros(batch.counts.shape[1])
    kept[: len(middle)] = torch.tensor((middle > low_kev) & (middle < high_kev)).float()
    return replace(
        batch,
        counts=batch.counts * kept,
        background=batch.background * kept,
        responses=batch.responses * kept,
    )


def seconds_of(name: str, spectra: Sequence[Spectrum], size: int) -> tuple[float, float]:
    """Return the time that fits of a model to `size` spectra take, and their CPU time, s.

    The tables of the model are made before.
    """
    torch.set_num_threads(1)
    many = repeated(spectra, size)
    fit_model(many.take(torch.arange(1)), GRID, name)
    started = time.perf_counter(), time.process_time()
    fit_model(many, GRID, name)
    return time.perf_counter() - started[0], time.process_time() - started[1]


def print_speeds(found: Sequence[RealSpectrum], size: int, processes: int) -> None:
    spectra = [each.spectrum for each in found]
    print(f"spectra    per CPU second   per second, {processes} processes   per second, scipy")
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        for name in MODELS:
            alone = size / seconds_of(name, spectra, size)[1]
            each = [pool.submit(seconds_of, name, spectra, size) for _ in range(processes)]
            together = sum(size / one.result()[0] for one in each)
            started = time.perf_counter()
            fit_one(on_the_grid(found[0].thinned(MOST_COUNTS, 0)), name)
            peer = 1.0 / (time.perf_counter() - started)
            print(f"{name:10s} {alone:14.0f} {together:25.0f} {peer:19.1f}", flush=True)


def differences(real: RealSpectrum) -> dict[str, float]:
    """Return the Cash statistic of each model's fit minus that of scipy's."""
    observation, batch = on_the_grid(real), prepare(real.batch)
    return {
        name: float(fit_model(batch, GRID, name).stat[0]) - fit_one(observation, name).cash
        for name in MODELS
    }


def print_differences(found: Sequence[RealSpectrum]) -> None:
    print("\nCash, batch - scipy" + " " * 8 + "counts" + "".join(f"{name:>10s}" for name in MODELS))
    worst = dict.fromkeys(MODELS, 0.0)
    for seed, each in enumerate(found):
        thinned = each.thinned(MOST_COUNTS, seed)
        higher = differences(thinned)
        worst = {name: max(worst[name], higher[name]) for name in MODELS}
        print(
            f"{each.name:26s}{thinned.counts.sum():7.0f}"
            + "".join(f"{value:+10.4f}" for value in higher.values()),
            flush=True,
        )
    print(f"{'largest':33s}" + "".join(f"{value:+10.4f}" for value in worst.values()))


def xspec_fits(data: Path) -> Iterator[tuple[dict[str, Any], SpectraBatch]]:
    """Yield the fits of XSPEC, each with its spectrum."""
    files = {each["name"]: each for each in json.loads((data / "fits_index.json").read_text())}
    for reference in json.loads((data / "xspec_fits.json").read_text()):
        named = files[reference["name"]]
        beside = {kind: data / named[kind] for kind in ("arf", "rmf", "background") if named[kind]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spectrum = read_spectrum(data / named["pha"], **beside)
        yield reference, SpectraBatch.from_spectra([spectrum])


@dataclass(frozen=True)
class Compared:
    """A power law of XSPEC, the own fit to the same energies, and that to all channel bins.

    `nh` and `gamma` are the differences in units of XSPEC's errors, `flux` is a ratio. Where both
    column densities are at their lower limit, `nh` is zero.
    """

    reference: dict[str, Any]
    own: Fit
    everywhere: Fit

    @classmethod
    def of(cls, reference: dict[str, Any], spectrum: SpectraBatch) -> Compared:
        batch = prepare(spectrum)
        own = fit_model(within(batch, spectrum, *XSPEC_KEV), GRID, "powlaw")
        return cls(reference, own, fit_model(batch, GRID, "powlaw"))

    @property
    def nh(self) -> float:
        column = self.reference["nh_1e22"]
        if max(column, self.own.nh_1e22[0]) < XSPEC_LOWEST_NH:
            return 0.0
        error = np.log(10.0) * column * self.reference["log_nh_err"]
        return float((self.own.nh_1e22[0] - column) / error)

    @property
    def gamma(self) -> float:
        return float((self.own.value[0] - self.reference["gamma"]) / self.reference["gamma_err"])

    @property
    def flux(self) -> float:
        return float(self.own.flux[0] / self.reference["flux_b"])


def print_against_xspec(data: Path) -> None:
    print("\npower law, own / XSPEC; (own - XSPEC) / error of XSPEC; N_H in 10^22 cm^-2")
    print(
        f"{'spectrum':26s}counts{'N_H':>13s}{'error':>9s}{'gamma':>14s}{'error':>10s}{'flux':>8s}"
        "   N_H in all bins"
    )
    for reference, spectrum in xspec_fits(data):
        both = Compared.of(reference, spectrum)
        own = both.own
        print(
            f"{reference['name']:26s}{reference['counts']:6d} "
            f"{own.nh_1e22[0]:6.3f} /{reference['nh_1e22']:6.3f} {both.nh:+7.2f} "
            f"{own.value[0]:8.3f} /{reference['gamma']:6.3f} {both.gamma:+7.2f} "
            f"{100 * (both.flux - 1):+7.1f}% {both.everywhere.nh_1e22[0]:10.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--spectra", type=int, default=512)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--xspec", type=Path, metavar="DATA")
    options = parser.parse_args()
    found = list(read_folders(options.folders))
    print_speeds(found, options.spectra, options.processes)
    torch.set_num_threads(1)
    print_differences(found)
    if options.xspec is not None:
        print_against_xspec(options.xspec)


if __name__ == "__main__":
    main()
