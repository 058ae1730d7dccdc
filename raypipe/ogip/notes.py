"""Oddities of a file that was read all the same: a text for people, a code for programs."""

from __future__ import annotations

from collections.abc import Iterable

NET_COUNTS = "net_counts"
"""The values are no counts: a background is subtracted, they are negative, or not whole though
POISSERR is false. Poisson statistics do not describe them."""

NOT_POISSON = "not_poisson"
"""POISSERR is false: the file states errors that are not Poisson's. Its values may still be counts,
as those of CIAO's dmextract with error=gaussian are."""

NO_BACKSCAL = "backscal_missing"
"""One of source and background has no BACKSCAL, the other has one."""

NO_AREASCAL = "areascal_missing"
"""One of source and background has no AREASCAL, the other has one."""

AREA_TWICE = "area_applied_twice"
"""The RMF includes the effective area, and an ARF multiplies it."""

PARTIAL_RESPONSE = "response_partial"
"""ARF or RMF does not cover part of 0.5 to 7 keV."""

SEVERAL_SPECTRA = "several_spectra"
"""The file holds several spectra or backgrounds: the first is read."""

SORTED_CHANNELS = "channels_sorted"
"""The channels were out of order."""

CHANNELS_MATCHED = "channels_matched_in_order"
"""Channels of background or RMF are numbered from another first number."""

NEGATIVE_BACKGROUND = "negative_background"
"""The background has negative values, so that they are no counts."""

LIVETIME_USED = "livetime_for_exposure"
"""EXPOSURE is missing: LIVETIME takes its place."""

EXPOSURE_ODD = "exposure_not_positive"
"""EXPOSURE is zero, negative or not finite."""

SCALE_ODD = "scale_not_positive"
"""BACKSCAL or AREASCAL is somewhere zero, negative or not finite."""

BACKGROUND_MISSING = "background_missing"
"""The background that the file names is not there."""

ARF_MISSING = "arf_missing"
"""The ARF that the file names is not there."""

RMF_MISSING = "rmf_missing"
"""The RMF that the file names is not there."""


class Note(str):
    """A sentence about a file, and the `code` (a constant of this module) of the oddity."""

    __slots__ = ("code",)
    code: str

    def __new__(cls, text: str, code: str) -> Note:
        """Make a note that reads as `text`."""
        note = super().__new__(cls, text)
        note.code = code
        return note

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.code


def prefixed(prefix: str, notes: Iterable[Note]) -> tuple[Note, ...]:
    """Say of each note which file it is about, and keep its code."""
    return tuple(Note(f"{prefix}: {note}", note.code) for note in notes)
