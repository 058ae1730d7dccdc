"""Draw the figure of the README: a real spectrum, the fold of its latents, and its flux.

Usage: python docs/figure.py MODEL PHA OUT.png

MODEL is the folder of a bundle; PHA is a spectrum with its ARF and RMF beside it.
"""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import numpy.typing as npt

import raypipe
from raypipe.model.bundle import Model
from raypipe.model.covariance import unpack
from raypipe.spectra.batch import SpectraBatch
from raypipe.spectra.channel_bins import ChannelBins

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COUNTS_PER_POINT = 25
DRAWS = 400
Array = npt.NDArray[np.float64]


def main(model_path: str, pha: str, out: str) -> None:
    """Encode one spectrum, fold its latents, and plot counts and flux."""
    model = raypipe.load_model(model_path)
    batch = SpectraBatch.from_spectra([raypipe.read_spectrum(pha)])
    row = model.encode_batch(batch).iloc[0]
    z = row.filter(regex=r"^z\d$").to_numpy(float)
    fold = model.reconstruct(batch, z[None])
    lower, middle, upper = energy_flux(model, batch, z, unpack(row["z_cov"][None])[0])

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    energy, width, counts, total, background = grouped(
        batch.bins[0], batch.counts[0], fold.total[0], fold.background[0]
    )
    left.errorbar(
        energy,
        counts / width,
        np.sqrt(counts) / width,
        0,
        fmt=".",
        c="0.25",
        ms=4,
        lw=0.8,
        label=f"{int(row.total_counts)} counts",
    )
    left.step(energy, total / width, where="mid", c="C0", label="fold of 8 latents")
    left.step(energy, background / width, where="mid", c="0.6", lw=0.9, label="background")
    left.set(ylabel="counts per keV", ylim=(0.3 * (counts / width).min(), None), xlim=(0.5, 8))
    left.set_title(f"Cash {row.cash:.0f}, expected {row.cash_expected:.0f}", fontsize=10)
    grid = model.grid.mid_kev
    right.fill_between(grid, lower, upper, color="C0", alpha=0.3, lw=0, label="68%")
    right.plot(grid, middle, c="C0", label="flux, response removed")
    right.set(ylabel="E² F  (keV cm⁻² s⁻¹)", xlim=left.get_xlim())
    shown = (grid > left.get_xlim()[0]) & (grid < left.get_xlim()[1])
    right.set_ylim(0.7 * lower[shown].min(), 1.5 * upper[shown].max())
    for axes in left, right:
        axes.set(xscale="log", yscale="log", xlabel="energy (keV)")
        axes.set_xticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"], minor=False)
        axes.xaxis.set_minor_formatter("")
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(out, dpi=110)


def energy_flux(model: Model, batch: SpectraBatch, z: Array, covariance: Array) -> list[Array]:
    """Return E² F at the 16th percentile, for the latents, and at the 84th, (n_energy,) each.

    The percentiles are those of latents drawn from a normal distribution with the posterior's
    covariance; the amplitude of each draw is fitted to the counts.
    """
    draws = np.random.default_rng(0).multivariate_normal(z, covariance, DRAWS)
    flux = model.flux(batch.take([0] * (DRAWS + 1)), np.vstack([z[None], draws]))
    energy = flux * model.grid.mid_kev**2
    lower, upper = np.percentile(energy[1:], [16, 84], axis=0)
    return [lower, energy[0], upper]


def grouped(bins: ChannelBins, counts: Array, *curves: Array) -> list[Array]:
    """Group bins to COUNTS_PER_POINT counts; return energy and width in keV, counts and curves."""
    counts, *curves = (each[: len(bins)] for each in (counts, *curves))
    group = (np.cumsum(counts) - counts) // COUNTS_PER_POINT
    starts = np.flatnonzero(np.append(True, np.diff(group) > 0))
    ends = np.append(starts[1:], len(counts)) - 1
    low, high = bins.lo_kev[starts], bins.hi_kev[ends]
    energy, width = 0.5 * (low + high), high - low
    return [energy, width, *(np.add.reduceat(each, starts) for each in (counts, *curves))]


if __name__ == "__main__":
    main(*sys.argv[1:])
