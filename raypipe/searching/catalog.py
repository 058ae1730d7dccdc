"""Load the rows of a catalog into memory, laid out for searching."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe.catalog.publication import Publication, read_published
from raypipe.errors import RaypipeError
from raypipe.model.batch import vectors
from raypipe.searching.causes import COLUMNS as CAUSE_COLUMNS
from raypipe.searching.causes import known_causes
from raypipe.searching.elimination import Posteriors, Rows
from raypipe.searching.neighbors import Posterior
from raypipe.workspace import Workspace

_ABOUT = ("detection_id", "best_detection_id", "name", "ra", "dec", "class", "total_counts")
_FIT = ("cash", "cash_expected", "fit_zscore", "anomaly_score", "n_detections")
_LATENT = re.compile(r"z\d|z_cov")
_READERS = 8


@dataclass(frozen=True)
class SearchedRows:
    """n detections or sources: `table` has descriptive columns, `posteriors` the latents."""

    table: pa.Table
    posteriors: Posteriors

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Return a numeric column, (n,)."""
        return np.asarray(self.table[name].to_numpy(), dtype=np.float64)

    def posterior(self, row: int) -> Posterior:
        """Return the posterior of one row's latents."""
        one = self.posteriors.take(np.array([row]))
        return Posterior(one.z[:, 0].astype(np.float64), one.covariance[0])

    def tell(self, row: int) -> dict[str, Any]:
        """Describe one row: a mapping from column to value."""
        told = self.describe(np.array([row])).iloc[0]
        return {str(name): value for name, value in told.items()}

    def describe(self, rows: Rows, **figures: npt.NDArray[Any]) -> pd.DataFrame:
        """Describe rows in the given order, with `figures` (rows,) as further columns.

        `likely_class` is the class with the largest p_<class>; `causes` are those of
        `raypipe.searching.causes`.
        """
        found = self.table.take(pa.array(rows)).to_pandas()
        told = found[[name for name in _ABOUT if name in found]].copy()
        shares = found[[name for name in found if name.startswith("p_")]]
        if shares.shape[1]:
            told["likely_class"] = [
                name[2:] for name in shares.columns[shares.to_numpy().argmax(1)]
            ]
            told["p_likely_class"] = shares.max(axis=1)
        return told.assign(**figures, flags=found["flags"], causes=known_causes(found))


def read_detection_rows(workspace: Workspace, release: str, model_id: str) -> SearchedRows:
    """Load all detections of the published catalog of a release by a model."""
    return read_published(
        workspace, release, model_id, lambda published: _read(workspace, list(published.parts))
    )


def read_source_rows(workspace: Workspace, release: str, model_id: str) -> SearchedRows:
    """Load all sources of the published catalog of a release by a model."""

    def read(published: Publication) -> SearchedRows:
        return _read(workspace, [published.sources])

    return read_published(workspace, release, model_id, read)


def _read(workspace: Workspace, files: list[str]) -> SearchedRows:
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = list(pool.map(workspace.count_rows, files))
        schemas = pool.map(workspace.read_schema, files)
        known = list(dict.fromkeys(name for schema in schemas for name in schema.names))
        latents = len([name for name in known if re.fullmatch(r"z\d", name)])
        if "z_cov" not in known:
            raise RaypipeError(
                f"{workspace.absolute_uri(files[0])} has no errors of latents (column z_cov): an "
                "earlier version of raypipe wrote it; run raypipe embed again"
            )
        columns = [name for name in known if _is_read(name)]
        z = np.empty((latents, sum(sizes)), np.float32)
        triangles = np.empty((latents * (latents + 1) // 2, sum(sizes)), np.float32)
        starts = np.cumsum([0, *sizes])

        def one(number: int) -> pa.Table:
            table = workspace.read_table(files[number], columns)
            here = slice(starts[number], starts[number + 1])
            for i in range(latents):
                z[i, here] = table[f"z{i}"].to_numpy()
            triangles[:, here] = vectors(table["z_cov"]).T
            return table.select([n for n in table.column_names if not _LATENT.fullmatch(n)])

        tables = list(pool.map(one, range(len(files))))
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    return SearchedRows(table.replace_schema_metadata(None), Posteriors(z, triangles))


def _is_read(name: str) -> bool:
    wanted = {*_ABOUT, *_FIT, *CAUSE_COLUMNS}
    return name in wanted or name.startswith("p_") or _LATENT.fullmatch(name) is not None
