"""Find detections and sources by name, and suggest the nearest spellings of unknown names."""

from __future__ import annotations

import difflib
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.identity import OWN_FILE

Rows = npt.NDArray[np.int64]

_PRESELECTED = 200
"""Number of most similar names among which difflib chooses."""
_SUGGESTED = 3
_LONGEST = 64
_POSITION = re.compile(r"J(\d\d)(\d\d)(\d\d(?:\.\d*)?)([+-])(\d\d)(\d\d)(\d\d(?:\.\d*)?)", re.I)


def rows_of(names: pa.ChunkedArray, name: str) -> Rows:
    """Return the rows with exactly this name."""
    equal = pc.fill_null(pc.equal(names, name), False)
    return np.flatnonzero(equal.to_numpy()).astype(np.int64)


def id_called(ids: pa.ChunkedArray, name: str, release: str) -> str | None:
    """Return the detection_id that a name means: the id itself, or its part after the prefix."""
    for called in (name, f"{OWN_FILE}{name}", f"{release}:{name}"):
        if len(rows_of(ids, called)):
            return called
    return None


def why_unnamed(name: str, detections: pa.Table) -> str | None:
    """Explain why no source is called `name` if detections have no names at all, or not this one.

    `detections` has the columns detection_id and name, and target_name if the catalog has it.
    Return None if there are other names, and `name` is not that of a target.
    """
    if "target_name" in detections.column_names:
        rows = rows_of(detections["target_name"], name)
        ids = detections["detection_id"].take(pa.array(rows[:_SUGGESTED])).to_pylist()
        if ids:
            more = f" and {len(rows) - len(ids)} more" if len(rows) > len(ids) else ""
            return (
                f"{name}: the target of {len(rows)} detections that may be different sources; "
                f"give one of them with --detection: {', '.join(ids)}{more}"
            )
    ids = detections["detection_id"].slice(0, 1).to_pylist()
    if ids and detections["name"].null_count == len(detections):
        return (
            f"{name}: no detection of this catalog has the name of a source; give a detection, "
            f"such as --detection {ids[0]}"
        )
    return None


def nearest_spellings(names: pa.ChunkedArray, name: str) -> list[str]:
    """Return the names most similar to an unknown one, best first; takes 1 s per million names.

    Names are compared letter by letter from the start and from the end, so that a changed, missing
    or extra letter costs little; difflib chooses among the most similar ones.
    """
    if not len(names) or not name:
        return []
    text = name[:_LONGEST]
    alike = _letters_alike(names.combine_chunks(), text.encode())
    n = min(_PRESELECTED, len(alike))
    best = np.argpartition(-alike, n - 1)[:n]
    found = {str(each) for each in names.take(pa.array(np.sort(best))).to_pylist() if each}
    by_case = {each.casefold(): each for each in sorted(found)}
    close = difflib.get_close_matches(text.casefold(), by_case, n=_SUGGESTED, cutoff=0.5)
    return [by_case[each] for each in close]


def position_in(name: str) -> tuple[float, float] | None:
    """Parse right ascension and declination, deg, from a name of the form J004242.9+411608."""
    match = _POSITION.search(name)
    if match is None:
        return None
    hours, minutes, seconds, sign, degrees, arcmin, arcsec = match.groups()
    ra = 15.0 * (int(hours) + int(minutes) / 60 + float(seconds) / 3600)
    dec = int(degrees) + int(arcmin) / 60 + float(arcsec) / 3600
    return ra, -dec if sign == "-" else dec


def separations_arcsec(
    ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64], center: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Return angles, arcsec, between positions (n,), deg, and a center (haversine formula)."""
    ra1, dec1, ra2, dec2 = (np.deg2rad(angle) for angle in (ra, dec, *center))
    half = np.sin((dec1 - dec2) / 2) ** 2
    half += np.cos(dec1) * np.cos(dec2) * np.sin((ra1 - ra2) / 2) ** 2
    return np.asarray(np.rad2deg(2 * np.arcsin(np.sqrt(half.clip(0, 1)))) * 3600)


def _letters_alike(names: pa.Array, text: bytes) -> npt.NDArray[np.int16]:
    """Score how many letters each name shares with a text: from both ends, or in place."""
    # All names at once, one letter of the text per step. `starts_so` and `ends_so` stay true
    # while every letter so far agreed, so that their sums are the common prefix and suffix.
    offsets, letters = _buffers(names)
    first, last = offsets[:-1], offsets[1:] - 1
    length = np.diff(offsets)
    from_start, from_end, in_place = (np.zeros(len(length), np.int16) for _ in range(3))
    starts_so, ends_so = (np.ones(len(length), bool) for _ in range(2))
    for i in range(len(text)):
        there = length > i
        same = there & (letters[np.where(there, first + i, 0)] == text[i] | 0x20)
        in_place += same
        starts_so &= same
        from_start += starts_so
        ends_so &= there & (letters[np.where(there, last - i, 0)] == text[-1 - i] | 0x20)
        from_end += ends_so
    return np.maximum(np.minimum(from_start + from_end, length), in_place) - abs(length - len(text))


def _buffers(names: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return the bounds of each name and the letters of all names, lower-cased."""
    names = pc.fill_null(names.cast(pa.large_string()), "")
    _, offsets, letters = names.buffers()
    places = np.frombuffer(offsets, np.int64)[names.offset : names.offset + len(names) + 1]
    content = np.frombuffer(letters or b"\0", np.uint8)
    return places, content | np.uint8(0x20)  # this bit is the difference of A and a in ASCII
