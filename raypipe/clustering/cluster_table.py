"""Make the table of clusters: size, spectrum, classes, and typical and extreme members of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.catalog.cluster_columns import TABLE_COLUMNS
from raypipe.catalog.schema import described_field
from raypipe.clustering.finding import Found, draw
from raypipe.clustering.members import Members, Space
from raypipe.latents.flux_shapes import BAND_KEV, photons_in_bins
from raypipe.model.bundle import Model
from raypipe.model.presets import Folded

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

EDGES_KEV = np.geomspace(0.3, 8.0, 81)
"""Edges of the bins of the median flux."""

NAMED = 5
"""Members named as typical, and as extreme."""

_MOST_DECODED = 1000
_PERCENTILES = (50.0, 16.0, 84.0)


@dataclass(frozen=True)
class Clustered:
    """Hold the members of clusters; `numbers` (k,) are those of the clusters in `found`."""

    model: Model
    space: Space
    detections: Members
    sources: Members
    found: Found
    numbers: IntArray
    seed: int


def cluster_table(of: Clustered) -> pa.Table:
    """Make the table of clusters, one row per cluster in order of numbers."""
    own = of.found.detections.argmax(axis=1)
    of_sources = of.found.sources.argmax(axis=1)
    distances = _distances(of.space, of.detections, own, of.found.clusters)
    rows = [
        {
            "cluster": int(of.numbers[k]),
            "n_detections": int((own == k).sum()),
            "n_sources": int((of_sources == k).sum()),
            **_classes(of.sources.classes, of_sources == k),
            **_nearest_type(of.model, of.detections.class_shares[own == k]),
            **_named(of.detections, np.flatnonzero(own == k), distances),
            **_flux(of.model, of.detections.z[own == k], of.seed),
        }
        for k in np.argsort(of.numbers)
    ]
    kinds = {"cluster": pa.int32(), "n_detections": pa.int32(), "n_sources": pa.int32()}
    columns = {
        name: pa.array([row[name] for row in rows], kinds.get(name) or _KINDS[name])
        for name in rows[0]
    }
    return pa.table(
        list(columns.values()),
        schema=pa.schema([_field(name, column.type) for name, column in columns.items()]),
    )


_KINDS = {
    "classes": pa.list_(pa.string()),
    "class_sources": pa.list_(pa.int32()),
    "likely_class": pa.string(),
    "nearest_type": pa.string(),
    "nearest_type_p": pa.float32(),
    "typical": pa.list_(pa.string()),
    "extreme": pa.list_(pa.string()),
    **{
        name: pa.list_(pa.float32())
        for name in ("energy_lo_kev", "energy_hi_kev", "flux", "flux_lolim", "flux_hilim")
    },
}


def _field(name: str, kind: pa.DataType) -> pa.Field:
    if name not in TABLE_COLUMNS:
        return described_field(name, kind)
    unit, ucd, description = TABLE_COLUMNS[name]
    known = {"unit": unit, "ucd": ucd, "description": description}
    return pa.field(name, kind, metadata={key: text for key, text in known.items() if text})


def _classes(classes: npt.NDArray[np.object_], inside: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Count the labeled sources of each class, and find the class with the largest share here.

    The share of a class is the part of its labeled sources that is in this cluster, so that a
    frequent class does not claim every cluster.
    """
    labeled = np.array([isinstance(each, str) and each != "" for each in classes], dtype=bool)
    names, totals = np.unique(classes[labeled].astype(str), return_counts=True)
    counts = np.array([(classes[labeled & inside] == name).sum() for name in names], np.int64)
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    return {
        "classes": [str(names[i]) for i in order],
        "class_sources": [int(counts[i]) for i in order],
        "likely_class": str(names[(counts / totals).argmax()]) if order else None,
    }


def _nearest_type(model: Model, shares: FloatArray) -> dict[str, Any]:
    names = model.population.classes
    known = shares[np.isfinite(shares).all(axis=1)]
    if not len(names) or not len(known):
        return {"nearest_type": None, "nearest_type_p": None}
    mean = known.mean(axis=0)
    return {"nearest_type": names[int(mean.argmax())], "nearest_type_p": float(mean.max())}


def _named(members: Members, rows: IntArray, distances: FloatArray) -> dict[str, Any]:
    """Name the nearest and the farthest members of a cluster, one detection per source."""
    near = rows[np.argsort(distances[rows], kind="stable")]
    return {
        "typical": members.ids[_first_of_sources(members, near)[:NAMED]].tolist(),
        "extreme": members.ids[_first_of_sources(members, near[::-1])[:NAMED]].tolist(),
    }


def _first_of_sources(members: Members, rows: IntArray) -> IntArray:
    """Return the first row of each source, in their order."""
    _, first = np.unique(members.sources[rows], return_index=True)
    return rows[np.sort(first)]


def _flux(model: Model, z: FloatArray, seed: int) -> dict[str, Any]:
    """Decode members to fluxes; return their median and the limits that enclose 68% of them."""
    names = ("flux", "flux_lolim", "flux_hilim")
    if not isinstance(model.network, Folded):
        return dict.fromkeys(("energy_lo_kev", "energy_hi_kev", *names))
    photons = photons_in_bins(model.network, z[draw(len(z), _MOST_DECODED, seed)], EDGES_KEV)
    band = photons_in_bins(
        model.network, z[draw(len(z), _MOST_DECODED, seed)], np.array(BAND_KEV, dtype=np.float64)
    )
    density = photons / band / np.diff(EDGES_KEV)
    limits = np.percentile(density, _PERCENTILES, axis=0)
    edges = {"energy_lo_kev": EDGES_KEV[:-1], "energy_hi_kev": EDGES_KEV[1:]}
    return edges | dict(zip(names, limits, strict=True))


def _distances(space: Space, members: Members, clusters: IntArray, count: int) -> FloatArray:
    """Return the distance of each member from the mean of its cluster, in standard deviations.

    The variance is the sum of the variance of the cluster's members and that of the member's error.
    """
    values = np.concatenate([space.values(some) for some in members.blocks()])
    d = values.shape[1]
    means = np.stack([values[clusters == k].mean(axis=0) for k in range(count)])
    spreads = np.stack(
        [
            np.cov(values[clusters == k].T, bias=True).reshape(d, d) + 1e-6 * np.eye(d)
            for k in range(count)
        ]
    )
    found, start = np.empty(len(members)), 0
    for some in members.blocks():
        here = slice(start, start + len(some))
        offset = values[here] - means[clusters[here]]
        total = spreads[clusters[here]] + space.covariance(some)
        solved = np.linalg.solve(total, offset[..., None])[..., 0]
        found[here] = np.sqrt((offset * solved).sum(axis=1))
        start += len(some)
    return found
