"""Define the columns that ingest adds to those of the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from raypipe.spectra.band_counts import BANDS_KEV
from raypipe.spectra.channel_bins import BAND_KEV, BINS_PER_FWHM, CALIBRATED_KEV, MOST_BINS
from raypipe.spectra.grid import EnergyGrid

SPECTRUM_FIELDS = [
    pa.field("telescope", pa.string()),
    pa.field("instrument", pa.string()),
    pa.field("exposure_s", pa.float64()),
    pa.field("mjd_start", pa.float64()),
    pa.field("mjd_stop", pa.float64()),
    pa.field("counts", pa.list_(pa.int32())),
    pa.field("background_counts", pa.list_(pa.int32())),
    pa.field("background_scale", pa.float64()),
    pa.field("background_scale_by_bin", pa.list_(pa.float32())),
    pa.field("arf_cm2", pa.list_(pa.float32(), EnergyGrid().n_energy)),
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
FROM_MANIFEST = ("telescope", "instrument")
"""Columns that the manifest may bring: the headers of files say only what it leaves open."""

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

SPECTRUM_COLUMNS = "spectrum_columns"
"""Key of a spectra part's metadata with the names of `SPECTRUM_FIELDS`, JSON."""

FORMAT = {
    "energy_edges_kev": json.dumps(EnergyGrid().edges_kev.round(6).tolist()),
    "channel_bins": json.dumps([MOST_BINS, BAND_KEV, CALIBRATED_KEV, BINS_PER_FWHM]),
    SPECTRUM_COLUMNS: json.dumps([field.name for field in SPECTRUM_FIELDS]),
}
"""Metadata of a spectra part: the energy grid, the rule of channel bins, and the columns that it
was made with."""


def has_format(metadata: Mapping[str, str]) -> bool:
    """Tell whether a part with this metadata has the current grid, channel bins and columns."""
    return all(metadata.get(key) == value for key, value in FORMAT.items())
