"""Handle `detection_id`, the id of a detection: "release:obsid.obi.region_id" or "file:stem"."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def without_release(detection_id: str) -> str:
    """Return the id without its release: "obsid.obi.region_id" or the stem."""
    return detection_id.partition(":")[2] or detection_id


def hash_names(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each name, (n,), the same on every machine."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def source_keys(names: Iterable[str | None], detection_ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return a 64-bit key for each detection's source, the same in every release.

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
