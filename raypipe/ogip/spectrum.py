"""A spectrum with its background and responses, and the forward fold through them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from raypipe.errors import OgipError
from raypipe.ogip.arf import Arf, read_arf
from raypipe.ogip.fits import Floats, Integers
from raypipe.ogip.loading import Source
from raypipe.ogip.neighbors import find_beside, is_same_product
from raypipe.ogip.pha import Pha, read_pha
from raypipe.ogip.rmf import Rmf, read_rmf

Flux: TypeAlias = Callable[[Floats], Any]

QUADRATURE_NODES = 5
"""Gauss-Legendre nodes in each energy bin: exact for polynomials up to degree 9."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """A PHA, its background and its responses, all on the PHA's channels.

    `channels` (n,); `counts` (n,); `background_counts` (n,), None without a background;
    `background_scale`: (EXPOSURE BACKSCAL AREASCAL) of the source over that of the background, a
    number, or (n,) where scales differ by channel, None without a background; `exposure_s`;
    `channel_energy_kev` (n, 2): lower and upper edge, None without an RMF; `arf`, `rmf`: None
    where not found; `header`: keywords of the PHA; `warnings`: what was odd or missing; `path`:
    the PHA's, for messages.
    """

    path: str
    channels: Integers
    counts: Floats
    background_counts: Floats | None
    background_scale: float | Floats | None
    exposure_s: float
    channel_energy_kev: Floats | None
    arf: Arf | None
    rmf: Rmf | None
    header: Mapping[str, Any]
    warnings: tuple[str, ...]

    def fold(self, flux: Flux) -> Floats:
        """Counts per channel (n,) that a source of this photon flux leaves, background apart.

        `flux` takes energies in keV (k,) and returns photon/cm2/s/keV, (k,) or a number. It is
        integrated over each energy bin of the RMF by Gauss-Legendre quadrature with
        `QUADRATURE_NODES` nodes, multiplied by the effective area and the exposure, and
        redistributed; AREASCAL is not applied. Raises OgipError where there is no RMF or no
        effective area.
        """
        if self.rmf is None:
            raise OgipError(self.path, "no RMF to fold through: give rmf=")
        low, high = self.rmf.energy_lo_kev, self.rmf.energy_hi_kev
        if self.arf is not None:
            area = self.arf.area_on(low, high)
        elif self.rmf.includes_area:
            area = np.ones_like(low)
        else:
            raise OgipError(self.path, "no ARF to fold through: give arf=")
        photons = integrate(flux, low, high) * area * self.exposure_s
        counts: Floats = self.rmf.fold(photons)[channel_places(self.channels, self.rmf, self.path)]
        return counts


def integrate(flux: Flux, low: Floats, high: Floats) -> Floats:
    """Integral (m,) of `flux` over bins from `low` to `high` (m,), by Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    half = 0.5 * (high - low)
    energies = (0.5 * (high + low))[:, None] + half[:, None] * nodes
    density = np.asarray(flux(energies.ravel()), dtype=np.float64)
    integral: Floats = (
        np.broadcast_to(density, energies.size).reshape(energies.shape) @ weights
    ) * half
    return integral


def channel_places(channels: Integers, rmf: Rmf, path: str) -> slice | Integers:
    """Where a spectrum's channels stand among those of the RMF; OgipError where one is absent.

    As many consecutive channels as the RMF has stand in its order, whatever number either file
    counts them from.
    """
    first, last, n_channels = int(rmf.channels[0]), int(rmf.channels[-1]), len(rmf.channels)
    if len(channels) == n_channels and int(channels[-1]) - int(channels[0]) == last - first:
        return slice(None)
    if channels[0] < first or channels[-1] > last:
        raise OgipError(
            path,
            f"channels {channels[0]} to {channels[-1]} are not all among those of the RMF, "
            f"{first} to {last}",
        )
    return channels - first


def read_spectrum(
    path: str | os.PathLike[str],
    *,
    arf: Source | None = None,
    rmf: Source | None = None,
    background: Source | None = None,
) -> Spectrum:
    """Read a PHA with its background, ARF and RMF.

    The background is the BKG block of the same file, else the file that BACKFILE names; ARF and
    RMF are the files that ANCRFILE and RESPFILE name. Named files are looked for beside the PHA
    alone, with and without `.gz`, and for Chandra Source Catalog products in any version of the
    same detection. `arf`, `rmf` and `background` (paths or bytes) take their place; a background
    file with a BKG block of its own stands for that block.

    A named file that is not there is done without, with a warning; all warnings are kept in
    `warnings`, too. Raises OgipError on malformed files, on overrides that do not exist, and where
    channels of background or RMF do not match.
    """
    path = Path(path)
    pha = read_pha(path)
    notes = list(pha.warnings)
    beside = _read_background(path, pha, background, notes)
    arf_source = _response_source(path, "ANCRFILE", pha.ancrfile, arf, notes)
    rmf_source = _response_source(path, "RESPFILE", pha.respfile, rmf, notes)
    spectrum = assemble(
        str(path),
        pha,
        beside,
        None if arf_source is None else read_arf(arf_source),
        None if rmf_source is None else read_rmf(rmf_source),
        tuple(notes),
    )
    for note in spectrum.warnings:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return spectrum


def assemble(
    path: str,
    pha: Pha,
    background: Pha | None,
    arf: Arf | None,
    rmf: Rmf | None,
    notes: tuple[str, ...] = (),
) -> Spectrum:
    """A Spectrum from parts read already; OgipError where their channels do not match."""
    energies = None
    if rmf is not None:
        energies = rmf.channel_energy_kev[channel_places(pha.channels, rmf, path)]
    counts = scale = None
    if background is not None:
        if not np.array_equal(background.channels, pha.channels):
            raise OgipError(path, "the background is on other channels than the spectrum")
        counts, scale = background.counts, background_scale(pha, background)
    return Spectrum(
        path=path,
        channels=pha.channels,
        counts=pha.counts,
        background_counts=counts,
        background_scale=scale,
        exposure_s=pha.exposure_s,
        channel_energy_kev=energies,
        arf=arf,
        rmf=rmf,
        header=pha.header,
        warnings=(*notes, *_response_notes(pha, arf, rmf)),
    )


def _response_notes(pha: Pha, arf: Arf | None, rmf: Rmf | None) -> list[str]:
    notes = []
    if (
        rmf is not None
        and pha.channels[0] != rmf.channels[0]
        and len(pha.channels) == len(rmf.channels)
    ):
        notes.append(
            f"channels count from {pha.channels[0]}, those of the RMF from {rmf.channels[0]}: "
            "matched in order"
        )
    if rmf is not None and rmf.includes_area and arf is not None:
        notes.append("the RMF includes an effective area (HDUCLAS3 FULL): the ARF multiplies it")
    return notes


def background_scale(pha: Pha, background: Pha) -> float | Floats:
    """Counts of background expected in the source region per count in the background region.

    (EXPOSURE BACKSCAL AREASCAL) of the source over that of the background: a number, or (n,)
    where a scale differs by channel; not finite where the background's are zero.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (
            np.divide(pha.exposure_s, background.exposure_s)
            * np.divide(pha.backscal, background.backscal)
            * np.divide(pha.areascal, background.areascal)
        )
    return float(ratio) if np.ndim(ratio) == 0 else ratio


def _read_background(path: Path, pha: Pha, override: Source | None, notes: list[str]) -> Pha | None:
    if override is not None:
        given = read_pha(override)
        return given.background or given
    if pha.background is not None or pha.backfile is None:
        return pha.background
    found = find_beside(path, pha.backfile)
    if is_same_product(pha.backfile, path.name) or (found is not None and found.samefile(path)):
        notes.append("BACKFILE names the file itself, which has no background block")
        return None
    if found is None:
        notes.append(f"BACKFILE {pha.backfile} not found: no background")
        return None
    given = read_pha(found)
    return given.background or given


def _response_source(
    path: Path, key: str, named: str | None, override: Source | None, notes: list[str]
) -> Source | None:
    if override is not None or named is None:
        return override
    found = find_beside(path, named)
    if found is None:
        notes.append(f"{key} {named} not found: no {'ARF' if key == 'ANCRFILE' else 'RMF'}")
    return found
