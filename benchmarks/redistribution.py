"""Measure the error from folding a spectrum through the RMF of another detection.

Usage: python -m benchmarks.redistribution FOLDER [FOLDER ...] [--counts 2000]

Each FOLDER holds real ACIS spectra with ARF and RMF beside them (PHA files of the CSC or of CIAO).
For each ordered pair of detections, three source spectra are folded through the first one's area
and both matrices, which gives the expected chi2 per bin between the two at --counts counts. Also,
each spectrum's counts are fitted (power law, plasma, black body) through its own matrix and through
the other one, which gives the increase of the Cash statistic. Pairs are grouped by their chips,
from headers and positions, and by the origin of the matrices: the CSC or users of CIAO.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.physical_fits import ENERGIES, Fit, FloatArray, Observation, fit_best
from raypipe import read_spectrum
from raypipe.discovery.listing import looks_like_pha
from raypipe.errors import OgipError
from raypipe.identity import parse_csc_name
from raypipe.ingestion.chips import Chip, chip_of
from raypipe.model.features import prepare
from raypipe.physics.absorption import transmission
from raypipe.physics.components import line, power_law
from raypipe.physics.plasma import thermal_plasma
from raypipe.spectra.batch import SpectraBatch

SOURCES = {
    "continuum": power_law(np.array([1.7]), ENERGIES)[0]
    * transmission(np.array([0.1]), ENERGIES)[0],
    "soft plasma": thermal_plasma(np.array([0.6]), np.array([0.5]), ENERGIES)[0],
    "narrow lines": sum(
        line(np.array([energy]), 0.005, ENERGIES)[0] for energy in (0.65, 1.02, 1.86, 6.7)
    )
    + 0.2 * power_law(np.array([1.7]), ENERGIES)[0],
}


@dataclass(frozen=True)
class Observed:
    file: str
    chip: Chip
    batch: SpectraBatch
    background: FloatArray

    @property
    def name(self) -> str:
        return self.file.split(".")[0]

    @property
    def redistribution(self) -> FloatArray:
        return self.batch.responses[0].astype(float)

    def through(self, redistribution: FloatArray) -> Observation:
        batch = self.batch
        return Observation.through(
            batch.counts[0],
            self.background,
            float(batch.exposure_s[0]),
            batch.arf_cm2[0].astype(float),
            redistribution,
        )


def observed_in(folders: list[Path]) -> list[Observed]:
    found = []
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        if not (looks_like_pha(path.name) or "_pha3." in path.name) or "_bg" in path.name:
            continue
        try:
            spectrum = read_spectrum(path)
            batch = SpectraBatch.from_spectra([spectrum])
        except OgipError as error:
            print(f"left out: {error}")
            continue
        chip = chip_of(spectrum.header)
        if chip is None:
            print(f"left out: {path.name}: its header does not give the chip")
            continue
        background = prepare(batch).background[0].numpy().astype(float)
        found.append(Observed(path.name, chip, batch, background))
    return found


def chi2_per_bin(one: Observed, other: Observed, flux: FloatArray, counts: float) -> float:
    """Expected chi2 per bin of the fold through the other matrix, at this many counts."""
    photons = flux * one.batch.arf_cm2[0]
    own, foreign = photons @ one.redistribution, photons @ other.redistribution
    own, foreign = own * counts / own.sum(), foreign * counts / foreign.sum()
    return float(((own - foreign) ** 2 / np.maximum(own, 1e-9)).mean())


def kind_of(one: Observed, other: Observed) -> str:
    of_csc = [parse_csc_name(each.file) is not None for each in (one, other)]
    if of_csc[0] != of_csc[1]:
        return "one of the CSC, one of CIAO"
    if one.chip.ccd_id != other.chip.ccd_id:
        return "another chip"
    same = "same zone" if one.chip.zone == other.chip.zone else "same chip, other zone"
    return f"{same}, {'CSC' if of_csc[0] else 'CIAO'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--counts", type=float, default=2000.0)
    args = parser.parse_args()
    observed = observed_in(args.folders)
    own: dict[str, Fit] = {one.name: fit_best(one.through(one.redistribution)) for one in observed}
    for one in observed:
        counts = one.batch.counts.sum()
        fit = own[one.name]
        print(
            f"{one.name:34s} zone {one.chip.zone:4s} {counts:7.0f} counts, {fit.name}, Cash "
            f"{fit.cash:.1f}"
        )
    names = [*SOURCES, "Cash of the fit"]
    costs: dict[str, list[list[float]]] = defaultdict(list)
    for one, other in itertools.permutations(observed, 2):
        row = [chi2_per_bin(one, other, flux, args.counts) for flux in SOURCES.values()]
        row.append(fit_best(one.through(other.redistribution)).cash - own[one.name].cash)
        costs[kind_of(one, other)].append(row)
        told = "  ".join(f"{name} {value:.4f}" for name, value in zip(names, row, strict=True))
        print(f"{one.name:34s} through {other.name:34s} {told}", flush=True)
    for kind, rows in costs.items():
        print(f"\n{kind}: {len(rows)} pairs")
        for name, column in zip(names, np.transpose(rows), strict=True):
            print(
                f"  {name:16s} median {np.median(column):8.4f}  smallest {column.min():8.4f}  "
                f"largest {column.max():8.4f}"
            )


if __name__ == "__main__":
    main()
