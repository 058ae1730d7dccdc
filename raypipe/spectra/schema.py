"""The columns that ingest adds to those of the manifest."""

from __future__ import annotations

import pyarrow as pa

from raypipe.spectra.grid import NATIVE_CHANNELS, Grid
from raypipe.spectra.gridding import BANDS_KEV

SPECTRUM_FIELDS = [
    pa.field("exposure_s", pa.float64()),
    pa.field("counts", pa.list_(pa.int32(), NATIVE_CHANNELS)),
    pa.field("background_counts", pa.list_(pa.int32(), NATIVE_CHANNELS)),
    pa.field("background_scale", pa.float64()),
    pa.field("arf_cm2", pa.list_(pa.float32(), Grid().n_energy)),
    pa.field("rmf_id", pa.string()),
    *(
        pa.field(f"{prefix}_{band}", pa.int64())
        for prefix in ("counts", "background_counts")
        for band in BANDS_KEV
    ),
    pa.field("flags", pa.string()),
    pa.field("pha_sha256", pa.string()),
    pa.field("content_sha256", pa.string()),
    pa.field("source_uri", pa.string()),
]
REJECT_FIELDS = [
    pa.field("stage", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("retryable", pa.bool_()),
    pa.field("uri", pa.string()),
]

MOST_REASON = 500
"""Characters that `reason` is cut to: what is wrong with a file may quote the file."""

DUPLICATE = "manifest"
"""`stage` of rejects whose detection is in the manifest twice."""

RMF = "rmf"
"""Key of a spectra part's metadata with the `ingest.rmf` it was made with."""

CHIP_RMFS = "chip_rmfs"
"""Key of a spectra part's metadata with the `rmf_id` of each zone that it was made with, JSON."""
