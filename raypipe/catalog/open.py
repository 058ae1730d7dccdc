"""Open the latent catalog as a DataFrame: one row per detection, source or cluster."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from raypipe.catalog.added_columns import added_to, read_added_table, read_whole
from raypipe.catalog.cluster_columns import CLUSTERS
from raypipe.catalog.reserved import is_reserved
from raypipe.errors import UsageError
from raypipe.model.choice import choose_model
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, read_published
from raypipe.store.workspace import Workspace

_NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}


def open_catalog(
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    columns: list[str] | None = None,
) -> pd.DataFrame:
    """Read the latent catalog of a release by a model, with one row per detection.

    By default, read the workspace's only release and its newest catalog. If `columns` are given,
    read those of them that the catalog has. Columns that verbs such as `cluster` have added are
    among them; if the catalog has changed since, a warning says to run the verb again, and they are
    left out. All rows belong to the same publication. Columns that raypipe measured have numpy
    types; columns of integers and booleans from other catalogs have the nullable types of pandas
    (Int64, boolean) if values are missing. Raises UsageError if there is no such catalog.
    """
    return _frame(read_whole(*_chosen(workspace, release, model), "detections", columns))


def open_sources(
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    columns: list[str] | None = None,
) -> pd.DataFrame:
    """Read the sources of a latent catalog, one row for all detections of a name.

    Arguments and types are those of `open_catalog`.
    """
    return _frame(read_whole(*_chosen(workspace, release, model), "sources", columns))


def open_clusters(
    workspace: str | Path | Workspace, *, release: str | None = None, model: str | None = None
) -> pd.DataFrame:
    """Read the table of clusters that `raypipe cluster` found, one row per cluster.

    Its columns are described in docs/clustering.md. Raises UsageError if there are no clusters, and
    RaypipeError if the catalog has changed since they were found.
    """
    store, release, model_id = _chosen(workspace, release, model)

    def read(catalog: Publication) -> pd.DataFrame:
        for added in added_to(store, catalog, "refuse", only="cluster"):
            return _frame(read_added_table(store, added, CLUSTERS))
        raise UsageError(
            f"{store.uri} {release}: the catalog by {model_id} has no clusters; "
            "run raypipe cluster first"
        )

    return read_published(store, release, model_id, read)


def _frame(table: pa.Table) -> pd.DataFrame:
    nullable = {
        field.name: kind
        for field in table.schema
        if (kind := _NULLABLE.get(field.type)) is not None
        and table[field.name].null_count
        and not is_reserved(field.name)
    }
    frame: pd.DataFrame = table.drop_columns(list(nullable)).to_pandas()
    exact = table.select(list(nullable)).to_pandas(types_mapper=_NULLABLE.get)
    return pd.concat([frame, exact], axis=1)[table.column_names] if nullable else frame


def _chosen(
    workspace: str | Path | Workspace, release: str | None, model: str | None
) -> tuple[Workspace, str, str]:
    """Return workspace, release and model of the catalog that the arguments select."""
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    release = choose_release(workspace, release)
    return workspace, release, choose_model(workspace, release, model)
