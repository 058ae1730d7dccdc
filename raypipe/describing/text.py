"""Write the description of a spectrum as text for reading, with units and plain words."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from raypipe.describing.description import Description, Fit, Flux, Interval, Neighbor
from raypipe.redaction import printable, redact_text
from raypipe.spectra.band_counts import BANDS_KEV

MODEL_NAMES = {
    "powlaw": "absorbed power law",
    "bb": "absorbed black body",
    "brems": "absorbed bremsstrahlung",
    "plasma": "absorbed thermal plasma",
}
"""Each physical model in words."""

_PARAMETERS = {
    "nh": ("N_H", "× 10²⁰ cm⁻²"),
    "gamma": ("photon index", ""),
    "kt": ("kT", "keV"),
    "abund": ("abundance", "solar"),
    "ampl": ("amplitude", ""),
    "norm": ("normalization", ""),
}
_WIDTH = 98
_MAX_NAME = 120
_CLASSES_SHOWN = 4
_LEAST_SHOWN = 0.02
_FIGURES, _MOST_FIGURES = 3, 6
ALIKE = 3.0
"""Distance in units of the errors within which latents are alike."""


def description_text(found: Description) -> str:
    """Write a description in paragraphs: observation, fluxes, physics, fold, classes, cautions."""
    parts = [
        headline(found),
        _block("energy flux, erg/cm2/s, with 68% intervals", _flux_lines(found)),
        _block(_fits_title(found), _fit_lines(found)),
        _block("fold of the latents", [fold_sentence(found)]),
        _block(f"class: {found.classes_from}", _class_lines(found)),
        _block(neighbors_title(found), [neighbors_sentence(found)] if found.neighbors else []),
        _block("warnings", [f"- {shown(each)}" for each in found.warnings]),
        f"model: {found.model_id}, {found.posterior_ess:.0f} effective draws",
    ]
    return "\n\n".join(filter(None, parts))


def headline(found: Description) -> str:
    """Return file, object, instrument, exposure, counts and background in one line."""
    share = found.background_share
    background = f", {share_words(share)} of them background" if found.total_counts else ""
    return (
        f"{shown(Path(found.file).name)}: {instrument_of(found)}, {duration(found.exposure_s)}, "
        f"{found.total_counts:,} counts{background}"
    )


def share_words(share: float) -> str:
    """Return a share in per cent, or that it is not known."""
    return f"{share:.0%}" if math.isfinite(share) else "an unknown share"


def instrument_of(found: Description) -> str:
    """Return object, telescope and instrument as the header names them."""
    telescope = " ".join(filter(None, (found.telescope, found.instrument)))
    return ", ".join(shown(each) for each in (found.object, telescope) if each)


def duration(seconds: float) -> str:
    """Format an exposure in s or ks."""
    return f"{seconds / 1e3:.3g} ks" if seconds >= 1e3 else f"{seconds:.3g} s"


def shown(text: str) -> str:
    """Make an untrusted text fit to show: printable, short, and free of credentials."""
    return printable(redact_text(str(text)), 3 * _MAX_NAME if " " in str(text) else _MAX_NAME)


def band_title(band: str) -> str:
    """Return a band's name with its energies."""
    low, high = BANDS_KEV[band]
    return f"{band} ({low:g}-{high:g} keV)"


def flux_words(flux: Flux) -> str:
    """Format a flux with its interval, or its upper limit, and say if it is extrapolated."""
    if flux.upper_limit is not None:
        words = f"< {flux.upper_limit:.2e} (90% upper limit)"
    elif math.isfinite(flux.value):
        words = f"{flux.value:.2e} ({flux.lolim:.2e} to {flux.hilim:.2e})"
    else:
        return "not covered by the channels"
    return f"{words}, partly extrapolated" if flux.is_extrapolated else words


def parameter_title(name: str) -> tuple[str, str]:
    """Return a parameter's title and unit, by the name of its column."""
    return _PARAMETERS.get(name.partition("_")[2], (name, ""))


def interval_words(interval: Interval, unit: str = "") -> str:
    """Format a value with its 68% interval and unit, or the limit that is left of it.

    An end is not known where the statistic does not rise enough before a limit of the parameter.
    """
    value, low, high = interval.value, interval.lolim, interval.hilim
    has_low, has_high = math.isfinite(low), math.isfinite(high)
    after = f" {unit}" if unit else ""
    if has_low and has_high:
        width = 0.5 * (high - low)
        shown_value, shown_low, shown_high = (figures(each, width) for each in (value, low, high))
        return f"{shown_value} ({shown_low} to {shown_high}){after}"
    if has_high:
        return f"< {figures(high)}{after} (68%, best {figures(value)})"
    if has_low:
        return f"> {figures(low)}{after} (68%, best {figures(value)})"
    return f"{figures(value)}{after} (not determined)" if math.isfinite(value) else "not determined"


def figures(value: float, error: float = math.inf) -> str:
    """Format a number without a power of ten where it is readable so.

    It has three figures, or as many as its error asks for.
    """
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    wanted = _FIGURES
    if 0 < error < abs(value):
        wanted = math.floor(math.log10(abs(value))) - math.floor(math.log10(error)) + 1
    digits = min(max(wanted, _FIGURES), _MOST_FIGURES)
    return f"{value:#.{digits}g}".rstrip(".") if abs(value) < 1e3 else f"{value:.0f}"


def physical_parameters(fit: Fit) -> dict[str, Interval]:
    """Return the parameters that describe the shape, without amplitude and normalization."""
    shape = ("_ampl", "_norm")
    return {name: each for name, each in fit.parameters.items() if not name.endswith(shape)}


def fit_words(fit: Fit) -> str:
    """Describe the parameters of a fit in a line."""
    words = []
    for name, interval in physical_parameters(fit).items():
        title, unit = parameter_title(name)
        words.append(f"{title} {interval_words(interval, unit)}")
    return ", ".join(words)


def fold_sentence(found: Description) -> str:
    """State the Cash statistic of the latents' fold, and how it compares with the best fit's."""
    sentence = (
        f"Cash {found.cash:.1f} in {found.n_bins} channel bins, expected "
        f"{found.cash_expected:.1f}: z-score {found.fit_zscore:+.1f}"
    )
    best = found.best_fit
    if best is None:
        return f"{sentence}."
    gain = found.fits[best].stat - found.cash
    if gain >= 0:
        return f"{sentence}. It is {gain:.1f} lower than that of the best physical fit."
    return f"{sentence}. It is {-gain:.1f} higher than that of the best physical fit."


def neighbors_title(found: Description) -> str:
    """Say what a neighbor is."""
    return (
        f"nearest of the {found.n_references:,} {found.references} of the training, by the "
        "distance of their latents in units of this spectrum's joint error (below about "
        f"{ALIKE:g}: alike within the errors)"
    )


def neighbors_sentence(found: Description) -> str:
    """Count the classes of the neighbors, and tell how far the nearest and the farthest are."""
    counted = Counter(each.label for each in found.neighbors)
    classes = ", ".join(f"{number} {shown(label)}" for label, number in counted.most_common())
    nearest, farthest = found.neighbors[0], found.neighbors[-1]
    named = f", {shown(nearest.name)}," if nearest.name else ""
    sentence = (
        f"{classes}; the nearest is {article(nearest.label)}{named} at {nearest.distance:.1f} "
        f"({separation(nearest)} apart), the {len(found.neighbors)}th is at "
        f"{farthest.distance:.1f}"
    )
    return sentence if nearest.distance < ALIKE else f"{sentence}: none is alike"


def separation(neighbor: Neighbor) -> str:
    """Format the distance of latents with its error."""
    return f"{neighbor.separation:.2f} ± {neighbor.separation_err:.2f}"


def article(label: str) -> str:
    """Put the indefinite article before a class, which is pronounced letter by letter."""
    return f"an {shown(label)}" if label[:1].upper() in "AEFHILMNORSX" else f"a {shown(label)}"


def best_covered_flux(found: Description) -> tuple[str, Flux] | None:
    """Return the flux in 0.5-7 keV with its band, or that of the widest band that is covered."""
    known = {band: flux for band, flux in found.fluxes.items() if math.isfinite(flux.value)}
    if not known:
        return None
    band = max(known, key=lambda each: BANDS_KEV[each][1] - BANDS_KEV[each][0])
    return band, known[band]


def likely_classes(found: Description) -> list[tuple[str, float]]:
    """Return the most probable classes, those below `_LEAST_SHOWN` left out."""
    some = [(name, share) for name, share in found.classes.items() if share >= _LEAST_SHOWN]
    return some[:_CLASSES_SHOWN]


def _flux_lines(found: Description) -> list[str]:
    width = max((len(band_title(band)) for band in found.fluxes), default=0)
    return [
        f"{band_title(band).ljust(width)}  {flux_words(flux)}"
        for band, flux in found.fluxes.items()
    ]


def _fits_title(found: Description) -> str:
    best = found.best_fit
    if best is None:
        return ""
    return (
        f"best physical fit: {MODEL_NAMES.get(best, best)}, Cash {found.fits[best].stat:.1f} "
        "(68% intervals)"
    )


def _fit_lines(found: Description) -> Iterator[str]:
    best = found.best_fit
    if best is None:
        return
    for name, interval in physical_parameters(found.fits[best]).items():
        title, unit = parameter_title(name)
        yield f"{title.ljust(13)} {interval_words(interval, unit)}"
    for name, fit in sorted(found.fits.items(), key=lambda item: item[1].stat):
        if name != best and math.isfinite(fit.stat):
            rise = fit.stat - found.fits[best].stat
            yield f"{MODEL_NAMES.get(name, name)}: Cash +{rise:.1f}; {fit_words(fit)}"


def _class_lines(found: Description) -> list[str]:
    if not found.classes:
        return []
    return [", ".join(f"{shown(name)} {share:.2f}" for name, share in likely_classes(found))]


def _block(title: str, lines: Iterable[str]) -> str:
    """Indent lines under a title; nothing where there are no lines."""
    written: Sequence[str] = list(lines)
    if not written:
        return ""
    wrapped = [
        textwrap.fill(
            line,
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        for line in written
    ]
    return "\n".join([textwrap.fill(title, _WIDTH, break_on_hyphens=False), *wrapped])
