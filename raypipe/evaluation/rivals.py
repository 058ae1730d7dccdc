"""Collect what the latents are compared with: other models' catalogs and baselines."""

from __future__ import annotations

import pandas as pd

from raypipe.config import EvaluateConfig
from raypipe.evaluation.baselines import (
    MIN_PCA_ROWS,
    Representation,
    csc_representation,
    fits_representation,
    hardness_representation,
    pca_representations,
)
from raypipe.evaluation.evaluated_catalog import EvaluatedCatalog
from raypipe.evaluation.selection import BinnedSpectra, has_latents, read_spectra
from raypipe.store.publication import published_models, read_detections
from raypipe.store.workspace import Workspace

MAX_PCA_ROWS = 20_000
"""Most training spectra for a PCA baseline, drawn at random."""


def other_catalogs(
    store: Workspace, evaluated: EvaluatedCatalog, frame: pd.DataFrame
) -> list[tuple[str, pd.DataFrame]]:
    """Read the catalogs of this release by other models that have all judged detections.

    Their rows are in the order of `frame`. Some, but not all, may lack latents.
    """
    found = []
    for other_id in published_models(store, evaluated.release):
        if other_id == evaluated.model_id:
            continue
        other = read_detections(store, evaluated.release, other_id).to_pandas()
        other = other.set_index("detection_id")
        if not frame["detection_id"].isin(other.index).all():
            continue
        other = other.loc[frame["detection_id"]].reset_index()
        if has_latents(other).any():
            found.append((other_id, other))
    return found


def baselines_of(
    store: Workspace,
    release: str,
    catalog: pd.DataFrame,
    frame: pd.DataFrame,
    spectra: BinnedSpectra | None,
    settings: EvaluateConfig,
) -> tuple[list[Representation], str | None]:
    """Compute the baselines on the judged rows; state why one is missing, None if none is.

    `spectra` are those of the judged rows, None if the workspace lacks some.
    """
    baselines: list[Representation] = []
    reason = None
    if spectra is None:
        reason = "no PCA: the workspace does not hold the spectra of all judged detections"
    elif len(frame) < MIN_PCA_ROWS:
        reason = f"no PCA: fewer than {MIN_PCA_ROWS} detections"
    else:
        training = _training_spectra(store, release, catalog, settings.seed)
        baselines += pca_representations(spectra, training, settings.seed)
    if "counts_s" in frame:
        baselines.append(hardness_representation(frame))
    return baselines, reason


def _training_spectra(
    store: Workspace, release: str, catalog: pd.DataFrame, seed: int
) -> BinnedSpectra | None:
    if "split" not in catalog:
        return None
    training = catalog[catalog["split"] == "train"]
    if len(training) < MIN_PCA_ROWS:
        return None
    chosen = training.sample(min(len(training), MAX_PCA_ROWS), random_state=seed)
    return read_spectra(store, release, chosen.reset_index(drop=True))


def catalog_representations(frame: pd.DataFrame, real: pd.DataFrame | None) -> list[Representation]:
    """Return the columns of catalogs that the questions compare latents with: fits, CSC columns."""
    found = [fits_representation(frame), None if real is None else csc_representation(real)]
    return [each for each in found if each is not None]
