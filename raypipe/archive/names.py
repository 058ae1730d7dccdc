"""Parse the file names of the Chandra Source Catalog: the one place that knows their pattern."""

from __future__ import annotations

import re
from typing import NamedTuple

_CSC_NAME = re.compile(
    r"(?P<instrument>acis|hrc)f(?P<obsid>\d{5,6})_(?P<obi>\d{3})N(?P<version>\d{3})"
    r"(?:_e(?P<exposure>\d))?_r(?P<region>\d{4,5})_(?P<product>pha3|arf3|rmf3)\.fits(?:\.gz)?$"
)


_OTHER_CSC_NAME = re.compile(r"(acis|hrc)f\d{5,6}_\d{3}N\d{3}_\w+3\.fits(\.gz)?$")


class CscName(NamedTuple):
    """What a CSC file name says; of several files of a product the one of highest `rank` counts."""

    obsid: int
    obi: int
    region_id: int
    product: str
    rank: tuple[int, int]


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
