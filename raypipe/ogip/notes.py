"""Note what is odd in a file that was read nevertheless: a text for people, a code for programs."""

from __future__ import annotations

from collections.abc import Iterable

NET_COUNTS = "net_counts"
"""The values are no counts: a background is subtracted, they are negative, or POISSERR is false and
they are fractions. Poisson statistics do not describe them."""

NOT_POISSON = "not_poisson"
"""POISSERR is false: the file states errors that are not Poisson's. Its values may still be counts,
for instance those of CIAO's dmextract with error=gaussian."""

NO_BACKSCAL = "backscal_missing"
"""Either the source or the background has no BACKSCAL, while the other has one."""

NO_AREASCAL = "areascal_missing"
"""Either the source or the background has no AREASCAL, while the other has one."""

AREA_TWICE = "area_applied_twice"
"""The RMF includes the effective area, and an ARF multiplies it."""

PARTIAL_RESPONSE = "response_partial"
"""ARF or RMF does not cover part of 0.5 to 7 keV."""

SEVERAL_SPECTRA = "several_spectra"
"""The file holds several spectra or backgrounds: the first is read."""

SORTED_CHANNELS = "channels_sorted"
"""The channels were out of order."""

CHANNELS_MATCHED = "channels_matched_in_order"
"""Channels of background or RMF begin with another number than those of the spectrum."""

NEGATIVE_BACKGROUND = "negative_background"
"""The background has negative values, so that they are no counts."""

LIVETIME_USED = "livetime_for_exposure"
"""EXPOSURE is missing: LIVETIME takes its place."""

EXPOSURE_ODD = "exposure_not_positive"
"""EXPOSURE is zero, negative or not finite."""

SCALE_ODD = "scale_not_positive"
"""BACKSCAL or AREASCAL is zero, negative or not finite in some channel."""

BACKGROUND_MISSING = "background_missing"
"""The background that the file names was not found."""

ARF_MISSING = "arf_missing"
"""The ARF that the file names was not found."""

RMF_MISSING = "rmf_missing"
"""The RMF that the file names was not found."""


class Note(str):
    """Hold a sentence about a file, with a `code`, which is a constant of this module."""

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
    """Put the name of the file in front of each note, and keep the codes."""
    return tuple(Note(f"{prefix}: {note}", note.code) for note in notes)
