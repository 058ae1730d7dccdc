"""Gather the data of a report from the workspace."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from raypipe.catalog.classes import catalog_classes
from raypipe.catalog.open import open_clusters
from raypipe.classifying.classify import metrics_name as classified_name
from raypipe.config import ReportConfig
from raypipe.display.spectrum_figure import BinnedSpectrum
from raypipe.errors import RaypipeError, UsageError
from raypipe.evaluation.evaluated_catalog import EvaluatedCatalog, labeled_catalog, metrics_name
from raypipe.evaluation.selection import choose_rows, has_latents, latents_of, read_spectra
from raypipe.evaluation.validation import fitting_threads, on_one_scale
from raypipe.model.bundle import Model
from raypipe.searching.strangest import (
    BADLY_FIT,
    FAR,
    Significances,
    measure_significances,
)
from raypipe.store.layout import explorer_name, model_folder, rejects_folder, report_name
from raypipe.store.manifest import read_manifest_summary
from raypipe.store.parts import count_rows
from raypipe.store.publication import published_models
from raypipe.store.workspace import Workspace

log = logging.getLogger(__name__)

SHOW_ALL_ROWS = 20
"""A report shows every detection of a catalog with at most this many."""

MAP_ROWS = 2000
"""Most detections on the map of latents, drawn at random."""

TSNE_MIN_ROWS = 50
"""Fewest detections for a t-SNE; fewer are projected by PCA."""

TSNE_STEPS = 500
"""Steps of the t-SNE."""

SIGMAS = {FAR: "far_sigmas", BADLY_FIT: "fit_sigmas"}
"""Columns that a report adds to its catalog: the significance of each ranking."""

WORST_FITS = 2
"""Number of spectra shown because the model explains them worst."""

_PARTS = ("summary", "classification", "regression", "study", "alignment")
"""Parts of metrics.json that are objects, where they are there."""


@dataclass(frozen=True)
class Example:
    """Hold a detection to show: its row of the catalog, and its spectrum with the model's."""

    row: pd.Series[Any]
    spectrum: BinnedSpectrum


@dataclass(frozen=True)
class LatentMap:
    """Hold a projection of latents: rows of the catalog, positions (n, 2), and its method."""

    rows: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float64]
    method: str


@dataclass(frozen=True)
class ReportData:
    """Hold the data of a report; what the workspace lacks is None or empty.

    `explorer` is the address of the catalog's explorer, relative to the report.
    """

    release: str
    model_id: str
    catalog: pd.DataFrame
    classes: tuple[str, ...]
    significances: dict[str, Significances]
    labels: str | None
    metrics: dict[str, Any] | None
    classified: dict[str, Any] | None
    clusters: pd.DataFrame | None
    model: Model | None
    training: dict[str, dict[str, Any]]
    totals: dict[str, int]
    manifest: dict[str, Any]
    rejects: pd.DataFrame
    examples: list[Example]
    worst: list[Example]
    latent_map: LatentMap
    explorer: str = ""


def gather_report_data(
    store: Workspace,
    evaluated: EvaluatedCatalog,
    labels: str | os.PathLike[str] | None,
    settings: ReportConfig,
) -> ReportData:
    """Read the data of a report on a catalog, with the spectra of the detections it shows."""
    release, model_id, model = evaluated.release, evaluated.model_id, evaluated.model
    catalog, label_source = labeled_catalog(store, release, model_id, labels)
    found = measure_significances(catalog, None if model is None else model.population)
    catalog = catalog.assign(**{SIGMAS[ranking]: each.sigmas for ranking, each in found.items()})
    explained = catalog.loc[has_latents(catalog)]
    chosen = choose_examples(explained, settings.examples, settings.seed)
    worst = choose_worst(explained)
    return ReportData(
        release=release,
        model_id=model_id,
        catalog=catalog,
        classes=catalog_classes(store, release, model_id)
        if model is None
        else model.population.classes,
        significances=found,
        labels=label_source,
        metrics=_metrics(store, metrics_name(release, model_id)),
        classified=_classified(store, release, model_id),
        clusters=_clusters(store, release, model_id),
        model=model,
        training=_training_records(store, evaluated),
        totals=count_rows(store, release),
        manifest=read_manifest_summary(store, release),
        rejects=_rejects(store, release),
        examples=_read_examples(store, release, explained.iloc[chosen], model),
        worst=_read_examples(store, release, explained.iloc[worst], model),
        latent_map=map_latents(catalog, settings.seed),
        explorer=_explorer_address(store, release, model_id),
    )


def _metrics(store: Workspace, name: str) -> dict[str, Any] | None:
    """Read the metrics of a catalog; None without any. Raises RaypipeError for a damaged file."""
    if not store.exists(name):
        return None
    found = store.read_object(name, {"data": dict, "comparison": list})
    for field in _PARTS:
        if not isinstance(found.get(field) or {}, dict):
            raise store.unexpected(name, f"its field {field} has the wrong type")
    if not all(isinstance(row, dict) for row in found["comparison"]):
        raise store.unexpected(name, "its field comparison has the wrong type")
    return found


def _classified(store: Workspace, release: str, model_id: str) -> dict[str, Any] | None:
    """Read the measurements of the classification of a catalog, None if it has none."""
    name = classified_name(release, model_id)
    if not store.exists(name):
        return None
    return store.read_object(name, {"classified": dict, "features": dict, "prior": dict})


def _clusters(store: Workspace, release: str, model_id: str) -> pd.DataFrame | None:
    """Read the table of clusters of a catalog, None if it has none that still belong to it."""
    try:
        return open_clusters(store, release=release, model=model_id)
    except UsageError:
        return None
    except RaypipeError as error:
        log.warning("report: clusters are left out: %s", error)
        return None


def choose_examples(catalog: pd.DataFrame, wanted: int, seed: int) -> list[int]:
    """Choose rows to show: all of a small catalog, else a spread of counts and classes.

    Returns them with the brightest first. Held-out detections are preferred if there are enough.
    The counts are divided into `wanted` ranges with equal numbers of detections; one is drawn from
    each, of a class that is not shown yet if possible.
    """
    counts = catalog["total_counts"].to_numpy(dtype=np.float64)
    by_counts = np.argsort(counts, kind="stable")
    if len(catalog) <= SHOW_ALL_ROWS:
        return [int(row) for row in by_counts[::-1]]
    held_out, _, _ = choose_rows(catalog)
    rng = np.random.default_rng(seed)
    classes = catalog["class"].to_numpy(dtype=object) if "class" in catalog else None
    shown: set[object] = set()
    chosen = []
    for part in np.array_split(by_counts[held_out[by_counts]], wanted):
        fresh = [row for row in part if classes is not None and classes[row] not in shown]
        pool = fresh or list(part)
        if pool:
            row = int(rng.choice(pool))
            chosen.append(row)
            if classes is not None:
                shown.add(classes[row])
    return chosen[::-1]


def choose_worst(catalog: pd.DataFrame) -> list[int]:
    """Return rows of the largest misfits; none of a small catalog, which is shown whole."""
    if len(catalog) <= SHOW_ALL_ROWS:
        return []
    ranked = catalog[SIGMAS[BADLY_FIT]].reset_index(drop=True).nlargest(WORST_FITS)
    return [int(row) for row in ranked.index]


def map_latents(catalog: pd.DataFrame, seed: int) -> LatentMap:
    """Project the latents to a plane by t-SNE, or by PCA if there are few rows."""
    rows = np.flatnonzero(has_latents(catalog))
    which = "all detections" if len(rows) == len(catalog) else "all detections that have latents"
    if len(rows) > MAP_ROWS:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MAP_ROWS])
        which = f"{MAP_ROWS:,} detections drawn at random"
    latents = latents_of(catalog.iloc[rows])
    if len(rows) < 3 or latents.shape[1] < 3:
        plane = np.pad(latents[:, :2], ((0, 0), (0, max(0, 2 - latents.shape[1]))))
        return LatentMap(rows, plane, f"the first latents of {which}")
    latents = on_one_scale(latents)
    if len(rows) < TSNE_MIN_ROWS:
        positions = PCA(2, random_state=seed).fit_transform(latents)
        return LatentMap(
            rows, positions, f"the first two principal components of the latents of {which}"
        )
    with fitting_threads(len(rows)):
        positions = TSNE(2, init="pca", max_iter=TSNE_STEPS, random_state=seed).fit_transform(
            latents
        )
    return LatentMap(rows, positions.astype(np.float64), f"t-SNE of the latents of {which}")


def _read_examples(
    store: Workspace, release: str, rows: pd.DataFrame, model: Model | None
) -> list[Example]:
    """Read the spectra of rows; return none without a model or if spectra are missing."""
    if model is None or rows.empty:
        return []
    spectra = read_spectra(store, release, rows, model)
    if spectra is None or spectra.model_counts is None or spectra.model_background is None:
        return []
    examples = []
    for i, (_, row) in enumerate(rows.iterrows()):
        bins = spectra.bins[i]
        counts, model_counts, background = (
            values[i, : len(bins)].astype(np.float64)
            for values in (spectra.counts, spectra.model_counts, spectra.model_background)
        )
        edges = np.append(bins.lo_kev, bins.hi_kev[-1])
        spectrum = BinnedSpectrum(counts, model_counts, background, edges, float(row["exposure_s"]))
        examples.append(Example(row, spectrum))
    return examples


def _training_records(store: Workspace, evaluated: EvaluatedCatalog) -> dict[str, dict[str, Any]]:
    """Read the training metrics of all models with a catalog of this release, ours first."""
    records = {} if evaluated.model is None else {evaluated.model_id: evaluated.model.metrics}
    for other in published_models(store, evaluated.release):
        file = f"{model_folder(other)}/metrics.json"
        if other not in records and store.exists(file):
            records[other] = store.read_object(file, {})
    return records


def _explorer_address(store: Workspace, release: str, model_id: str) -> str:
    name = explorer_name(release, model_id)
    up = "../" * report_name(release, model_id).count("/")
    return f"{up}{name}" if store.exists(name) else ""


def _rejects(store: Workspace, release: str) -> pd.DataFrame:
    if not store.files(rejects_folder(release), ".parquet"):
        return pd.DataFrame()
    frame: pd.DataFrame = store.read_folder(rejects_folder(release)).to_pandas()
    return frame
