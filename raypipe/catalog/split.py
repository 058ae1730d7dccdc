"""Assign sources, and all their detections, to training, validation and test."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def assign_splits(
    keys: npt.NDArray[np.int64], seed: int, test_fraction: float, validation_fraction: float
) -> npt.NDArray[np.str_]:
    """Assign each source to a split, (n,), independently of the other sources."""
    u = _uniform(keys, seed)
    return np.where(
        u < test_fraction,
        TEST,
        np.where(u < test_fraction + validation_fraction, VALIDATION, TRAIN),
    )


def _uniform(keys: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """Map keys to numbers in [0, 1) by the generator SplitMix64 (Steele et al. 2014, OOPSLA)."""
    # The seed shifts the keys by multiples of the golden ratio times 2^64; shifts and products then
    # mix all bits, and the upper 53 of them make the number.
    with np.errstate(over="ignore"):
        x = keys.view(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.asarray((x >> np.uint64(11)) / float(1 << 53))
