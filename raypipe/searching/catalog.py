"""Load the rows of a catalog into memory, laid out for searching."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe.catalog.added_columns import AddedColumns
from raypipe.catalog.classes import catalog_classes, most_probable
from raypipe.catalog.hardness import hardness_ratios, has_band_counts
from raypipe.errors import RaypipeError
from raypipe.model.covariance import latents_of_triangle, triangles_of
from raypipe.searching.batched_gaussians import Posteriors, Rows
from raypipe.searching.causes import COLUMNS as CAUSE_COLUMNS
from raypipe.searching.causes import known_causes
from raypipe.searching.neighbors import Posterior
from raypipe.store.publication import Publication, read_published
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

_ABOUT = ("detection_id", "best_detection_id", "name", "ra", "dec", "class", "total_counts")
_FIT = ("cash", "cash_expected", "fit_zscore", "anomaly_score", "n_detections")
_BANDS = tuple(f"{kind}_{band}" for kind in ("counts", "background_counts") for band in "smh")
_ADDED = ("cluster", "best_class")
"""Columns that `cluster` and `classify` have added."""
_WANTED = frozenset({*_ABOUT, *_ADDED, *_FIT, *_BANDS, *CAUSE_COLUMNS})
_READERS = 8


@dataclass(frozen=True)
class SearchedRows:
    """Hold n measured detections or sources: descriptive columns (`table`) and latents.

    `unmeasured` has the rows without latents, to which nothing is similar. `classes` are the
    model's; `table` has their probabilities.
    """

    table: pa.Table
    posteriors: Posteriors
    unmeasured: pa.Table
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Return a numeric column, (n,)."""
        return np.asarray(self.table[name].to_numpy(), dtype=np.float64)

    def posterior(self, row: int) -> Posterior:
        """Return the posterior of one row's latents."""
        one = self.posteriors.take(np.array([row]))
        return Posterior(one.z[:, 0].astype(np.float64), one.covariance[0])

    def describe_row(self, row: int) -> dict[str, Any]:
        """Describe one row: a mapping from column to value."""
        described = self.describe(np.array([row])).iloc[0]
        return {str(name): value for name, value in described.items()}

    def describe(self, rows: Rows, **figures: npt.NDArray[Any]) -> pd.DataFrame:
        """Describe rows in the given order, with `figures` (rows,) as further columns.

        `likely_class` is the class with the largest p_<class>, `hardness` the ratio
        (h - s) / (h + s) of net counts, and `causes` are those of `raypipe.searching.causes`.
        """
        found = self.table.take(pa.array(rows)).to_pandas()
        described = found[[name for name in (*_ABOUT, *_ADDED) if name in found]].copy()
        if self.classes:
            likely = most_probable(found, self.classes)
            described["likely_class"], described["p_likely_class"] = (
                likely["class"],
                likely["share"],
            )
        if has_band_counts(found):
            described["hardness"] = hardness_ratios(found)["hard_hs"]
        return described.assign(**figures, flags=found["flags"], causes=known_causes(found))


def read_detection_rows(workspace: Workspace, release: str, model_id: str) -> SearchedRows:
    """Load all detections of the published catalog of a release by a model."""
    classes = catalog_classes(workspace, release, model_id)

    def read(published: Publication) -> SearchedRows:
        added = AddedColumns.of(workspace, published, "detections", "warn")
        return _read(workspace, list(published.parts), classes, added)

    return read_published(workspace, release, model_id, read)


def read_source_rows(workspace: Workspace, release: str, model_id: str) -> SearchedRows:
    """Load all sources of the published catalog of a release by a model."""
    classes = catalog_classes(workspace, release, model_id)

    def read(published: Publication) -> SearchedRows:
        added = AddedColumns.of(workspace, published, "sources", "warn")
        return _read(workspace, [published.sources], classes, added)

    return read_published(workspace, release, model_id, read)


def _read(
    workspace: Workspace, files: list[str], classes: tuple[str, ...], added: AddedColumns
) -> SearchedRows:
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = list(pool.map(workspace.count_rows, files))
        schemas = list(pool.map(workspace.read_schema, files))
        joined = [added.join_schema(schema) for schema in schemas]
        known = list(dict.fromkeys(name for schema in joined for name in schema.names))
        if "z_cov" not in known:
            raise RaypipeError(
                f"{workspace.absolute_uri(files[0])} has no errors of latents (column z_cov): an "
                "earlier version of raypipe wrote it; run raypipe embed again"
            )
        triangle = schemas[0].field("z_cov").type.list_size
        latents = latents_of_triangle(triangle)
        described = [
            name for name in known if name in {*_WANTED, *(f"p_{name}" for name in classes)}
        ]
        columns = [*described, "z_cov", *(f"z{i}" for i in range(latents))]
        z = np.empty((latents, sum(sizes)), np.float32)
        triangles = np.empty((triangle, sum(sizes)), np.float32)
        starts = np.cumsum([0, *sizes])

        def one(number: int) -> pa.Table:
            table = workspace.read_table(files[number], columns)
            table = added.join(table, part=number, columns=described)
            here = slice(starts[number], starts[number + 1])
            for i in range(latents):
                z[i, here] = table[f"z{i}"].to_numpy()
            triangles[:, here] = triangles_of(table["z_cov"]).T
            return table.select([name for name in described if name in table.column_names])

        tables = list(pool.map(one, range(len(files))))
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    table, posteriors = table.replace_schema_metadata(None), Posteriors(z, triangles)
    measured = np.asarray(np.isfinite(z).all(axis=0))
    if measured.all():
        return SearchedRows(table, posteriors, table.slice(0, 0), classes)
    log.info("search: %d of %d rows have no latents: left out", (~measured).sum(), len(measured))
    kept = posteriors.take(np.flatnonzero(measured))
    unmeasured = table.filter(pa.array(~measured))
    return SearchedRows(table.filter(pa.array(measured)), kept, unmeasured, classes)
