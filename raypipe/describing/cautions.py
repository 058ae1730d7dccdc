"""Decide what a user should be warned of before trusting the description of a spectrum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raypipe.describing.description import Flux
from raypipe.model.bundle import Model
from raypipe.model.card import record_of
from raypipe.model.training_record import TrainedOn
from raypipe.ogip import Note, Spectrum
from raypipe.redaction import printable
from raypipe.searching.causes import (
    BACKGROUND_DOMINATED_SHARE,
    FRAME_S,
    PILEUP_COUNTS_PER_FRAME,
)
from raypipe.searching.strangest import MOST_SIGMAS
from raypipe.spectra.gridding import (
    ARF_TRUNCATED,
    BEYOND_GRID,
    NO_BACKGROUND,
    ZEROTH_ORDER,
    GriddedSpectrum,
    keyword,
)

FEW_COUNTS = 20.0
"""Net counts below which parameters follow the population and the starting ranges of fits."""
UNUSUAL_SIGMAS = 4.0
"""Significance above which a spectrum is outside the population, or badly fitted: noise alone does
this to one in 30,000."""
LEAST_EFFECTIVE = 0.1
"""Share of the draws that must be effective for intervals to be trusted."""

_FLAGGED = {
    NO_BACKGROUND: "no background was given: background counts are taken as the source's",
    ARF_TRUNCATED: "the ARF leaves part of the energies uncovered",
    ZEROTH_ORDER: "the zeroth order of a grating: its center may be piled up",
    BEYOND_GRID: "photons above 12 keV, where the model has no flux, make part of the counts",
}


@dataclass(frozen=True)
class Circumstances:
    """Hold the facts that decide on the cautions of a spectrum.

    `background` is expected in the source region, counts in the model's channels. `far_sigmas` and
    `fit_sigmas` are the significances of `raypipe.searching.strangest`; `effective_share` is the
    effective number of draws over their number.
    """

    spectrum: Spectrum
    gridded: GriddedSpectrum
    total_counts: int
    background: float
    fluxes: Mapping[str, Flux]
    far_sigmas: float
    fit_sigmas: float
    effective_share: float


def cautions(found: Circumstances, model: Model) -> tuple[Note, ...]:
    """Return the cautions that apply, the reader's notes on the files last."""
    flags = (Note(_FLAGGED[flag], flag) for flag in found.gridded.flags if flag in _FLAGGED)
    return (
        *_counts(found, record_of(model).trained_on),
        *_background(found),
        *_pile_up(found),
        *_strangeness(found),
        *_telescope(found, record_of(model).trained_on),
        *_extrapolated(found),
        *_poorly_drawn(found),
        *flags,
        *found.spectrum.warnings,
    )


def counts_per_frame(spectrum: Spectrum, net_counts: float) -> float | None:
    """Estimate the counts per frame of ACIS, None where the instrument has no frames.

    All net counts of the region count, those of the CSC's pile-up statistic only in 3x3 pixels, so
    that an extended source is not piled up at this rate. EXPTIME is the frame's exposure, s.
    """
    header = spectrum.header
    continuous = keyword(header, "READMODE").startswith("CONTINUOUS")
    if keyword(header, "INSTRUME") != "ACIS" or continuous or not spectrum.exposure_s > 0:
        return None
    exptime = header.get("EXPTIME")
    given = isinstance(exptime, int | float) and 0 < exptime < 100
    frame_s = float(exptime) if given else FRAME_S  # type: ignore[arg-type]
    return net_counts / spectrum.exposure_s * frame_s


def _counts(found: Circumstances, trained_on: TrainedOn) -> Iterator[Note]:
    net = found.total_counts - found.background
    if net < FEW_COUNTS:
        yield Note(
            f"few counts, {net:.1f} above the background: values say more of the population than "
            "of this source; look at the intervals",
            "few_counts",
        )
    seen = trained_on.counts
    if seen is not None and not seen[0] <= found.total_counts <= seen[1]:
        yield Note(
            f"{found.total_counts:,} counts are outside the range of the spectra that the model "
            f"was trained on, {seen[0]:,} to {seen[1]:,}: trust less",
            "counts_outside_training",
        )


def _telescope(found: Circumstances, trained_on: TrainedOn) -> Iterator[Note]:
    mine = f"{found.gridded.telescope} {found.gridded.instrument}".strip()
    known = {name.upper() for name in trained_on.telescopes}
    if known and mine.upper() not in known:
        yield Note(
            f"no training spectrum is from {printable(mine, 60) or 'an unnamed telescope'}: the "
            f"model knows {', '.join(trained_on.telescopes)}; trust less",
            "telescope_not_trained",
        )


def _background(found: Circumstances) -> Iterator[Note]:
    if found.background > BACKGROUND_DOMINATED_SHARE * found.total_counts:
        yield Note(
            "more than half of the counts are expected background: the source depends on how well "
            "the background is known",
            "background_dominated",
        )


def _pile_up(found: Circumstances) -> Iterator[Note]:
    per_frame = counts_per_frame(found.spectrum, found.total_counts - found.background)
    if per_frame is not None and per_frame > PILEUP_COUNTS_PER_FRAME:
        yield Note(
            f"possible pile-up: {per_frame:.2g} counts per ACIS frame in the whole region; a point "
            "source is piled up by more than 5% above "
            f"{PILEUP_COUNTS_PER_FRAME:g}. This is a hint, as the shape of the source is not known",
            "pileup",
        )


def _strangeness(found: Circumstances) -> Iterator[Note]:
    if found.far_sigmas > UNUSUAL_SIGMAS:
        yield Note(
            "outside the population that the model was trained on, by "
            f"{_sigmas(found.far_sigmas)}: trust fluxes, classes and neighbors less",
            "outside_population",
        )
    if found.fit_sigmas > UNUSUAL_SIGMAS:
        yield Note(
            "the model does not reproduce the counts: by chance, a Cash statistic so high is as "
            f"improbable as {_sigmas(found.fit_sigmas)} of a normal distribution (unlike the "
            "z-score, this counts the skewness of few counts): trust everything from the latents "
            "less",
            "badly_fit",
        )


def _sigmas(value: float) -> str:
    """Write a significance; probabilities of the largest ones are smaller than any number."""
    return f"{value:.1f} sigma" if value < MOST_SIGMAS else f"more than {MOST_SIGMAS:g} sigma"


def _extrapolated(found: Circumstances) -> Iterator[Note]:
    bins = found.gridded.bins
    seen = f"{bins.lo_kev[0]:.2g}-{bins.hi_kev[-1]:.2g} keV"
    partly = [
        band for band, flux in found.fluxes.items() if flux.is_extrapolated and flux.value > 0
    ]
    if partly:
        yield Note(
            f"flux partly extrapolated in band {', '.join(partly)}: the channels cover {seen}",
            "flux_extrapolated",
        )


def _poorly_drawn(found: Circumstances) -> Iterator[Note]:
    if not found.effective_share >= LEAST_EFFECTIVE:
        yield Note(
            f"only {found.effective_share:.0%} of the posterior draws are effective: intervals "
            "are rough",
            "few_effective_draws",
        )
