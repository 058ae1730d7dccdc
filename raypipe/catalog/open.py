"""open_catalog, open_sources: the latent catalog in memory."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from raypipe.catalog.models import choose_model
from raypipe.catalog.publication import read_detections, read_sources
from raypipe.discovery.manifest import choose_release
from raypipe.workspace import Workspace


def open_catalog(
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    columns: list[str] | None = None,
) -> pd.DataFrame:
    """The latent catalog of a release by a model, one row a detection.

    By default the only release there is and its newest catalog; with `columns` only those of them
    that it has. The rows are those of one publication, whatever is published in the meantime.
    Raises UsageError where there is no such catalog.
    """
    frame: pd.DataFrame = read_detections(*_chosen(workspace, release, model), columns).to_pandas()
    return frame


def open_sources(
    workspace: str | Path | Workspace,
    *,
    release: str | None = None,
    model: str | None = None,
    columns: list[str] | None = None,
) -> pd.DataFrame:
    """The sources of a latent catalog, one row for all detections of a name; as `open_catalog`."""
    frame: pd.DataFrame = read_sources(*_chosen(workspace, release, model), columns).to_pandas()
    return frame


def _chosen(
    workspace: str | Path | Workspace, release: str | None, model: str | None
) -> tuple[Workspace, str, str]:
    """Workspace, release and model of the catalog that is meant."""
    workspace = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    release = choose_release(workspace, release)
    return workspace, release, choose_model(workspace, release, model)
