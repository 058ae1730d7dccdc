"""Show a spectrum to people: its summary, and its counts on an energy axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from raypipe.errors import OgipError
from raypipe.ogip.fits import Floats
from raypipe.ogip.quadrature import Flux

if TYPE_CHECKING:
    from raypipe.display.spectrum_figure import BinnedSpectrum
    from raypipe.ogip.spectrum import Spectrum

LEAST_AREA = 0.01
"""Channels are drawn where the effective area is at least this share of its peak."""

LARGEST_GAP = 0.1
"""Largest distance of neighboring channels, in widths of a channel, that rounding explains."""

MAX_BINS = 256
"""Most bins of a figure: more cannot be distinguished."""


class FoldedModel(Protocol):
    """Predict the counts of a spectrum, as `raypipe.model.bundle.Model` does."""

    def binned(self, spectrum: Spectrum) -> BinnedSpectrum:
        """Return the counts of a spectrum in the model's channel bins, and the expected ones."""


def headline(spectrum: Spectrum, shown: BinnedSpectrum) -> str:
    """Return the name of a spectrum's file with its exposure, and the counts that are shown."""
    low, high = shown.edges_kev[0], shown.edges_kev[-1]
    counts = f"{shown.counts.sum():,.0f} counts from {low:.2g} to {high:.2g} keV"
    return f"{Path(spectrum.path).name}: {counts} in {spectrum.exposure_s / 1e3:.3g} ks"


def summary(spectrum: Spectrum) -> Mapping[str, object]:
    """Return names and values that describe a spectrum."""
    background, arf, rmf = "none", "none", "none"
    if spectrum.background_counts is not None and spectrum.background_scale is not None:
        scale = float(np.mean(spectrum.background_scale))
        background = f"{spectrum.background_counts.sum():,.0f} counts, scaled by {scale:.3g}"
    if spectrum.arf is not None:
        low, high = spectrum.arf.energy_lo_kev.min(), spectrum.arf.energy_hi_kev.max()
        arf = f"{low:.3g} to {high:.3g} keV, up to {spectrum.arf.area_cm2.max():,.0f} cm²"
    if spectrum.rmf is not None:
        bins, channels = spectrum.rmf.matrix.shape
        rmf = f"{bins:,} energy bins to {channels:,} channels"
        if spectrum.rmf.includes_area:
            rmf += ", includes the effective area"
            arf = "in the RMF" if spectrum.arf is None else arf
    return {
        "file": spectrum.path,
        "instrument": _keywords(spectrum, "TELESCOP", "INSTRUME", "GRATING"),
        "object": _keywords(spectrum, "OBJECT"),
        "observation": _keywords(spectrum, "OBS_ID", "DATE-OBS"),
        "exposure": f"{spectrum.exposure_s:,.6g} s",
        "counts": f"{spectrum.counts.sum():,.0f}, net {spectrum.net_counts:,.1f}, "
        f"in {len(spectrum.channels):,} channels",
        "background": background,
        "ARF": arf,
        "RMF": rmf,
        "warnings": "; ".join(spectrum.warnings),
    }


def binned(spectrum: Spectrum, flux: Flux | None) -> BinnedSpectrum:
    """Return the counts of a spectrum's channels, with those that a flux leaves in them.

    Channels are left out where the effective area does not cover their energies (`LEAST_AREA`), and
    summed in pairs or more until at most `MAX_BINS` remain. The expected background is the measured
    one times its scale. Raises OgipError where channels have no energies, or gaps between them.
    """
    from raypipe.display.spectrum_figure import BinnedSpectrum

    edges = spectrum.channel_energy_kev
    if edges is None:
        raise OgipError(spectrum.path, "no RMF, so channels have no energies: give rmf=")
    order = np.argsort(edges[:, 0], kind="stable")
    order = order[_is_covered(spectrum, edges[order])]
    if order.size == 0:
        raise OgipError(spectrum.path, "no channel lies where ARF and RMF respond to photons")
    low, high = edges[order].T
    if (np.abs(low[1:] - high[:-1]) > LARGEST_GAP * (high - low)[1:]).any():
        raise OgipError(spectrum.path, "cannot be drawn: its channels have gaps between them")
    background = np.zeros(len(spectrum.counts))
    if spectrum.background_counts is not None and spectrum.background_scale is not None:
        background = spectrum.background_counts * spectrum.background_scale
    model = None if flux is None else spectrum.fold(flux) + background
    starts = np.arange(0, len(order), -(-len(order) // MAX_BINS))
    return BinnedSpectrum(
        counts=np.add.reduceat(spectrum.counts[order], starts),
        model=None if model is None else np.add.reduceat(model[order], starts),
        background=np.add.reduceat(background[order], starts),
        edges_kev=np.append(low[starts], high[-1]),
        exposure_s=spectrum.exposure_s,
    )


def _is_covered(
    spectrum: Spectrum, edges_kev: Floats
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which channels (n, 2) have their middle where the effective area is not negligible.

    Without an ARF, the sums of the RMF's rows are used instead of its area.
    """
    if spectrum.arf is not None:
        grid = spectrum.arf.energy_lo_kev, spectrum.arf.energy_hi_kev
        area = spectrum.arf.area_cm2
    else:
        assert spectrum.rmf is not None, "channel energies come from the RMF"
        grid = spectrum.rmf.energy_lo_kev, spectrum.rmf.energy_hi_kev
        area = np.asarray(spectrum.rmf.matrix.sum(axis=1)).ravel()
    inside = np.flatnonzero(area >= LEAST_AREA * area.max())
    middle = edges_kev.mean(axis=1)
    lowest, highest = grid[0][inside].min(), grid[1][inside].max()
    return np.asarray((middle > max(lowest, 0.0)) & (middle < highest) & (edges_kev[:, 0] > 0))


def _keywords(spectrum: Spectrum, *keys: str) -> str:
    words = (str(spectrum.header.get(key) or "").strip() for key in keys)
    return " ".join(word for word in words if word.upper() != "NONE")
