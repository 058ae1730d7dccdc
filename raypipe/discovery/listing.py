"""What a folder or bucket holds: file names into detections."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

_CSC_NAME = re.compile(
    r"(?P<instrument>acis|hrc)f(?P<obsid>\d{5,6})_(?P<obi>\d{3})N(?P<version>\d{3})"
    r"(?:_e(?P<exposure>\d))?_r(?P<region>\d{4,5})_(?P<product>pha3|arf3|rmf3)\.fits(?:\.gz)?$"
)
_PHA_SUFFIXES = (".pi", ".pha")
_PHA_WORDS = re.compile(r"(^|[_.\-])(pha|pi|spec|spectrum)([_.\-0-9]|$)", re.IGNORECASE)


class CscName(NamedTuple):
    """What a CSC file name says; of several files of a product the one of highest `rank` counts."""

    obsid: int
    obi: int
    region_id: int
    product: str
    rank: tuple[int, int]


@dataclass
class Detection:
    """A detection's files; of several versions of a file the newest.

    `obsid`, `obi`, `region_id` are None for files outside the CSC.
    """

    detection_id: str
    obsid: int | None
    obi: int | None
    region_id: int | None
    pha_uri: str
    arf_uri: str | None = None
    rmf_uri: str | None = None
    background_uri: str | None = None


@dataclass
class _Versions:
    newest: dict[str, tuple[tuple[int, int], str]] = field(default_factory=dict)

    def offer(self, product: str, rank: tuple[int, int], uri: str) -> None:
        if product not in self.newest or rank > self.newest[product][0]:
            self.newest[product] = rank, uri

    def uri(self, product: str) -> str | None:
        return self.newest[product][1] if product in self.newest else None


def csc_detections(uris: Iterable[str], release: str) -> list[Detection]:
    """Detections among files with the CSC's names, each with its newest PHA, ARF and RMF.

    The newest N wins, product by product (a PHA's version and its ARF's can differ); among
    interleaved exposures (_e1, _e2) of one version the first. Sorted by obsid, obi, region.
    """
    groups: dict[tuple[int, int, int], _Versions] = {}
    for uri in uris:
        name = parse_csc_name(uri)
        if name is None:
            continue
        key = name.obsid, name.obi, name.region_id
        groups.setdefault(key, _Versions()).offer(name.product, name.rank, uri)
    detections = []
    for (obsid, obi, region), files in sorted(groups.items()):
        pha = files.uri("pha3")
        if pha is not None:
            detection_id = f"{release}:{obsid}.{obi}.{region}"
            arf, rmf = files.uri("arf3"), files.uri("rmf3")
            detections.append(Detection(detection_id, obsid, obi, region, pha, arf, rmf))
    return detections


def parse_csc_name(uri: str) -> CscName | None:
    """What the name of a CSC spectral product says, None for other names.

    The newest version N ranks highest, then the first of interleaved exposures (_e1, _e2).
    """
    match = _CSC_NAME.search(uri)
    if match is None:
        return None
    rank = int(match["version"]), -int(match["exposure"] or 0)
    obsid, obi, region = (int(match[part]) for part in ("obsid", "obi", "region"))
    return CscName(obsid, obi, region, match["product"], rank)


def is_csc_name(uri: str) -> bool:
    """Whether a file has a name of the CSC's spectral products."""
    return _CSC_NAME.search(uri) is not None


def looks_like_pha(uri: str) -> bool:
    """Whether a file outside the CSC has the name of a spectrum: .pi, .pha, or "pha" in it."""
    name = uri.rsplit("/", 1)[-1].lower().removesuffix(".gz")
    if name.endswith(_PHA_SUFFIXES):
        return True
    return name.endswith((".fits", ".fit")) and _PHA_WORDS.search(name) is not None


def stem(uri: str) -> str:
    """A file's name without folder and suffixes (.gz, .pi, .pha, .fits)."""
    name = uri.rsplit("/", 1)[-1].removesuffix(".gz")
    return name.rsplit(".", 1)[0] if "." in name else name
