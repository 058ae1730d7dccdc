"""Define the columns of the latent catalog with unit, UCD and description.

Physical quantities are in `raypipe.catalog.physics_columns`, columns from other catalogs in
`raypipe.catalog.csc_columns`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe.catalog.class_columns import CLASS_COLUMNS, VOTES, VOTES_COLUMN
from raypipe.catalog.cluster_columns import CLUSTER_COLUMNS, CLUSTER_PATTERNS
from raypipe.catalog.column_names import free_name
from raypipe.catalog.csc_columns import CAME_ALONG
from raypipe.catalog.physics_columns import FIT_COLUMNS, PHYSICS_COLUMNS
from raypipe.model.covariance import triangles_in
from raypipe.redaction import printable
from raypipe.store.manifest import ORIGINAL_NAME

log = logging.getLogger(__name__)

NOT_MEASURED = "not_measured"
"""Flag of a row that could not be measured: latents and all that derives from them are null."""
POSTERIOR_APPROXIMATE = "posterior_approximate"
"""Flag of a row whose posterior draws are worth fewer than 10 independent ones."""
_ESS_MIN = 10.0
PARTLY_MEASURED = "partly_measured"
"""Flag of a source with both measured detections and detections that could not be measured."""

_LEFT_OUT = {
    "counts",
    "background_counts",
    "background_scale_by_bin",
    "arf_cm2",
    "pha_sha256",
    "content_sha256",
}
_IDENTITY = ["detection_id", "obsid", "obi", "region_id", "name", "ra", "dec"]


@dataclass(frozen=True)
class Column:
    """Describe the meaning of a column: unit (VOUnit), UCD1+ and description."""

    unit: str
    ucd: str
    description: str


_COLUMNS = {
    "detection_id": Column("", "meta.id;meta.main", "release:obsid.obi.region_id, or file:stem"),
    "obsid": Column("", "meta.id;obs", "observation (OBS_ID)"),
    "obi": Column("", "meta.id;obs", "observation interval"),
    "region_id": Column("", "meta.id", "detection region in the observation"),
    "name": Column("", "meta.id;src", "source the detection belongs to"),
    "ra": Column("deg", "pos.eq.ra;meta.main", "right ascension, ICRS"),
    "dec": Column("deg", "pos.eq.dec;meta.main", "declination, ICRS"),
    "class": Column("", "src.class", "class label from the input table"),
    "exposure_s": Column("s", "time.duration;obs.exposure", "exposure"),
    "background_scale": Column("", "arith.factor", "scale from background to source region"),
    "telescope": Column("", "meta.id;instr.tel", "telescope, TELESCOP in the file's header"),
    "instrument": Column("", "meta.id;instr", "instrument, INSTRUME in the file's header"),
    "total_counts": Column(
        "ct", "phot.count", "counts in the response's channel bins, 0.50-7.97 keV for ACIS"
    ),
    "n_bins": Column("", "meta.number", "channel bins that the Cash statistic is summed over"),
    "cash": Column("", "stat.fit.goodness", "Cash statistic of the reconstruction"),
    "cash_expected": Column(
        "",
        "stat.fit.goodness",
        "expected cash (Kaastra 2017), less the fitted parameters",
    ),
    "fit_zscore": Column("", "stat.fit.residual", "(cash - cash_expected) / standard deviation"),
    "posterior_ess": Column("", "stat.value", "effective number of draws from the posterior"),
    "anomaly_score": Column("", "stat.likelihood", "negative log density of the latents, nats"),
    "flags": Column("", "meta.code.qual", "properties that a user should know, separated by |"),
    "split": Column("", "meta.code", "train, validation or test: use of the source in training"),
    "model_id": Column("", "meta.id", "model that made the row"),
    "rmf_id": Column("", "meta.id", "redistribution matrix in the folder of responses"),
    "n_detections": Column("", "meta.number;obs", "number of detections of the source"),
    "best_detection_id": Column("", "meta.id", "measured detection with the most counts"),
    "variability_chi2": Column(
        "", "stat.fit.chi2;src.var", "chi squared of the detections' latents about the source's"
    ),
    "variability_dof": Column("", "stat.fit.dof;src.var", "degrees of freedom of variability_chi2"),
    "variability_p": Column(
        "",
        "stat.probability;src.var",
        "probability of a larger chi squared if nothing varies",
    ),
    "in_first": Column("", "meta.code", "whether the first release has the source"),
    "in_second": Column("", "meta.code", "whether the second release has the source"),
    "shift": Column("", "stat.value", "distance of the latents in units of their errors"),
    "shift_p": Column("", "stat.probability", "probability of a larger shift by chance"),
    "separation_arcsec": Column("arcsec", "pos.angDistance", "angular distance of the positions"),
    "class_first": Column("", "src.class", "most probable class in the first release"),
    "class_second": Column("", "src.class", "most probable class in the second release"),
    "moved": Column("", "meta.code", "whether shift_p is below 0.001"),
    "reclassified": Column("", "meta.code", "whether the most probable classes differ"),
    "source_uri": Column("", "meta.ref.uri", "file from which the spectrum was read"),
    **{
        name: Column(*parts)
        for name, parts in (PHYSICS_COLUMNS | CLUSTER_COLUMNS | CLASS_COLUMNS).items()
    },
}
_PROBABILITY = r"p_(.+)"
_VOTES = f"{VOTES}(.+)"
_LATENT = r"z\d+(_err|_std|_mean|_sd)?"
_MOST_SHOWN = 200

CLASS_UCD = "stat.probability;src.class"
"""UCD of columns p_<class> from the model; columns of that name from other tables have none."""

_PATTERNS = {
    r"z_cov": Column("", "stat.covariance", "posterior covariance of z, lower triangle by rows"),
    r"z(\d+)": Column("", "stat.value", "latent {0}"),
    r"z(\d+)_err": Column("", "stat.error", "scatter of latent {0} over repeated observations"),
    r"z(\d+)_std": Column(
        "", "stat.stdev", "width of the posterior of latent {0}, normal approximation"
    ),
    r"z(\d+)_mean": Column("", "stat.value;stat.mean", "mean of the posterior draws of latent {0}"),
    r"z(\d+)_sd": Column("", "stat.stdev", "standard deviation of the draws of latent {0}"),
    **{pattern: Column(*parts) for pattern, parts in CLUSTER_PATTERNS.items()},
    _PROBABILITY: Column("", CLASS_UCD, "probability of class {0}"),
    _VOTES: Column(*VOTES_COLUMN),
    r"counts_([usmhb])": Column("ct", "phot.count;em.X-ray", "counts in the CSC {0} band"),
    r"background_counts_([usmhb])": Column(
        "ct", "phot.count;instr.background", "background-region counts in the CSC {0} band"
    ),
}


def describe(name: str) -> Column | None:
    """Return the meaning of the column of that name; None if raypipe does not know it."""
    if name in _COLUMNS:
        return _COLUMNS[name]
    if name in CAME_ALONG:
        return Column(*CAME_ALONG[name])
    if name in FIT_COLUMNS:
        return Column(*FIT_COLUMNS[name])
    for pattern, column in _PATTERNS.items():
        if match := re.fullmatch(pattern, name):
            return Column(column.unit, column.ucd, column.description.format(*match.groups()))
    return None


def known_columns() -> dict[str, Column]:
    """Return all columns that raypipe describes, by name or by pattern for numbered columns."""
    carried = {name: Column(*parts) for name, parts in CAME_ALONG.items()}
    fits = {name: Column(*parts) for name, parts in FIT_COLUMNS.items()}
    return _PATTERNS | carried | fits | _COLUMNS


def is_own(name: str) -> bool:
    """Return whether raypipe measures the column of that name; classes of models do not count."""
    patterns = (pattern for pattern in _PATTERNS if pattern not in (_PROBABILITY, _VOTES))
    return name in _COLUMNS or any(re.fullmatch(pattern, name) for pattern in patterns)


def catalog_table(
    spectra: pa.Table, measured: pd.DataFrame, split: npt.NDArray[Any], model_id: str
) -> pa.Table:
    """Make rows of the latent catalog: identity, measured columns, and columns of other catalogs.

    `spectra` are rows of the table of spectra; `measured` (the output of `Model.encode_batch`) and
    `split` (n,) belong to the same rows. Fields have unit, UCD and description. NaN in `measured`
    becomes null; rows without latents get the flag `not_measured`, and rows with too few effective
    draws `posterior_approximate`. A column of another catalog with the name of a measured column,
    such as p_<class>, is renamed and keeps its values.
    """
    own = {str(name): numbers(measured[name].to_numpy()) for name in measured if name != "z_cov"}
    latents = sum(re.fullmatch(r"z\d+", name) is not None for name in own)
    own["z_cov"] = triangles(triangles_in(measured["z_cov"], latents))
    unmeasured = measured["z0"].isna().to_numpy()
    flags = flagged(spectra["flags"], unmeasured, NOT_MEASURED)
    if "posterior_ess" in measured:
        # Rows without errors, such as those of preset paper, have no posterior to approximate.
        drawn = np.isfinite(measured["z0_std"].to_numpy())
        few = ~(measured["posterior_ess"].to_numpy() >= _ESS_MIN) & drawn
        flags = flagged(flags, few, POSTERIOR_APPROXIMATE)
    own |= {
        "flags": flags,
        "split": pa.array(split.astype(object), pa.string()),
        "model_id": pa.array(np.full(len(measured), model_id, dtype=object), pa.string()),
    }
    own = {name: spectra[name] for name in _IDENTITY} | own
    columns = list(own.values())
    fields = [_measured_field(name, column.type) for name, column in own.items()]
    brought = [
        name
        for name in spectra.column_names
        if name not in _IDENTITY and name not in _LEFT_OUT and name != "flags"
    ]
    taken = {name.lower() for name in own}
    taken |= {name.lower() for name in brought if re.fullmatch(_LATENT, name.lower())}
    for name in sorted(brought, key=lambda name: name.lower() in taken):
        column, field = spectra[name], spectra.schema.field(name)
        metadata = field.metadata or {}
        new = free_name(name, taken)
        taken.add(new.lower())
        if new != name:
            log.info("the catalog has a column %s: that of the table becomes %s", name, new)
            metadata = {ORIGINAL_NAME: name.encode()} | metadata
        columns.append(column)
        fields.append(brought_field(new, column.type, metadata))
    return pa.table(columns, schema=pa.schema(fields))


def described(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """Make a table of these columns, with unit, UCD and description in its fields."""
    fields = [described_field(name, column.type) for name, column in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def _measured_field(name: str, kind: pa.DataType) -> pa.Field:
    """Make the field of a measured column; fits share names with the Chandra Source Catalog."""
    column = Column(*FIT_COLUMNS[name]) if name in FIT_COLUMNS else describe(name)
    return _field(name, kind, column)


def described_field(name: str, kind: pa.DataType) -> pa.Field:
    """Make a field with unit (not for text), UCD and description of the column of that name."""
    return _field(name, kind, describe(name))


def _field(name: str, kind: pa.DataType, column: Column | None) -> pa.Field:
    if column is None:
        return pa.field(name, kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = replace(column, unit="")
    metadata = {"unit": column.unit, "ucd": column.ucd, "description": column.description}
    return pa.field(name, kind, metadata={key: text for key, text in metadata.items() if text})


def numbers(values: npt.NDArray[Any]) -> pa.Array:
    """Make a column from numbers (n,), with null for NaN."""
    return pa.array(values, from_pandas=True)


def triangles(values: npt.NDArray[Any]) -> pa.Array:
    """Make the column `z_cov` from triangles (n, k); null if a number of a row is not finite."""
    absent = ~np.isfinite(values).all(axis=1)
    flat = pa.array(values.astype(np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(absent))


def flagged(
    flags: pa.ChunkedArray | pa.Array, rows: npt.NDArray[np.bool_], flag: str
) -> pa.ChunkedArray | pa.Array:
    """Return the column `flags` with `flag` added in `rows` (n,)."""
    if not rows.any():
        return flags
    texts = flags.to_pylist()
    for row in np.flatnonzero(rows):
        texts[row] = f"{texts[row]}|{flag}" if texts[row] else flag
    return pa.array(texts, flags.type)


def brought_field(name: str, kind: pa.DataType, metadata: Mapping[bytes, bytes]) -> pa.Field:
    """Make the field of a column from another table; its metadata keep the original name.

    It has the description that raypipe has for its name, except that a column p_<anything> from
    another table is not a class probability.
    """
    is_probability = re.fullmatch(_PROBABILITY, name) is not None and not is_own(name)
    field = pa.field(name, kind) if is_probability else described_field(name, kind)
    original = metadata.get(ORIGINAL_NAME)
    if original is None:
        return field
    known = {b"description": _came_as(original)} | (field.metadata or {})
    return field.with_metadata({**known, ORIGINAL_NAME: original})


def _came_as(original: bytes) -> bytes:
    name = printable(original.decode(errors="backslashreplace"), _MOST_SHOWN)
    return f"{name} in the table it came from".encode()


def classes_in(schema: pa.Schema) -> tuple[str, ...]:
    """Return the classes for which a catalog has probabilities, from its fields."""
    measured = [f.name for f in schema if (f.metadata or {}).get(b"ucd") == CLASS_UCD.encode()]
    return tuple(name.removeprefix("p_") for name in measured if name.startswith("p_"))
