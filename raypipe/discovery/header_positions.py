"""Read the positions of CSC detections from their headers, since their file names have none."""

from __future__ import annotations

from collections import ChainMap
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.discovery.header_identity import header_identity
from raypipe.errors import RaypipeError
from raypipe.ogip import read_pha
from raypipe.ogip.fits import read_hdus
from raypipe.store.workspace import Workspace

_THREADS = 16


def with_positions(folder: Workspace, table: pa.Table) -> pa.Table:
    """Fill `ra` and `dec` of detections that lack them, from the headers of their spectra.

    The files are in `folder`. A spectrum that cannot be read stays without a position; ingestion
    rejects it with the reason.
    """
    lacking = np.flatnonzero(table["ra"].is_null().to_numpy())
    uris = table["pha_uri"].to_pylist()
    start = f"{folder.absolute_uri()}/"
    names = [str(uris[row] or "").removeprefix(start) for row in lacking]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(partial(_position, folder), names))
    for name, values in zip(
        ("ra", "dec"), zip(*found, strict=True) if found else ((), ()), strict=True
    ):
        column = table[name].to_pylist()
        for row, value in zip(lacking, values, strict=True):
            column[row] = value
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(column, pa.float64()))
    return table


def _position(folder: Workspace, name: str) -> tuple[float | None, float | None]:
    try:
        content = folder.read_bytes(name)
        headers: list[Any] = [read_pha(content).header, read_hdus(content)[0].header]
    except (RaypipeError, OSError):
        return None, None
    identity = header_identity(ChainMap(*headers))
    return identity.ra, identity.dec
