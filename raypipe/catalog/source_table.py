"""Make the table of sources, with one row for all detections of a name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.catalog.physics_columns import FLUXES
from raypipe.catalog.schema import (
    NOT_MEASURED,
    PARTLY_MEASURED,
    described,
    flagged,
    numbers,
    triangles,
)
from raypipe.catalog.source_fluxes import combine_fluxes
from raypipe.catalog.sources import Combined, combine
from raypipe.config import ClassScheme
from raypipe.identity import source_keys
from raypipe.model.bundle import Model
from raypipe.model.covariance import pack, triangles_of, unpack
from raypipe.model.flux_errors import WHOLLY, FluxErrors
from raypipe.model.fluxes import LEAST_SEEN
from raypipe.model.presets import flux_errors_of
from raypipe.spectra.band_counts import BANDS_KEV

_SOURCES_AT_ONCE = 20_000
_LIMITS = "", "_lolim", "_hilim"
_COPIED = ("name", *("ra", "dec", "position_from", "target_name"), "class", "split", "model_id")


def source_columns(latents: int) -> list[str]:
    """Return the columns of the detections that `source_tables` reads."""
    own = ["detection_id", *_COPIED, "flags"]
    fluxes = [name + end for name in FLUXES for end in _LIMITS]
    return [*own, "total_counts", "z_cov", *(f"z{i}" for i in range(latents)), *fluxes]


def source_tables(
    detections: pa.Table, model: Model, scheme: ClassScheme = "neighbors"
) -> Iterator[pa.Table]:
    """Yield the table of sources in blocks, in order of name, from all rows of the detections.

    `raypipe.catalog.sources.combine` combines latents, and fluxes, where the detections have them,
    are combined by `raypipe.catalog.source_fluxes.combine_fluxes`. Without errors, latents are
    averaged with counts as weights, and variability is not measured. Position, class and split are
    those of the best detection, the measured one with the most counts. A source has the flags of
    all its detections, except that it has `not_measured` only if none of its detections is
    measured, and `partly_measured` if some are not. A detection without a name is a separate
    source.
    """
    have = set(detections.column_names)
    names = [name for name in source_columns(model.config.model.latents) if name in have]
    detections = detections.select(names)
    order, starts = by_source(detections)
    ends = np.append(starts, len(order))[1:]
    for first in range(0, max(len(starts), 1), _SOURCES_AT_ONCE):
        here = slice(first, first + _SOURCES_AT_ONCE)
        begin, end = (starts[here][0], ends[here][-1]) if len(starts) else (0, 0)
        rows = detections.take(pa.array(order[begin:end]))
        yield _sources(rows, starts[here] - begin, model, scheme)


def _sources(
    rows: pa.Table, starts: npt.NDArray[np.int64], model: Model, scheme: ClassScheme
) -> pa.Table:
    """Make the rows of sources; the detections of a source are contiguous and begin at `starts`."""
    latents = model.config.model.latents
    counts = rows["total_counts"].to_numpy()
    z = np.stack([rows[f"z{i}"].to_numpy() for i in range(latents)], 1).astype(np.float64)
    cov = unpack(triangles_of(rows["z_cov"]).astype(np.float64))
    has_errors = bool(np.isfinite(cov).any())
    combined = combine(z, cov, starts) if has_errors else _mean(z, counts, starts)
    best = rows.take(pa.array(_best(np.where(combined.used, counts, -1), starts)))
    columns: dict[str, Any] = {name: best[name] for name in _COPIED if name in best.column_names}
    columns["best_detection_id"] = best["detection_id"]
    columns["n_detections"] = pa.array(np.diff(np.append(starts, len(z))).astype(np.int32))
    columns["total_counts"] = pa.array(_sums(counts, starts))
    columns["flags"] = _flags(rows["flags"].to_pylist(), combined, starts)
    columns |= _latent_columns(combined)
    columns |= _flux_columns(rows, starts, flux_errors_of(model.network))
    columns["variability_chi2"] = numbers(combined.chi2)
    columns["variability_dof"] = pa.array(combined.dof.astype(np.int32))
    columns["variability_p"] = numbers(combined.p_value)
    columns["anomaly_score"] = numbers(model.population.anomaly_score(combined.z))
    keys = source_keys(best["name"].to_pylist(), best["detection_id"].to_pylist())
    shares = model.population.class_probabilities(combined.z, keys, scheme)
    for name, share in zip(model.population.classes, shares.T, strict=True):
        columns[f"p_{name}"] = numbers(share)
    return described(columns)


def by_source(detections: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return an order with the detections of each source together, and where each source begins.

    Sources are in the order of the table of sources. Needs the columns `detection_id` and `name`.
    """
    ids, names = (detections[name].cast(pa.large_string()) for name in ("detection_id", "name"))
    # A detection without a name is grouped by its own id.
    named = pc.fill_null(pc.greater(pc.utf8_length(names), 0), False)
    table = pa.table({"key": pc.if_else(named, names, ids), "id": ids})
    order = pc.sort_indices(table, [("key", "ascending"), ("id", "ascending")])
    key = table["key"].take(order).combine_chunks()
    another = pc.not_equal(key[1:], key[:-1]).to_numpy(zero_copy_only=False)
    first = np.append(np.ones(min(len(key), 1), bool), another)
    return order.to_numpy().astype(np.int64), np.flatnonzero(first).astype(np.int64)


def _best(counts: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the row of each source with the most counts, the first of equal ones, (s,)."""
    source = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(counts))))
    order = np.lexsort((np.arange(len(counts)), -counts, source))
    return order[starts].astype(np.int64)


def _mean(
    z: npt.NDArray[np.float64], counts: npt.NDArray[Any], starts: npt.NDArray[np.int64]
) -> Combined:
    """Average the latents of measured detections with counts as weights, if they have no errors."""
    used = np.asarray(np.isfinite(z).all(axis=1))
    weights = np.where(used, np.maximum(counts, 1).astype(np.float64), 0.0)
    sums = _sums(np.where(used[:, None], z, 0.0) * weights[:, None], starts)
    with np.errstate(invalid="ignore"):
        mean = sums / _sums(weights, starts)[:, None]
    nothing, size = np.full(mean.shape, np.nan), mean.shape[1]
    return Combined(
        z=mean,
        z_err=nothing,
        z_std=nothing,
        z_cov=np.full((len(mean), size, size), np.nan),
        chi2=np.full(len(mean), np.nan),
        dof=np.zeros(len(mean), np.int64),
        p_value=np.full(len(mean), np.nan),
        used=used,
    )


def _latent_columns(combined: Combined) -> dict[str, pa.Array]:
    columns = {}
    named = {"z{}": combined.z, "z{}_err": combined.z_err, "z{}_std": combined.z_std}
    for pattern, values in named.items():
        for i, column in enumerate(values.T):
            columns[pattern.format(i)] = numbers(column.astype(np.float32))
    columns["z_cov"] = triangles(pack(combined.z_cov))
    return columns


def _flux_columns(
    rows: pa.Table, starts: npt.NDArray[np.int64], errors: FluxErrors | None
) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    log_errors: dict[str, Any] = {} if errors is None else _log_errors(errors, rows)
    for name in FLUXES:
        names = [name + end for end in _LIMITS]
        if names[0] in rows.column_names and len(starts):
            value, low, high = (rows[each].to_numpy().astype(np.float64) for each in names)
            combined = combine_fluxes(value, low, high, starts, log_errors.get(name, 0.0))
            for each, values in zip(names, combined, strict=True):
                columns[each] = numbers(values.astype(np.float32))
    return columns


def _log_errors(errors: FluxErrors, rows: pa.Table) -> dict[str, Any]:
    """Return the errors of the model in the logarithm of each flux of detections, by its column.

    How well an instrument sees a band is not in the catalog. Each band is taken to be seen as most
    instruments see it, but for h: one that measures h and not m begins within h.
    """
    found: dict[str, Any] = {}
    for kind, of in (("flux", errors.of_energy), ("photflux", errors.of_photons)):
        usual = dict(zip(BANDS_KEV, of(BANDS_KEV), strict=True))
        found |= {f"{kind}_{band}": value for band, value in usual.items()}
        if f"{kind}_m" in rows.column_names:
            partly = of({"h": BANDS_KEV["h"]}, [[0.5 * (LEAST_SEEN + WHOLLY)]])[0, 0]
            is_partly = np.isnan(rows[f"{kind}_m"].to_numpy().astype(np.float64))
            found[f"{kind}_h"] = np.where(is_partly, partly, usual["h"])
    return found


def _sums(values: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    return np.add.reduceat(values, starts, axis=0) if len(starts) else values[:0]


def _flags(
    flags: list[str | None], combined: Combined, starts: npt.NDArray[np.int64]
) -> pa.Array | pa.ChunkedArray:
    """Return the flags of sources: those of their detections, and whether these are measured."""
    column = pa.array(_united(flags, starts), pa.string())
    left_out = _sums((~combined.used).astype(np.int64), starts) > 0
    measured = np.asarray(np.isfinite(combined.z).all(axis=1))
    column = flagged(column, ~measured, NOT_MEASURED)
    return flagged(column, measured & left_out, PARTLY_MEASURED)


def _united(flags: list[str | None], starts: npt.NDArray[np.int64]) -> list[str]:
    ends = np.append(starts, len(flags))[1:]
    found = (
        dict.fromkeys(f for text in flags[a:b] if text for f in text.split("|"))
        for a, b in zip(starts, ends, strict=True)
    )
    return ["|".join(flag for flag in each if flag != NOT_MEASURED) for each in found]
