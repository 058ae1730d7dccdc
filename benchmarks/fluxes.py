"""Test fluxes from posterior draws against true fluxes, physical fits and XSPEC.

Usage: python -m benchmarks.fluxes NETWORK [--test FOLDER] [--data FOLDER] [--rows N] [--draws N]

NETWORK is a bundle, or a network that `benchmarks.telescopes` trained. With `--test`, a folder of
simulated detections (`benchmarks.latents.samples`), it prints how often the 68% interval of a flux
holds the truth, per decade of source counts, and how often a 90% upper limit lies above it: for
sources drawn from the model's own prior, observed as the detections of the sample, and for the
sources of the sample itself, which the model only approximates. With `--data`, a folder of real
spectra (csc, ciao, missions, xspec_fits.json), it compares energy fluxes of 0.5-7 keV with those of
the best physical fit and of XSPEC.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.latents.samples import Sample, load
from benchmarks.physical_fits import Observation, fit_best
from benchmarks.real_spectra import MOST_COUNTS, read_folders
from benchmarks.telescopes.network import load_network
from raypipe import load_model
from raypipe.model.band_sums import band_shares
from raypipe.model.features import prepare
from raypipe.model.fluxes import band_fluxes
from raypipe.model.folding import fold
from raypipe.model.posterior import draw
from raypipe.model.presets import Folded
from raypipe.model.refine import refine
from raypipe.model.statistics import cash
from raypipe.physics.energy import ERG_PER_KEV, EnergyGrid
from raypipe.simulation.populations import PARAMETERS, Sources, photon_flux
from raypipe.spectra.band_counts import BANDS_KEV
from raypipe.spectra.batch import SpectraBatch

FloatArray = npt.NDArray[np.float64]

DECADES = (10.0, 100.0, 1000.0, 10_000.0, 30_000.0)
MOST = 30_000.0
"""Most expected source counts of sources drawn from the prior."""
REFINE_STEPS = 6
ROWS_AT_ONCE = 128
B_BAND = {"b": BANDS_KEV["b"]}
RATIOS = {"hard_hs": ("h", "s"), "hard_ms": ("m", "s")}
FINE = EnergyGrid(0.2, 12.0, 1180)
"""Bins of 10 eV, the width in which the survey simulates sources."""


@dataclass(frozen=True)
class Measured:
    """Energy fluxes and hardness ratios with their truth; (n, quantities) each.

    `low`, `value` and `high` are those of the 68% interval of the posterior, NaN where the
    instrument does not see the bands, and `limit` is the 90% upper limit, NaN where the source is
    detected. `ess` (n,) are the effective draws, `ms` the time per spectrum without the draws.
    """

    names: list[str]
    truth: FloatArray
    low: FloatArray
    value: FloatArray
    high: FloatArray
    limit: FloatArray
    ess: FloatArray
    ms: float

    @property
    def inside(self) -> FloatArray:
        """Return 1 where the interval holds the truth, 0 where not, NaN without an interval."""
        inside = (self.truth > self.low) & (self.truth < self.high)
        return np.where(np.isfinite(self.high), inside, np.nan)

    @property
    def inside_if_detected(self) -> FloatArray:
        """Return the same, NaN where the source is not detected in the band."""
        return np.where(np.isfinite(self.limit), np.nan, self.inside)

    @property
    def below(self) -> FloatArray:
        """Return 1 where the truth lies below an upper limit, 0 where not, NaN without one."""
        return np.where(np.isfinite(self.limit), self.truth < self.limit, np.nan)

    @property
    def log_ratio(self) -> FloatArray:
        """Return the logarithm of value over truth, NaN without detection and for hardness."""
        is_flux = np.array([name not in RATIOS for name in self.names])
        known = is_flux & np.isfinite(self.value) & ~np.isfinite(self.limit)
        ratio = np.divide(self.value, self.truth, out=np.full_like(self.value, np.nan), where=known)
        return np.log(np.abs(ratio))


def measure(
    network: Folded, spectra: SpectraBatch, truth: Mapping[str, FloatArray], draws: int
) -> Measured:
    """Measure the fluxes of spectra whose true ones are `truth`, (n,) each."""
    columns: list[FloatArray] = []
    ess, spent = [], 0.0
    for rows in np.array_split(np.arange(len(spectra)), -(-len(spectra) // ROWS_AT_ONCE)):
        batch = prepare(spectra.take(rows))
        with torch.no_grad():
            refined = refine(network, network.encode(batch), batch, REFINE_STEPS)
        drawn = draw(network, refined, batch, draws)
        started = time.perf_counter()
        found = band_fluxes(network, batch, drawn)
        limit = found.energy_flux.upper_limit
        spent += time.perf_counter() - started
        whole = replace(found, test_statistic=torch.full_like(found.test_statistic, torch.inf))
        estimates = [whole.energy_flux, *(whole.hardness(*pair) for pair in RATIOS.values())]
        ends = [
            np.concatenate([getattr(each, end) for each in estimates], 1)
            for end in ("lolim", "value", "hilim")
        ]
        limits = np.pad(limit, [(0, 0), (0, len(RATIOS))], constant_values=np.nan)
        columns.append(np.stack([*ends, limits]).astype(float))
        ess.append(drawn.ess.numpy().astype(float))
    names = [*BANDS_KEV, *RATIOS]
    low, value, high, limit = np.concatenate(columns, 1)
    return Measured(
        names,
        np.stack([truth[name] for name in names], 1),
        low,
        value,
        high,
        limit,
        ess=np.concatenate(ess),
        ms=1e3 * spent / len(spectra),
    )


def from_prior(
    network: Folded, sample: Sample, seed: int
) -> tuple[SpectraBatch, dict[str, FloatArray]]:
    """Observe sources from the prior: return their spectra and true fluxes.

    Latents are unit normal, and the density of the expected source counts S is proportional to
    1 / (S + 1), as `raypipe.model.posterior` assumes. Response, exposure and background are those
    of the sample's detections; counts of both regions are drawn.
    """
    rng = np.random.default_rng(seed)
    n, latents = len(sample), network.autoencoder.decoder.rotation.shape[0]
    z = torch.from_numpy(rng.standard_normal((n, latents)).astype(np.float32))
    counts = np.expm1(rng.uniform(0.0, np.log1p(MOST), n))
    parts, expected = [], []
    for rows in np.array_split(np.arange(n), -(-n // ROWS_AT_ONCE)):
        batch = prepare(sample.spectra.take(rows))
        with torch.no_grad():
            shape = torch.exp(network.log_shape(z[rows]))
            folded = fold(shape, batch, network.energy_widths_kev)
        scale = torch.from_numpy(counts[rows, None]).float() / folded.sum(-1, keepdim=True)
        parts.append((scale * shape).double().numpy())
        expected.append((scale * folded).double().numpy())
    density, source = np.concatenate(parts), np.concatenate(expected)
    total = source + sample.truth_background
    drawn = sample.with_counts(total, sample.truth_background, seed).spectra
    inside = band_shares(network.grid, BANDS_KEV)
    return drawn, _fluxes(density * network.grid.widths_kev, *inside)


def of_population(sample: Sample) -> dict[str, FloatArray]:
    """Return the true fluxes of a survey's sources, from the parameters in its table."""
    columns = {name: sample.table[name].to_numpy(float) for name in PARAMETERS}
    density = photon_flux(Sources(sample.table["model"].to_numpy(str), columns), FINE)
    edges = FINE.edges_kev
    low, high = (np.array([pair[end] for pair in BANDS_KEV.values()]) for end in (0, 1))
    middle = 0.5 * (edges[1:] + edges[:-1])[:, None]
    share = ((middle > low) & (middle < high)).astype(float)
    fluxes = _fluxes(density * FINE.width_kev, share, share * middle)
    scale = sample.table["flux_b"].to_numpy(float) / fluxes["b"]
    return {name: each if name in RATIOS else each * scale for name, each in fluxes.items()}


def _fluxes(photons: FloatArray, share: FloatArray, kev: FloatArray) -> dict[str, FloatArray]:
    """Return energy fluxes by band, and hardness ratios of the photon fluxes, (n,) each."""
    by_band = dict(zip(BANDS_KEV, (photons @ share).T, strict=True))
    energy = dict(zip(BANDS_KEV, (photons @ kev).T * ERG_PER_KEV, strict=True))
    ratios = {
        name: (by_band[x] - by_band[y]) / (by_band[x] + by_band[y])
        for name, (x, y) in RATIOS.items()
    }
    return energy | ratios


def net_counts(spectra: SpectraBatch) -> FloatArray:
    """Return the counts of each spectrum less those of its background, (n,).

    Coverage is judged by what was observed: the posterior promises it for given counts, and not for
    given true fluxes, where few counts pull toward the prior.
    """
    scale = spectra.background_scale
    background = (scale if scale.ndim == 2 else scale[:, None]) * spectra.background_counts
    return np.asarray((spectra.counts - background).sum(1), dtype=float)


def print_coverage(title: str, measured: Measured, counts: FloatArray) -> None:
    """Print the share of intervals that hold the truth, per quantity and decade of net counts."""
    print(f"\n{title}: {len(counts)} spectra, {measured.ms:.2f} ms each")
    for kind, held in (("all", measured.inside), ("detected", measured.inside_if_detected)):
        print(f"{kind:>13s}   ESS " + " ".join(f"{name:>13s}" for name in measured.names))
        for low, high in pairwise(DECADES):
            rows = (counts >= low) & (counts < high)
            cells = [_share(column) for column in held[rows].T]
            ess = np.nanmedian(measured.ess[rows])
            print(f"{low:6.0f}-{high:<6.0f} {ess:5.0f} " + " ".join(cells))
    judged = counts >= DECADES[0]
    print(f"{'90% limits':>19s} " + " ".join(map(_share, measured.below[judged].T)))
    medians = (f"{_median(column):+13.3f}" for column in measured.log_ratio[judged].T)
    print(f"{'median ln ratio':>19s} " + " ".join(medians))


def _median(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _share(values: FloatArray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return f"{'-':>13s}"
    share = known.mean()
    return (
        f"{100 * share:5.1f}±{100 * np.sqrt(share * (1 - share) / len(known)):3.1f} {len(known):4d}"
    )


@dataclass(frozen=True)
class RealFlux:
    """Energy fluxes of a real spectrum in 0.5-7 keV, erg/cm2/s.

    `limits` are lower limit, value and upper limit of the posterior, `fit` is the flux of the best
    physical fit by the name `shape`, and `xspec` that of XSPEC's power law, NaN without one.
    `cash` and `best_cash` are the Cash statistics of the refined latents and of the physical fit.
    """

    name: str
    counts: float
    limits: tuple[float, float, float]
    shape: str
    fit: float
    xspec: float
    cash: float
    best_cash: float

    def pull(self, other: float) -> float:
        """Return ln(value / other) in units of half the posterior's interval."""
        low, value, high = self.limits
        return float(2.0 * np.log(value / other) / np.log(high / low)) if low > 0 else np.nan


def of_real(network: Folded, data: Path, draws: int) -> list[RealFlux]:
    """Measure the fluxes of real spectra, beside those of physical fits to the same counts."""
    file = data / "xspec_fits.json"
    xspec = {each["name"]: each["flux_b"] for each in json.loads(file.read_text())}
    folders = [data / name for name in ("csc", "ciao", "missions")]
    found = []
    for seed, whole in enumerate(read_folders(folders)):
        real = whole.thinned(MOST_COUNTS, seed)
        batch = prepare(real.batch)
        with torch.no_grad():
            refined = refine(network, network.encode(batch), batch, REFINE_STEPS)
            mu = network.expected_counts(refined.z, batch)[0, : real.bins].double().numpy()
        fluxes = band_fluxes(network, batch, draw(network, refined, batch, draws), B_BAND)
        # The benchmark gives NuSTAR's flux, too, although it is extrapolated below 3 keV.
        estimate = replace(fluxes, seen=torch.ones_like(fluxes.seen)).energy_flux
        low, value, high = (
            float(each[0, 0]) for each in (estimate.lolim, estimate.value, estimate.hilim)
        )
        exposure = float(real.batch.exposure_s[0])
        observation = Observation.of_spectrum(
            real.spectrum, real.batch.bins[0], real.counts, real.background, exposure
        )
        fit = fit_best(observation)
        grid = observation.grid
        inside = grid.in_band
        flux = float((fit.flux * grid.mid_kev)[inside].sum() * grid.width_kev * ERG_PER_KEV)
        found.append(
            RealFlux(
                real.name,
                float(real.counts.sum()),
                (low, value, high),
                fit.name,
                flux,
                xspec.get(real.name, np.nan),
                float(cash(real.counts, mu).sum()),
                fit.cash,
            )
        )
    return found


def print_real(fluxes: list[RealFlux]) -> None:
    """Print the energy fluxes of real spectra in 0.5-7 keV as a Markdown table."""
    titles = (
        "spectrum",
        "counts",
        "flux",
        "best fit",
        "its flux",
        "errors off",
        "XSPEC",
        "errors off",
    )
    print("\n| " + " | ".join([*titles, "Cash over the fit's"]) + " |")
    print("|---" * (len(titles) + 1) + "|")
    for one in fluxes:
        low, value, high = (1e13 * each for each in one.limits)
        print(
            f"| {one.name} | {one.counts:.0f} | {value:.3g} ({low:.3g}-{high:.3g}) | {one.shape} | "
            f"{1e13 * one.fit:.3g} | {one.pull(one.fit):+.1f} | {1e13 * one.xspec:.3g} | "
            f"{one.pull(one.xspec):+.1f} | {one.cash / one.best_cash:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    is_bundle = options.network.is_dir()
    network = load_model(options.network).network if is_bundle else load_network(options.network)
    assert isinstance(network, Folded)
    if options.test:
        sample = load(options.test)
        sample = sample.take(np.arange(min(options.rows, len(sample))))
        spectra, truth = from_prior(network, sample, options.seed)
        measured = measure(network, spectra, truth, options.draws)
        print_coverage("the model's own prior", measured, net_counts(spectra))
        measured = measure(network, sample.spectra, of_population(sample), options.draws)
        print_coverage("the simulated population", measured, net_counts(sample.spectra))
    if options.data:
        print_real(of_real(network, options.data, options.draws))


if __name__ == "__main__":
    main()
