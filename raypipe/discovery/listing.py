"""Turn the names of files into detections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.identity import SPECTRAL_PRODUCTS, is_csc_name, parse_csc_name
from raypipe.store.hash_partitioner import BUCKETS, MEMORY, HashPartitioner

_PHA_SUFFIXES = (".pi", ".pha")
_PHA_WORDS = re.compile(r"(^|[_.\-])(pha|pi|spec|spectrum)([_.\-0-9]|$)", re.IGNORECASE)
_FITS_SUFFIXES = re.compile(
    r"\.(fits?|fts|ftz|ds|grp\d*|p(ha|i)\d+|spe?c|sp|bkg|bgd?|back)(\.gz)?$", re.IGNORECASE
)
_NO_SPECTRUM = re.compile(
    r"(^|[_.\-\d])(evt\d?|events?|asol\d?|aspsol|bpix\d?|msk\d?|mtl\d?|stat\d?|flt\d?|fov\d?|eph\d?"
    r"|pbk\d?|bias\d?|img\d?|image|expmap|psf\d?|arf\d?|rmf\d?|lc\d?)[_.\-]",
    re.IGNORECASE,
)
"""Words of file names that say which other product of an observation a FITS file is."""

_OBIS, _REGIONS = 1_000, 100_000
"""More than the obi and the region_id of a CSC name can be."""

_FILE = pa.schema(
    {
        "detection": pa.int64(),
        "product": pa.int8(),
        "version": pa.int16(),
        "exposure_rank": pa.int8(),
        "name": pa.large_string(),
        "stamp": pa.large_string(),
    }
)
_FILES_AT_ONCE = 50_000
_MIXER = np.uint64(0x9E3779B97F4A7C15)
"""An odd number whose multiples spread neighboring keys over all high bits."""


class CscFiles:
    """Collect files with the CSC's names in any order, and combine them into detections.

    Of several files of a product, the one of the newest version is used (the versions of a PHA and
    its ARF can differ); of these the first interleaved exposure (_e1, _e2), then the first name.
    """

    def __init__(self, scratch: Path, memory: int = MEMORY) -> None:
        self._partitioner = HashPartitioner(scratch, memory)
        self._rows: list[tuple[int, int, int, int, str, str]] = []

    def add(self, name: str, stamp: str = "") -> bool:
        """Add a file; return whether its name is one of the CSC's."""
        parsed = parse_csc_name(name)
        if parsed is None:
            return False
        detection = (parsed.obsid * _OBIS + parsed.obi) * _REGIONS + parsed.region_id
        product = SPECTRAL_PRODUCTS.index(parsed.product)
        self._rows.append((detection, product, *parsed.rank, name, stamp))
        if len(self._rows) == _FILES_AT_ONCE:
            self._put_aside()
        return True

    def detections(self, release: str, root: str) -> Iterator[pa.Table]:
        """Yield the detections that have a PHA in tables; `root` is the beginning of their URIs."""
        self._put_aside()
        for share in self._partitioner.shares(BUCKETS):
            yield _detections(_newest(pa.concat_tables(share)), release, root)

    def _put_aside(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(_FILE)
        table = pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, _FILE, strict=True)],
            _FILE,
        )
        detections = table["detection"].to_numpy().astype(np.uint64)
        self._partitioner.add(table, detections * _MIXER >> np.uint64(32))
        self._rows = []


def looks_like_pha(uri: str) -> bool:
    """Tell whether a file outside the CSC has the name of a spectrum: .pi, .pha, or "pha" in it."""
    name = uri.rsplit("/", 1)[-1].lower().removesuffix(".gz")
    if name.endswith(_PHA_SUFFIXES):
        return True
    return name.endswith((".fits", ".fit")) and _PHA_WORDS.search(name) is not None


def may_be_pha(uri: str) -> bool:
    """Tell whether the headers of a file with another name are to be searched for a spectrum.

    They are if the suffix is that of a FITS file and the name does not belong to another product:
    one of the CSC, or events, images and the like by the words in it.
    """
    name = uri.rsplit("/", 1)[-1]
    if _FITS_SUFFIXES.search(name) is None or is_csc_name(name):
        return False
    return _NO_SPECTRUM.search(name) is None


def _newest(files: pa.Table) -> pa.Table:
    """Return the file to use of each product of each detection, in order of both."""
    order = [("detection", "ascending"), ("product", "ascending")]
    order += [("version", "descending"), ("exposure_rank", "descending"), ("name", "ascending")]
    files = files.sort_by(order)
    detection, product = files["detection"].to_numpy(), files["product"].to_numpy()
    other = (np.diff(detection) != 0) | (np.diff(product) != 0)
    return files.filter(np.append(np.ones(min(len(files), 1), bool), other))


def _detections(files: pa.Table, release: str, root: str) -> pa.Table:
    """Return the detections of these files, of which there is one per product."""
    products = range(len(SPECTRAL_PRODUCTS))
    pha, *others = (files.filter(pc.equal(files["product"], i)) for i in products)
    keys = pha["detection"]
    companions = [other.take(pc.index_in(keys, other["detection"])) for other in others]
    number = keys.to_numpy()
    obsid, obi = number // (_OBIS * _REGIONS), number // _REGIONS % _OBIS
    region = number % _REGIONS
    names = (f"{release}:{o}.{b}.{r}" for o, b, r in zip(obsid, obi, region, strict=True))
    stamps = [pc.fill_null(table["stamp"], "") for table in (pha, *companions)]
    columns = {
        "detection_id": pa.array(names, pa.large_string()),
        "obsid": obsid,
        "obi": obi,
        "region_id": region,
        "files_stamp": pc.binary_join_element_wise(*stamps, _text(""), _text(" ")),
    }
    for name, table in zip(("pha_uri", "arf_uri", "rmf_uri"), (pha, *companions), strict=True):
        columns[name] = pc.binary_join_element_wise(_text(root), table["name"], _text(""))
    return pa.table(columns)


def _text(value: str) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())
