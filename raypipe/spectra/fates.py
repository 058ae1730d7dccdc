"""Decide for each note of the reader whether the detection is refused or gets a flag."""

from __future__ import annotations

from collections.abc import Iterable

from raypipe.errors import OgipError
from raypipe.ogip.notes import (
    AREA_TWICE,
    NEGATIVE_BACKGROUND,
    NET_COUNTS,
    NO_BACKSCAL,
    Note,
)

REFUSED = {
    NET_COUNTS: "the Poisson likelihood needs counts as they were detected, source and background "
    "together: give those",
    NEGATIVE_BACKGROUND: "the Poisson likelihood needs the background's counts as they were "
    "detected: give those, or set BACKFILE to none",
    NO_BACKSCAL: "source and background cannot be compared: write BACKSCAL into both",
    AREA_TWICE: "the area would count twice: set ANCRFILE to none and leave the ARF out, or give "
    "an RMF without the area",
}
"""The remedy for each oddity that makes a spectrum unusable, by the note's code. A detection with
any other note is used, and has the note's code among its flags."""


def flags_of(notes: Iterable[Note], path: str) -> list[str]:
    """Return a detection's flags from the reader's notes; raise OgipError if one refuses it."""
    codes: dict[str, None] = {}
    for note in notes:
        if note.code in REFUSED:
            raise OgipError(path, f"{note}; {REFUSED[note.code]}")
        codes[note.code] = None
    return list(codes)
