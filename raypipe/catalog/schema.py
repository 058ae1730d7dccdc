"""The columns of the latent catalog, each with its unit, UCD and description: the one place.

Those that come along from other catalogs are in `came_along`.
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

from raypipe.catalog.column_names import free_name
from raypipe.catalog.csc_columns import CAME_ALONG
from raypipe.model.covariance import triangles_in
from raypipe.redaction import printable
from raypipe.store.manifest import ORIGINAL_NAME

log = logging.getLogger(__name__)

NOT_MEASURED = "not_measured"
"""Flag of a row that could not be measured: it has no latents, nor what derives from them."""
PARTLY_MEASURED = "partly_measured"
"""Flag of a source some of whose detections are not measured."""

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
    """What a column holds: unit (VOUnit), UCD1+ and description."""

    unit: str
    ucd: str
    description: str


_COLUMNS = {
    "detection_id": Column("", "meta.id;meta.main", "release:obsid.obi.region_id, or file:stem"),
    "obsid": Column("", "meta.id;obs", "Chandra observation"),
    "obi": Column("", "meta.id;obs", "observation interval"),
    "region_id": Column("", "meta.id", "detection region in the observation"),
    "name": Column("", "meta.id;src", "CSC source the detection belongs to"),
    "ra": Column("deg", "pos.eq.ra;meta.main", "right ascension, ICRS"),
    "dec": Column("deg", "pos.eq.dec;meta.main", "declination, ICRS"),
    "class": Column("", "src.class", "label the detection came with"),
    "exposure_s": Column("s", "time.duration;obs.exposure", "exposure"),
    "background_scale": Column("", "arith.factor", "source to background region scale"),
    "telescope": Column("", "meta.id;instr.tel", "telescope, TELESCOP in the file's header"),
    "instrument": Column("", "meta.id;instr", "instrument, INSTRUME in the file's header"),
    "total_counts": Column(
        "ct", "phot.count", "counts in the response's channel bins, 0.50-7.97 keV for ACIS"
    ),
    "n_bins": Column("", "meta.number", "channel bins that the Cash statistic is summed over"),
    "cash": Column("", "stat.fit.goodness", "Cash statistic of the reconstruction"),
    "cash_expected": Column(
        "", "stat.fit.goodness", "its expectation (Kaastra 2017) less the fitted parameters"
    ),
    "fit_zscore": Column("", "stat.fit.residual", "(cash - cash_expected) / standard deviation"),
    "anomaly_score": Column("", "stat.likelihood", "minus the log density of the latents, nats"),
    "flags": Column("", "meta.code.qual", "what a user should know, separated by |"),
    "split": Column("", "meta.code", "train, validation or test: what the source was for"),
    "model_id": Column("", "meta.id", "model that made the row"),
    "rmf_id": Column("", "meta.id", "redistribution in the responses table"),
    "n_detections": Column("", "meta.number;obs", "detections of the source in the catalog"),
    "best_detection_id": Column("", "meta.id", "the detection with the most counts"),
    "variability_chi2": Column(
        "", "stat.fit.chi2;src.var", "of the detections' latents about the source's"
    ),
    "variability_dof": Column("", "stat.fit.dof;src.var", "its degrees of freedom"),
    "variability_p": Column(
        "", "stat.probability;src.var", "probability of as much if the spectrum never changed"
    ),
    "in_first": Column("", "meta.code", "whether the first release has the source"),
    "in_second": Column("", "meta.code", "whether the second release has the source"),
    "shift": Column("", "stat.value", "distance of the latents in units of their errors"),
    "shift_p": Column("", "stat.probability", "probability of as much by chance"),
    "separation_arcsec": Column("arcsec", "pos.angDistance", "distance of the positions"),
    "class_first": Column("", "src.class", "most probable class in the first release"),
    "class_second": Column("", "src.class", "most probable class in the second release"),
    "moved": Column("", "meta.code", "whether shift_p is below 0.001"),
    "reclassified": Column("", "meta.code", "whether the most probable classes differ"),
    "source_uri": Column("", "meta.ref.uri", "file the spectrum was read from"),
}
_PROBABILITY = r"p_(.+)"
_LATENT = r"z\d+(_err|_std)?"
_MOST_SHOWN = 200

CLASS_UCD = "stat.probability;src.class"
"""UCD of the columns p_<class> that a model measured; columns of another's table have none."""

_PATTERNS = {
    r"z_cov": Column("", "stat.covariance", "posterior covariance of z, lower triangle row by row"),
    r"z(\d+)": Column("", "stat.value", "latent {0}"),
    r"z(\d+)_err": Column("", "stat.error", "scatter of latent {0} over repeated observations"),
    r"z(\d+)_std": Column("", "stat.stdev", "width of the posterior of latent {0}"),
    _PROBABILITY: Column("", CLASS_UCD, "probability of class {0}"),
    r"counts_([usmhb])": Column("ct", "phot.count;em.X-ray", "counts in the CSC {0} band"),
    r"background_counts_([usmhb])": Column(
        "ct", "phot.count;instr.background", "background-region counts in the CSC {0} band"
    ),
}


def describe(name: str) -> Column | None:
    """What the column of that name holds; None for columns of a catalog that is not known."""
    if name in _COLUMNS:
        return _COLUMNS[name]
    if name in CAME_ALONG:
        return Column(*CAME_ALONG[name])
    for pattern, column in _PATTERNS.items():
        if match := re.fullmatch(pattern, name):
            return Column(column.unit, column.ucd, column.description.format(*match.groups()))
    return None


def known_columns() -> dict[str, Column]:
    """List all columns that raypipe describes, by name; a pattern stands for numbered ones."""
    carried = {name: Column(*parts) for name, parts in CAME_ALONG.items()}
    return _COLUMNS | _PATTERNS | carried


def is_own(name: str) -> bool:
    """Whether a column of that name is measured by raypipe, the classes of models left aside."""
    patterns = (pattern for pattern in _PATTERNS if pattern != _PROBABILITY)
    return name in _COLUMNS or any(re.fullmatch(pattern, name) for pattern in patterns)


def catalog_table(
    spectra: pa.Table, measured: pd.DataFrame, split: npt.NDArray[Any], model_id: str
) -> pa.Table:
    """Rows of the latent catalog: identity, what was measured, then what came along.

    `spectra` are rows of the spectra table, `measured` the output of `Model.encode_batch` and
    `split` (n,) for the same rows. Fields carry unit, UCD and description. What is NaN in
    `measured` is null in the catalog; rows without latents have the flag `not_measured`. A column
    that came along under the name of one that was measured, such as p_<class>, is renamed, and
    keeps its values.
    """
    own = {str(name): numbers(measured[name].to_numpy()) for name in measured if name != "z_cov"}
    latents = sum(re.fullmatch(r"z\d+", name) is not None for name in own)
    own["z_cov"] = triangles(triangles_in(measured["z_cov"], latents))
    unmeasured = measured["z0"].isna().to_numpy()
    own |= {
        "flags": flagged(spectra["flags"], unmeasured, NOT_MEASURED),
        "split": pa.array(split.astype(object), pa.string()),
        "model_id": pa.array(np.full(len(measured), model_id, dtype=object), pa.string()),
    }
    own = {name: spectra[name] for name in _IDENTITY} | own
    columns = list(own.values())
    fields = [described_field(name, column.type) for name, column in own.items()]
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
            log.info("the catalog has a column %s already: that of the table is %s", name, new)
            metadata = {ORIGINAL_NAME: name.encode()} | metadata
        columns.append(column)
        fields.append(brought_field(new, column.type, metadata))
    return pa.table(columns, schema=pa.schema(fields))


def described(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """A table of these columns whose fields carry unit, UCD and description."""
    fields = [described_field(name, column.type) for name, column in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def described_field(name: str, kind: pa.DataType) -> pa.Field:
    """A field that carries unit, UCD and description of the column of that name; text no unit."""
    column = describe(name)
    if column is None:
        return pa.field(name, kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = replace(column, unit="")
    metadata = {"unit": column.unit, "ucd": column.ucd, "description": column.description}
    return pa.field(name, kind, metadata={key: text for key, text in metadata.items() if text})


def numbers(values: npt.NDArray[Any]) -> pa.Array:
    """A column of numbers (n,), null where they are NaN."""
    return pa.array(values, from_pandas=True)


def triangles(values: npt.NDArray[Any]) -> pa.Array:
    """The column `z_cov` of triangles (n, k), null where one of a row's numbers is not finite."""
    absent = ~np.isfinite(values).all(axis=1)
    flat = pa.array(values.astype(np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(absent))


def flagged(
    flags: pa.ChunkedArray | pa.Array, rows: npt.NDArray[np.bool_], flag: str
) -> pa.ChunkedArray | pa.Array:
    """The column `flags` with another flag in some rows (n,)."""
    if not rows.any():
        return flags
    texts = flags.to_pylist()
    for row in np.flatnonzero(rows):
        texts[row] = f"{texts[row]}|{flag}" if texts[row] else flag
    return pa.array(texts, flags.type)


def brought_field(name: str, kind: pa.DataType, metadata: Mapping[bytes, bytes]) -> pa.Field:
    """The field of a column that a table brought, which keeps its original name.

    It is described as another of its name, but a column p_<anything> is no probability of a class.
    """
    is_probability = re.fullmatch(_PROBABILITY, name) is not None
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
    """The classes whose probabilities the model of a catalog has measured, from its fields."""
    measured = [f.name for f in schema if (f.metadata or {}).get(b"ucd") == CLASS_UCD.encode()]
    return tuple(name.removeprefix("p_") for name in measured if name.startswith("p_"))
