"""Run the verb `cluster`: find clusters of detections without labels, as columns of the catalog."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.catalog.added_columns import (
    KEYS,
    TableName,
    find_added,
    read_added_table,
    write_added,
)
from raypipe.catalog.cluster_columns import CLUSTERS
from raypipe.catalog.schema import described
from raypipe.clustering.cluster_table import Clustered, cluster_table
from raypipe.clustering.figure import require_format, write_figure
from raypipe.clustering.finding import find_clusters, require_rows
from raypipe.clustering.members import Members, Space, read_members
from raypipe.clustering.numbering import (
    NUMBERED,
    Numbering,
    find_numbering,
    number_clusters,
    numbered_table,
)
from raypipe.config import ClusterConfig, Config
from raypipe.config_cluster import ClusterMethod
from raypipe.errors import UsageError
from raypipe.model.bundle import Model, load_model
from raypipe.model.choice import choose_model
from raypipe.store.layout import columns_folder, model_folder
from raypipe.store.lease import exclusive
from raypipe.store.manifest import choose_release
from raypipe.store.publication import Publication, find_publication, read_published
from raypipe.store.workspace import Workspace
from raypipe.verb import Call, verb

log = logging.getLogger(__name__)

_VERB = "cluster"
_NUMBERS_OF = "numbers_of"


@verb
def cluster(
    call: Call,
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    method: str | None = None,
    clusters: int | None = None,
    previous: str | None = None,
    plot: str | Path | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
) -> dict[str, Any]:
    """Find clusters of a catalog's detections, and add them to the catalog as columns.

    Class labels are not used. Detections and sources get the columns `cluster`, which is null
    without latents, and p_cluster_<k>; `raypipe.open_clusters` opens a table of the clusters.
    `method` and `clusters` replace the settings of these names. A cluster keeps the number of the
    earlier cluster with which it shares most sources. The earlier clusters are those of the release
    `previous`; by default those of this release, and if it has none, the newest ones by the same
    model. If catalog and settings have not changed, nothing is done. `plot` names a PNG or SVG file
    for the spectra of the clusters.

    Returns release, model and the numbers of clusters and rows. Raises UsageError for an unknown
    release, model or method, and if there are too few detections with latents.
    """
    store = call.workspace
    settings = _with_options(call.config.cluster, method, clusters)
    require_format(plot)
    release = choose_release(store, release)
    model_id = choose_model(store, release, model)
    find_numbering(store, release, model_id, previous)  # refuses an unknown release
    bundle = load_model(store.absolute_uri(model_folder(model_id)))
    read = _read(store, release, bundle)
    require_rows(len(read.detections), settings, f"{store.uri} {release}")
    recorded = call.config.model_copy(update={"cluster": settings})
    folder = columns_folder(release, model_id, _VERB)
    with (
        call.recorded(recorded) as figures,
        exclusive(store, f"cluster-{release}-{model_id}", [folder]),
    ):
        about = {"settings": settings.model_dump(), "previous": previous}
        added = _found_before(store, read.catalog, about)
        if added is None:
            numbering = find_numbering(store, release, model_id, previous)
            added = _add_columns(store, read, bundle, settings, about, numbering)
        else:
            log.info("cluster: the catalog has these clusters already")
        answer = {
            "release": release,
            "model_id": model_id,
            "clusters": read_added_table(store, added, CLUSTERS).num_rows,
            "detections": len(read.detections),
            "sources": len(read.sources),
            "columns": store.absolute_uri(folder),
        }
        figures.update(answer)
    if plot is not None:
        write_figure(read_added_table(store, added, CLUSTERS).to_pandas(), Path(plot))
    log.info("cluster: %d clusters in %s", answer["clusters"], answer["columns"])
    return answer


@dataclass(frozen=True)
class _Read:
    catalog: Publication
    detections: Members
    sources: Members


def _read(store: Workspace, release: str, model: Model) -> _Read:
    classes = model.population.classes

    def read(catalog: Publication) -> _Read:
        return _Read(
            catalog,
            read_members(store, catalog, "detections", classes),
            read_members(store, catalog, "sources", classes),
        )

    return read_published(store, release, model.model_id, read)


def _with_options(config: ClusterConfig, method: str | None, clusters: int | None) -> ClusterConfig:
    """Return the settings, with the options of the verb in place of those of the same names."""
    known = get_args(ClusterMethod)
    if method is not None and method not in known:
        raise UsageError(f"method {method!r}: expected one of {', '.join(known)}")
    if clusters is not None and clusters < 1:
        raise UsageError(f"--clusters {clusters}: expected at least 1")
    given = {"method": method, "clusters": clusters}
    changed = config.model_copy(update={k: v for k, v in given.items() if v is not None})
    if changed.method == "graph" and changed.clusters is not None:
        raise UsageError(
            "--clusters: method graph finds their number itself; set cluster.resolution instead"
        )
    return changed


def _found_before(
    store: Workspace, catalog: Publication, about: dict[str, Any]
) -> Publication | None:
    """Return the clusters of this catalog that were made with these settings, if there are any.

    They need not be numbered again: without changes, clusters keep their numbers.
    """
    found = find_publication(store, catalog.release, catalog.model_id, _VERB)
    if found is None:
        return None
    return find_added(store, catalog, _VERB, about | {_NUMBERS_OF: found.about.get(_NUMBERS_OF)})


def _add_columns(
    store: Workspace,
    read: _Read,
    model: Model,
    settings: ClusterConfig,
    about: dict[str, Any],
    numbering: Numbering | None,
) -> Publication:
    """Find clusters, number them, and publish their columns and tables."""
    detections, sources = read.detections, read.sources
    space = Space.fit(model, detections, settings.directions)
    found = find_clusters(space, detections, sources, settings)
    own = found.sources.argmax(axis=1)
    numbers, used = number_clusters(sources.sources, own, found.clusters, numbering)
    of = Clustered(model, space, detections, sources, found, numbers, settings.seed)
    return write_added(
        store,
        read.catalog,
        _VERB,
        _columns(detections, found.detections, numbers, "detections"),
        about | {_NUMBERS_OF: None if numbering is None else numbering.made_by},
        sources=_columns(sources, found.sources, numbers, "sources"),
        others={
            CLUSTERS: cluster_table(of),
            NUMBERED: numbered_table(sources.sources, numbers[own], used),
        },
    )


def _columns(
    members: Members,
    shares: npt.NDArray[np.float64],
    numbers: npt.NDArray[np.int64],
    table: TableName,
) -> pa.Table:
    """Make the columns of a table: the most probable cluster and all probabilities, by number."""
    own = numbers[shares.argmax(axis=1)].astype(np.int32)
    probabilities = {
        f"p_cluster_{numbers[k]}": pa.array(shares[:, k].astype(np.float32))
        for k in np.argsort(numbers)
    }
    ids = pa.array(members.ids.tolist(), pa.string())
    return described({KEYS[table]: ids, "cluster": pa.array(own), **probabilities})
