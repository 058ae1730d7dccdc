"""Find spectrum files that hold the same photons, and so are one detection.

The same photons can be in several files: as CIAO's `X.pi` and the grouped `X_grp.pi`, compressed
beside the plain file, or copied into a subfolder. Two files hold the same photons if they agree in

* telescope, instrument, observation (OBS_ID), start of the observation (DATE-OBS), and whether the
  background is subtracted;
* counts per channel, whatever the number of the first channel;
* exposure, within the rounding of single precision;
* BACKSCAL and AREASCAL, within the same rounding, where the files name no observation.

The counts of a spectrum with `TELLING_COUNTS` or more are a fingerprint: ten photons of each of two
sources fall on the same channels by chance in one of 3e4 pairs if only ten channels are equally
likely, and in one of 3e8 if thirty are. The counts of a fainter spectrum are not a fingerprint: any
two empty spectra agree. Two faint files hold the same photons only if they also agree in the region
on the sky and in TSTART and TSTOP. If they name no region, their bytes must agree after
decompression, as must their names without suffixes, and their ARFs must not differ. A faint file
that cannot be identified in this way stays a detection.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raypipe.ogip import Pha

TELLING_COUNTS = 10
"""Fewest counts whose places in the channels identify a spectrum."""

_ROUNDING = 1e-6
"""Relative difference that single precision, or seven digits in a header, can cause."""

_WHOLE = 1e-3
"""Distance from a whole number that a rate in single precision times an exposure may have."""

_MOST_FILTERS = 100
"""Entries of a CIAO data subspace that are searched for a region."""


@dataclass(frozen=True)
class Photons:
    """Identify the photons of a spectrum file.

    `key`: a hash of all that must agree exactly; `exposure_s`, `scales`: what must agree within
    rounding, the latter only where no observation is named; `is_telling`: whether the key
    identifies the photons by itself; `is_grouped`: whether channels are grouped.
    """

    key: str
    exposure_s: float
    scales: tuple[npt.NDArray[np.float64], ...]
    is_telling: bool
    is_grouped: bool

    def agree(self, other: Photons) -> bool:
        """Tell whether two files of one key hold the same photons."""
        pairs = zip(self.scales, other.scales, strict=True)
        return _close(self.exposure_s, other.exposure_s) and all(_close(*pair) for pair in pairs)


def photons_of(pha: Pha, content: bytes | bytearray, stem: str) -> Photons:
    """Identify the photons of a spectrum with these bytes, decompressed, and this name."""
    header = pha.header
    counts = np.rint(pha.counts)
    if not np.allclose(counts, pha.counts, rtol=_ROUNDING, atol=_WHOLE):
        counts = pha.counts
    observation = _word(header, "OBS_ID")
    names = [_word(header, name) for name in ("TELESCOP", "INSTRUME", "DATE-OBS")]
    is_net = _word(header, "HDUCLAS2") == "NET"
    digest = hashlib.sha256(repr((observation, names, is_net)).encode())
    digest.update((pha.channels - pha.channels[0]).tobytes() + counts.tobytes())
    region = _region(header)
    is_faint = counts.sum() < TELLING_COUNTS
    if is_faint and region:
        times = [_rounded(header.get(name)) for name in ("TSTART", "TSTOP")]
        digest.update(repr((region, times)).encode())
    elif is_faint:
        digest.update(stem.encode() + hashlib.sha256(content).digest())
    scales = () if observation else (np.asarray(pha.backscal), np.asarray(pha.areascal))
    is_grouped = pha.grouping is not None and bool((pha.grouping < 0).any())
    is_telling = not is_faint or region is not None
    return Photons(digest.hexdigest(), pha.exposure_s, scales, is_telling, is_grouped)


def same_photons(
    ranked: Iterable[str],
    photons: Mapping[str, Photons],
    differ: Callable[[str, str], bool],
) -> dict[str, list[str]]:
    """Group files by their photons; return for the first file of each group those that repeat it.

    `ranked` are the names of files in order, so that the first of a group is the one to keep; files
    without `photons` repeat none. `differ` tells whether the ARFs of two files differ, and is
    called only for files whose photons do not identify them.
    """
    kept: dict[tuple[str, int], list[str]] = defaultdict(list)
    repeats: dict[str, list[str]] = {}
    for name in ranked:
        mine = photons.get(name)
        step = _step(mine.exposure_s) if mine else 0
        known = (kept[mine.key, step + near] for near in (-1, 0, 1)) if mine else ()
        others = (other for names in known for other in names)
        first = next((other for other in others if _repeat(name, other, photons, differ)), None)
        if first is None:
            if mine:
                kept[mine.key, step].append(name)
            repeats[name] = []
        else:
            repeats[first].append(name)
    return repeats


def _repeat(
    name: str,
    other: str,
    photons: Mapping[str, Photons],
    differ: Callable[[str, str], bool],
) -> bool:
    mine, others = photons[name], photons[other]
    return mine.agree(others) and (mine.is_telling or not differ(name, other))


def _step(exposure_s: float) -> int:
    """Number an exposure on a scale on which exposures that agree are at most one step apart.

    So files with the same counts but other exposures are not all compared with each other.
    """
    if not 0 < exposure_s < np.inf:
        return 0
    return math.floor(math.log(exposure_s) / (2 * _ROUNDING))


def _close(first: Any, second: Any) -> bool:
    if np.ndim(first) == np.ndim(second) == 0:
        first, second = float(first), float(second)
        is_nan = math.isnan(first) and math.isnan(second)
        return is_nan or math.isclose(first, second, rel_tol=_ROUNDING)
    return np.shape(first) == np.shape(second) and bool(
        np.allclose(first, second, rtol=_ROUNDING, atol=0, equal_nan=True)
    )


def _word(header: Mapping[str, Any], key: str) -> str:
    """Return a keyword's value in capitals, empty if it is missing or says nothing."""
    value = header.get(key)
    word = "" if value is None else str(value).strip().upper()
    return "" if word in ("NONE", "UNKNOWN") else word


def _region(header: Mapping[str, Any]) -> str | None:
    """Return the region on the sky that the photons come from, None if the header has none.

    CIAO writes its filters into the data subspace, keywords DSTYPn and DSVALn; XMM-Newton's SAS
    writes the expression that selected the events, SLCTEXPR.
    """
    found: Sequence[Any] = [header.get("SLCTEXPR")]
    for number in range(1, _MOST_FILTERS + 1):
        kind = header.get(f"DSTYP{number}")
        if kind is None:
            break
        if str(kind).strip().lower().startswith(("sky", "pos", "(x,y)")):
            found = [header.get(f"DSVAL{number}"), *found]
    texts = ("".join(str(value).lower().split()) for value in found if isinstance(value, str))
    return next((text for text in texts if "(" in text), None)


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, int | float) and np.isfinite(value) else value
