"""What a verb is about: a catalog of the workspace, its model and its labels."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pandas as pd

from raypipe.evaluation.labels import clean_classes, join_labels, read_labels
from raypipe.model.bundle import Model, load_model
from raypipe.model.choice import choose_model
from raypipe.store.addresses import file_name
from raypipe.store.layout import evaluation_folder, model_folder
from raypipe.store.manifest import choose_release
from raypipe.store.publication import read_detections
from raypipe.store.workspace import Workspace

WEIGHTS = "model.safetensors"
"""The file that makes a folder a model bundle."""


@dataclass(frozen=True)
class EvaluatedCatalog:
    """The catalog a verb is about, with its model where the bundle can be had."""

    release: str
    model_id: str
    model: Model | None


def choose_catalog(store: Workspace, release: str | None, model: str | None) -> EvaluatedCatalog:
    """The catalog meant by a release and a model: an id, the path of a bundle, or the defaults.

    The bundle is looked for at that path, else in the workspace. Raises UsageError where there is
    no such catalog.
    """
    release = choose_release(store, release)
    if model is not None and Workspace(model).exists(WEIGHTS):
        bundle = load_model(model)
        return EvaluatedCatalog(release, choose_model(store, release, bundle.model_id), bundle)
    model_id = choose_model(store, release, model)
    return EvaluatedCatalog(release, model_id, open_bundle(store, model_id))


def metrics_name(release: str, model_id: str) -> str:
    """Name of a catalog's metrics in the workspace."""
    return f"{evaluation_folder(release, model_id)}/metrics.json"


def labeled_catalog(
    store: Workspace, release: str, model_id: str, labels: str | os.PathLike[str] | None
) -> tuple[pd.DataFrame, str | None]:
    """A catalog with `class` and quantities, and where the labels are from (None without any)."""
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
    """The model of a catalog; None where its bundle is not in the workspace."""
    folder = model_folder(model_id)
    if not store.exists(f"{folder}/{WEIGHTS}"):
        return None
    return load_model(store.absolute_uri(folder))
