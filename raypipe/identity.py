"""Identify detections and sources: detection ids, file names of the Chandra Source Catalog, keys.

A detection_id is "release:obsid.obi.region_id" for a detection of the catalog, and "file:stem" for
a spectrum outside it. The catalog names a product of a detection

    acisf01575_001N002_e1_r0085_pha3.fits.gz

after instrument, obsid, obi, version (N), interleaved exposure (e, where there are two), region and
product. This module is the only place that knows this pattern.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

OWN_FILE = "file:"
"""Beginning of the detection_id of a spectrum outside the Chandra Source Catalog."""

SPECTRAL_PRODUCTS = ("pha3", "arf3", "rmf3")
"""Products of the catalog that a detection is made of."""

_CSC_NAME = re.compile(
    r"(?P<instrument>acis|hrc)f(?P<obsid>\d{5,9})_(?P<obi>\d{3})N(?P<version>\d{3})"
    r"(?:_e(?P<exposure>\d))?(?:_r(?P<region>\d{4,5}))?(?P<band>\w*)_(?P<product>[a-z]+3)"
    r"\.fits(?:\.gz)?",
    re.ASCII,
)


class CscName(NamedTuple):
    """Parse or write the file name of a product in the Chandra Source Catalog.

    `exposure` is the number of an interleaved exposure, 0 where the observation has only one.
    """

    instrument: str
    obsid: int
    obi: int
    version: int
    exposure: int
    region_id: int
    product: str

    @property
    def rank(self) -> tuple[int, int]:
        """Return a number that is largest for the newest version, then for the first exposure."""
        return self.version, -self.exposure

    @property
    def observation(self) -> str:
        """Return the beginning of the names of the observation's products: "acisf01575_001"."""
        return f"{self.instrument}f{self.obsid:05d}_{self.obi:03d}"

    @property
    def region(self) -> str:
        """Return the name without version and product: "acisf01575_001_r0085"."""
        return f"{self.observation}{self._tail}"

    @property
    def plain(self) -> str:
        """Return the file name without `.gz`."""
        version = f"N{self.version:03d}"
        return f"{self.observation}{version}{self._tail}_{self.product}.fits"

    @property
    def _tail(self) -> str:
        exposure = f"_e{self.exposure}" if self.exposure else ""
        return f"{exposure}_r{self.region_id:04d}"


def parse_csc_name(uri: str) -> CscName | None:
    """Parse the name of a PHA, ARF or RMF of the catalog; return None for other names."""
    match = _match(uri)
    if match is None or match["product"] not in SPECTRAL_PRODUCTS:
        return None
    if match["region"] is None or match["band"]:
        return None
    return CscName(
        instrument=match["instrument"],
        obsid=int(match["obsid"]),
        obi=int(match["obi"]),
        version=int(match["version"]),
        exposure=int(match["exposure"] or 0),
        region_id=int(match["region"]),
        product=match["product"],
    )


def is_csc_name(uri: str) -> bool:
    """Tell whether a file has the name of any product of the catalog, spectral or not."""
    return _match(uri) is not None


def _match(uri: str) -> re.Match[str] | None:
    return _CSC_NAME.fullmatch(uri, uri.rfind("/") + 1)


def is_own_file(detection_id: str) -> bool:
    """Tell whether a detection is a spectrum outside the Chandra Source Catalog."""
    return detection_id.startswith(OWN_FILE)


def without_release(detection_id: str) -> str:
    """Return the id without its release: "obsid.obi.region_id" or the stem."""
    return detection_id.partition(":")[2] or detection_id


def hash_names(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each name, (n,), the same on every machine."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def source_keys(names: Iterable[str | None], detection_ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return a 64-bit key for each detection's source, (n,), the same in every release.

    It is the hash of the source's name, or of the detection's id without its release if it has
    none.
    """
    texts = (
        name or without_release(detection_id)
        for name, detection_id in zip(names, detection_ids, strict=True)
    )
    return hash_names(texts).byteswap().view(np.int64)


def stem(uri: str) -> str:
    """Return a file's name without folders and suffixes (.gz, .pi, .pha, .fits)."""
    name = uri.rsplit("/", 1)[-1]
    name = name[:-3] if name.lower().endswith(".gz") else name
    return name.rsplit(".", 1)[0] if "." in name else name
