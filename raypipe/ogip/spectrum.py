"""Read a spectrum with its background and responses, and fold fluxes through them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from raypipe.errors import OgipError
from raypipe.ogip.arf import Arf, read_arf
from raypipe.ogip.energies import bins_of, edges_around, same_bins, union_of
from raypipe.ogip.fits import Floats, Integers
from raypipe.ogip.loading import Source
from raypipe.ogip.neighbors import find_beside, is_same_product
from raypipe.ogip.notes import (
    AREA_TWICE,
    ARF_MISSING,
    BACKGROUND_MISSING,
    CHANNELS_MATCHED,
    NEGATIVE_BACKGROUND,
    NO_AREASCAL,
    NO_BACKSCAL,
    NOT_POISSON,
    RMF_MISSING,
    Note,
    prefixed,
)
from raypipe.ogip.pha import Pha, read_pha
from raypipe.ogip.presentation import FoldedModel, binned, headline, summary
from raypipe.ogip.quadrature import Flux, integrate
from raypipe.ogip.rmf import Rmf, read_rmf
from raypipe.redaction import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NAME_SHOWN = 200
"""Largest number of characters of a file's name in a note."""


class Named(Enum):
    """Define the type of `NAMED`, which stands for the file that the PHA's header names."""

    NAMED = "named"


NAMED: Final = Named.NAMED


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Hold a PHA, its background and its responses, all on the PHA's channels.

    `channels` (n,); `counts` (n,); `background_counts` (n,), None without a background;
    `background_scale`: (EXPOSURE BACKSCAL AREASCAL) of the source over that of the background, a
    number, or (n,) where scales differ by channel, None without a background; `exposure_s`;
    `channel_energy_kev` (n, 2): lower and upper edge, None without an RMF; `arf`, `rmf`: None
    where not found; `header`: keywords of the PHA; `warnings`: notes on what is odd or missing,
    each with its code (`raypipe.ogip.notes`); `path`: that of the PHA; `areascal`: the factor on
    the area, a number, or (n,) where it differs by channel.
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
    warnings: tuple[Note, ...]
    areascal: float | Floats = 1.0

    @property
    def net_counts(self) -> float:
        """Return the counts minus the expected background, summed over all channels."""
        total = float(self.counts.sum())
        if self.background_counts is None or self.background_scale is None:
            return total
        return total - float((self.background_counts * self.background_scale).sum())

    def __repr__(self) -> str:
        words = (str(self.header.get(key) or "").strip() for key in ("TELESCOP", "INSTRUME"))
        without = {
            "background": self.background_counts,
            "ARF": self.arf,
            "RMF": self.rmf,
        }
        absent = [name for name, part in without.items() if part is None]
        parts = [
            " ".join(filter(None, words)),
            f"{self.counts.sum():.0f} counts in {len(self.channels)} channels",
            f"{self.exposure_s:g} s",
            f"without {', '.join(absent)}" if absent else "with background, ARF and RMF",
            f"{len(self.warnings)} warnings" if self.warnings else "",
        ]
        return printable(f"Spectrum({self.path}: {', '.join(filter(None, parts))})", 500)

    def _repr_html_(self) -> str:
        from raypipe.display.table import summary_table

        return summary_table("Spectrum", summary(self))

    def plot(self, model: FoldedModel | Flux | None = None) -> Figure:
        """Draw counts per second and keV, with what `model` expects, and the residuals.

        `model` is a trained model (`raypipe.load_model`), whose latents are fitted to the spectrum,
        or a photon flux as for `fold`; without one, counts and background are drawn alone. A model
        is drawn in its own channel bins, anything else where the effective area is at least 1% of
        its peak. Channels are grouped to at least 5 to 25 counts for the figure only; crosses show
        68% Poisson limits, and residuals are in units of the root of the expected counts.

        Returns a matplotlib figure, which notebooks display; `figure.savefig("fit.png")` writes it.
        Raises OgipError where the channels have no energies, or the model cannot use the spectrum.
        """
        from raypipe.display.spectrum_figure import spectrum_figure

        if not 0 < self.exposure_s < np.inf:
            raise OgipError(self.path, f"EXPOSURE is {self.exposure_s:g} s: no rate to draw")
        shown = binned(self, model) if model is None or callable(model) else model.binned(self)
        title = printable(headline(self, shown), 100)
        figure = spectrum_figure(shown, title=title, size_in=(6.4, 4.4))
        figure.set_facecolor("white")
        return figure

    def fold(self, flux: Flux, *, lines_kev: Sequence[float] = ()) -> Floats:
        """Predict the counts per channel (n,) of a source of this photon flux, without background.

        `flux` takes energies in keV (k,) and returns photon/cm2/s/keV, (k,) or a number. It is
        integrated over the energy bins of the RMF, which are cut where the ARF has other edges
        (`raypipe.ogip.quadrature`), multiplied by the effective area and the exposure,
        redistributed, and multiplied by AREASCAL, channel by channel where that is a column.

        A line keeps its counts wherever it lies if its sigma is at least 0.1 eV, or a 200th of a
        bin wider than 20 eV. Narrower lines may be missed: name their energies, keV, in
        `lines_kev`.

        Raises OgipError if there is no RMF or no effective area.
        """
        if self.rmf is None:
            raise OgipError(self.path, "no RMF to fold through: give rmf=")
        if self.arf is None and not self.rmf.includes_area:
            raise OgipError(self.path, "no ARF to fold through: give arf=")
        photons = self.exposure_s * _detected(flux, self.rmf, self.arf, lines_kev)
        places = channel_places(self.channels, self.rmf, self.path)
        counts: Floats = self.rmf.fold(photons)[places] * self.areascal
        return counts


def _detected(flux: Flux, rmf: Rmf, arf: Arf | None, lines_kev: Sequence[float]) -> Floats:
    """Return the photons per second (m,) that the area collects in each energy bin of the RMF.

    The area is constant over each bin of the ARF, and zero outside of them.
    """
    bins = rmf.energy_lo_kev, rmf.energy_hi_kev
    area_bins = bins if arf is None else (arf.energy_lo_kev, arf.energy_hi_kev)
    alike = arf is None or same_bins(area_bins, bins)
    if alike and not len(lines_kev):
        photons = integrate(flux, *area_bins)
        return photons if arf is None else photons * arf.area_cm2
    # Cut the RMF's bins at the ARF's edges and around lines, integrate over the pieces, multiply
    # each by the area of its ARF bin, and sum the pieces of each RMF bin.
    grids = [bins] if alike else [bins, area_bins]
    low, high = union_of([*grids, edges_around(lines_kev, bins)])
    within = [bins_of((low, high), grid) for grid in grids]
    kept = np.logical_and.reduce([each >= 0 for each in within])
    row, area_row = within[0][kept], within[-1][kept]
    photons = integrate(flux, low[kept], high[kept])
    if arf is not None:
        photons *= arf.area_cm2[area_row]
    summed: Floats = np.bincount(row, photons, len(bins[0])).astype(np.float64, copy=False)
    return summed


def channel_places(channels: Integers, rmf: Rmf, path: str) -> slice | Integers:
    """Return the places of a spectrum's channels among those of the RMF.

    If both have the same number of consecutive channels, they are matched in order, whatever their
    first numbers are. Raises OgipError if a channel is absent from the RMF.
    """
    first, last, n_channels = int(rmf.channels[0]), int(rmf.channels[-1]), len(rmf.channels)
    if len(channels) == n_channels and int(channels[-1]) - int(channels[0]) == last - first:
        return slice(None)
    if channels[0] < first or channels[-1] > last:
        raise OgipError(
            path,
            f"channels {channels[0]} to {channels[-1]} are not all among those of the RMF, "
            f"{first} to {last}: give the RMF that was made for this spectrum",
        )
    return channels - first


def read_spectrum(
    path: str | os.PathLike[str],
    *,
    arf: Source | Named | None = NAMED,
    rmf: Source | Named | None = NAMED,
    background: Source | Named | None = NAMED,
) -> Spectrum:
    """Read a PHA with its background, ARF and RMF.

    The background is the BKG block of the same file, else the file that BACKFILE names; ARF and
    RMF are the files that ANCRFILE and RESPFILE name. Named files are searched only beside the PHA,
    with and without `.gz`; for products of the Chandra Source Catalog, any version of the same
    detection will do. `arf`, `rmf` and `background` (paths or bytes) replace the named files, and
    None means no file. If a background file has a BKG block, that block is the background.

    If a named file is missing, a warning says so and the spectrum has none. All warnings are also
    in `warnings`, which alone notes that POISSERR is false if the values are counts nevertheless.
    Raises OgipError for malformed files, for overrides that do not exist, and if the channels of
    background or RMF do not match.
    """
    path = Path(path)
    pha = read_pha(path)
    notes: list[Note] = []
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
        if note.code != NOT_POISSON:
            warnings.warn(f"{path}: {note}", stacklevel=2)
    return spectrum


def assemble(
    path: str,
    pha: Pha,
    background: Pha | None,
    arf: Arf | None,
    rmf: Rmf | None,
    notes: tuple[Note, ...] = (),
) -> Spectrum:
    """Make a Spectrum of parts that have been read; OgipError if their channels do not match.

    Its `warnings` are those of the parts, `notes`, and notes on how the parts fit together.
    """
    found = [*pha.warnings, *notes]
    energies = counts = scale = None
    if background is not None:
        found += _background_notes(pha, background, path)
        counts, scale = background.counts, background_scale(pha, background)
    if arf is not None:
        found += arf.warnings
    if rmf is not None:
        energies = rmf.channel_energy_kev[channel_places(pha.channels, rmf, path)]
        found += [*rmf.warnings, *_response_notes(pha, arf, rmf)]
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
        warnings=tuple(found),
        areascal=pha.areascal,
    )


def _background_notes(pha: Pha, background: Pha, path: str) -> list[Note]:
    """Return the notes on a background; OgipError if its channels do not match the spectrum's."""
    notes = list(prefixed("background", background.warnings))
    if background.counts.min() < 0 and NEGATIVE_BACKGROUND not in {note.code for note in notes}:
        notes.insert(0, Note("the background has negative values", NEGATIVE_BACKGROUND))
    for key, code in (("BACKSCAL", NO_BACKSCAL), ("AREASCAL", NO_AREASCAL)):
        if (key in pha.assumed) != (key in background.assumed):
            lacking = "spectrum" if key in pha.assumed else "background"
            notes.append(Note(f"the {lacking} has no {key} (1 is assumed)", code))
    if np.array_equal(background.channels, pha.channels):
        return notes
    first, other = int(pha.channels[0]), int(background.channels[0])
    if not np.array_equal(background.channels - other, pha.channels - first):
        raise OgipError(path, "the background is on other channels than the spectrum")
    notes.append(_matched_in_order(first, "the background", other))
    return notes


def _response_notes(pha: Pha, arf: Arf | None, rmf: Rmf) -> list[Note]:
    notes = []
    first, other = int(pha.channels[0]), int(rmf.channels[0])
    if first != other and len(pha.channels) == len(rmf.channels):
        notes.append(_matched_in_order(first, "the RMF", other))
    if rmf.includes_area and arf is not None:
        notes.append(
            Note("the RMF includes an effective area, and the ARF multiplies it", AREA_TWICE)
        )
    return notes


def _matched_in_order(first: int, product: str, other: int) -> Note:
    said = f"channels count from {first}, those of {product} from {other}: matched in order"
    return Note(said, CHANNELS_MATCHED)


def background_scale(pha: Pha, background: Pha) -> float | Floats:
    """Return the expected background counts in the source region per count in the background's.

    It is (EXPOSURE BACKSCAL AREASCAL) of the source over that of the background: a number, or (n,)
    where a scale differs by channel; it is not finite where that of the background is zero.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (
            np.divide(pha.exposure_s, background.exposure_s)
            * np.divide(pha.backscal, background.backscal)
            * np.divide(pha.areascal, background.areascal)
        )
    return float(ratio) if np.ndim(ratio) == 0 else ratio


def _read_background(
    path: Path, pha: Pha, override: Source | Named | None, notes: list[Note]
) -> Pha | None:
    if override is None:
        return None
    if not isinstance(override, Named):
        given = read_pha(override)
        return given.background or given
    if pha.background is not None or pha.backfile is None:
        return pha.background
    found = find_beside(path, pha.backfile)
    if is_same_product(pha.backfile, path.name) or (found is not None and found.samefile(path)):
        said = "BACKFILE names the file itself, which has no background block"
        notes.append(Note(said, BACKGROUND_MISSING))
        return None
    if found is None:
        said = f"BACKFILE {_shown(pha.backfile)} not found: no background"
        notes.append(Note(said, BACKGROUND_MISSING))
        return None
    given = read_pha(found)
    return given.background or given


def _response_source(
    path: Path, key: str, named: str | None, override: Source | Named | None, notes: list[Note]
) -> Source | None:
    if not isinstance(override, Named):
        return override
    if named is None:
        return None
    found = find_beside(path, named)
    if found is None:
        product, code = ("ARF", ARF_MISSING) if key == "ANCRFILE" else ("RMF", RMF_MISSING)
        missing = f"{key} {_shown(named)} not found: no {product}"
        if named.upper() == "CALDB":
            missing = f"{key} is CALDB, which is not searched: give {product.lower()}="
        notes.append(Note(missing, code))
    return found


def _shown(named: str) -> str:
    """Shorten and escape a file's name from a header, so that a note can quote it."""
    return printable(named, MAX_NAME_SHOWN)
