"""Choose the catalog that a verb evaluates, with its model and its labels."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raypipe.catalog.labels import clean_classes, join_labels, read_labels
from raypipe.errors import RaypipeError
from raypipe.model.bundle import Model, load_model
from raypipe.model.choice import WEIGHTS, choose_model
from raypipe.store.addresses import file_name
from raypipe.store.layout import evaluation_folder, model_folder
from raypipe.store.manifest import choose_release
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluatedCatalog:
    """Name the catalog that a verb evaluates, with its model if the bundle is available."""

    release: str
    model_id: str
    model: Model | None


def choose_catalog(store: Workspace, release: str | None, model: str | None) -> EvaluatedCatalog:
    """Choose a catalog by a release and a model: the model's id or the path of its bundle.

    The defaults are the only release and its newest catalog. The bundle is read from the path, else
    from the workspace. Raises UsageError if there is no such catalog.
    """
    release = choose_release(store, release)
    if model is not None and Workspace(model).exists(WEIGHTS):
        bundle = load_model(model)
        return EvaluatedCatalog(release, choose_model(store, release, bundle.model_id), bundle)
    model_id = choose_model(store, release, model)
    return EvaluatedCatalog(release, model_id, open_bundle(store, model_id))


def metrics_name(release: str, model_id: str) -> str:
    """Return the name of the metrics of a catalog in the workspace."""
    return f"{evaluation_folder(release, model_id)}/metrics.json"


def earlier_metrics(store: Workspace, evaluated: EvaluatedCatalog) -> dict[str, Any] | None:
    """Return the metrics that an earlier evaluation of a catalog wrote; None without any.

    A file that cannot be read is about to be written again: a warning names it.
    """
    name = metrics_name(evaluated.release, evaluated.model_id)
    if not store.is_file(name):
        return None
    try:
        found = store.read_json(name)
    except RaypipeError as error:
        log.warning("evaluate: earlier metrics are replaced: %s", error)
        return None
    return found if isinstance(found, dict) else None


def labeled_catalog(
    store: Workspace, release: str, model_id: str, labels: str | os.PathLike[str] | None
) -> tuple[pd.DataFrame, str | None]:
    """Read a catalog with labels, and state where the labels are from (None without any)."""
    catalog = read_detections(store, release, model_id).to_pandas()
    source = "the catalog's column class"
    if labels is not None and len(catalog):
        catalog, keys = join_labels(catalog, read_labels(labels))
        source = f"{file_name(labels)}, joined on {keys}"
    if "class" in catalog:
        catalog["class"] = clean_classes(catalog["class"])
    labeled = labels is not None or ("class" in catalog and catalog["class"].notna().any())
    return catalog, source if labeled else None


def open_bundle(store: Workspace, model_id: str) -> Model | None:
    """Load the model of a catalog; None if its bundle is not in the workspace."""
    folder = model_folder(model_id)
    if not store.exists(f"{folder}/{WEIGHTS}"):
        return None
    return load_model(store.absolute_uri(folder))
